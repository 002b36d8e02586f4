"""The terminal: driver, output filter, job control."""
