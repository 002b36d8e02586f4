"""Measurement of a model: many runs, resumable, and their combined results."""
