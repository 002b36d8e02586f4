"""Made-up files of `profile` and `ablate`. For tests of the dashboard only."""

from __future__ import annotations

from moe_watch.sessions.experts.profile_file import loaded
from moe_watch.sessions.results.profile import ExpertProfile
from tests.sessions.experts.reports import ablation_report


def profile(saliency=None, *, counts=None):
    found = ExpertProfile(
        model="pocket",
        calibration_corpus="c.jsonl",
        calibration_examples=1,
        calibration_tokens=20,
        num_hidden_layers=6,
        num_experts=8 if counts is None else len(next(iter(counts.values()))),
        num_experts_per_tok=2,
        activation_counts=counts or {str(layer): _counts(saliency, layer) for layer in range(6)},
        saliency=None if saliency is None else {str(layer): row for layer, row in saliency.items()},
    )
    return "profile.json", loaded(found, "profile.json")


def ablation(damage):
    return "ablation.json", ablation_report(damage, layers=list(range(6)), experts=8)


def _counts(saliency, layer):
    return [5] * 8 if saliency is None else [0 if value is None else 5 for value in saliency[layer]]


SALIENCY = {layer: [float(expert + layer) for expert in range(8)] for layer in range(6)}
DAMAGE = {(layer, expert): 0.01 * (8 - expert) - 0.02 for layer in range(6) for expert in range(8)}
