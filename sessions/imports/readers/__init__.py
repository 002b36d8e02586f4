"""Readers of foreign routing formats, one module per family."""
