"""Speeds as ratios, measured in one interleaved run each. `make bench` prints every table."""
