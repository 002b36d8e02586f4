"""The expert heat map."""
