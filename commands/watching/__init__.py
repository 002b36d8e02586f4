"""Commands that run or replay a model: watch, record, replay."""
