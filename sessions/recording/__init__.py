"""Writers of session files: recorder, sinks, continuation files after an error."""
