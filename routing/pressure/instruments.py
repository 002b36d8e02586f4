"""The instruments of a run: fed its events in order, they give its chunks and keyframes.

A live run and its replay use the same instruments on the same events, so they show the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from math import isnan, log

import numpy as np

from moe_watch.routing.arrays import ABSENT, Ints, Selections, integer_rows, packed, unpacked
from moe_watch.routing.chunks import ChunkClock
from moe_watch.routing.events import Change, Chunk, Event, Header, Keyframe, Perturbation, Signals, State, Token
from moe_watch.routing.pressure.chunk_sums import ChunkSums, LastToken
from moe_watch.routing.pressure.formulas import (
    CONTEXT_MODES,
    EXTERNAL,
    WARM_UP_CHUNKS,
    next_residual,
    pause_reason,
    pressures,
    reference_signals,
)
from moe_watch.routing.row_layout import RowLayout, selected
from moe_watch.routing.usage.counts import UsageCounts
from moe_watch.routing.usage.running_averages import Coherence, UsageAverages

KEYFRAME_TOKENS = 700
"""A jump reads up to so many tokens more than it shows. At 48 layers × 128 experts a keyframe takes 250 kB."""
KEYFRAME_PATIENCE = 200
"""How many tokens later a keyframe may come so that it stands at a chunk's end: a chunk in the making makes it two
thirds larger."""

TOGETHER = 64
"""Tokens computed with at once, at most: NumPy takes as long for one as for ten."""

CUTTING_STATES = frozenset({"fresh_context", "finished", "error"})
"""States that end a chunk before it is complete."""


def start_is_before(frame: Keyframe, mode: str) -> bool:
    """Tell whether P₀ of the present context lies before this keyframe, so that a recording beginning there lacks it.

    Args:
        frame: the state where the recording begins.
        mode: the pressure mode. One that does not begin again with a context has a warm-up in the first one only.
    """
    if mode not in CONTEXT_MODES and frame.context:
        return bool(frame.context_chunks)
    return complete_chunks(frame, mode) > WARM_UP_CHUNKS


def complete_chunks(frame: Keyframe, mode: str) -> int:
    """Return the complete chunks that fed the averages of a mode so far: of the context, or of the run."""
    if mode in CONTEXT_MODES and frame.context_chunks is not None:
        return frame.context_chunks
    return frame.complete_chunks


class Instruments:
    """Derives `Chunk` and `Keyframe` events from the tokens of one run.

    Args:
        header: the run's header.
        mode: the pressure mode to compute, the header's own by default.
        keyframes: derive `Keyframe` events, too; without them, what only they need is not computed.
    """

    def __init__(self, header: Header, mode: str | None = None, *, keyframes: bool = True) -> None:
        self.mode = mode or header.pressure
        self._keyframes = keyframes
        self._measures = keyframes or self.mode != "chronomoe-v1"
        """Averages and sums are kept; the reference has constants in their place."""
        self._seed = header.sampling.seed
        self._context: int | None = 0 if self.mode in CONTEXT_MODES else None
        """Number of the present context; None where nothing begins again with one."""
        self._context_chunks = 0
        """Complete chunks since the averages began."""
        self.units = header.units
        self.layers = len(header.model.layers)
        self.experts = header.model.experts
        self.layout = RowLayout.of(header.model)
        self._clock = ChunkClock(header.chunk_size)
        self._prefill = UsageCounts(self.layers, self.experts)
        self._decode = UsageCounts(self.layers, self.experts)
        self._averages = UsageAverages(self.layers, self.experts)
        self._phases = Coherence(self.layers, self.experts, self._seed)
        self._coherence: float | None = None
        self._residual = 0.0
        self._multistep = header.multistep
        self._chunks = 0
        self._complete = 0
        self._open: ChunkSums | None = None
        self._last: LastToken | None = None
        self._before: Ints | None = None
        self._waiting: list[Token] = []
        """Tokens of one phase that were taken in; nothing is computed with them before something needs it."""
        self._waiting_experts: list[Ints] = []
        """Their expert ids, [L, k] each."""
        self._tokens = 0
        self._next_keyframe = KEYFRAME_TOKENS

    def feed(self, event: Event) -> list[Event]:
        """Take in one event; returns the events derived from it, which follow it in the stream."""
        if isinstance(event, Token):
            return self._feed_token(event)
        if isinstance(event, Perturbation):
            return self._cut()
        if isinstance(event, State) and event.state in CUTTING_STATES:
            derived = self._cut()
            if event.state == "fresh_context":
                self._begin_context()
            return derived
        if isinstance(event, Keyframe) and not self._tokens:
            self._restore(event)
        elif isinstance(event, Change) and event.multistep is not None:
            self._multistep = event.multistep
        return []

    def _begin_context(self) -> None:
        """Forget the token before; in modes that belong to a context, be as at the beginning of a run.

        Usage counts and the numbers of tokens and chunks continue: they are the run's.
        """
        self._settle()
        self._before = None
        if self._context is None:
            return
        self._context += 1
        self._context_chunks = 0
        self._averages = UsageAverages(self.layers, self.experts)
        self._phases = Coherence(self.layers, self.experts, self._seed)
        self._coherence, self._residual = None, 0.0

    def _feed_token(self, token: Token) -> list[Event]:
        experts = self._checked_experts(token)
        if self._waiting and (len(self._waiting) == TOGETHER or self._waiting[0].phase != token.phase):
            self._settle()
        if token.phase == "decode" and self._open is None:
            self._settle()
            self._open = ChunkSums(np.zeros((self.layers, self.experts), np.int64), self._averages.copy())
        self._waiting.append(token)
        self._waiting_experts.append(experts)
        self._tokens = token.i + 1
        derived: list[Event] = []
        if token.phase == "decode" and self._clock.advance():
            derived.append(self._close(partial=False))
        if self._keyframe_is_due():
            derived.append(self.keyframe())
            self._next_keyframe = self._tokens + KEYFRAME_TOKENS
        return derived

    def _checked_experts(self, token: Token) -> Ints:
        """Expert ids [L, k], refused here, before the token becomes one of many."""
        experts = self.layout.experts(token)
        if experts.max(initial=ABSENT) >= self.experts:
            raise IndexError(f"token {token.i} selects expert {experts.max()} of {self.experts}")
        if token.weights is not None and len(token.weights) != len(token.experts):
            raise ValueError(f"token {token.i} has {len(token.weights)} weights for {len(token.experts)} experts")
        return experts

    def _keyframe_is_due(self) -> bool:
        late = self._tokens - self._next_keyframe
        return self._keyframes and late >= (0 if self._open is None else KEYFRAME_PATIENCE)

    def _settle(self) -> None:
        """Compute with the tokens that wait."""
        if not self._waiting:
            return
        tokens, self._waiting = self._waiting, []
        ids, self._waiting_experts = self._waiting_experts, []
        chosen = Selections(np.array(ids), self.experts)
        decode, counts = tokens[0].phase == "decode", chosen.counts()
        (self._decode if decode else self._prefill).merge(counts, chosen.rows(), len(tokens))
        if self._measures:
            self._averages.extend(chosen)
        if decode:
            self._settle_decode(tokens, chosen, counts)
        self._before = ids[-1]

    def _settle_decode(self, tokens: list[Token], chosen: Selections, counts: Ints) -> None:
        assert self._open is not None
        self._open.extend(tokens, counts)
        if self._measures:
            self._open.measure(tokens, chosen, self._before)
        self._move_phases(tokens, chosen)
        if self.mode == "chronomoe-v1":
            self._last = LastToken.of(tokens[-1], self.layers, self.units)

    def _move_phases(self, tokens: list[Token], chosen: Selections) -> None:
        places = [n for n, token in enumerate(tokens) if token.weights is not None]
        if not places:
            return
        if len(places) < len(tokens):
            chosen = Selections(chosen.ids[places], self.experts)
        steps = integer_rows([token.weights for token in tokens if token.weights is not None])
        weights = np.where(steps == ABSENT, 0, steps) * self.units.weights
        self._phases.extend(chosen, self.layout.table(weights, 0))

    def _cut(self) -> list[Event]:
        """End the chunk in the making, if there is one."""
        return [self._close(partial=True)] if self._clock.cut() else []

    def _close(self, *, partial: bool) -> Chunk:
        self._settle()
        sums, self._open = self._open, None
        assert sums is not None
        signals = self._signals(sums)
        found = None if signals is None else pressures(signals, self._residual)
        pause = None if found is None else pause_reason(found, multistep=self._multistep)
        if found is not None:
            self._residual = next_residual(self._residual, found, pause)
        chunk = Chunk(
            index=self._chunks,
            context=self._context,
            first=sums.first,
            last=sums.last,
            tokens=sums.tokens,
            partial=partial,
            warm_up=self._context_chunks < WARM_UP_CHUNKS,
            signals=signals,
            pressures=found,
            residual=self._residual,
            pause=pause,
        )
        self._chunks += 1
        self._complete += not partial
        self._context_chunks += not partial
        return chunk

    def _signals(self, sums: ChunkSums) -> Signals | None:
        """What pressure is computed from, or None if something it needs was not recorded at every token."""
        coherence = self._phases.value()
        change = 0.0 if self._coherence is None else coherence - self._coherence
        self._coherence = coherence
        if not sums.is_whole(self.layout.k):
            return None
        if self.mode != "chronomoe-v1":
            signals = self._measured(sums, coherence, change)
        elif self._last is not None:
            signals = self._reference(self._last, coherence, change)
        else:  # the chunk began before a keyframe, which does not hold its last token, and no token came since
            return None
        needed = (signals.router_entropy, signals.router_margin, signals.top_margin, signals.transition_prob)
        absent = any(isnan(value) for value in (*needed, signals.proximity_meso))
        return None if absent else signals

    def _measured(self, sums: ChunkSums, coherence: float, change: float) -> Signals:
        meso, macro, between = sums.start.distances(sums.usage())
        return Signals(
            **sums.means(self.units),
            proximity_meso=meso,
            proximity_macro=macro,
            slow_confidence=1 - between,
            coherence=coherence,
            delta_coherence=change,
        )

    def _reference(self, last: LastToken, coherence: float, change: float) -> Signals:
        nats = last.router_entropy * log(self.experts)
        return reference_signals(EXTERNAL, nats, last.router_margin, coherence, change)

    def keyframe(self) -> Keyframe:
        """The state after the events so far; feeding it to fresh instruments lets them go on from here.

        Raises:
            ValueError: these instruments were made without keyframes.
        """
        if not self._keyframes:
            raise ValueError("instruments made without keyframes do not keep all that one holds")
        self._settle()
        return Keyframe(
            i=self._tokens,
            chunks=self._chunks,
            complete_chunks=self._complete,
            context=self._context,
            context_chunks=None if self._context is None else self._context_chunks,
            rows_prefill=self._prefill.rows.tolist(),
            rows_decode=self._decode.rows.tolist(),
            counts_prefill=self._prefill.counts.tolist(),
            counts_decode=self._decode.counts.tolist(),
            average_rows=self._averages.rows.tolist(),
            average_meso=packed(self._averages.meso),
            average_macro=packed(self._averages.macro),
            phases=packed(self._phases.phases),
            coherence=self._coherence,
            residual=self._residual,
            last_experts=[None] * self.layers if self._before is None else selected(self._before),
            open_chunk=None if self._open is None else self._open.freeze(),
            multistep=self._multistep,
        )

    def frozen(self) -> Callable[[], Keyframe]:
        """Return what gives this moment's keyframe later. It copies arrays; a keyframe makes lists of them."""
        self._settle()
        return deepcopy(self).keyframe

    def _restore(self, frame: Keyframe) -> None:
        self._tokens = frame.i
        self._next_keyframe = frame.i + KEYFRAME_TOKENS
        self._chunks, self._complete = frame.chunks, frame.complete_chunks
        self._context_chunks = complete_chunks(frame, self.mode)
        if self._context is not None and frame.context is not None:
            self._context = frame.context
        for window, rows, counts in (
            (self._prefill, frame.rows_prefill, frame.counts_prefill),
            (self._decode, frame.rows_decode, frame.counts_decode),
        ):
            window.rows = np.array(rows, np.int64)
            window.counts = np.array(counts, np.int64)
            window.tokens = int(window.rows.max(initial=0))
        self._averages.rows = np.array(frame.average_rows, np.int64)
        shape = (self.layers, self.experts)
        self._averages.meso = unpacked(frame.average_meso).reshape(shape)
        self._averages.macro = unpacked(frame.average_macro).reshape(shape)
        self._phases.phases = unpacked(frame.phases).reshape(shape)
        self._coherence, self._residual = frame.coherence, frame.residual
        self._multistep = frame.multistep
        self._before = self.layout.experts_before(frame)
        if frame.open_chunk is not None:
            self._open = ChunkSums.thaw(frame.open_chunk)
            self._clock.filled = frame.open_chunk.tokens
