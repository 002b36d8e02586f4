"""Measuring a model: many runs, resumable, and what they come to together."""
