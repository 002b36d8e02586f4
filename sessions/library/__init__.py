"""The folder of recorded sessions: list, cache, rename, delete."""
