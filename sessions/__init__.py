"""Runs: live from a worker or replayed from a file, recorded, instrumented and summarised."""
