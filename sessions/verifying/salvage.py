"""Salvage of a damaged session: copy its readable lines to a clean file. `moe-watch verify --salvage`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from moe_watch.routing.contexts import ContextNumbers
from moe_watch.routing.errors import UserError, system_error
from moe_watch.routing.events import Chunk, Event, Header, Keyframe, Perturbation, State, Token, Unknown, to_json
from moe_watch.sessions import paths
from moe_watch.sessions.reading.reader import Examined
from moe_watch.sessions.reading.recompute import Recomputed
from moe_watch.sessions.reading.store import open_whole
from moe_watch.sessions.recording.sinks import FileSink, Sink, ZstdSink
from moe_watch.sessions.verifying.index_outliers import PlausibleReader

REASONS_KEPT = 1000
"""Number of lines whose reasons are kept; further ones are only counted."""
LINES_HELD = 256
"""Number of lines that a compressed copy buffers, and of events that wait for the token after a damaged line."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """One line that is not in the copy."""

    line: int
    """1-based."""
    reason: str


@dataclass(slots=True)
class Salvaged:
    """Result of a salvage."""

    output: Path
    lines: int = 0
    """Number of lines in the copy."""
    tokens: int = 0
    """Number of tokens in the copy."""
    left_out: list[LeftOut] = field(default_factory=list)
    """The first `REASONS_KEPT` skipped lines."""
    left_out_lines: int = 0
    """Number of all skipped lines."""
    missing_tokens: int = 0
    """Number of tokens that are absent from the file, or on skipped lines."""
    computed: int = 0
    """Number of recomputed chunks and keyframes: the recorded ones count missing tokens."""
    restored_contexts: int = 0
    """Number of restored `fresh_context` states."""
    merged_contexts: int = 0
    """Number of contexts whose start is lost: recomputed numbers merge each with the context before it."""


def salvage(path: Path, output: Path) -> Salvaged:
    """Copy every readable line to a new file, which is compressed if its name ends in `.zst`.

    Lines are copied unchanged, including events and fields of newer versions. Where tokens are missing, a `dropped`
    state gives their number, and chunks and keyframes after it are recomputed from the remaining tokens. If a damaged
    line is followed by the prompt again, or by a turn that repeats the conversation, it was a `fresh_context` state,
    which is restored.

    Raises:
        UserError: the file cannot be read, its first line is not a header, or the copy exists or cannot be written.
    """
    with closing(PlausibleReader(open_whole(path))) as reader:
        salvaged = Salvaged(output)
        _write(output, _Salvage(reader.header, salvaged).lines(reader.header_line, reader.examine()))
        return salvaged


class _Salvage:
    """Stream transform from the lines of a damaged file to the lines of its copy."""

    def __init__(self, header: Header, salvaged: Salvaged) -> None:
        self._salvaged = salvaged
        self._recomputed = Recomputed(header, set())
        self._next = 0
        """Index of the next token if none is missing."""
        self._time = 0.0
        self._due: list[Chunk] = []
        """Computed chunks without a recorded line so far."""
        self._contexts = _Contexts(salvaged)
        self._held: list[Examined] = []
        """Events after a damaged line, until the next token decides which state the line was."""
        self._damaged = False
        """A line before the next token is damaged."""

    def lines(self, header: bytes, examined: Iterator[Examined]) -> Iterator[bytes]:
        """Yield the copy's lines without their newlines."""
        yield self._counted(header)
        for each in examined:
            if each.event is None:
                self._leave_out(each.line, "cut off" if each.torn else each.problem)
                self._damaged = True
            elif self._damaged and not isinstance(each.event, Token) and len(self._held) < LINES_HELD:
                self._held.append(each)
            else:
                yield from self._released(each.event)
                yield from map(self._counted, self._take(each.event, each))
        yield from self._released(None)

    def _released(self, event: Event | Unknown | None) -> Iterator[bytes]:
        """Yield the lines of the held events, after the `fresh_context` state that `event` shows to be lost."""
        held, self._held = self._held, []
        if isinstance(event, Token):
            starts = any(isinstance(each.event, State) and each.event.state == "fresh_context" for each in held)
            repeats = any(isinstance(each.event, Perturbation) and each.event.again > 0 for each in held)
            if self._damaged and not starts and self._contexts.starts_with(event, repeats=repeats):
                self._salvaged.restored_contexts += 1
                state = State(state="fresh_context", i=self._next, t=self._time, why="turn" if repeats else None)
                held.insert(0, Examined(0, 0, state, content=to_json(state)))
            self._damaged = False
        for each in held:
            if each.event is not None:
                yield from map(self._counted, self._take(each.event, each))

    def _take(self, event: Event | Unknown, examined: Examined) -> Iterator[bytes]:
        if isinstance(event, Token):
            yield from self._before_token(event)
        elif isinstance(event, Keyframe) and not self._salvaged.tokens:
            self._next = event.i
        self._contexts.feed(event)
        derived = [each for each in self._recomputed.feed(event) if each is not event]
        if isinstance(event, Chunk | Keyframe) and self._counts_missing(event):
            self._salvaged.computed += 1
        else:
            self._due = [chunk for chunk in self._due if not isinstance(event, Chunk) or chunk.index != event.index]
            yield examined.content
        yield from self._derived(derived)

    def _before_token(self, token: Token) -> Iterator[bytes]:
        """Yield the lines before a token: chunks with lost lines, and a `dropped` state for missing tokens."""
        if self._salvaged.left_out_lines:
            yield from map(to_json, self._due)
        self._due = []
        if missing := token.i - self._next:
            self._salvaged.missing_tokens += missing
            yield to_json(State(state="dropped", i=token.i - missing, t=self._time, count=missing))
        self._next, self._time = token.i + 1, token.t
        self._salvaged.tokens += 1

    def _counts_missing(self, event: Chunk | Keyframe) -> bool:
        """Return whether a recorded chunk or keyframe counts missing tokens."""
        return self._salvaged.missing_tokens > 0 or (isinstance(event, Chunk) and event.last >= self._next)

    def _derived(self, derived: list[Event | Unknown]) -> Iterator[bytes]:
        if self._salvaged.missing_tokens:
            yield from map(to_json, derived)
        else:
            self._due += [each for each in derived if isinstance(each, Chunk)]

    def _counted(self, line: bytes) -> bytes:
        self._salvaged.lines += 1
        return line

    def _leave_out(self, line: int, reason: str) -> None:
        self._salvaged.left_out_lines += 1
        if len(self._salvaged.left_out) < REASONS_KEPT:
            self._salvaged.left_out.append(LeftOut(line, reason))


class _Contexts:
    """Contexts of the copy, compared with the context numbers of recorded chunks and keyframes."""

    def __init__(self, salvaged: Salvaged) -> None:
        self._salvaged = salvaged
        self._numbers = ContextNumbers()
        self._begun = False
        """The file has a token or keyframe so far."""
        self._continued = False
        """The context has a token after its prompt."""

    def starts_with(self, token: Token, *, repeats: bool) -> bool:
        """Return whether a token starts a context: the prompt and a conversation are repeated only in a fresh one.

        Args:
            token: the token.
            repeats: it is the first one of a turn that repeats a part of the conversation.
        """
        return self._continued and (repeats or token.source == "prompt")

    def feed(self, event: Event | Unknown) -> None:
        """Take the next event of the copy."""
        if isinstance(event, Unknown):
            return
        known = self._numbers.current
        if self._numbers.feed(event):
            self._continued = False
            if self._begun and isinstance(event, Chunk | Keyframe):
                self._salvaged.merged_contexts += self._numbers.current - known
        if isinstance(event, Token):
            self._continued |= event.source != "prompt"
        self._begun |= isinstance(event, Token | Keyframe)


def _write(output: Path, lines: Iterator[bytes]) -> None:
    """Write lines to a new file, which is deleted if writing or reading them fails."""
    sink = _create(output)
    try:
        for line in lines:
            sink.write(line + b"\n")
            if len(sink.pending) >= LINES_HELD:
                sink.flush()
        sink.finish()
    except BaseException as error:
        with suppress(OSError):
            output.unlink()
        if isinstance(error, OSError):
            raise _cannot_write(output, error) from error
        raise
    finally:
        sink.close()


def _create(output: Path) -> Sink:
    try:
        descriptor = paths.create(output)
    except FileExistsError as error:
        raise UserError(f"{output}: exists already", advice="choose another name for the copy") from error
    except (OSError, ValueError) as error:
        raise _cannot_write(output, error) from error
    return ZstdSink(descriptor) if output.name.endswith(paths.COMPRESSED) else FileSink(descriptor)


def _cannot_write(output: Path, error: Exception) -> UserError:
    return system_error(output, error, failed="cannot be written", advice="choose another place for the copy")
