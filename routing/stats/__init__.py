"""Statistics shared by measurements: bootstrap, permutation tests, ratios of timings."""
