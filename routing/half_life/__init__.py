"""The half-life fit of a pressure trajectory, with its tests and intervals."""
