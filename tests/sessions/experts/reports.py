"""Reports of `ablate` with given damage. For tests of what reads them."""

from __future__ import annotations

from moe_watch.sessions.results.ablation import (
    AblationControls,
    AblationReport,
    ExpertDamage,
    ScoredText,
    SplitHalf,
    SplitHalves,
    WholeModel,
)


def ablation_report(damage, *, layers, experts, fingerprint=None) -> AblationReport:
    """Return a report with Δ surprisal by layer and expert."""
    half = SplitHalf(pooled=None, within_layers=None)
    return AblationReport(
        tokens=100,
        model="pocket",
        fingerprint=fingerprint,
        quantization=None,
        backend="script",
        layers=layers,
        experts_per_layer=experts,
        experts_per_token=2,
        corpus=ScoredText(kind="corpus", name="c.jsonl", sha256="", windows=2),
        window=50,
        block=20,
        draws=1000,
        experts=[
            ExpertDamage(
                layer=layer, expert=expert, tokens=5, delta_surprisal=delta, interval=None, kl=0.0, kl_interval=None,
                p=1.0, p_corrected=1.0, weight_mass=None, saliency=None, saliency_mass=None,
            )
            for (layer, expert), delta in damage.items()
        ],
        rank_correlations={},
        differences=[],
        split_half=SplitHalves(delta_surprisal=half, kl=half),
        controls=AblationControls(layer=layers[0], expert=0, least_used=None, same_layer=None),
        whole=WholeModel(mean_surprisal=1.0, interval=None),
    )  # fmt: skip
