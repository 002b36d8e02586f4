"""Commands about single experts."""
