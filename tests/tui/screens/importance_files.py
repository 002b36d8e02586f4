"""Made-up files of `profile` and `ablate`. For tests of the dashboard only."""

from __future__ import annotations

from moe_watch.sessions.experts.importance import ImportanceFile, MeasuredExpert


def profile(saliency=None, **fields):
    counts = {layer: [5] * 8 for layer in range(6)}
    return "profile.json", ImportanceFile(model="pocket", activation_counts=counts, saliency=saliency, **fields)


def ablation(damage):
    return "ablation.json", ImportanceFile(
        experts=[MeasuredExpert(layer, expert, value) for (layer, expert), value in damage.items()]
    )


SALIENCY = {layer: [float(expert + layer) for expert in range(8)] for layer in range(6)}
DAMAGE = {(layer, expert): 0.01 * (8 - expert) - 0.02 for layer in range(6) for expert in range(8)}
