"""Comparison of sessions, measurements and P_mid series."""
