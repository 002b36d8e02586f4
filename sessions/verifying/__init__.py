"""Checks of session files, and salvage of damaged ones."""
