"""Checks before a run: the machine, the engines, a model, and the routing of its first tokens."""
