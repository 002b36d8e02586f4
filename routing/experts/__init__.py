"""Importance of experts: usage profiles, rankings, ablation statistics, pruning plans."""
