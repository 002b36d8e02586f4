"""What a routing observation is, and the mathematics on it. No I/O, no clock, no screen."""
