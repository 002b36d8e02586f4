"""Commands that measure: measure, fit, bench."""
