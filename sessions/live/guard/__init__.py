"""Pauses that a live run asks for by itself."""
