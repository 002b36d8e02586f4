"""Writers of pruned models."""
