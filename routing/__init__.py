"""Events of a run, and the statistics computed from them. No I/O, no clock, no screen."""
