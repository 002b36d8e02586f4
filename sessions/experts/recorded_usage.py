"""Usage of a model's experts from files: recordings, and routing or counts of other programs."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from msgspec import UNSET

from moe_watch.backends.model_files.gguf import is_gguf, read_gguf
from moe_watch.routing.arrays import ABSENT, Floats, Ints, Selections
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Change, Event, Header, Keyframe, Unknown
from moe_watch.routing.experts.stability import SumsByBlock
from moe_watch.routing.experts.sums import ExpertSums, total
from moe_watch.routing.pressure.missing_signals import DENSE
from moe_watch.sessions.experts.usage_groups import Block, ObservedModel, ObservedUsage, UsageGroup, blocks_of_group
from moe_watch.sessions.fitting.file_fit import SNIFFED, is_session
from moe_watch.sessions.fitting.pressure_series import read_content
from moe_watch.sessions.imports.importer import read_trace
from moe_watch.sessions.imports.traces import CountedTrace, ImportOptions, RoutedTrace
from moe_watch.sessions.library.lookup import session_file
from moe_watch.sessions.reading.multipart import RunReader
from moe_watch.sessions.reading.recompute import Beginnings
from moe_watch.sessions.reading.token_arrays import TokenArrays, TokenBatches
from moe_watch.sessions.text import UNKNOWN

BLOCK_TOKENS = 256
"""Tokens of a block of a recording. Neighbouring tokens select similar experts, so a token alone is no block."""
OF_MODEL = "to profile a model, give texts with --corpus FILE.jsonl"
NO_NORMS = "a recording has no norms of the experts' outputs: profile the model with --corpus and --saliency"
NO_WEIGHTS = "{} has no router weights"
NO_ENTROPY = "{} has no router entropy"
OF_IMPORT = re.compile(r"--(?:experts-per-token|experts|layers|prompt-tokens|phase|run|choice|start|dtype)\b(?!-)")
"""Options of `moe-watch import` in advice."""


@dataclass(frozen=True, slots=True)
class FileUsage:
    """Usage in one file."""

    model: ObservedModel
    group: UsageGroup
    block: Block | None
    """Unit of the blocks; None if there is only a sum."""
    warnings: list[str]


def usage_of_files(paths: Sequence[Path], options: ImportOptions, offered: Collection[str] = ()) -> ObservedUsage:
    """Return the usage in recordings, imported counts and files of other programs, all of one model.

    Args:
        paths: the files, or names of recordings; at least one.
        options: facts about files of other programs that the user gives.
        offered: options of `moe-watch import` that the command has too.

    Raises:
        UserError: a file cannot be read, has no routing, or is of another model than the first.
    """
    found = [_usage_of_file(path, options, offered, len(paths)) for path in paths]
    model = found[0].model
    for path, each in zip(paths[1:], found[1:], strict=True):
        model = _merged(model, each.model, f"{paths[0]} and {path}")
    groups = _with_unique_names([each.group for each in found])
    blocks = {each.block for each in found}
    sums = total(block for group in groups for block in group.blocks)
    lacking = {
        "weight_mass": sums.weights is None and NO_WEIGHTS,
        "router_entropy": sums.entropy is None and NO_ENTROPY,
    }
    return ObservedUsage(
        model=model,
        corpus=", ".join(str(path) for path in paths),
        groups=groups,
        block=blocks.pop() if len(blocks) == 1 else None,
        warnings=[line for each in found for line in each.warnings],
        absent={
            "saliency": NO_NORMS,
            "saliency_mass": NO_NORMS,
            **{key: reason.format(_first_without(key, found)) for key, reason in lacking.items() if reason},
        },
    )


def _first_without(key: str, files: Sequence[FileUsage]) -> str:
    """Return the name of the first file that lacks a quantity."""
    for each in files:
        sums = total(each.group.blocks)
        if (sums.weights if key == "weight_mass" else sums.entropy) is None:
            return each.group.name
    return "a file"


def _usage_of_file(path: Path, options: ImportOptions, offered: Collection[str], files: int) -> FileUsage:
    if path.is_dir():
        raise UserError(f"{path}: a folder", advice=OF_MODEL)
    named = _found(path)
    if is_session(read_content(named, SNIFFED)):
        return _recorded(named, options, files)
    if is_gguf(named) and read_gguf(named, digests=False).metadata.get("general.type") != "imatrix":
        raise UserError(f"{named}: a GGUF file, but not an importance matrix", advice=OF_MODEL)
    try:
        trace = read_trace(named, options)
    except UserError as error:
        if set(OF_IMPORT.findall(error.advice)) <= set(offered):
            raise
        advice = f"{error.advice} with `moe-watch import`, and give the session that it writes"
        raise UserError(error.what, advice=advice) from error
    if isinstance(trace, CountedTrace):
        return _counted(trace, named)
    return _routed(trace, named, files)


def _found(path: Path) -> Path:
    """Return the file of a path or of a recording's name.

    Raises:
        UserError: there is none.
    """
    try:
        found = session_file(path)
    except UserError as error:
        raise UserError(error.what, advice=OF_MODEL) from error
    if not found.exists():
        raise UserError(f"{path}: no such file", advice=f"check the path; {OF_MODEL}")
    return found


def _merged(a: ObservedModel, b: ObservedModel, which: str) -> ObservedModel:
    """Return the facts of a model from two files.

    Raises:
        UserError: they are of different models.
    """
    advice = "profile each model alone"
    if (a.layers, a.experts) != (b.layers, b.experts):
        raise UserError(f"{which} are of models with different layers or experts", advice=advice)
    if a.k != b.k:
        raise UserError(f"{which} have different numbers of experts per token", advice=advice)
    for fact in ("fingerprint", "gate", "expert_ids"):
        known = {str(getattr(each, fact)) for each in (a, b) if getattr(each, fact) is not None}
        if len(known) > 1:
            raise UserError(f"{which} are of different models (another {fact.replace('_', ' ')})", advice=advice)
    return replace(
        a,
        name=b.name if a.name == UNKNOWN else a.name,
        gate=a.gate or b.gate,
        fingerprint=a.fingerprint or b.fingerprint,
        expert_ids=a.expert_ids or b.expert_ids,
        engine=a.engine if a.engine == b.engine else None,
    )


def _with_unique_names(groups: Sequence[UsageGroup]) -> list[UsageGroup]:
    """Return the groups; names that are there before get a number."""
    names: dict[str, int] = {}
    found = []
    for group in groups:
        names[group.name] = number = names.get(group.name, 0) + 1
        found.append(group if number == 1 else replace(group, name=f"{group.name} ({number})"))
    return found


def _recorded(path: Path, options: ImportOptions, files: int) -> FileUsage:
    """Read a recording: its tokens, or the counts of an import without tokens."""
    with closing(RunReader(path)) as reader:
        header = reader.header
        if header.is_dense:
            raise UserError(f"{path}: {header.model.name}: {DENSE}", advice="give a recording of an MoE model")
        if options.experts is not None or options.experts_per_token is not None:
            raise UserError(
                f"{path} is a recording, which states its number of experts and of experts per token",
                advice="leave out --experts and --experts-per-token, which are for imported counts",
            )
        usage = _RecordedUsage(header, path, files)
        for event in reader:
            usage.feed(event)
        usage.finish()
        warnings = [*reader.warnings, *usage.warnings]
    blocks, block = usage.blocks(), usage.block
    if not blocks or not any(each.rows.any() for each in blocks):
        raise UserError(f"{path}: no routing in it", advice="record with the tap on")
    model = ObservedModel.of(header.model, header.backend.name)
    return FileUsage(model, UsageGroup(path.name, 1, usage.tokens, blocks), block, warnings)


class _RecordedUsage:
    """Usage in the events of one recording.

    If it has tokens, they are counted; keyframes would count tokens that are in no file. Without tokens, keyframes are
    counted: the counts of an import.
    """

    def __init__(self, header: Header, path: Path, files: int) -> None:
        self._header = header
        self._path = path
        model = header.model
        self._batches = TokenBatches(header)
        self._of_tokens = _BlocksOfTokens(len(model.layers), model.experts, files)
        self._of_steps = SumsByBlock(blocks_of_group(len(model.layers), model.experts, files))
        self._steps = 0
        self._before: Keyframe | None = None
        self._missing = 0
        """Number of tokens before the last stretch of tokens that is in no file."""
        self._beginnings = Beginnings()
        self.warnings: list[str] = []
        """Limits of the counts, one line each."""

    @property
    def tokens(self) -> int:
        """Number of observed tokens."""
        return self._of_tokens.tokens or (0 if self._before is None else self._before.i)

    @property
    def block(self) -> Block | None:
        """Unit of the blocks; None for a sum without steps."""
        if self._of_tokens.tokens:
            return "tokens"
        return "step" if self._steps > 1 else None

    def blocks(self) -> list[ExpertSums]:
        """Return the sums of the blocks."""
        return self._of_tokens.blocks() if self._of_tokens.tokens else self._of_steps.blocks()

    def feed(self, event: Event | Unknown) -> None:
        """Count an event of the recording."""
        begins = self._beginnings.feed(event)
        for batch in self._batches.feed(event):
            self._of_tokens.add(batch)
        if isinstance(event, Keyframe):
            self._note_mask(event.mask is not UNSET and bool(event.mask))
            self._count(event, begins=begins)
        elif isinstance(event, Change):
            self._note_mask(event.mask is not UNSET and bool(event.mask))

    def finish(self) -> None:
        """Count the last tokens, and note what the counts lack."""
        for batch in self._batches.rest():
            self._of_tokens.add(batch)
        if self._missing and self._of_tokens.tokens:
            self.warnings.append(f"{self._path}: tokens before {self._missing:,} are missing, and not counted")
        own, k = self._header.model.own_experts_per_token, self._header.model.experts_per_token
        if own is not UNSET:
            self.warnings.append(f"{self._path}: the run has {k} experts per token, the model itself has {own}")

    def _note_mask(self, masked: bool) -> None:
        warning = f"{self._path}: experts were switched off in the run: the whole model would have other counts"
        if masked and warning not in self.warnings:
            self.warnings.append(warning)

    def _count(self, frame: Keyframe, *, begins: bool) -> None:
        self._missing = frame.i if begins else self._missing
        counts, rows = _counts_of(frame), _rows_of(frame)
        if self._before is not None:
            counts, rows = counts - _counts_of(self._before), rows - _rows_of(self._before)
        self._before = frame
        if rows.any() and (rows >= 0).all():
            self._of_steps.add(ExpertSums(rows, counts))
            self._steps += 1


def _counts_of(frame: Keyframe) -> Ints:
    return np.array(frame.counts_prefill, np.int64) + np.array(frame.counts_decode, np.int64)


def _rows_of(frame: Keyframe) -> Ints:
    return np.array(frame.rows_prefill, np.int64) + np.array(frame.rows_decode, np.int64)


class _BlocksOfTokens:
    """Blocks of `BLOCK_TOKENS` successive tokens."""

    def __init__(self, layers: int, experts: int, files: int) -> None:
        self._experts = experts
        self._blocks = SumsByBlock(blocks_of_group(layers, experts, files))
        self._open: list[ExpertSums] = []
        self._filled = 0
        self.tokens = 0
        """Number of tokens with routing in any layer."""

    def add(self, tokens: TokenArrays) -> None:
        """Add tokens of a recording."""
        self.add_rows(tokens.experts, tokens.weights, tokens.entropy)

    def add_rows(self, experts: Ints, weights: Floats | None, entropy: Floats | None) -> None:
        """Add the rows of successive tokens; tokens without routing in any layer are left out.

        Args:
            experts: `[T, L, K]`, `ABSENT` where there is none.
            weights: `[T, L, K]`; None or NaN where they are unknown.
            entropy: `[T, L]`; the same.
        """
        observed = (experts[:, :, 0] != ABSENT).any(1)
        experts = experts[observed]
        weights = None if weights is None else weights[observed]
        entropy = None if entropy is None else entropy[observed]
        self.tokens += len(experts)
        at = 0
        while at < len(experts):
            end = min(at + BLOCK_TOKENS - self._filled, len(experts))
            part = slice(at, end)
            self._open.append(
                sums_of_rows(
                    experts[part],
                    None if weights is None else weights[part],
                    None if entropy is None else entropy[part],
                    self._experts,
                )
            )
            self._filled, at = self._filled + end - at, end
            if self._filled == BLOCK_TOKENS:
                self._close()

    def blocks(self) -> list[ExpertSums]:
        """Return the blocks; the last one may have fewer tokens."""
        if self._open:
            self._close()
        return self._blocks.blocks()

    def _close(self) -> None:
        self._blocks.add(total(self._open))
        self._open, self._filled = [], 0


def sums_of_rows(experts: Ints, weights: Floats | None, entropy: Floats | None, number: int) -> ExpertSums:
    """Return the sums of successive tokens. Weights or entropy that one observed row lacks are absent.

    Args:
        experts: `[T, L, K]`, `ABSENT` where there is none.
        weights: `[T, L, K]`; NaN where they are unknown.
        entropy: `[T, L]`; the same.
        number: E.
    """
    selected = Selections(experts, number)
    computed, present = selected.computed, selected.present
    layers = experts.shape[1]
    mass: Floats | None = None
    if weights is not None and np.isfinite(weights[present]).all():
        cells = selected.cells[present]
        mass = np.bincount(cells, weights[present], layers * number).astype(np.float64).reshape(layers, number)
    sums: Floats | None = None
    if entropy is not None and np.isfinite(entropy[computed]).all():
        sums = np.where(computed, entropy, 0.0).sum(0)
    return ExpertSums(selected.rows(), selected.counts(), mass, None, sums)


def _routed(trace: RoutedTrace, path: Path, files: int) -> FileUsage:
    shape = trace.shape
    rows = _BlocksOfTokens(len(shape.layers), shape.experts, files)
    rows.add_rows(trace.experts, None, None)
    blocks = rows.blocks()
    if not blocks:
        raise UserError(f"{path}: no routing in it", advice="give it as it was written")
    return FileUsage(_model_of(trace), UsageGroup(path.name, 1, rows.tokens, blocks), "tokens", _warnings(trace, path))


def _counted(trace: CountedTrace, path: Path) -> FileUsage:
    blocks = SumsByBlock(blocks_of_group(len(trace.shape.layers), trace.shape.experts, 1))
    k = trace.shape.experts_per_token
    steps = trace.counts[None] if trace.steps is None else trace.steps
    for counts in steps:
        blocks.add(ExpertSums(counts.sum(1) // k, counts))
    group = UsageGroup(path.name, 1, int(trace.rows.max()), blocks.blocks())
    return FileUsage(_model_of(trace), group, None if trace.steps is None else "step", _warnings(trace, path))


def _model_of(trace: RoutedTrace | CountedTrace) -> ObservedModel:
    shape = trace.shape
    k = [shape.experts_per_token] * len(shape.layers)
    return ObservedModel(trace.model or UNKNOWN, shape.layers, shape.experts, k, engine=trace.engine)


def _warnings(trace: RoutedTrace | CountedTrace, path: Path) -> list[str]:
    return [f"{path}: {each}" for each in trace.warnings]
