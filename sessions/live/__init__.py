"""A live run: worker, instruments, recording and vitals as one source of events."""
