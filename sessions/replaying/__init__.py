"""Replay of a recorded session: clock, seeking, search."""
