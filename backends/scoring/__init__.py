"""Scoring of given tokens: windows, their predictions and the sums of their routing."""
