"""Benchmarks: speeds as ratios, each measured in one interleaved run. `make bench` prints every table."""
