"""Tokens of a recorded session for teacher forcing.

Routing of two models, or of two quantizations of one model, is comparable only if both evaluate the same tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from moe_watch.backends.run_spec import TeacherScript, TeacherTokens, TeacherTurn
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Event, Header, Keyframe, Perturbation, State, Teacher, Token, TokenSource, Unknown
from moe_watch.sessions.reading.multipart import RunReader
from moe_watch.sessions.reading.validation import ABSENT_ID


@dataclass(slots=True)
class _Piece:
    """Successive tokens of one source."""

    source: TokenSource
    ids: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    turn: TeacherTurn | None = None

    def add(self, token: Token) -> None:
        self.ids.append(token.id)
        self.texts.append(token.text)


def teacher_script(path: Path) -> TeacherScript:
    """Read the tokens of a session file, in order and split by source; a torn file is read up to its last whole line.

    Raises:
        UserError: the file cannot be read, has no token, or begins in the middle of its run.
    """
    with closing(RunReader(path)) as session:
        header = session.header
        pieces = [] if header.counts_only else _pieces(session, path)
    if not pieces:
        raise no_token(path, header)
    tokens = [TeacherTokens(piece.source, piece.ids, "".join(piece.texts), piece.turn) for piece in pieces]
    return TeacherScript(_facts(header, sum(len(piece.ids) for piece in pieces)), tokens, header.sampling.seed)


def no_token(path: Path, header: Header) -> UserError:
    """Return the error for a session without tokens. An imported count of selections never has any."""
    if header.counts_only:
        return UserError(f"{path}: holds counts of selections, and no tokens", advice="give a session with tokens")
    return UserError(f"{path}: holds no token", advice="give a session that got further")


def _pieces(events: Iterable[Event | Unknown], path: Path) -> list[_Piece]:
    """Split tokens where the source changes, and where a context or an injection begins."""
    pieces: list[_Piece] = []
    ended, fresh = True, False
    turn: TeacherTurn | None = None
    for event in events:
        if isinstance(event, Keyframe) and not pieces:
            raise UserError(
                f"{path}: begins in the middle of its run, without the context before it",
                advice="give a session recorded from its beginning",
            )
        if isinstance(event, State) and event.state == "fresh_context":
            ended = fresh = True
        elif isinstance(event, Perturbation):
            ended = True
            turn = None if event.kept is None else TeacherTurn(event.kept, event.again, fresh)
        elif isinstance(event, Token):
            _require_next(event, pieces, path)
            if ended or pieces[-1].source != event.source:
                pieces.append(_Piece(event.source, turn=turn))
            pieces[-1].add(event)
            ended, fresh, turn = False, False, None
    return pieces


def _require_next(token: Token, pieces: list[_Piece], path: Path) -> None:
    expected = sum(len(piece.ids) for piece in pieces)
    if token.i != expected:
        raise UserError(f"{path}: token {expected} is missing", advice="give a session without a gap")
    if token.id == ABSENT_ID:
        raise UserError(f"{path}: was imported without token ids", advice="give a session that a model wrote")


def _facts(header: Header, tokens: int) -> Teacher:
    model = header.model
    return Teacher(model=model.name, quantization=model.quantization, backend=header.backend.name, tokens=tokens)
