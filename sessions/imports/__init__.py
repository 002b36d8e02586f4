"""Routing that other programs recorded, as session files. What a format lacks stays absent."""
