"""Session files as they are written: recorder, sinks, continuation after an error."""
