"""Text for the screen: number formats, sanitizing, word wrap."""
