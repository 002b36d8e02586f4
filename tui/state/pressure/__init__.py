"""State of the pressure panel: trajectory, start, injections, fits."""
