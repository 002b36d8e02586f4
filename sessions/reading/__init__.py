"""Session files as events: lines, index, validation, versions, continuation files."""
