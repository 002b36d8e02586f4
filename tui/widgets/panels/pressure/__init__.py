"""Pressure panel: chart, text below it, table of candidate shapes."""
