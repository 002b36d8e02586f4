"""Instruments of a run: they derive chunks and keyframes from its events.

A live run and its replay feed the same events to the same instruments, so both show the same numbers.

References: chronomoe-2024, jaccard-1912.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from math import isnan, log

import numpy as np
from msgspec import UNSET

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
from moe_watch.routing.pressure.instrument_state import InstrumentSettings, PressureMemory, RunCounters, TokenBatch
from moe_watch.routing.router.present_mask import PresentMask
from moe_watch.routing.row_layout import keyframe_experts
from moe_watch.routing.usage.counts import UsageCounts

KEYFRAME_TOKENS = 700
"""Tokens between keyframes: a seek reads at most this many tokens more than it shows. At 48 layers × 128 experts a
keyframe takes 250 kB."""
KEYFRAME_PATIENCE = 200
"""Tokens that a keyframe may be late, so that it comes at the end of a chunk: an open chunk makes it two thirds
larger."""

CUTTING_STATES = frozenset({"fresh_context", "finished", "error"})
"""States that end a chunk before it is complete."""


def lacks_start(frame: Keyframe, mode: str) -> bool:
    """Return True if P₀ of the present context is before this keyframe: a recording that begins there does not have it.

    Args:
        frame: the state at which the recording begins.
        mode: the pressure mode. A mode that does not restart with a context has a warm-up in the first context only.
    """
    if mode not in CONTEXT_MODES and frame.context:
        return bool(frame.context_chunks)
    return complete_chunks(frame, mode) > WARM_UP_CHUNKS


def complete_chunks(frame: Keyframe, mode: str) -> int:
    """Return the number of complete chunks that fed the averages of a mode so far: of the context, or of the run."""
    if mode in CONTEXT_MODES and frame.context_chunks is not None:
        return frame.context_chunks
    return frame.complete_chunks


class Instruments:
    """Derives `Chunk` and `Keyframe` events from the tokens of one run.

    Args:
        header: the run's header.
        mode: the pressure mode to compute, the header's own by default.
        keyframes: derive `Keyframe` events, too; without them, quantities that only keyframes need are not computed.
    """

    def __init__(self, header: Header, mode: str | None = None, *, keyframes: bool = True) -> None:
        self._settings = settings = InstrumentSettings.of(header, mode, keyframes=keyframes)
        self._clock = ChunkClock(header.chunk_size)
        self._usage = {"prefill": UsageCounts(*settings.shape), "decode": UsageCounts(*settings.shape)}
        self._counters = RunCounters(context=0 if settings.mode in CONTEXT_MODES else None)
        self._memory = PressureMemory.of(settings)
        self._multistep = header.multistep
        self._masked = PresentMask()
        self._open: ChunkSums | None = None
        """The chunk that has begun and not ended."""
        self._last: LastToken | None = None
        """The last decode token; only in the mode of the reference."""
        self._before: Ints | None = None
        """Expert ids `[L, k]` of the token before; None at the beginning of a context."""
        self._batch: TokenBatch | None = None
        """Tokens that are computed when something needs them."""
        self._next_keyframe = KEYFRAME_TOKENS

    @property
    def mode(self) -> str:
        """Pressure mode that is computed."""
        return self._settings.mode

    def feed(self, event: Event) -> list[Event]:
        """Take in one event and return the events derived from it, which follow it in the stream.

        Raises:
            IndexError: a token selects an expert that the model does not have.
            ValueError: a token has another number of experts or weights than the model.
        """
        if isinstance(event, Token):
            return self._feed_token(event)
        if isinstance(event, Perturbation):
            return self._cut()
        if isinstance(event, State) and event.state in CUTTING_STATES:
            derived = self._cut()
            if event.state == "fresh_context":
                self._begin_context()
            return derived
        if isinstance(event, Keyframe) and not self._counters.tokens:
            self._restore(event)
        elif isinstance(event, Change):
            return self._change(event)
        return []

    def _change(self, change: Change) -> list[Event]:
        """Take in changed settings; another mask ends the open chunk."""
        if change.multistep is not None:
            self._multistep = change.multistep
        self._masked = self._masked.after(change)
        return [] if change.mask is UNSET else self._cut()

    def _begin_context(self) -> None:
        """Forget the token before; in modes that restart with a context, reset the memory.

        Usage counts and the numbers of tokens and chunks continue: they belong to the run.
        """
        self._settle()
        self._before = None
        if self._counters.context is None:
            return
        self._counters.context += 1
        self._counters.context_chunks = 0
        self._memory = PressureMemory.of(self._settings)

    def _feed_token(self, token: Token) -> list[Event]:
        experts = self._checked_experts(token)
        if self._batch is not None and not self._batch.accepts(token):
            self._settle()
        chunk = self._open_chunk() if token.phase == "decode" else None
        if self._batch is None:
            self._batch = TokenBatch(chunk)
        self._batch.tokens.append(token)
        self._batch.experts.append(experts)
        self._counters.tokens = token.i + 1
        derived: list[Event] = []
        if chunk is not None and self._clock.advance():
            derived.append(self._close(chunk, partial=False))
        if self._keyframe_is_due():
            derived.append(self.keyframe())
            self._next_keyframe = self._counters.tokens + KEYFRAME_TOKENS
        return derived

    def _checked_experts(self, token: Token) -> Ints:
        """Return expert ids `[L, k]`; a damaged token is refused here, before it enters a batch."""
        experts = self._settings.layout.experts(token)
        if experts.max(initial=ABSENT) >= self._settings.experts:
            raise IndexError(f"token {token.i} selects expert {experts.max()} of {self._settings.experts}")
        if token.weights is not None and len(token.weights) != len(token.experts):
            raise ValueError(f"token {token.i} has {len(token.weights)} weights for {len(token.experts)} experts")
        return experts

    def _keyframe_is_due(self) -> bool:
        late = self._counters.tokens - self._next_keyframe
        return self._settings.keyframes and late >= (0 if self._open is None else KEYFRAME_PATIENCE)

    def _open_chunk(self) -> ChunkSums:
        """Return the open chunk; begin one if there is none."""
        if self._open is None:
            self._settle()
            self._open = ChunkSums(np.zeros(self._settings.shape, np.int64), self._memory.averages.copy())
        return self._open

    def _settle(self) -> None:
        """Compute with the tokens that wait."""
        batch, self._batch = self._batch, None
        if batch is None:
            return
        chosen = Selections(np.array(batch.experts), self._settings.experts)
        counts = chosen.counts()
        self._usage[batch.tokens[0].phase].merge(counts, chosen.rows(), len(batch.tokens))
        if self._settings.is_measured:
            self._memory.averages.feed(chosen)
        if batch.chunk is not None:
            self._settle_decode(batch.chunk, batch.tokens, chosen, counts)
        self._before = batch.experts[-1]

    def _settle_decode(self, chunk: ChunkSums, tokens: list[Token], chosen: Selections, counts: Ints) -> None:
        chunk.feed(tokens, counts)
        if self._settings.is_measured:
            chunk.feed_signals(tokens, chosen, self._before)
        self._move_phases(tokens, chosen)
        if self._settings.mode == "chronomoe-v1" and self._settings.layout.layers:
            self._last = LastToken.of(tokens[-1], self._settings.layout.layers, self._settings.units)

    def _move_phases(self, tokens: list[Token], chosen: Selections) -> None:
        """Move the phases by the weights of the tokens that have weights."""
        weighted = [n for n, token in enumerate(tokens) if token.weights is not None]
        if not weighted:
            return
        if len(weighted) < len(tokens):
            chosen = Selections(chosen.ids[weighted], self._settings.experts)
        steps = integer_rows([token.weights for token in tokens if token.weights is not None])
        weights = np.where(steps == ABSENT, 0, steps) * self._settings.units.weights
        self._memory.phases.feed(chosen, self._settings.layout.table(weights, 0))

    def _cut(self) -> list[Event]:
        """End the open chunk, if there is one, before it is complete."""
        chunk = self._open
        return [self._close(chunk, partial=True)] if self._clock.cut() and chunk is not None else []

    def _close(self, chunk: ChunkSums, *, partial: bool) -> Chunk:
        """End the open chunk: compute its signals and pressures."""
        self._settle()
        self._open = None
        signals = self._signals(chunk)
        found = None if signals is None else pressures(signals, self._memory.residual)
        pause = None if found is None else pause_reason(found, multistep=self._multistep)
        if found is not None:
            self._memory.residual = next_residual(self._memory.residual, found, pause)
        event = Chunk(
            index=self._counters.chunks,
            context=self._counters.context,
            first=chunk.first,
            last=chunk.last,
            tokens=chunk.tokens,
            partial=partial,
            warm_up=self._counters.context_chunks < WARM_UP_CHUNKS,
            signals=signals,
            pressures=found,
            residual=self._memory.residual,
            pause=pause,
        )
        self._counters.count_chunk(partial=partial)
        return event

    def _signals(self, chunk: ChunkSums) -> Signals | None:
        """Return the signals of a chunk; None if one that pressure needs was not recorded at every token.

        A dense model has no router, and so no signals.
        """
        if not self._settings.layout.layers:
            return None
        coherence, before = self._memory.phases.value(), self._memory.coherence
        change = 0.0 if before is None else coherence - before
        self._memory.coherence = coherence
        if not chunk.is_complete(self._settings.layout.k):
            return None
        if self._settings.mode != "chronomoe-v1":
            signals = self._measured(chunk, coherence, change)
        elif self._last is not None:
            signals = self._reference(self._last, coherence, change)
        else:  # the chunk began before a keyframe, which does not have its last token, and no token came since
            return None
        needed = (signals.router_entropy, signals.router_margin, signals.top_margin, signals.transition_prob)
        absent = any(isnan(value) for value in (*needed, signals.proximity_meso))
        return None if absent else signals

    def _measured(self, chunk: ChunkSums, coherence: float, change: float) -> Signals:
        meso, macro, between = chunk.start.distances(chunk.usage())
        return Signals(
            **chunk.means(self._settings.units),
            proximity_meso=meso,
            proximity_macro=macro,
            slow_confidence=1 - between,
            coherence=coherence,
            delta_coherence=change,
        )

    def _reference(self, last: LastToken, coherence: float, change: float) -> Signals:
        nats = last.router_entropy * log(self._settings.experts)
        return reference_signals(EXTERNAL, nats, last.router_margin, coherence, change)

    def keyframe(self) -> Keyframe:
        """Return the state after the events so far; new instruments that are fed it continue from here.

        Raises:
            ValueError: these instruments were created without keyframes.
        """
        if not self._settings.keyframes:
            raise ValueError("instruments without keyframes do not keep the state that a keyframe needs")
        self._settle()
        counters, memory, layers = self._counters, self._memory, self._settings.layout.layers
        return Keyframe(
            i=counters.tokens,
            chunks=counters.chunks,
            complete_chunks=counters.complete,
            context=counters.context,
            context_chunks=None if counters.context is None else counters.context_chunks,
            rows_prefill=self._usage["prefill"].rows.tolist(),
            rows_decode=self._usage["decode"].rows.tolist(),
            counts_prefill=self._usage["prefill"].counts.tolist(),
            counts_decode=self._usage["decode"].counts.tolist(),
            average_rows=memory.averages.rows.tolist(),
            average_meso=packed(memory.averages.meso),
            average_macro=packed(memory.averages.macro),
            phases=packed(memory.phases.phases),
            coherence=memory.coherence,
            residual=memory.residual,
            last_experts=[None] * layers if self._before is None else keyframe_experts(self._before),
            open_chunk=None if self._open is None else self._open.to_keyframe(),
            multistep=self._multistep,
            mask=self._masked.mask.rows if self._masked.mask else UNSET,
        )

    def frozen(self) -> Callable[[], Keyframe]:
        """Return a function that returns the keyframe of this moment later.

        A copy of the arrays is cheap; a keyframe converts them to lists.
        """
        self._settle()
        return deepcopy(self).keyframe

    def _restore(self, frame: Keyframe) -> None:
        """Continue from a keyframe."""
        counters, memory, shape = self._counters, self._memory, self._settings.shape
        counters.tokens = frame.i
        self._next_keyframe = frame.i + KEYFRAME_TOKENS
        counters.chunks, counters.complete = frame.chunks, frame.complete_chunks
        counters.context_chunks = complete_chunks(frame, self._settings.mode)
        if counters.context is not None and frame.context is not None:
            counters.context = frame.context
        for window, rows, counts in (
            (self._usage["prefill"], frame.rows_prefill, frame.counts_prefill),
            (self._usage["decode"], frame.rows_decode, frame.counts_decode),
        ):
            window.rows = np.array(rows, np.int64)
            window.counts = np.array(counts, np.int64).reshape(shape)  # of a dense model (0, 0)
            window.tokens = int(window.rows.max(initial=0))
        memory.averages.rows = np.array(frame.average_rows, np.int64)
        memory.averages.meso = unpacked(frame.average_meso).reshape(shape)
        memory.averages.macro = unpacked(frame.average_macro).reshape(shape)
        memory.phases.phases = unpacked(frame.phases).reshape(shape)
        memory.coherence, memory.residual = frame.coherence, frame.residual
        self._multistep = frame.multistep
        self._masked = self._masked.after(frame)
        self._before = self._settings.layout.experts_before(frame)
        if frame.open_chunk is not None:
            self._open = ChunkSums.from_keyframe(frame.open_chunk)
            self._clock.filled = frame.open_chunk.tokens
