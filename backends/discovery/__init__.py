"""Search for models on this machine: places, candidates, and facts from headers and metadata."""
