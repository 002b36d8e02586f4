"""The pressure panel: chart, notes, fit table."""
