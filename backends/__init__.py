"""Where observations come from: engines, the worker process they run in, and models on disk."""
