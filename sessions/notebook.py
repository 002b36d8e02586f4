"""A recorded session as NumPy arrays, for notebooks and scripts: what `moe_watch.open` returns.

Shapes: `T` tokens, `C` chunks, `L` MoE layers, `E` experts, `k` experts per token. All numbers are in natural units.
What was not recorded is -1 in arrays of integers and NaN in all others; an array of nothing else is refused.
"""

from __future__ import annotations

import warnings
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt

from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.contexts import ContextNumbers
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Chunk, Event, Header, Keyframe, Phase, Unknown
from moe_watch.routing.half_life.fit import Fit
from moe_watch.routing.usage.counts import add_selections, shares
from moe_watch.sessions.export.columns import Column
from moe_watch.sessions.export.tables import CHUNKS, chunk_row
from moe_watch.sessions.fitting.file_fit import RecordedSeries, chosen_context
from moe_watch.sessions.reading.multipart import RunReader, shown
from moe_watch.sessions.reading.recompute import Beginnings, Recomputed
from moe_watch.sessions.reading.token_arrays import TokenArrays, TokenBatches, token_arrays
from moe_watch.sessions.text import top_k_text

Arrays = dict[str, npt.NDArray[Any]]

CALLER = 3
"""How far above `Session.__init__` the caller of `moe_watch.open` is, for `warnings.warn`."""
PRESSURES = ("index", "context", "first", "last", "partial", "warm_up", "fast", "mid", "slow", "net")
"""What `Session.pressures` takes of a chunk."""


class Session:
    """One recorded session. It is read when a quantity is first asked for, and kept in memory from then on.

    A run whose recording goes on in further files is one session. What is to be known of its files is in `notes`, and
    is warned of (`warnings.warn`).

    Args:
        path: a session file, plain or compressed; of a run of several files the first one.

    Raises:
        UserError: a file cannot be read, or holds no session.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(RunReader(path)) as reader:
            self.header: Header = reader.header
            self.notes: list[str] = reader.notes
            """Which files are read, and what is missing between them, one line each; empty for a run in one file."""
        for note in self.notes:
            warnings.warn(shown(note), stacklevel=CALLER)

    def __repr__(self) -> str:
        model = self.header.model
        shape = f"{len(model.layers)} layers × {model.experts} experts, {top_k_text(model.experts_per_token)}"
        return f"<moe_watch session {str(self.path)!r}: {model.name!r}, {shape}>"

    def __len__(self) -> int:
        """Tokens that were recorded."""
        return len(self._read.arrays["i"])

    @property
    def layers(self) -> Ints:
        """The model's own index of each MoE layer `[L]`."""
        return np.array(self.header.model.layers, np.int64)

    @property
    def ordered(self) -> bool:
        """Whether the first of a token's experts is its likeliest; otherwise they stand by id."""
        return self.header.is_ordered

    @property
    def torn(self) -> str:
        """One line if the last line was cut off, and is left out; else empty."""
        return self._read.torn

    @property
    def missing(self) -> Ints:
        """First and last index of each stretch of tokens that lie between recorded ones and are in no file `[N, 2]`."""
        i = self._read.arrays["i"]
        at = np.flatnonzero(np.diff(i) > 1)
        return np.stack([i[at] + 1, i[at + 1] - 1], axis=-1)

    # -- tokens

    def tokens(self, phase: Phase | None = None) -> Arrays:
        """What is known of each token but its routing, by name `[T]`: ready for `pandas.DataFrame(…)`.

        `i`, `t` (seconds), `phase`, `source`, `id`, `text`, `logprob` (nats), `top_margin`, `choice_gap`, `would_stop`.

        Args:
            phase: only tokens of this phase.
        """
        chosen = self._chosen(phase)
        return {name: self._read.arrays[name][chosen] for name in _TOKEN_COLUMNS}

    def experts(self, phase: Phase | None = None) -> npt.NDArray[np.int32]:
        """Selected experts by router probability descending `[T, L, k]`; -1 in layers that were not observed.

        Where the run recorded neither weights nor entropy nor margin they stand by id (`ordered` is False).
        In a model whose layers select different numbers of experts, k is the largest, and -1 stands behind the others.
        """
        found: npt.NDArray[np.int32] = self._read.arrays["experts"][self._chosen(phase)]
        return found

    def weights(self, phase: Phase | None = None) -> npt.NDArray[np.float32]:
        """What the selected experts' outputs were multiplied by `[T, L, k]`; NaN where `experts` holds -1.

        Raises:
            UserError: they were not recorded.
        """
        return self._recorded("weights", phase)

    def entropy(self, phase: Phase | None = None) -> Floats:
        """Router entropy over ln E, 0..1 `[T, L]`.

        Raises:
            UserError: it was not recorded.
        """
        return self._recorded("entropy", phase)

    def margin(self, phase: Phase | None = None) -> Floats:
        """First minus second router probability, 0..1 `[T, L]`.

        Raises:
            UserError: it was not recorded.
        """
        return self._recorded("margin", phase)

    def churn(self, phase: Phase | None = None) -> Floats:
        """1 − Jaccard of each token's expert set and the one before, 0..1 `[T, L]`; NaN where there is none before."""
        found: Floats = self._read.arrays["churn"][self._chosen(phase)]
        return found

    def probabilities(self, phase: Phase | None = None) -> npt.NDArray[np.float32]:
        """The router's probabilities of all experts `[T, L, E]`, of runs that recorded them.

        Raises:
            UserError: they were not recorded.
        """
        return self._recorded("probabilities", phase)

    # -- usage

    def counts(self, phase: Phase = "decode", last: int | None = None) -> Ints:
        """How often each expert was selected `[L, E]`.

        Args:
            phase: prefill and decode are kept apart.
            last: of this many last recorded tokens of the phase; None is the whole run, with the tokens that are in no
                file, as far as a keyframe after them counts them.

        Raises:
            UserError: there is no such phase or window.
        """
        if last is not None and last < 1:
            raise UserError(f"a window of the last {last} tokens", advice="use 1 or more, or None for the whole run")
        before = self._read.before[_checked(phase)]
        counts = np.zeros_like(before) if last is not None else before.copy()
        experts = self.experts(phase)
        for each in experts if last is None else experts[-last:]:
            add_selections(counts, each.astype(np.int64))
        return counts

    def usage(self, phase: Phase = "decode", last: int | None = None) -> Floats:
        """Share of the selections in its layer that each expert got, 0..1 `[L, E]`; NaN in layers without any.

        Args:
            phase: prefill and decode are kept apart.
            last: as for `counts`.

        Raises:
            UserError: there is no such phase or window.
        """
        return shares(self.counts(phase, last))

    # -- chunks

    def chunks(self) -> Arrays:
        """Chunks computed from the tokens, by name `[C]`: ready for `pandas.DataFrame(…)`.

        `index`, `context`, `first`, `last`, `tokens`, `partial`, `warm_up`, the signals, the pressures and their
        weights, `residual`, `pause`.
        """
        rows = [chunk_row(chunk) for chunk in self._read.chunks]
        return {column.name: _array(column, [row[column.name] for row in rows]) for column in CHUNKS.columns}

    def pressures(self) -> Arrays:
        """`index`, `context`, `first`, `last`, `partial`, `warm_up` and the four pressures of each chunk `[C]`."""
        chunks = self.chunks()
        return {name: chunks[name] for name in PRESSURES}

    def fit(self, context: int | None = None) -> Fit:
        """The half-life of mid-pressure in one context, over complete chunks after the warm-up.

        Chunks that are in no file count as time that was not observed, which is warned of.

        Args:
            context: its number, from 0; by default the newest one that is long enough.

        Raises:
            UserError: nothing can be fitted, and why.
        """
        series = self._read.series
        chosen = chosen_context(series, context, self.path)
        found = chosen.fit()
        if found is None:
            raise UserError(f"{self.path}: {chosen.unavailable}", advice="record a longer run from its beginning")
        for warning in series.warnings(self.path, found):
            warnings.warn(shown(warning), stacklevel=2)
        return found

    # -- reading

    @cached_property
    def _read(self) -> _Contents:
        with closing(RunReader(self.path)) as reader:
            return _Contents(reader)

    def _chosen(self, phase: Phase | None) -> Any:
        """An index for the tokens of a phase."""
        return slice(None) if phase is None else self._read.arrays["phase"] == _checked(phase)

    def _recorded(self, name: str, phase: Phase | None) -> npt.NDArray[Any]:
        found = self._read.arrays.get(name)
        if found is None or (len(found) and np.isnan(found).all()):
            advice = f"this run recorded {', '.join(self.header.capture) or 'nothing per token'}"
            raise UserError(f"{self.path}: no {name} in this recording", advice=advice)
        result: npt.NDArray[Any] = found[self._chosen(phase)]
        return result


_PROBABILITIES = "probabilities"
_LABEL = "<U9"
"""Characters of the longest phase or source."""
_PREDICTION = ("logprob", "top_margin", "choice_gap", "would_stop")
_TOKEN_COLUMNS = ("i", "t", "phase", "source", "id", "text", *_PREDICTION)


class _Contents:
    """All that a session holds, in compact arrays.

    Args:
        reader: at its beginning; it is read to its end.

    Raises:
        UserError: a file is damaged.
    """

    def __init__(self, reader: RunReader) -> None:
        self.header = reader.header
        self.chunks: list[Chunk] = []
        self.series = RecordedSeries(self.header.pressure)
        shape = len(self.header.model.layers), self.header.model.experts
        self.before: dict[str, Ints] = {phase: np.zeros(shape, np.int64) for phase in get_args(Phase)}
        """[L, E] selections of tokens that are in no file."""
        self._pieces: list[Arrays] = []
        self._beginnings = Beginnings()
        self._contexts = ContextNumbers()
        self._read(reader)
        self.arrays = self._joined()
        """One quantity of all tokens each `[T, …]`; without probabilities, if no token has them."""
        self.torn = reader.torn

    def _read(self, reader: RunReader) -> None:
        recomputed, batches = Recomputed(self.header, set()), TokenBatches(self.header)
        for recorded in reader:
            for event in recomputed.take(recorded):
                self._pieces.extend(map(_compact, batches.take(event)))
                self._feed(event)
        self._pieces.extend(map(_compact, batches.rest()))

    def _feed(self, event: Event | Unknown) -> None:
        self._contexts.feed(event)
        if isinstance(event, Chunk):
            self.chunks.append(self._contexts.named(event))
        if self._beginnings.see(event) and isinstance(event, Keyframe):
            for phase in self.before:
                recorded = self._recorded(phase)
                self.before[phase] = np.array(getattr(event, f"counts_{phase}"), np.int64) - recorded
        if not isinstance(event, Unknown):
            self.series.feed(event)

    def _recorded(self, phase: str) -> Ints:
        """[L, E] selections of the recorded tokens so far."""
        counts = np.zeros_like(self.before[phase])
        for piece in self._pieces:
            for experts in piece["experts"][piece["phase"] == phase]:
                add_selections(counts, experts.astype(np.int64))
        return counts

    def _joined(self) -> Arrays:
        pieces, self._pieces = self._pieces, []
        pieces = pieces or [_compact(token_arrays([], self.header))]
        sizes = [len(piece["i"]) for piece in pieces]
        found = {
            name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0] if name != _PROBABILITIES
        }
        if any(_PROBABILITIES in piece for piece in pieces):
            shape = len(self.header.model.layers), self.header.model.experts
            gaps = (np.full((size, *shape), np.nan, np.float32) for size in sizes)
            parts = [piece.get(_PROBABILITIES, gap) for piece, gap in zip(pieces, gaps, strict=True)]
            found[_PROBABILITIES] = np.concatenate(parts)
        return found


def _compact(tokens: TokenArrays) -> Arrays:
    """Tokens in half of the memory: ids need no more than 32 bits, and steps of 0.0001 no more than 24."""
    found: Arrays = {name: getattr(tokens, name) for name in ("i", "t", "id", "entropy", "margin", "churn")}
    found |= {name: getattr(tokens.prediction, name) for name in _PREDICTION}
    found["phase"], found["source"] = np.array(tokens.phase, _LABEL), np.array(tokens.source, _LABEL)
    found["text"] = np.array(tokens.text, object)
    found["experts"] = tokens.experts.astype(np.int32)
    found["weights"] = tokens.weights.astype(np.float32)
    if tokens.probabilities is not None:
        found[_PROBABILITIES] = tokens.probabilities.astype(np.float32)
    return found


def _array(column: Column, values: list[Any]) -> npt.NDArray[Any]:
    """Values of a chunk column; in those of numbers and text something may be missing."""
    if column.kind == "number":
        return np.array([np.nan if value is None else value for value in values], np.float64)
    return np.array(values, {"integer": np.int64, "truth": np.bool_}.get(column.kind, np.object_))


def _checked(phase: str) -> str:
    if phase not in get_args(Phase):
        raise UserError(f"there is no phase called {phase!r}", advice=f"use {' or '.join(get_args(Phase))}")
    return phase
