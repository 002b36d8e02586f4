"""What must hold from one event to the next: order, times, injections, and numbers that can be computed again."""

from __future__ import annotations

from collections import deque

from moe_watch.routing.events import Change, Chunk, Event, Header, Keyframe, Perturbation, State, Token, Unknown
from moe_watch.routing.pressure.instruments import CUTTING_STATES
from moe_watch.sessions.reading.recompute import Recomputed
from moe_watch.sessions.reading.validation import ABSENT_ID
from moe_watch.sessions.verifying.issues import IssueCollector


class EventChecks:
    """Fed a run's events in order, finds what does not fit together.

    Args:
        header: of the run.
        findings: where to note it.
    """

    def __init__(self, header: Header, findings: IssueCollector) -> None:
        self._header = header
        self._findings = findings
        self._next = 0
        self._begun = False
        self._time = 0.0
        self._injecting: deque[int] = deque()
        """Ids of an injection that are still to come."""
        self.tap: bool | None = None if header.continues else True
        """Whether routing is observed; None if the file begins in the middle of a run and has not said yet."""
        self.ended = False
        """The last state was said to be the run's last."""

    def see(self, event: Event, line: int) -> None:
        """Take in the next event."""
        if isinstance(event, Token):
            self._see_token(event, line)
        elif isinstance(event, Keyframe):
            self._see_keyframe(event, line)
        elif isinstance(event, Perturbation):
            self._see_perturbation(event, line)
        elif isinstance(event, State):
            self._see_state(event, line)
        elif isinstance(event, Change) and event.tap is not None:
            self.tap = event.tap

    def _see_token(self, token: Token, line: int) -> None:
        if token.i > self._next:
            text = f"tokens {self._next} to {token.i - 1} are missing"
            self._findings.add("missing tokens", text, line, token.i - self._next)
        if token.t < self._time:
            self._findings.add("time", f"token {token.i} comes at {token.t:g} s, after {self._time:g} s", line)
        self._see_injected(token, line)
        self._next, self._time, self._begun, self.ended = token.i + 1, token.t, True, False

    def _see_injected(self, token: Token, line: int) -> None:
        """The ids of an injection come one by one, and nothing but them."""
        if token.source == "injected" and self._injecting:
            expected = self._injecting.popleft()
            if ABSENT_ID not in (token.id, expected) and token.id != expected:
                self._findings.add("injection", f"token {token.id} is injected in place of {expected}", line)
        elif token.source != "prompt" and self._injecting:
            self._findings.add("injection", f"{len(self._injecting)} injected tokens are missing", line)
            self._injecting.clear()

    def _see_perturbation(self, perturbation: Perturbation, line: int) -> None:
        if perturbation.i != self._next:
            text = f"an injection at token {perturbation.i}, where token {self._next} comes next"
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
                    text = f"layer {layer}: counts sum to {sum(count)}, where {row} rows × {k} are {row * k}"
                    self._findings.add("counts", text, line)


class DerivedChecks:
    """Fed a run's events in order, computes chunks and keyframes again and compares them with the recorded ones.

    Args:
        header: of the run.
        findings: where to note what differs.
    """

    def __init__(self, header: Header, findings: IssueCollector) -> None:
        self._findings = findings
        self._differing: set[tuple[type, int]] = set()
        self._recomputed = Recomputed(header, self._differing)
        self._due: dict[int, int] = {}
        """Indices of chunks that are complete and were not recorded yet, and the lines that completed them."""
        self._missing: list[tuple[int, int]] = []
        """The first chunk that was not recorded, and its line."""
        self._missed = 0
        """How many were not."""
        self.chunks = 0
        """Recorded ones so far."""

    def see(self, event: Event | Unknown, line: int) -> None:
        """Take in the next event."""
        if isinstance(event, Chunk):
            self.chunks += 1
            self._due.pop(event.index, None)
        if isinstance(event, Token) and self._due:
            self._miss()
        known = len(self._differing)
        for derived in self._recomputed.take(event):
            if isinstance(derived, Chunk) and derived is not event:
                self._due[derived.index] = line
        if len(self._differing) > known:
            self._differ(event, line)

    def finish(self, *, ended: bool) -> None:
        """Nothing more comes. A recording that was cut off may lack the chunk that its last token completes.

        One without any chunk is another writer's: that is not wrong, since they are computed from the tokens.
        """
        if ended and self._due:
            self._miss()
        if self.chunks and self._missing:
            index, line = self._missing[0]
            self._findings.add("chunks", f"chunk {index}, which is complete here, is not recorded", line, self._missed)

    def _miss(self) -> None:
        self._missing = self._missing or list(self._due.items())[:1]
        self._missed += len(self._due)
        self._due.clear()

    def _differ(self, event: Event | Unknown, line: int) -> None:
        if isinstance(event, Chunk):
            self._findings.add("chunks", f"chunk {event.index} is not what the tokens give", line)
        elif isinstance(event, Keyframe):
            self._findings.add("keyframes", f"the keyframe after {event.i} tokens is not what they give", line)
