"""Operating-system helpers of the worker: files, processes, compiled code, memory errors."""
