"""Engines, the worker process that they run in, and model files."""
