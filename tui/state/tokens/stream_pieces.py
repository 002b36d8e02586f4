"""Pieces of the stream panel: tokens, and markers between tokens."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp
from sys import intern
from typing import Literal

from moe_watch.routing.events import Change, Marker, Perturbation, Refused, RunWarning, State, Token
from moe_watch.tui.state.pressure.injections import cut_in_words, injection_label
from moe_watch.tui.state.settings import change_labels

PIECES_KEPT = 20_000
PIECES_SLACK = 1_000
"""Pieces beyond `PIECES_KEPT` at which the oldest are dropped, all at once."""
CHARACTERS_KEPT = 4_000
"""Characters kept of one token. No vocabulary has longer tokens; a file may claim anything."""

Role = Literal[
    "prompt",
    "injected",
    "generated",
    "inject",
    "change",
    "mask",
    "fresh",
    "end",
    "note",
    "refused",
    "warning",
    "begin",
    "jump",
]
"""The first three are tokens of the context, all others are markers between tokens. `begin` and `jump` mean that the
text before them is missing: the recording begins there, or a seek led there."""
TOKEN_ROLES: tuple[Role, ...] = ("prompt", "injected", "generated")


@dataclass(frozen=True, slots=True)
class Piece:
    """One token as the stream panel shows it, or a marker between two tokens."""

    role: Role
    text: str
    i: int
    surprisal: float | None = None
    """Nats."""
    entropy: float | None = None
    """Mean router entropy over layers."""
    would_stop: bool = False
    omitted: int = 0
    """Number of characters cut off from `text`."""

    @property
    def probability(self) -> float | None:
        """Probability of this token in the model's output."""
        return None if self.surprisal is None else exp(-self.surprisal)


class StreamPieces:
    """The newest `PIECES_KEPT` pieces of a run, in order.

    The list `kept` and its length are a snapshot in constant time: the list is only appended to, and is replaced by a
    new one when old pieces are dropped or the text begins again.
    """

    def __init__(self) -> None:
        self.kept: list[Piece] = []
        """At most `PIECES_KEPT + PIECES_SLACK` pieces."""
        self.seen = 0
        """Number of pieces added so far, dropped ones included."""
        self.texts = 0
        """Number of times that the text began again; a panel then discards what it has wrapped."""

    def add(self, piece: Piece) -> None:
        """Append a piece."""
        if len(self.kept) >= PIECES_KEPT + PIECES_SLACK:
            self.kept = self.kept[-PIECES_KEPT + 1 :]
        self.kept.append(piece)
        self.seen += 1

    def newest(self, number: int) -> list[Piece]:
        """Return the last `number` pieces, oldest first."""
        return self.kept[max(0, len(self.kept) - number) :]

    def begin_text(self, first: Piece) -> None:
        """Discard all pieces, and begin again with this one."""
        self.kept = []
        self.texts += 1
        self.add(first)


def token_piece(token: Token, entropy_unit: float) -> Piece:
    """Return the piece of a token; `entropy_unit` is the value of 1 in the event's router entropy."""
    entropies = [value for value in token.entropy or () if value is not None]
    return Piece(
        role=token.source,
        text=intern(token.text[:CHARACTERS_KEPT]),  # the same texts of a vocabulary occur again and again
        i=token.i,
        surprisal=None if token.logprob is None else -token.logprob,
        entropy=sum(entropies) / len(entropies) * entropy_unit if entropies else None,
        would_stop=token.would_stop,
        omitted=max(0, len(token.text) - CHARACTERS_KEPT),
    )


def event_pieces(event: Marker | Refused | RunWarning | Perturbation | Change | State) -> list[Piece]:
    """Return the markers of an event that is shown between two tokens."""
    match event:
        case Marker():
            return [_marker("note", event.note, event.i)]
        case Refused():
            return [_marker("refused", event.why, event.i)]
        case RunWarning():
            return [_marker("warning", event.text, event.i)]
        case Perturbation():
            cut = cut_in_words(event)
            return [*([Piece("change", cut, event.i)] if cut else []), Piece("inject", injection_label(event), event.i)]
        case Change():
            return [Piece("change", label, event.i) for label in change_labels(event)]
        case State(state="fresh_context"):
            return [_marker("fresh", event.why or "", event.i)]
        case State(state="finished"):
            return [_marker("end", event.why or "", event.i)]
    return []


def _marker(role: Role, text: str, i: int) -> Piece:
    return Piece(role, text[:CHARACTERS_KEPT], i)
