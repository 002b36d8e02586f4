"""Measurements of experts: profiles, ablation, perplexity, pruning."""
