"""Cost of scoring given tokens."""
