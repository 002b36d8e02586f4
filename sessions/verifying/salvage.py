"""What can be read of a damaged session, as a clean file. `moe-watch verify --salvage`."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from moe_watch.routing.errors import UserError, system_error
from moe_watch.routing.events import Chunk, Event, Header, Keyframe, State, Token, Unknown, to_json
from moe_watch.sessions import paths
from moe_watch.sessions.reading.lines import Lines
from moe_watch.sessions.reading.reader import Examined
from moe_watch.sessions.reading.recompute import Recomputed
from moe_watch.sessions.reading.store import Store, open_whole
from moe_watch.sessions.recording.sinks import FileSink, Sink, ZstdSink
from moe_watch.sessions.verifying.index_outliers import PlausibleReader

REASONS_KEPT = 1000
"""Lines whose reasons are kept one by one; more of them are counted."""
LINES_HELD = 256
"""Lines that a compressed copy takes in at once."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A line that is not in the copy."""

    line: int
    """1-based."""
    reason: str


@dataclass(slots=True)
class Salvaged:
    """What became of a file."""

    output: Path
    lines: int = 0
    """In the copy."""
    tokens: int = 0
    left_out: list[LeftOut] = field(default_factory=list)
    """The first `REASONS_KEPT`."""
    left_out_lines: int = 0
    missing_tokens: int = 0
    """That stand nowhere in the file, or on lines that were left out."""
    computed: int = 0
    """Chunks and keyframes that are computed anew, because what the recorded ones counted is lost."""


def salvage(path: Path, output: Path) -> Salvaged:
    """Copy every line that can be read to a new file; compressed if its name ends in `.zst`.

    Lines are copied as they stand, events and fields of newer versions included. Where tokens are missing, a `dropped`
    state says how many, and chunks and keyframes from there on are computed from the tokens that are left.

    Raises:
        UserError: the file cannot be read, its first line is no header, or the copy exists or cannot be written.
    """
    store = open_whole(path)
    with closing(PlausibleReader(store)) as reader:
        salvaged = Salvaged(output)
        _write(output, _Salvage(reader.header, salvaged).lines(_first_line(store), reader.examine()))
        return salvaged


class _Salvage:
    """One file's."""

    def __init__(self, header: Header, salvaged: Salvaged) -> None:
        self._salvaged = salvaged
        self._recomputed = Recomputed(header, set())
        self._next = 0
        """Index of the next token."""
        self._time = 0.0
        self._due: list[Chunk] = []
        """Chunks that are complete and were not met yet."""

    def lines(self, header: bytes, examined: Iterator[Examined]) -> Iterator[bytes]:
        """The copy's lines without their ends."""
        yield self._counted(header)
        for each in examined:
            if each.event is None:
                self._leave_out(each.line, "cut off" if each.torn else each.problem)
            else:
                yield from map(self._counted, self._take(each.event, each))

    def _take(self, event: Event | Unknown, examined: Examined) -> Iterator[bytes]:
        if isinstance(event, Token):
            yield from self._before_token(event)
        elif isinstance(event, Keyframe) and not self._salvaged.tokens:
            self._next = event.i
        derived = [each for each in self._recomputed.take(event) if each is not event]
        if isinstance(event, Chunk | Keyframe) and self._counts_missing(event):
            self._salvaged.computed += 1
        else:
            self._due = [chunk for chunk in self._due if not isinstance(event, Chunk) or chunk.index != event.index]
            yield examined.content
        yield from self._derived(derived)

    def _before_token(self, token: Token) -> Iterator[bytes]:
        """What goes before a token: chunks whose lines are lost, and word of tokens that are."""
        if self._salvaged.left_out_lines:
            yield from map(to_json, self._due)
        self._due = []
        if missing := token.i - self._next:
            self._salvaged.missing_tokens += missing
            yield to_json(State(state="dropped", i=token.i - missing, t=self._time, count=missing))
        self._next, self._time = token.i + 1, token.t
        self._salvaged.tokens += 1

    def _counts_missing(self, event: Chunk | Keyframe) -> bool:
        """Whether tokens that are missing went into a recorded chunk or keyframe."""
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


def _first_line(store: Store) -> bytes:
    """The header as it stands, with fields that this version does not know."""
    lines = Lines(store)
    while (line := lines.next()) is not None and not line.content.strip():
        pass
    assert line is not None
    return line.content.removeprefix(BOM_UTF8)


def _write(output: Path, lines: Iterator[bytes]) -> None:
    """Write lines to a new file; nothing of it stays if that, or reading them, fails."""
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
