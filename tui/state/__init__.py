"""State that the widgets draw: a pure fold of the event stream."""
