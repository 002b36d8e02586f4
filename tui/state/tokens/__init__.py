"""State of tokens: counts, rate, windows of the last tokens, pieces of the stream."""
