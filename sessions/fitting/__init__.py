"""Half-life fits of session files and of bare number series."""
