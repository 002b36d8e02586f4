"""Command line: one module per command. Heavy imports are inside the functions that need them."""
