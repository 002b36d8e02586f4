"""Half-life fit of a mid-pressure series, with its tests and intervals."""
