"""Measurements of experts that are switched off."""
