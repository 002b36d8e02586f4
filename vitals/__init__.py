"""Vitals of the machine: memory, temperatures, throttling, and the reason of each absent reading."""
