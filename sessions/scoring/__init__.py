"""Given texts and tokens to score with a model: corpora, windows, progress."""
