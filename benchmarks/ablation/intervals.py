"""Simulated coverage of the intervals of an ablation: `python -m benchmarks.ablation.intervals`.

Damage of an expert is simulated per token with a known mean: autocorrelated normal values, skewed values, and experts
that change few tokens in short stretches. Rankings are simulated with a known ρ with the true damage. Prints the share
of intervals that contain the truth, and the share of p ≤ 0.05 where the true damage is 0.
"""

from __future__ import annotations

from tests.routing.experts.planted_damage import KINDS, coverage, rho_coverage


def main() -> None:
    """Print both tables."""
    print("| damage | tokens | coverage of 95 % | p ≤ 0.05 |\n|---|---|---|---|")
    for name, series in KINDS.items():
        for tokens in (1022, 4088):
            covered, significant = coverage(series, tokens, 2000)
            print(f"| {name} | {tokens:,} | {covered:.3f} | {significant:.3f} |")
    print("\n| ranking | noise | split-half ρ | coverage pooled | within layers |\n|---|---|---|---|---|")
    for spread in (0.3, 1.0, 3.0):
        for noise in (0.5, 2.0, 5.0, 10.0):
            pooled, within, stability = rho_coverage(spread, noise, 200)
            print(f"| spread {spread:g} | {noise:g} | {stability:.2f} | {pooled:.3f} | {within:.3f} |")


if __name__ == "__main__":
    main()
