"""One generation run in the worker: prefill, decode, injections, forks, and the events they emit."""
