"""Prunings for tests: a few experts at random, and the mask of the whole model that switches the others off."""

from __future__ import annotations

import pathlib
import random

from moe_watch.backends.prune_record import PruneStep
from moe_watch.backends.pruning.experts_of_model import PrunableModel
from moe_watch.backends.pruning.pruner import prunable_location, prune_model, read_prunable_model
from moe_watch.routing.router.masks import ExpertMask

Kept = dict[int, list[int]]


def step(keep: int, source: str = "whole") -> PruneStep:
    return PruneStep(by="random", keep=keep, seed=0, source=source, source_sha256={})


def some_kept(model: PrunableModel, keep: int, seed: int = 0) -> Kept:
    """The same number of every group, others in every layer."""
    draw = random.Random(seed)
    groups = model.groups.count if model.groups is not None else 1
    size = model.experts // groups
    return {
        layer: sorted(
            group * size + place for group in range(groups) for place in draw.sample(range(size), keep // groups)
        )
        for layer in model.layers
    }


def prune(source: pathlib.Path | str, output: pathlib.Path, kept: Kept | None = None, *, keep: int = 0) -> Kept:
    """Prune a model, and return the numbers of the kept experts."""
    location = prunable_location(str(source), output)
    model = read_prunable_model(location)
    kept = kept or some_kept(model, keep)
    prune_model(model, kept, step(len(next(iter(kept.values())))), output, lambda _: None)
    return kept


def mask_of(kept: Kept, experts: int) -> ExpertMask:
    """The mask of the whole model that leaves these experts."""
    return ExpertMask.of(
        (layer, expert) for layer, numbers in kept.items() for expert in range(experts) if expert not in numbers
    )
