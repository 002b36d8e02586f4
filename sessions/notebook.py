"""A recorded session as NumPy arrays, for notebooks and scripts; `moe_watch.open` returns one.

Shapes: `T` tokens, `C` chunks, `L` MoE layers, `E` experts, `k` experts per token. All numbers are in natural units.
A missing value is -1 in integer arrays and NaN in all others; an array of missing values only raises an error. A dense
model has L = 0: its arrays per layer are empty, and it has no fit.
"""

from __future__ import annotations

import warnings
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
from msgspec import UNSET

from moe_watch.routing.arrays import Floats, Ints
from moe_watch.routing.contexts import ContextNumbers
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Chunk, Event, Header, Keyframe, Phase, Unknown
from moe_watch.routing.half_life.fit import Fit
from moe_watch.routing.pressure.missing_signals import DENSE
from moe_watch.routing.router.masks import ExpertMask
from moe_watch.routing.summary import MaskTotals
from moe_watch.routing.usage.counts import add_selections, shares
from moe_watch.sessions.export.columns import Column
from moe_watch.sessions.export.tables import CHUNKS, chunk_row
from moe_watch.sessions.fitting.file_fit import RecordedSeries, chosen_context
from moe_watch.sessions.reading.multipart import RunReader, shown
from moe_watch.sessions.reading.recompute import Beginnings, Recomputed
from moe_watch.sessions.reading.token_arrays import TokenArrays, TokenBatches, token_arrays
from moe_watch.sessions.text import routers_text

Arrays = dict[str, npt.NDArray[Any]]

CALLER = 3
"""`stacklevel` of `warnings.warn` in `Session.__init__` that names the caller of `moe_watch.open`."""
PRESSURES = ("index", "context", "first", "last", "partial", "warm_up", "fast", "mid", "slow", "net")
"""Columns of `Session.pressures`."""


class Session:
    """One recorded session. The first access to a quantity reads the file; the arrays are then kept in memory.

    A multi-part session is opened by its first file. Notes about its files are in `notes`, and are issued as warnings
    (`warnings.warn`).

    Args:
        path: a session file, plain or compressed; of a multi-part session the first file.

    Raises:
        UserError: a file cannot be read, or is no session.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with closing(RunReader(path)) as reader:
            self.header: Header = reader.header
            self.notes: list[str] = reader.notes
            """Files that are read, and gaps between them, one line each; empty for a session in one file."""
        for note in self.notes:
            warnings.warn(shown(note), stacklevel=CALLER)

    def __repr__(self) -> str:
        model = self.header.model
        shape = routers_text(len(model.layers), model.experts, model.experts_per_token)
        return f"<moe_watch session {str(self.path)!r}: {model.name!r}, {shape}>"

    def __len__(self) -> int:
        """Return the number of recorded tokens."""
        return len(self._read.arrays["i"])

    @property
    def layers(self) -> Ints:
        """Index of each MoE layer in the model `[L]`."""
        return np.array(self.header.model.layers, np.int64)

    @property
    def expert_ids(self) -> Ints:
        """Number of each expert in the whole model `[L, E]`; 0 to E − 1 unless the model was pruned."""
        ids, shape = self.header.model.expert_ids, (len(self.header.model.layers), self.header.model.experts)
        if ids is UNSET:
            return np.broadcast_to(np.arange(shape[1]), shape).copy()
        return np.array(ids, np.int64).reshape(shape)

    @property
    def masks(self) -> dict[int, ExpertMask]:
        """Experts that were switched off, by the first token with each mask; empty if all were on throughout."""
        return {each.i: ExpertMask.from_rows(each.mask) for each in self._read.masks.changes}

    @property
    def ordered(self) -> bool:
        """A token's experts are in descending order of router probability; otherwise they are sorted by id."""
        return self.header.is_ordered

    @property
    def torn(self) -> str:
        """Message that the last line was cut off and is left out; else empty."""
        return self._read.torn

    @property
    def missing(self) -> Ints:
        """First and last token index of each gap between recorded tokens `[N, 2]`."""
        i = self._read.arrays["i"]
        at = np.flatnonzero(np.diff(i) > 1)
        return np.stack([i[at] + 1, i[at + 1] - 1], axis=-1)

    # -- tokens

    def tokens(self, phase: Phase | None = None) -> Arrays:
        """Return the fields of each token except its routing, by name `[T]`, for `pandas.DataFrame(…)`.

        `i`, `t` (seconds), `phase`, `source`, `id`, `text`, `logprob` (nats), `top_margin`, `choice_gap`, `would_stop`.

        Args:
            phase: only tokens of this phase.
        """
        chosen = self._chosen(phase)
        return {name: self._read.arrays[name][chosen] for name in _TOKEN_COLUMNS}

    def experts(self, phase: Phase | None = None) -> npt.NDArray[np.int32]:
        """Return the selected experts in descending order of router probability `[T, L, k]`; -1 in layers not observed.

        In a run without recorded weights, entropy and margin they are sorted by id (`ordered` is False). In a model
        with a different number of experts per token in each layer, k is the largest, and shorter rows end with -1.
        """
        found: npt.NDArray[np.int32] = self._read.arrays["experts"][self._chosen(phase)]
        return found

    def weights(self, phase: Phase | None = None) -> npt.NDArray[np.float32]:
        """Return the router weights of the selected experts `[T, L, k]`; NaN where `experts` is -1.

        Raises:
            UserError: they were not recorded.
        """
        return self._recorded("weights", phase)

    def entropy(self, phase: Phase | None = None) -> Floats:
        """Return the router entropy over ln E, 0..1 `[T, L]`.

        Raises:
            UserError: it was not recorded.
        """
        return self._recorded("entropy", phase)

    def margin(self, phase: Phase | None = None) -> Floats:
        """Return the router margin: first minus second router probability, 0..1 `[T, L]`.

        Raises:
            UserError: it was not recorded.
        """
        return self._recorded("margin", phase)

    def churn(self, phase: Phase | None = None) -> Floats:
        """Return the churn: 1 − Jaccard similarity to the token before, 0..1 `[T, L]`; NaN without a token before."""
        found: Floats = self._read.arrays["churn"][self._chosen(phase)]
        return found

    def probabilities(self, phase: Phase | None = None) -> npt.NDArray[np.float32]:
        """Return the router probabilities of all experts `[T, L, E]`, of runs that recorded them.

        Raises:
            UserError: they were not recorded.
        """
        return self._recorded("probabilities", phase)

    # -- usage

    def counts(self, phase: Phase = "decode", last: int | None = None) -> Ints:
        """Return the number of selections of each expert `[L, E]`.

        Args:
            phase: `prefill` or `decode`.
            last: number of recorded tokens at the end of the phase to count; None for the whole run, including tokens
                in a gap if a keyframe after it has their counts.

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
        """Return the share of each expert in its layer's selections, 0..1 `[L, E]`; NaN in layers without selections.

        Args:
            phase: `prefill` or `decode`.
            last: as in `counts`.

        Raises:
            UserError: there is no such phase or window.
        """
        return shares(self.counts(phase, last))

    # -- chunks

    def chunks(self) -> Arrays:
        """Return the chunks recomputed from the tokens, by name `[C]`, for `pandas.DataFrame(…)`.

        `index`, `context`, `first`, `last`, `tokens`, `partial`, `warm_up`, the signals, the pressures and their
        weights, `residual`, `pause`.
        """
        rows = [chunk_row(chunk) for chunk in self._read.chunks]
        return {column.name: _array(column, [row[column.name] for row in rows]) for column in CHUNKS.columns}

    def pressures(self) -> Arrays:
        """Return the columns `PRESSURES` of the chunks `[C]`: indices, `partial`, `warm_up` and the four pressures."""
        chunks = self.chunks()
        return {name: chunks[name] for name in PRESSURES}

    def fit(self, context: int | None = None) -> Fit:
        """Fit the half-life of mid-pressure in one context, over complete chunks after the warm-up.

        Chunks in a gap count as time without observation; a warning reports them.

        Args:
            context: number of the context, from 0; by default the newest one that is long enough.

        Raises:
            UserError: nothing can be fitted; the message has the reason.
        """
        series = self._read.series
        chosen = chosen_context(series, context, self.path)
        found = chosen.fit()
        if found is None and self.header.is_dense:
            raise UserError(f"{self.path}: {DENSE}", advice="fit a session of an MoE model")
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
        """Return an index that selects the tokens of a phase."""
        return slice(None) if phase is None else self._read.arrays["phase"] == _checked(phase)

    def _recorded(self, name: str, phase: Phase | None) -> npt.NDArray[Any]:
        found = self._read.arrays.get(name)
        if found is None or (found.size and np.isnan(found).all()):
            advice = f"this run recorded {', '.join(self.header.capture) or 'nothing per token'}"
            raise UserError(f"{self.path}: no {name} in this recording", advice=advice)
        result: npt.NDArray[Any] = found[self._chosen(phase)]
        return result


_PROBABILITIES = "probabilities"
_LABEL = "<U9"
"""NumPy type of a phase or source: the longest has nine characters."""
_PREDICTION = ("logprob", "top_margin", "choice_gap", "would_stop")
_TOKEN_COLUMNS = ("i", "t", "phase", "source", "id", "text", *_PREDICTION)


class _Contents:
    """Contents of a session in compact arrays.

    Args:
        reader: at its beginning; it is read to its end.

    Raises:
        UserError: a file is damaged.
    """

    def __init__(self, reader: RunReader) -> None:
        self.header = reader.header
        self.chunks: list[Chunk] = []
        self.series = RecordedSeries(self.header.pressure)
        self.masks = MaskTotals(self.header)
        shape = len(self.header.model.layers), self.header.model.experts
        self.before: dict[str, Ints] = {phase: np.zeros(shape, np.int64) for phase in get_args(Phase)}
        """Selections `[L, E]` of tokens in a gap, by phase."""
        self._pieces: list[Arrays] = []
        self._beginnings = Beginnings()
        self._contexts = ContextNumbers()
        self._read(reader)
        self.arrays = self._joined()
        """One array `[T, …]` per quantity; without probabilities if no token has them."""
        self.torn = reader.torn

    def _read(self, reader: RunReader) -> None:
        recomputed, batches = Recomputed(self.header, set()), TokenBatches(self.header)
        for recorded in reader:
            for event in recomputed.feed(recorded):
                self._pieces.extend(map(_compact, batches.feed(event)))
                self._feed(event)
        self._pieces.extend(map(_compact, batches.rest()))

    def _feed(self, event: Event | Unknown) -> None:
        self._contexts.feed(event)
        if isinstance(event, Chunk):
            self.chunks.append(self._contexts.named(event))
        if self._beginnings.feed(event) and isinstance(event, Keyframe):
            for phase in self.before:
                recorded = self._recorded(phase)
                self.before[phase] = np.array(getattr(event, f"counts_{phase}"), np.int64) - recorded
        if not isinstance(event, Unknown):
            self.series.feed(event)
            self.masks.feed(event)

    def _recorded(self, phase: str) -> Ints:
        """Return the selections `[L, E]` of the recorded tokens so far."""
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
    """Return tokens in half the memory: ids fit in 32 bits, and multiples of 0.0001 in the 24 bits of a float32."""
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
    """Return the values of a chunk column; numbers and texts may be missing."""
    if column.kind == "number":
        return np.array([np.nan if value is None else value for value in values], np.float64)
    return np.array(values, {"integer": np.int64, "truth": np.bool_}.get(column.kind, np.object_))


def _checked(phase: str) -> str:
    if phase not in get_args(Phase):
        raise UserError(f"there is no phase called {phase!r}", advice=f"use {' or '.join(get_args(Phase))}")
    return phase
