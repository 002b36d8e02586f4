"""Pressure per chunk: formulas, instruments, bounds."""
