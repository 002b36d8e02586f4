"""Banner for messages that the user must not miss: the run failed, is not recorded, or has finished."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from rich.cells import cell_len
from rich.style import Style
from textual.geometry import Size
from textual.strip import Strip

from moe_watch.routing.events import Chunk
from moe_watch.sessions.text import plural
from moe_watch.tui.drawing.line import CellLine, on
from moe_watch.tui.input.actions import BY_ID
from moe_watch.tui.state.frame import EVERY_CHUNK, Frame, pause_in_words
from moe_watch.tui.text.format import count, size
from moe_watch.tui.text.sanitize import one_line
from moe_watch.tui.text.word_wrap import SENTENCE_LIMIT, wrapped
from moe_watch.tui.widgets.frame_widget import FrameWidget

Message = tuple[str, str, str]
"""Urgency (`bad`, `more` about it, `good`, or `wait`), the sentence, and the keys that are offered with it."""
NOT_BEGUN = "this run had not begun: there was nothing to save"
INDENT = 3
"""Width of the symbol before a sentence, in cells."""
AUTOMATIC = ("temperature", "memory")
"""Causes of a pause that the program asked for."""
RUNNING = ("streaming", "prefill")
"""Status of a run that a pause relieves."""
_GLYPHS = {"bad": "✗", "more": " ", "good": "■", "wait": "‖"}


class Banner(FrameWidget):
    """Messages, each wrapped to the width; no rows without a message."""

    def state(self, frame: Frame) -> Hashable:
        return tuple(messages(frame))

    def show(self, frame: Frame) -> None:
        found = messages(frame)
        self.set_class(bool(found), "-shown")  # not `display`, which would override the rule for small terminals
        self.styles.height = max(1, len(self._rows_of(found, self.app.size.width)))
        super().show(frame)

    def draw(self, frame: Frame, size: Size) -> list[Strip]:
        return self._rows_of(messages(frame), size.width)

    def _rows_of(self, found: list[Message], width: int) -> list[Strip]:
        return [row for message in found for row in self._draw_message(width, *message)]

    def _draw_message(self, width: int, urgency: str, sentence: str, offer: str) -> list[Strip]:
        """Return the rows of a sentence, with the keys right of its last row, or below it if there is no room."""
        ink = self.palette
        calm = {"good": ink.status.good, "wait": ink.accent}
        ground = on(calm[urgency], ink.bar) if urgency in calm else ink.status.bad + Style(reverse=True)
        bold = ground + Style(bold=True)
        rows: list[CellLine] = []
        for line in wrapped(sentence, max(1, width - INDENT - 1)):
            sign = " " if rows else _GLYPHS[urgency]
            rows.append(CellLine(width, ground).put(f" {sign} ", bold).put(line, bold))
        if offer and rows[-1].room < cell_len(offer) + 3:
            rows.append(CellLine(width, ground))
        return [*(row.strip() for row in rows[:-1]), rows[-1].right((f"{offer} ", ground)).strip()]


def messages(frame: Frame) -> list[Message]:
    """Return the current messages, the most urgent first."""
    found: list[Message] = []
    if frame.status == "failed":
        found.append(("bad", one_line(frame.view.message or "the run failed", SENTENCE_LIMIT), ""))
        found.append(("more", _saved(frame), _offers(frame, "restart", "prompt", "quit")))
    if frame.recording.mode == "failed":
        problem = one_line(frame.recording.problem or "the file cannot be written", SENTENCE_LIMIT)
        found.append(("bad", f"not being recorded: {problem}", _offers(frame, "record")))
    elif frame.recording.problem:
        found.append(("bad", f"recording incomplete: {one_line(frame.recording.problem, SENTENCE_LIMIT)}", ""))
    if frame.view.counts.dropped:
        found.append(("bad", f"{plural(frame.view.counts.dropped, 'event')} lost: the numbers shown have a gap", ""))
    if frame.status == "finished" and frame.view.header is not None:
        then = ("pause", "home") if frame.at_end else ("go_on", "prompt")
        found.append(("good", f"finished: {_finished(frame)}", _offers(frame, *then, "quit")))
    pressure = None if frame.view.vitals.last is None else frame.view.vitals.last.pressure
    if pressure is not None and pressure.level == "critical" and frame.status in RUNNING and "rate" in frame.abilities:
        why = one_line(pressure.reason or pressure.source, SENTENCE_LIMIT)
        found.append(("bad", f"memory pressure is critical: {why}", _offers(frame, "pause")))
    if frame.silence and frame.view.progress is not None and frame.view.progress.note:
        found.append(("wait", one_line(frame.view.progress.note, SENTENCE_LIMIT), ""))
    if frame.status == "paused" and frame.view.why in AUTOMATIC and frame.view.message:
        offers = _offers(frame, "pause") if frame.resumable else ""
        found.append(("wait", one_line(frame.view.message, SENTENCE_LIMIT), offers))
    if frame.at_boundary and frame.view.header is not None:
        found.append(("wait", _boundary(frame, frame.view.tracks[frame.view.header.pressure].chunks), ""))
    return found


def _finished(frame: Frame) -> str:
    """Return the finish reason, and the number of tokens."""
    view, why = frame.view, frame.why or "no reason given"
    if view.counts_only:
        return f"{why}, counts of {plural(view.observed, 'token')}"
    return f"{why}, after {plural(view.tokens, 'token')}"


def _boundary(frame: Frame, chunks: Sequence[Chunk]) -> str:
    """Return the number of the complete chunk, the keys that continue, and the chunk's reason for the pause."""
    then = "space or g continues" if frame.resumable else "the run waited here"
    if not chunks:
        return f"a chunk is complete: {then}"
    reason = chunks[-1].pause
    why = f" ({pause_in_words(reason)})" if reason and reason != EVERY_CHUNK else ""
    return f"chunk {count(chunks[-1].index)} is complete{why}: {then}"


def _saved(frame: Frame) -> str:
    """Return in words the part of the run that is in a file."""
    recording = frame.recording
    if frame.words.failed:
        return frame.words.failed
    if not frame.view.tokens:
        return NOT_BEGUN
    if not recording.name:
        return "nothing was saved: this run was not recorded"
    return f"saved: {plural(frame.view.tokens, 'token')} in {one_line(recording.name, 48)} ({size(recording.bytes)})"


def _offers(frame: Frame, *actions: str) -> str:
    offered = (BY_ID[name] for name in actions if BY_ID[name].offered(frame))
    return " · ".join(f"{action.shown} {action.caption(frame)}" for action in offered)
