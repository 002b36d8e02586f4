"""What a run comes to: one JSON object, a pure function of its events.

`record --json` and `replay --headless --json` print the same object for the same run, to the last digit.
Names: docs/measurements.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from moe_watch.routing.arrays import ABSENT, Floats, Ints, integers
from moe_watch.routing.events import Chunk, Header, Keyframe, Marker, Perturbation, State, StreamItem, Token
from moe_watch.routing.half_life.fit import in_words
from moe_watch.routing.half_life.fit_json import fit_result
from moe_watch.routing.half_life.series import ContextSeries, MidSeries
from moe_watch.routing.pressure.formulas import CONTEXT_MODES, WARM_UP_CHUNKS, crossing
from moe_watch.routing.pressure.instruments import complete_chunks
from moe_watch.routing.pressure.missing_signals import lacking_signals
from moe_watch.routing.row_layout import RowLayout
from moe_watch.routing.usage.counts import UsageCounts, dead, experts_for, gini, overlap, usage_entropy

Json = dict[str, Any]


class Summary:
    """Fed the items of a stream in order; `result()` may be asked at any time and covers the latest run."""

    def __init__(self) -> None:
        self._totals: _Totals | None = None

    def feed(self, item: StreamItem) -> None:
        """Take in one item; what is not part of a summary is ignored."""
        if isinstance(item, Header):
            self._totals = _Totals(item)
        elif self._totals is not None:
            self._totals.feed(item)

    def result(self) -> Json:
        """The run so far, as JSON-able values; `{}` before a header came."""
        return {} if self._totals is None else self._totals.result()


class _Totals:
    """The sums of one run."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.layers = len(header.model.layers)
        self.layout = RowLayout.of(header.model)
        self.sources: Counter[str] = Counter()
        self.events: Counter[type] = Counter()
        self.would_stop = 0
        self.chunks: list[tuple[Chunk, int]] = []
        """Each with the number of its context."""
        self.series = MidSeries(header.pressure)
        self.ending: State | None = None
        self.usage = {phase: UsageCounts(self.layers, header.model.experts) for phase in ("prefill", "decode")}
        self.entropy = _LayerMean(self.layers)
        self.margin = _LayerMean(self.layers)
        self.overlap = _LayerMean(self.layers)
        self.surprisal = _LayerMean(1)
        self.before: Ints | None = None
        self.next = 0
        """Index behind that of the last token."""

    def feed(self, item: StreamItem) -> None:
        self.events[type(item)] += 1
        self.series.feed(item)
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
        self.usage[token.phase].add(experts)
        if token.phase == "decode":
            self._decode(token, experts)
        self.before, self.next = experts, token.i + 1

    def _decode(self, token: Token, experts: Ints) -> None:
        self.would_stop += token.would_stop
        self.entropy.add_steps(token.entropy)
        self.margin.add_steps(token.margin)
        if token.logprob is not None:
            self.surprisal.add(np.array([-token.logprob]))
        if self.before is not None:
            self.overlap.add(overlap(experts, self.before))

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

    def result(self) -> Json:
        model, units = self.header.model, self.header.units
        churn = self.overlap.result()
        return {
            "model": model.name,
            "backend": self.header.backend.name,
            "layers": model.layers,
            "experts": model.experts,
            "experts_per_token": model.experts_per_token,
            "seed": self.header.sampling.seed,
            "tokens": {source: self.sources[source] for source in ("prompt", "injected", "generated")},
            "would_stop": self.would_stop,
            "usage": {phase: _usage(window) for phase, window in self.usage.items()},
            "router_entropy": self.entropy.result(units.entropy),
            "router_margin": self.margin.result(units.margin),
            "churn": churn and {"mean": 1 - churn["mean"], "per_layer": _complements(churn["per_layer"])},
            "surprisal": (self.surprisal.result() or {}).get("mean"),
            "chunk_size": self.header.chunk_size,
            "pressure": self._pressure(),
            "perturbations": self.events[Perturbation],
            "marks": self.events[Marker],
            "ended": None if self.ending is None else {"state": self.ending.state, "why": self.ending.why},
        }

    def _pressure(self) -> Json:
        """Of the judged context; every context's verdict is listed."""
        judged, begins_at = self.series.judged, self.series.contexts[0].begins_at
        fit, lacking = judged.fit(), self._lacking()
        return {
            "mode": self.header.pressure,
            "context": judged.number,
            **_start(judged),
            "fit": fit and fit_result(fit, judged.entropy_collapse()),
            "fit_unavailable": lacking or judged.unavailable or None,
            "begins_at_chunk": None if begins_at is None else begins_at.chunks,
            "warm_up_missing": None if lacking else max(0, WARM_UP_CHUNKS - self._complete()),
            "contexts": contexts_result(self.series.contexts),
            "chunks": [_chunk(chunk, context) for chunk, context in self.chunks],
        }

    def _lacking(self) -> str:
        """Return which signals of pressure the recording does not have; empty where a chunk was measured."""
        measured = any(chunk.pressures is not None for chunk, _ in self.chunks)
        has_series = any(series.mid for series in self.series.contexts)
        return "" if measured or has_series else lacking_signals(self.header, self.header.pressure)

    def _complete(self) -> int:
        """Count the complete chunks that fed the averages: of the present context, or of the run."""
        of_context = self.header.pressure in CONTEXT_MODES
        series = self.series.contexts[-1 if of_context else 0]
        counted = [chunk for chunk, context in self.chunks if not (of_context and context != series.number)]
        before = 0 if series.begins_at is None else complete_chunks(series.begins_at, self.header.pressure)
        return before + sum(not chunk.partial for chunk in counted)


def contexts_result(contexts: Sequence[ContextSeries]) -> list[Json]:
    """Return every context of a run with its verdict, or the reason why it has none."""
    return [_context(each) for each in contexts]


def _context(series: ContextSeries) -> Json:
    fit = series.fit()
    return {
        "context": series.number,
        "first_chunk": series.positions[0] if series.mid else None,
        "measured": len(series.mid),
        **_start(series),
        "verdict": fit and fit.verdict,
        "half_life": fit and fit.half_life,
        "p_sequential": fit and fit.p_sequential,
        "words": fit and in_words(fit),
        "fit_unavailable": series.unavailable or None,
    }


def _start(series: ContextSeries) -> Json:
    """P₀ and the crossing of its half, both None where the recording does not have P₀."""
    if not series.mid or not series.knows_its_start:
        return {"initial": None, "crossing": {"chunk": None}}
    at = crossing(series.mid)
    return {"initial": series.mid[0], "crossing": {"chunk": None if at is None else series.positions[at]}}


class _LayerMean:
    """Mean per layer over the rows that were computed."""

    def __init__(self, layers: int) -> None:
        self.total: Floats = np.zeros(layers)
        self.rows: Ints = np.zeros(layers, np.int64)

    def add_steps(self, values: list[int | None] | None) -> None:
        """Take in one token's integers `[L]`."""
        if values:
            row = integers(values)
            self.add(np.where(row == ABSENT, np.nan, row))

    def add(self, row: Floats) -> None:
        """Take in one token's values `[L]`, NaN where there are none."""
        known = ~np.isnan(row)
        self.total += np.where(known, row, 0.0)
        self.rows += known

    def result(self, unit: float = 1.0) -> Json | None:
        """`{"mean", "per_layer"}`, or None if nothing was recorded."""
        if not self.rows.any():
            return None
        with np.errstate(invalid="ignore"):
            per_layer = self.total / self.rows * unit
        return {"mean": float(self.total.sum() / self.rows.sum() * unit), "per_layer": _optional(per_layer)}


def _counted(counts: list[list[int]], rows: list[int], experts: int) -> UsageCounts:
    """Selections `[L, E]` that were counted elsewhere, over so many rows `[L]`; L may be 0."""
    window = UsageCounts(len(rows), experts)
    window.merge(np.array(counts, np.int64).reshape(len(rows), experts), np.array(rows, np.int64), max(rows, default=0))
    return window


def _usage(window: UsageCounts) -> Json:
    """Usage of one phase, with what it is a share of."""
    return {
        "rows": window.rows.tolist(),
        "counts": window.counts.tolist(),
        "shares": [_optional(row) for row in window.shares()],
        "usage_entropy": _optional(usage_entropy(window.counts)),
        "gini": _optional(gini(window.counts)),
        "experts_for_90": [int(n) or None for n in experts_for(window.counts, 0.9)],
        "dead": [int(n) if rows else None for n, rows in zip(dead(window.counts), window.rows, strict=True)],
    }


def _chunk(chunk: Chunk, context: int) -> Json:
    found = chunk.pressures
    return {
        "index": chunk.index,
        "context": context,
        "tokens": [chunk.first, chunk.last],
        "partial": chunk.partial,
        "warm_up": chunk.warm_up,
        "fast": found and found.fast,
        "mid": found and found.mid,
        "slow": found and found.slow,
        "net": found and found.net,
    }


def _optional(values: Floats) -> list[float | None]:
    """A row as JSON has it: null for NaN."""
    return [None if np.isnan(value) else float(value) for value in values]


def _complements(values: list[float | None]) -> list[float | None]:
    return [None if value is None else 1 - value for value in values]
