"""What foreign files come to before they are sessions: routing per token, or only how often experts were selected."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from routing.arrays import ABSENT, Ints
from routing.errors import UserError
from routing.events import Phase
from sessions.shapes import MAX_CELLS, MAX_INTEGER

MAX_LAYER = 1 << 20
"""A bound for what is typed and for what stands in files."""


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What a person says about a trace where it does not say it itself."""

    model: str | None = None
    experts: int | None = None
    experts_per_token: int | None = None
    layers: list[int] | None = None
    """The model's own index of each layer in the trace."""
    prompt_tokens: int | None = None
    """How many tokens at the beginning are the prompt's."""
    phase: Phase | None = None
    """Of counts that do not tell prefill and decode apart."""
    choice: int = 0
    """Which of several answers in one response."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The routers of the model that a trace is of."""

    layers: list[int]
    experts: int
    experts_per_token: int


@dataclass(frozen=True, slots=True)
class RoutedTrace:
    """Which experts each token went to."""

    engine: str
    what: str
    """What kind of file it was."""
    shape: Shape
    experts: Ints
    """[T, L, k], `ABSENT` in rows that were not observed."""
    prompt_tokens: int
    """The first tokens, which are the prompt's; the others were generated."""
    ids: Ints | None = None
    """[T] token ids; None if the file has none."""
    texts: list[str] | None = None
    """[T]; None if the file has none."""
    model: str | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CountedTrace:
    """How often each expert was selected, over all tokens of one phase."""

    engine: str
    what: str
    shape: Shape
    counts: Ints
    """[L, E]"""
    rows: Ints
    """[L] tokens observed."""
    phase: Phase
    model: str | None = None
    warnings: list[str] = field(default_factory=list)
    steps: Ints | None = None
    """[S, L, E] of the counts, step by step; None if the file has only their sum."""


Trace = RoutedTrace | CountedTrace


def routed(found: npt.NDArray[Any], options: ImportOptions, where: str) -> tuple[Shape, Ints]:
    """Expert ids `[T, L, k]` as a file has them: the layers that route at all, and the ids of their rows in order.

    Engines fill what they did not observe, and layers without experts, with zeros or negative numbers: such rows are
    absent, and a layer of nothing else is left out.

    Raises:
        UserError: they are no expert ids, or the number of experts is not known.
    """
    if found.ndim != 3 or not np.issubdtype(found.dtype, np.integer):
        sizes = " × ".join(map(str, found.shape))
        raise UserError(f"{where}: {sizes} of {found.dtype}", advice="expert ids are integers [tokens, layers, top-k]")
    chosen = found.shape[2]
    if options.experts_per_token not in (None, chosen):
        advice = f"leave out --experts-per-token {options.experts_per_token}"
        raise UserError(f"{where}: {chosen} experts per token", advice=advice)
    experts = np.sort(found.astype(np.int64), -1)
    blank = (experts < 0).any(-1) | ((chosen > 1) & (experts == experts[..., :1]).all(-1))
    layers = layers_of(found.shape[1], options, where)
    routing = ~blank.all(0)
    if not routing.any():
        raise UserError(f"{where}: no routing in it", advice="record a run with the routers observed")
    experts[blank] = ABSENT
    kept = [layers[at] for at in np.flatnonzero(routing)]
    return Shape(kept, known_experts(options, where), chosen), experts[:, routing]


def counted(counts: npt.NDArray[Any], options: ImportOptions, where: str) -> tuple[Shape, Ints, Ints]:
    """Selections `[L, E]` as a file has them: the layers that route at all, their counts, and their rows `[L]`.

    Raises:
        UserError: they are no counts of whole tokens, or the number of experts per token is not known.
    """
    chosen = options.experts_per_token
    if chosen is None:
        raise UserError(f"{where}: counts do not tell the experts per token", advice="say --experts-per-token N")
    if counts.ndim != 2 or not are_counts(counts):
        raise UserError(
            f"{where}: no counts of selections [layers, experts]", advice="see docs/data.md for the formats"
        )
    if not 0 < chosen <= counts.shape[1]:
        raise UserError(f"{where}: {chosen} of {counts.shape[1]} experts", advice="check --experts-per-token")
    if options.experts not in (None, counts.shape[1]):
        raise UserError(f"{where}: {counts.shape[1]} experts", advice=f"leave out --experts {options.experts}")
    layers, routing = layers_of(len(counts), options, where), counts.any(-1)
    if not routing.any():
        raise UserError(f"{where}: nothing was counted", advice="record a run with the routers observed")
    whole = counts[routing].astype(np.int64)
    kept = [layers[at] for at in np.flatnonzero(routing)]
    uneven = [layer for layer, rest in zip(kept, whole.sum(-1) % chosen, strict=True) if rest]
    if uneven:
        what = f"{where}: the selections of layer {uneven[0]} are no multiple of {chosen}"
        raise UserError(what, advice="check --experts-per-token")
    return Shape(kept, counts.shape[1], chosen), whole, whole.sum(-1) // chosen


def are_counts(counts: npt.NDArray[Any]) -> bool:
    """Whether all are whole numbers, and few enough to be summed."""
    with np.errstate(invalid="ignore", over="ignore"):
        total = counts.sum(dtype=np.float64)
        return bool(total <= MAX_INTEGER and (counts >= 0).all() and (counts == np.rint(counts)).all())


def layers_of(number: int, options: ImportOptions, where: str) -> list[int]:
    """The model's own index of each layer in a trace; places from 0 if nobody says it.

    Raises:
        UserError: another number of layers was named.
    """
    if options.layers is None:
        return list(range(number))
    if len(options.layers) != number:
        raise UserError(f"{where}: {number} layers, and --layers names {len(options.layers)}", advice="name each once")
    return options.layers


def known_experts(options: ImportOptions, where: str) -> int:
    """How many experts a layer has.

    Raises:
        UserError: nobody says so: the highest id that was selected does not tell.
    """
    if options.experts is None:
        advice = "say --experts N, as the model's configuration has it"
        raise UserError(f"{where}: does not tell how many experts the model has", advice=advice)
    return options.experts


def parse_layers(text: str) -> list[int]:
    """Layer indices as a person types them: `1-26`, `0,2,4`.

    Raises:
        UserError: they cannot be read, or are not in ascending order.
    """
    found: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,7})(?:\s*-\s*(\d{1,7}))?\s*", part)
        first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (0, -1)
        if ends is None or not first <= last <= MAX_LAYER or (found and first <= found[-1]):
            raise UserError(f"--layers is {text!r}", advice="use ascending indices, like 1-26 or 0,2,4")
        found.extend(range(first, last + 1))
    return found


def check_size(shape: Shape, where: str) -> None:
    """Refuse what no session may be.

    Raises:
        UserError: there are too many experts, or too few.
    """
    cells = len(shape.layers) * shape.experts
    if not 0 < shape.experts_per_token <= shape.experts or cells > MAX_CELLS:
        what = f"{len(shape.layers)} layers × {shape.experts} experts, top-{shape.experts_per_token}, is impossible"
        raise UserError(f"{where}: {what}", advice="check --experts and --experts-per-token")
