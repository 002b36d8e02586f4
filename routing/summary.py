"""Summary of a run, a pure function of its events.

`record --json` and `replay --headless --json` print bit-identical summaries of the same run. Keys: docs/json.md;
quantities: docs/measurements.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from msgspec import UNSET

from moe_watch.routing.arrays import ABSENT, Flags, Floats, Ints, integers
from moe_watch.routing.events import Change, Chunk, Header, Keyframe, Marker, Perturbation, State, StreamItem, Token
from moe_watch.routing.half_life.fit import in_words
from moe_watch.routing.half_life.fit_json import fit_result
from moe_watch.routing.half_life.series import ContextSeries, MidSeries
from moe_watch.routing.pressure.formulas import CONTEXT_MODES, WARM_UP_CHUNKS, crossing
from moe_watch.routing.pressure.instruments import complete_chunks
from moe_watch.routing.pressure.missing_signals import DENSE, lacking_signals
from moe_watch.routing.results import (
    ChunkResult,
    ContextResult,
    CrossingResult,
    EndingResult,
    LayerMeans,
    MaskResult,
    PhaseUsage,
    PressureResult,
    RunSummary,
    TokenCounts,
    UsageResult,
    finites,
)
from moe_watch.routing.router.present_mask import PresentMask
from moe_watch.routing.row_layout import RowLayout
from moe_watch.routing.usage.counts import UsageCounts, dead, experts_for, gini, overlap, usage_entropy


class Summary:
    """Accumulator of a run's summary. `feed` takes the items of a stream in order.

    `result()` may be called at any time and covers the latest run.
    """

    def __init__(self) -> None:
        self._totals: _Totals | None = None

    def feed(self, item: StreamItem) -> None:
        """Add one item; items that are not part of a summary are ignored."""
        if isinstance(item, Header):
            self._totals = _Totals(item)
        elif self._totals is not None:
            self._totals.feed(item)

    def result(self) -> RunSummary | None:
        """Return the summary of the run so far; None before a header."""
        return None if self._totals is None else self._totals.result()


class _Means:
    """Means over the decode tokens of a run."""

    def __init__(self, layers: int) -> None:
        self.entropy = _LayerMean(layers)
        self.margin = _LayerMean(layers)
        self.overlap = _LayerMean(layers)
        self.surprisal = _LayerMean(1)


class MaskTotals:
    """Masks of a run, and the experts that were off at any of its tokens."""

    def __init__(self, header: Header) -> None:
        self.changes: list[MaskResult] = []
        shape = len(header.model.layers), header.model.experts
        self.off: dict[str, Flags] = {phase: np.zeros(shape, np.bool_) for phase in ("prefill", "decode")}
        """By phase `[L, E]`."""
        self._layers = header.model.layers
        self._present = PresentMask()
        self._now: Flags = np.zeros(shape, np.bool_)

    def feed(self, item: StreamItem) -> None:
        """Take in the next item of the run."""
        if isinstance(item, Token):
            if self._present.mask:
                self.off[item.phase] |= self._now
            return
        present = self._present.after(item)
        if present is not self._present and isinstance(item, Change | Keyframe):
            self._present, self._now = present, present.mask.table(self._layers, self._now.shape[1])
            self.changes.append(MaskResult(i=item.i, mask=present.mask.rows))


class _Totals:
    """Sums of one run."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.layers = len(header.model.layers)
        self.layout = RowLayout.of(header.model)
        self.sources: Counter[str] = Counter()
        self.events: Counter[type] = Counter()
        self.would_stop = 0
        self.masks = MaskTotals(header)
        self.chunks: list[tuple[Chunk, int]] = []
        """Chunks with the number of their context."""
        self.series = MidSeries(header.pressure)
        self.ending: State | None = None
        self.usage = {phase: UsageCounts(self.layers, header.model.experts) for phase in ("prefill", "decode")}
        self.means = _Means(self.layers)
        self.before: Ints | None = None
        self.next = 0
        """Index of the last token + 1."""

    def feed(self, item: StreamItem) -> None:
        self.events[type(item)] += 1
        self.series.feed(item)
        self.masks.feed(item)
        if isinstance(item, Token):
            self._token(item)
        elif isinstance(item, Chunk):
            self.chunks.append((item, self.series.number_of(item)))
        elif isinstance(item, State):
            self._state(item)
        elif isinstance(item, Keyframe):
            self._keyframe(item)

    def _token(self, token: Token) -> None:
        self.sources[token.source] += 1
        experts = self.layout.experts(token)
        self.usage[token.phase].feed(experts)
        if token.phase == "decode":
            self._decode(token, experts)
        self.before, self.next = experts, token.i + 1

    def _decode(self, token: Token, experts: Ints) -> None:
        self.would_stop += token.would_stop
        self.means.entropy.add_steps(token.entropy)
        self.means.margin.add_steps(token.margin)
        if token.logprob is not None:
            self.means.surprisal.add(np.array([-token.logprob]))
        if self.before is not None:
            self.means.overlap.add(overlap(experts, self.before))

    def _keyframe(self, frame: Keyframe) -> None:
        if self.header.counts_only:  # there are no tokens to count
            experts = self.header.model.experts
            self.usage = {"prefill": _counted(frame.counts_prefill, frame.rows_prefill, experts)}
            self.usage["decode"] = _counted(frame.counts_decode, frame.rows_decode, experts)
        elif frame.i > self.next:  # tokens are missing before it
            self.before = self.layout.experts_before(frame)

    def _state(self, state: State) -> None:
        if state.state in ("finished", "error"):
            self.ending = state
        elif state.state == "fresh_context":
            self.before = None

    def result(self) -> RunSummary:
        model, units, ending = self.header.model, self.header.units, self.ending
        surprisal = self.means.surprisal.result()
        return RunSummary(
            model=model.name,
            backend=self.header.backend.name,
            layers=model.layers,
            experts=model.experts,
            experts_per_token=model.experts_per_token,
            own_experts_per_token=None if model.own_experts_per_token is UNSET else model.own_experts_per_token,
            expert_ids=None if model.expert_ids is UNSET else model.expert_ids,
            masks=self.masks.changes,
            seed=self.header.sampling.seed,
            tokens=TokenCounts(**{source: self.sources[source] for source in TokenCounts.__struct_fields__}),
            would_stop=self.would_stop,
            usage=PhaseUsage(
                prefill=_usage(self.usage["prefill"], self.masks.off["prefill"]),
                decode=_usage(self.usage["decode"], self.masks.off["decode"]),
            ),
            router_entropy=self.means.entropy.result(units.entropy),
            router_margin=self.means.margin.result(units.margin),
            churn=_complement(self.means.overlap.result()),
            surprisal=surprisal.mean if surprisal else None,
            chunk_size=self.header.chunk_size,
            pressure=self._pressure(),
            perturbations=self.events[Perturbation],
            marks=self.events[Marker],
            ended=EndingResult(state=ending.state, why=ending.why) if ending else None,
        )

    def _pressure(self) -> PressureResult:
        """Return the pressure of the judged context, with the verdict on every context."""
        judged, begins_at = self.series.judged, self.series.contexts[0].begins_at
        fit, lacking = judged.fit(), self._lacking()
        return PressureResult(
            mode=self.header.pressure,
            context=judged.number,
            initial=_initial(judged),
            crossing=_crossing(judged),
            fit=fit_result(fit, judged.entropy_collapse()) if fit else None,
            fit_unavailable=lacking or judged.unavailable or None,
            begins_at_chunk=begins_at.chunks if begins_at else None,
            warm_up_missing=None if lacking else max(0, WARM_UP_CHUNKS - self._complete()),
            contexts=contexts_result(self.series.contexts, DENSE if self.header.is_dense else ""),
            chunks=[_chunk(chunk, context) for chunk, context in self.chunks],
        )

    def _lacking(self) -> str:
        """Return the signals of pressure that the recording lacks, in words; empty if a chunk was measured."""
        measured = any(chunk.pressures is not None for chunk, _ in self.chunks)
        has_series = any(series.mid for series in self.series.contexts)
        return "" if measured or has_series else lacking_signals(self.header, self.header.pressure)

    def _complete(self) -> int:
        """Return the number of complete chunks in the averages, of the current context or of the run."""
        of_context = self.header.pressure in CONTEXT_MODES
        series = self.series.contexts[-1 if of_context else 0]
        counted = [chunk for chunk, context in self.chunks if not (of_context and context != series.number)]
        before = 0 if series.begins_at is None else complete_chunks(series.begins_at, self.header.pressure)
        return before + sum(not chunk.partial for chunk in counted)


def contexts_result(contexts: Sequence[ContextSeries], lacking: str = "") -> list[ContextResult]:
    """Return every context of a run with its verdict, or with the reason why it has none.

    Args:
        contexts: series of each context.
        lacking: reason why no context of the run can have pressure; empty if one can.
    """
    return [_context(each, lacking) for each in contexts]


def _context(series: ContextSeries, lacking: str) -> ContextResult:
    fit = series.fit()
    return ContextResult(
        context=series.number,
        first_chunk=series.positions[0] if series.mid else None,
        since_mask=series.masked_at,
        measured=len(series.mid),
        initial=_initial(series),
        crossing=_crossing(series),
        verdict=fit.verdict if fit else None,
        half_life=fit.half_life if fit else None,
        p_sequential=fit.p_sequential if fit else None,
        words=in_words(fit) if fit else None,
        fit_unavailable=lacking or series.unavailable or None,
    )


def _initial(series: ContextSeries) -> float | None:
    """Return P₀; None if the recording does not have it."""
    return series.mid[0] if series.mid and series.has_start else None


def _crossing(series: ContextSeries) -> CrossingResult:
    """Return the crossing of half of P₀; its chunk is None if the recording does not have P₀."""
    at = None if _initial(series) is None else crossing(series.mid)
    return CrossingResult(chunk=None if at is None else series.positions[at])


class _LayerMean:
    """Mean per layer over the computed rows."""

    def __init__(self, layers: int) -> None:
        self.total: Floats = np.zeros(layers)
        self.rows: Ints = np.zeros(layers, np.int64)

    def add_steps(self, values: list[int | None] | None) -> None:
        """Add one token's integers `[L]`."""
        if values:
            row = integers(values)
            self.add(np.where(row == ABSENT, np.nan, row))

    def add(self, row: Floats) -> None:
        """Add one token's values `[L]`; absent ones are NaN."""
        known = ~np.isnan(row)
        self.total += np.where(known, row, 0.0)
        self.rows += known

    def result(self, unit: float = 1.0) -> LayerMeans | None:
        """Return the means in natural units; None if nothing was recorded."""
        if not self.rows.any():
            return None
        with np.errstate(invalid="ignore"):
            per_layer = self.total / self.rows * unit
        return LayerMeans(mean=float(self.total.sum() / self.rows.sum() * unit), per_layer=finites(per_layer))


def _complement(means: LayerMeans | None) -> LayerMeans | None:
    """Return 1 − each mean."""
    if means is None:
        return None
    per_layer = [None if value is None else 1 - value for value in means.per_layer]
    return LayerMeans(mean=1 - means.mean, per_layer=per_layer)


def _counted(counts: list[list[int]], rows: list[int], experts: int) -> UsageCounts:
    """Return the counts of selections `[L, E]` counted elsewhere, over `rows` `[L]`; L may be 0."""
    window = UsageCounts(len(rows), experts)
    window.merge(np.array(counts, np.int64).reshape(len(rows), experts), np.array(rows, np.int64), max(rows, default=0))
    return window


def _usage(window: UsageCounts, off: Flags) -> UsageResult:
    """Return the usage of one phase, with its denominators; `off` `[L, E]` are experts that were switched off."""
    unused, on_and_unused = dead(window.counts), dead(window.counts, off)
    return UsageResult(
        rows=window.rows.tolist(),
        counts=window.counts.tolist(),
        shares=[finites(row) for row in window.shares()],
        usage_entropy=finites(usage_entropy(window.counts)),
        gini=finites(gini(window.counts)),
        experts_for_90=[int(n) or None for n in experts_for(window.counts, 0.9)],
        dead=[int(n) if rows else None for n, rows in zip(on_and_unused, window.rows, strict=True)],
        switched_off=[int(n) if rows else None for n, rows in zip(unused - on_and_unused, window.rows, strict=True)],
    )


def _chunk(chunk: Chunk, context: int) -> ChunkResult:
    found = chunk.pressures
    return ChunkResult(
        index=chunk.index,
        context=context,
        tokens=(chunk.first, chunk.last),
        partial=chunk.partial,
        warm_up=chunk.warm_up,
        fast=found.fast if found else None,
        mid=found.mid if found else None,
        slow=found.slow if found else None,
        net=found.net if found else None,
    )
