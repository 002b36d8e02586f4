"""Benchmarks of ablation."""
