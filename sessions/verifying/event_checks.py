"""Checks from event to event: order, times, injections, and recomputed chunks and keyframes."""

from __future__ import annotations

from collections import deque

from moe_watch.routing.events import Change, Chunk, Event, Header, Keyframe, Perturbation, State, Token, Unknown, Vitals
from moe_watch.routing.pressure.instruments import CUTTING_STATES
from moe_watch.sessions.reading.recompute import Recomputed
from moe_watch.sessions.reading.validation import ABSENT_ID
from moe_watch.sessions.verifying.issues import IssueCollector

COUNTERS = ("swapped_in", "swapped_out", "worker_read", "worker_faults")
"""Counters of `vitals` since the start of the machine or of the worker."""


class EventChecks:
    """Checks of the order of a run's events.

    Args:
        header: header of the run.
        findings: collector of the faults.
    """

    def __init__(self, header: Header, findings: IssueCollector) -> None:
        self._header = header
        self._findings = findings
        self._next = 0
        self._begun = False
        self._time = 0.0
        self._injecting: deque[int] = deque()
        """Ids of an injection that are not recorded yet."""
        self._counters: dict[str, int] = {}
        """Latest values of the counters that cannot decrease."""
        self.tap: bool | None = None if header.continues else True
        """State of the tap; None in a continuation file before its first `change`."""
        self.ended = False
        """The last state was `finished` or `error`, with no token after it."""

    def feed(self, event: Event, line: int) -> None:
        """Check the next event."""
        if isinstance(event, Token):
            self._see_token(event, line)
        elif isinstance(event, Keyframe):
            self._see_keyframe(event, line)
        elif isinstance(event, Perturbation):
            self._see_perturbation(event, line)
        elif isinstance(event, State):
            self._see_state(event, line)
        elif isinstance(event, Vitals):
            self._see_vitals(event, line)
        elif isinstance(event, Change) and event.tap is not None:
            self.tap = event.tap

    def _see_vitals(self, vitals: Vitals, line: int) -> None:
        """Check that counters grow; a recording is of one worker, and a reading that failed has no value."""
        for name in COUNTERS:
            value, before = getattr(vitals, name), self._counters.get(name, 0)
            if value is None:
                continue
            if value < before:
                self._findings.add("counters", f"{name} decreases from {before} to {value}", line)
            self._counters[name] = value

    def _see_token(self, token: Token, line: int) -> None:
        if token.i > self._next:
            text = f"tokens {self._next} to {token.i - 1} are missing"
            self._findings.add("missing tokens", text, line, token.i - self._next)
        if token.t < self._time:
            self._findings.add("time", f"token {token.i} at {token.t:g} s follows a token at {self._time:g} s", line)
        self._see_injected(token, line)
        self._next, self._time, self._begun, self.ended = token.i + 1, token.t, True, False

    def _see_injected(self, token: Token, line: int) -> None:
        """Check that the tokens after an injection have its ids, in order, with no other token between them."""
        if token.source == "injected" and self._injecting:
            expected = self._injecting.popleft()
            if ABSENT_ID not in (token.id, expected) and token.id != expected:
                self._findings.add("injection", f"token id {token.id} is injected instead of {expected}", line)
        elif token.source != "prompt" and self._injecting:
            self._findings.add("injection", f"{len(self._injecting)} injected tokens are missing", line)
            self._injecting.clear()

    def _see_perturbation(self, perturbation: Perturbation, line: int) -> None:
        if perturbation.i != self._next:
            text = f"an injection at token {perturbation.i} instead of token {self._next}"
            self._findings.add("injection", text, line)
        self._injecting = deque(perturbation.ids)

    def _see_state(self, state: State, line: int) -> None:
        if state.state == "dropped":
            self._findings.add("dropped", f"{state.count or 'some'} events are in no file", line)
        if state.state in CUTTING_STATES:
            self._injecting.clear()
        self.ended = state.state in ("finished", "error")

    def _see_keyframe(self, frame: Keyframe, line: int) -> None:
        if not self._begun:
            self._begun, self._next = True, frame.i
            self.tap = None if frame.i else self.tap
        model = self._header.model
        for rows, counts in ((frame.rows_prefill, frame.counts_prefill), (frame.rows_decode, frame.counts_decode)):
            for layer, k, row, count in zip(model.layers, model.k_by_layer, rows, counts, strict=True):
                if sum(count) != row * k:
                    text = f"layer {layer}: counts sum to {sum(count)}, but {row} rows × {k} experts are {row * k}"
                    self._findings.add("counts", text, line)


class DerivedChecks:
    """Checks that recorded chunks and keyframes equal the recomputed ones.

    Args:
        header: header of the run.
        findings: collector of the faults.
    """

    def __init__(self, header: Header, findings: IssueCollector) -> None:
        self._findings = findings
        self._differing: set[tuple[type, int]] = set()
        self._recomputed = Recomputed(header, self._differing)
        self._due: dict[int, int] = {}
        """Line that completed a chunk, by the index of each complete chunk that is not recorded yet."""
        self._missing: list[tuple[int, int]] = []
        """Index and line of the first chunk that is not recorded."""
        self._missed = 0
        """Number of chunks that are not recorded."""
        self.chunks = 0
        """Number of recorded chunks so far."""

    def feed(self, event: Event | Unknown, line: int) -> None:
        """Check the next event."""
        if isinstance(event, Chunk):
            self.chunks += 1
            self._due.pop(event.index, None)
        if isinstance(event, Token) and self._due:
            self._miss()
        known = len(self._differing)
        for derived in self._recomputed.feed(event):
            if isinstance(derived, Chunk) and derived is not event:
                self._due[derived.index] = line
        if len(self._differing) > known:
            self._differ(event, line)

    def finish(self, *, ended: bool) -> None:
        """Report missing chunks, after the last event.

        A truncated recording may lack the chunk that its last token completes. A recording of another writer may have
        no chunks at all, which is no fault, since they are computed from the tokens.
        """
        if ended and self._due:
            self._miss()
        if self.chunks and self._missing:
            index, line = self._missing[0]
            self._findings.add("chunks", f"chunk {index} is complete here, but not recorded", line, self._missed)

    def _miss(self) -> None:
        self._missing = self._missing or list(self._due.items())[:1]
        self._missed += len(self._due)
        self._due.clear()

    def _differ(self, event: Event | Unknown, line: int) -> None:
        if isinstance(event, Chunk):
            self._findings.add("chunks", f"chunk {event.index} differs from the chunk computed from the tokens", line)
        elif isinstance(event, Keyframe):
            self._findings.add(
                "keyframes", f"the keyframe after {event.i} tokens differs from the one computed from them", line
            )
