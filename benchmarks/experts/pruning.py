"""Damage of pruning pocket from 8 to 6 experts per layer, by each ranking: docs/pruning.md.

    python -m benchmarks.experts.pruning [--page docs/pruning.md]

Experts are ranked on one half of the source files that pocket was not trained on, and the models are scored on the
other half. With --page the tables are written into the page, between its markers. Takes about half an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import exp
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quantization import BEGIN, END
from moe_watch.backends.protocol import EngineOptions
from moe_watch.backends.scoring_messages import Score, UsageSums
from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.experts.plan import dropped_experts, kept_experts, lost_overall
from moe_watch.routing.header import ModelInfo
from moe_watch.routing.router.masks import ExpertMask
from moe_watch.routing.stats.perplexity import PairedPerplexity, first_scored, paired, perplexity
from moe_watch.routing.usage.counts import usage_entropy
from moe_watch.sessions.live.settings import RunSettings
from moe_watch.sessions.live.shared_worker import KeptWorker
from moe_watch.sessions.scoring.perplexity import read_text, text_windows
from moe_watch.tui.text.format import signed

HELD_OUT = Path(__file__).resolve().parents[2] / "models" / "pocket" / "held_out"
KEEP = 6
RANDOM_DRAWS = 20
SEED = 0
RANKINGS = ("count", "weight mass", "saliency", "saliency mass", "damage")
"""Rankings of the experts; `damage` is Δ surprisal, measured by switching each expert off alone."""
ON_FILE = "saliency"
"""Ranking whose pruned model is also written and scored as a file."""


@dataclass(frozen=True, slots=True, eq=False)
class PrunedModel:
    """Set of kept experts, and its scores."""

    name: str
    kept: Ints
    """[L, KEEP]"""
    mask: ExpertMask
    surprisals: list[Floats] = field(default_factory=list)
    """Of the scored tokens of each window, in nats."""


# -- ranking


def moe_watch(folder: Path, *arguments: str) -> bytes:
    """Run a command of moe-watch, which keeps its files in `folder`; returns its output.

    Raises:
        subprocess.CalledProcessError: it fails.
    """
    environment = os.environ | {"XDG_DATA_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    command = [sys.executable, "-m", "moe_watch", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment).stdout


def ranked(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the profile and the ablation of pocket on the ranking half."""
    corpus, engine = str(HELD_OUT / "rank.jsonl"), ("--backend", "llama.cpp")
    profile, ablation = folder / "profile.json", folder / "ablation.json"
    moe_watch(folder, "profile", "pocket", "--corpus", corpus, "--saliency", "-o", str(profile), *engine)
    moe_watch(folder, "ablate", "pocket", "--corpus", corpus, "-o", str(ablation), *engine)
    return json.loads(profile.read_bytes()), json.loads(ablation.read_bytes())


def rankings(profile: dict[str, Any], ablation: dict[str, Any]) -> dict[str, Floats]:
    """Return each ranking as numbers [L, E], higher is kept; NaN for experts without a number."""
    layers = sorted(profile["activation_counts"], key=int)
    keys = {"count": "activation_counts", "weight mass": "weight_mass", "saliency": "saliency"}
    keys |= {"saliency mass": "saliency_mass"}
    found = {name: np.array([profile[key][layer] for layer in layers], np.float64) for name, key in keys.items()}
    damage = np.full_like(found["count"], np.nan)
    for each in ablation["experts"]:
        damage[layers.index(str(each["layer"])), each["expert"]] = each["delta_surprisal"]
    return {**found, "damage": damage}


def candidates(values: dict[str, Floats], model: ModelInfo) -> list[PrunedModel]:
    """Return the models to score: one for each ranking, then the random ones."""
    rng = np.random.default_rng(SEED)
    random = {f"random {draw + 1}": rng.random(values["count"].shape) for draw in range(RANDOM_DRAWS)}
    return [_pruned(name, kept_experts(ranking, KEEP), model) for name, ranking in {**values, **random}.items()]


def _pruned(name: str, kept: Ints, model: ModelInfo) -> PrunedModel:
    dropped = dropped_experts(kept, model.experts)
    pairs = [(layer, int(expert)) for layer, row in zip(model.layers, dropped, strict=True) for expert in row]
    return PrunedModel(name, kept, ExpertMask.of(pairs))


# -- scoring


def score(worker: KeptWorker, models: Sequence[PrunedModel]) -> list[Floats]:
    """Score the other half with every model; returns the surprisals of the whole one."""
    text = read_text(HELD_OUT / "score.txt", None, None)
    windows = text_windows(worker, text.text, text.window)
    whole = []
    for at, ids in enumerate(windows.ids):
        given = ids if windows.begin is None else [windows.begin, *ids[1:]]
        answers = worker.score(Score(ids=given, window=len(ids), masks=[model.mask.rows for model in models]))
        found = [None if each.unused else np.frombuffer(each.surprisal, "<f8") for each in answers]
        values = [(found[0] if each is None else each)[first_scored(len(ids)) - 1 :] for each in found]  # type: ignore[index]
        whole.append(values[0])
        for model, surprisal in zip(models, values[1:], strict=True):
            model.surprisals.append(surprisal)
        print(f"\r{at + 1} of {len(windows.ids)} windows", end="", file=sys.stderr)
    print(file=sys.stderr)
    return whole


def usage(worker: KeptWorker, mask: ExpertMask) -> UsageSums:
    """Return the routing of the scored text with a mask."""
    text = read_text(HELD_OUT / "score.txt", None, None)
    windows = text_windows(worker, text.text, text.window)
    total: UsageSums | None = None
    for ids in windows.ids:
        given = ids if windows.begin is None else [windows.begin, *ids[1:]]
        (one,) = worker.score(Score(ids=given, window=len(ids), base=mask.rows, surprisal=False, usage=True))
        total = one.usage if total is None or one.usage is None else _added(total, one.usage)
    if total is None:
        raise RuntimeError("no routing was read")
    return total


def _added(a: UsageSums, b: UsageSums) -> UsageSums:
    return UsageSums(
        rows=np.add(a.rows, b.rows).tolist(),
        counts=np.add(a.counts, b.counts).tolist(),
        entropy=np.add(a.entropy or 0.0, b.entropy or 0.0).tolist(),
    )


def file_difference(folder: Path, masked: PrunedModel) -> tuple[float, float]:
    """Return the perplexity of the pruned file, and of the whole model with the same experts off."""
    output, profile = folder / "pruned.gguf", str(folder / "profile.json")
    moe_watch(folder, "prune", "pocket", str(output), "--keep", str(KEEP), "--by", ON_FILE, "--from", profile)
    printed = moe_watch(folder, "perplexity", str(output), "--text", str(HELD_OUT / "score.txt"), "--json")
    return float(json.loads(printed)["perplexity"]), perplexity(masked.surprisals).perplexity


# -- writing


def _nats(interval: tuple[float, float] | None) -> str:
    return "too few tokens" if interval is None else f"{signed(interval[0], 4)} to {signed(interval[1], 4)}"


def pruning_table(whole: list[Floats], models: Sequence[PrunedModel], profile: dict[str, Any]) -> str:
    """Return the table of perplexities, one row per ranking, and one for the random draws together."""
    counts = np.array([each for _, each in sorted(profile["activation_counts"].items(), key=lambda each: int(each[0]))])
    mass = np.array([each for _, each in sorted(profile["weight_mass"].items(), key=lambda each: int(each[0]))])
    own = perplexity(whole)
    lines = [
        "| kept by | count lost | weight mass lost | perplexity | ratio | Δ nats per token (95 %) |",
        "|---|---:|---:|---:|---:|---|",
        f"| all 8 | 0 % | 0 % | {own.perplexity:.2f} | 1 | |",
    ]
    for model in models[: len(RANKINGS)]:
        found = paired(model.surprisals, whole)
        lost = [100 * lost_overall(quantity, model.kept) for quantity in (counts, mass)]
        lines.append(
            f"| {model.name} | {lost[0]:.1f} % | {lost[1]:.1f} % | {perplexity(model.surprisals).perplexity:.2f}"
            f" | {found.ratio:.3f} | {signed(found.difference, 4)} ({_nats(found.difference_interval)}) |"
        )
    random = np.array([paired(model.surprisals, whole).difference for model in models[len(RANKINGS) :]])
    lost = [
        100 * float(np.mean([lost_overall(quantity, model.kept) for model in models[len(RANKINGS) :]]))
        for quantity in (counts, mass)
    ]
    middle = float(np.median(random))
    lines.append(
        f"| random, median of {len(random)} | {lost[0]:.1f} % | {lost[1]:.1f} %"
        f" | {own.perplexity * exp(middle):.2f} | {exp(middle):.3f}"
        f" | {signed(middle, 4)} (all draws: {_nats((random.min(), random.max()))}) |"
    )
    return "\n".join(lines)


def comparisons(whole: list[Floats], models: Sequence[PrunedModel]) -> str:
    """Return the table of paired differences between the rankings, and a sentence that sums it up."""
    chosen = sorted(models[: len(RANKINGS)], key=lambda model: paired(model.surprisals, whole).difference)
    pairs = [(a, b, paired(b.surprisals, a.surprisals)) for a, b in combinations(chosen, 2)]
    lines = ["| better | worse | Δ nats per token (95 %) | |", "|---|---|---|---|"]
    for a, b, found in pairs:
        words = "differ" if _differs(found) else "do not differ"
        if np.array_equal(a.kept, b.kept):
            words = "keep the same experts"
        difference = f"{signed(found.difference, 4)} ({_nats(found.difference_interval)})"
        lines.append(f"| {a.name} | {b.name} | {difference} | {words} |")
    if not any(_differs(found) for _, _, found in pairs):
        lines += ["", "The rankings do not differ from each other."]
    random = [paired(model.surprisals, whole).difference for model in models[len(RANKINGS) :]]
    for model in chosen:
        better = sum(paired(model.surprisals, whole).difference < each for each in random)
        lines += ["", f"{model.name.capitalize()} is better than {better} of {len(random)} random draws."]
    return "\n".join(lines)


def _differs(found: PairedPerplexity) -> bool:
    interval = found.difference_interval
    return interval is not None and (interval[0] > 0 or interval[1] < 0)


def expert_table(ablation: dict[str, Any]) -> str:
    """Return the table of all experts, the most damaging first."""
    lines = [
        "| expert | tokens | weight mass | saliency | saliency mass | Δ surprisal, nats (95 %) | KL, nats"
        " | p corrected |",
        "|---|---:|---:|---:|---:|---|---:|---:|",
    ]
    for each in sorted(ablation["experts"], key=lambda each: -each["delta_surprisal"]):
        interval = _nats(tuple(each["interval"])) if each["interval"] else "too few tokens"
        saliency = "never selected" if each["saliency"] is None else f"{each['saliency']:.3f}"
        lines.append(
            f"| {each['layer']}:{each['expert']} | {each['tokens']:,} | {each['weight_mass']:,.0f} | {saliency}"
            f" | {each['saliency_mass']:,.0f} | {signed(each['delta_surprisal'], 4)} ({interval}) | {each['kl']:.4f}"
            f" | {each['p_corrected']:.4f} |"
        )
    return "\n".join(lines)


def correlation_table(ablation: dict[str, Any]) -> str:
    """Return the table of rank correlations with the measured damage."""
    lines = [
        "| ranking | ρ with Δ surprisal, within layers (95 %) | pooled (95 %) | ρ with KL, within layers | pooled |",
        "|---|---|---|---:|---:|",
    ]
    for name, each in ablation["rank_correlations"].items():
        nats, kl = each["delta_surprisal"], each["kl"]
        cells = [_rho(nats, "within_layers"), _rho(nats, "pooled"), f"{kl['within_layers']:.2f}", f"{kl['pooled']:.2f}"]
        lines.append(f"| {name.replace('_', ' ')} | {' | '.join(cells)} |")
    halves = ablation["split_half"]
    scopes = ("within_layers", "pooled")
    split = [f"{halves[kind][scope]:.2f}" for kind in ("delta_surprisal", "kl") for scope in scopes]
    lines.append(f"| the damage itself, on the other half | {' | '.join(split)} |")
    return "\n".join(lines)


def _rho(found: dict[str, Any], scope: str) -> str:
    low, high = found[f"{scope}_interval"]
    return f"{found[scope]:.2f} ({low:.2f} to {high:.2f})"


def routing_table(worker: KeptWorker, models: Sequence[PrunedModel]) -> str:
    """Return the table of router entropy and usage entropy by layer, whole and pruned."""
    layers = worker.ready.model.layers
    lines = [
        f"| model | quantity | {' | '.join(f'layer {layer}' for layer in layers)} |",
        f"|---|---|{'---:|' * len(layers)}",
    ]
    for name, mask in [("all 8", ExpertMask()), *((model.name, model.mask) for model in models[: len(RANKINGS)])]:
        found = usage(worker, mask)
        router = np.array(found.entropy) / np.array(found.rows)
        selected = usage_entropy(np.array(found.counts))
        for quantity, values in (("router entropy", router), ("usage entropy", selected)):
            lines.append(f"| {name} | {quantity} | {' | '.join(f'{value:.3f}' for value in values)} |")
    return "\n".join(lines)


def measured() -> Iterator[str]:
    """Yield the sections of the page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        profile, ablation = ranked(folder)
        load = RunSettings(model="pocket", backend="llama.cpp", options=EngineOptions(context=512)).load()
        with KeptWorker(load, lambda _: None) as worker:
            models = candidates(rankings(profile, ablation), worker.ready.model)
            whole = score(worker, models)
            scored = sum(map(len, whole))
            yield (
                f"Ranked on {profile['calibration_tokens']:,} tokens, by damage on the first {ablation['tokens']:,} of "
                f"them, scored on {scored:,} others."
            )
            yield f"### 8 to {KEEP} experts\n\n{pruning_table(whole, models, profile)}"
            yield f"### Between rankings\n\n{comparisons(whole, models)}"
            yield f"### Does a ranking predict the damage?\n\n{correlation_table(ablation)}"
            yield (
                "### Routing before and after\n\nOver the scored text, with the experts off. Entropies are over ln 8: "
                f"the largest that {KEEP} experts can reach is {np.log(KEEP) / np.log(8):.3f}.\n\n"
                f"{routing_table(worker, models)}"
            )
        on_file, masked = file_difference(folder, models[RANKINGS.index(ON_FILE)])
        yield (
            f"### As a file\n\nThe model pruned by {ON_FILE} as a file: perplexity {on_file:.4f}. The whole model with "
            f"the same experts off: {masked:.4f}."
        )
        yield f"### All {len(ablation['experts'])} experts\n\n{expert_table(ablation)}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--page", type=Path, help="write the tables into this page")
    arguments = parser.parse_args()
    parts = []
    for part in measured():
        print(f"{part}\n", flush=True)
        parts.append(part)
    if arguments.page is not None:
        text = arguments.page.read_text(encoding="utf-8")
        before, after = text.split(BEGIN)[0], text.split(END)[1]
        arguments.page.write_text(f"{before}{BEGIN}\n{chr(10).join(f'{part}{chr(10)}' for part in parts)}{END}{after}")


if __name__ == "__main__":
    main()
