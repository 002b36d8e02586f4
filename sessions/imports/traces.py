"""Imported traces before they are written as sessions: routing per token, or only counts of selections."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from moe_watch.routing.arrays import Ints
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Phase
from moe_watch.sessions.reading.validation import MAX_CELLS

MAX_LAYER = 1 << 20
"""Largest layer index, typed or in a file."""
NO_PROMPT = "the trace does not state which tokens are the prompt's: all are taken as generated"
NO_PHASE = "the file does not separate prefill and decode: all selections are taken as {}"


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Facts about a trace that the user gives because the file does not hold them."""

    model: str | None = None
    experts: int | None = None
    experts_per_token: int | None = None
    layers: list[int] | None = None
    """Index in the model of each layer in the trace."""
    prompt_tokens: int | None = None
    """Number of prompt tokens, at the beginning of the trace."""
    phase: Phase | None = None
    """Phase of counts that do not separate prefill and decode."""
    choice: int = 0
    """Index of the choice in a response with several."""
    run: int | None = None
    """Index of the run in a file with several."""
    start: int | None = None
    """Tokens before the first row of routing."""
    dtype: str | None = None
    """Type of expert ids that come as bare base64."""


@dataclass(frozen=True, slots=True)
class RouterShape:
    """Layers, experts and experts per token of a trace's model."""

    layers: list[int]
    experts: int
    experts_per_token: int


@dataclass(frozen=True, slots=True)
class RoutedTrace:
    """Expert sets of each token."""

    engine: str
    what: str
    """Name of the format in messages and in the header."""
    shape: RouterShape
    experts: Ints
    """[T, L, k], `ABSENT` in unobserved rows."""
    prompt_tokens: int
    """Number of prompt tokens, which come first; the others were generated."""
    ids: Ints | None = None
    """[T] token ids, -1 where absent; None if the file has none at all."""
    texts: list[str] | None = None
    """[T]; None if the file has none."""
    model: str | None = None
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class CountedTrace:
    """Number of selections of each expert, over all tokens of one phase."""

    engine: str
    what: str
    shape: RouterShape
    counts: Ints
    """[L, E]"""
    rows: Ints
    """[L] tokens observed."""
    phase: Phase
    model: str | None = None
    warnings: list[str] = field(default_factory=list)
    steps: Ints | None = None
    """[S, L, E] counts by step; None if the file has only their sum."""


Trace = RoutedTrace | CountedTrace


def phase_of_counts(options: ImportOptions, warnings: list[str]) -> Phase:
    """Return the phase of counts that do not state it: the user's, or prefill with a warning."""
    if options.phase is not None:
        return options.phase
    warnings.append(NO_PHASE.format("prefill"))
    return "prefill"


def layers_of(number: int, options: ImportOptions, where: str) -> list[int]:
    """Return the index in the model of each layer in a trace; counted from 0 if the user gave none.

    Raises:
        UserError: the user gave another number of layers.
    """
    if options.layers is None:
        return list(range(number))
    if len(options.layers) != number:
        raise UserError(f"{where}: {number} layers, but --layers names {len(options.layers)}", advice="name each once")
    return options.layers


def known_experts(options: ImportOptions, where: str, stated: int | None = None) -> int:
    """Return the number of experts per layer, stated by the file or given by the user.

    Args:
        options: facts that the user gave.
        where: name of the file in messages.
        stated: number that the file states; None if it states none.

    Raises:
        UserError: it is unknown (the highest selected id does not determine it), or file and user disagree.
    """
    return _known(stated, options.experts, "experts", "--experts", where)


def known_experts_per_token(options: ImportOptions, where: str, stated: int | None = None) -> int:
    """Return the number of experts per token, stated by the file or given by the user.

    Raises:
        UserError: it is unknown, or file and user disagree.
    """
    return _known(stated, options.experts_per_token, "experts per token", "--experts-per-token", where)


def known_prompt_tokens(options: ImportOptions, where: str, stated: int | None) -> int | None:
    """Return the number of prompt tokens, stated by the file or given by the user; None if by neither.

    Raises:
        UserError: file and user disagree.
    """
    if stated is None:
        return options.prompt_tokens
    return _known(stated, options.prompt_tokens, "prompt tokens", "--prompt-tokens", where)


def _known(stated: int | None, given: int | None, what: str, option: str, where: str) -> int:
    if stated is not None and given not in (None, stated):
        raise UserError(f"{where}: {stated} {what}, not {given}", advice=f"leave out {option}")
    found = given if stated is None else stated
    if found is None:
        advice = f"use {option} N, with the number in the model's configuration"
        raise UserError(f"{where}: does not state the model's number of {what}", advice=advice)
    return found


def parse_layers(text: str) -> list[int]:
    """Parse layer indices as a user types them: `1-26`, `0,2,4`.

    Raises:
        UserError: they cannot be parsed, or are not in ascending order.
    """
    found: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,7})(?:\s*-\s*(\d{1,7}))?\s*", part)
        first, last = (int(ends[1]), int(ends[2] or ends[1])) if ends else (0, -1)
        if ends is None or not first <= last <= MAX_LAYER or (found and first <= found[-1]):
            raise UserError(f"--layers is {text!r}", advice="use ascending indices, such as 1-26 or 0,2,4")
        found.extend(range(first, last + 1))
    return found


def check_size(shape: RouterShape, where: str) -> None:
    """Refuse a shape that no session may have.

    Raises:
        UserError: it has too many experts, or too few.
    """
    cells = len(shape.layers) * shape.experts
    if not 0 < shape.experts_per_token <= shape.experts or cells > MAX_CELLS:
        what = f"{len(shape.layers)} layers × {shape.experts} experts, top-{shape.experts_per_token}, is impossible"
        raise UserError(f"{where}: {what}", advice="check --experts and --experts-per-token")
