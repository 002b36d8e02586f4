"""The worker process that runs an engine, and its handle in the parent process."""
