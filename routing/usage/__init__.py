"""Expert usage: counts in a window and running averages."""
