"""Comparison of sessions, measurements and bare series."""
