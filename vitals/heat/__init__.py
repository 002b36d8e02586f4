"""Temperatures, clock frequencies and throttling: one module per source."""
