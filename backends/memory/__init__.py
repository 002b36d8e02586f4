"""Memory that a model takes, predicted before it is loaded, and memory that is available."""
