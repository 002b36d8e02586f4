"""Panel of the streamed text, each token coloured by its surprisal or by router entropy."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import ClassVar, Literal, NamedTuple

from rich.cells import cell_len
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.strip import Strip

from moe_watch.routing.events import Progress
from moe_watch.tui.drawing.colours import ENTROPY_LIMITS, SURPRISAL_LIMITS
from moe_watch.tui.drawing.line import CellLine, Part
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.state.mask_words import OFF
from moe_watch.tui.state.run import RunView
from moe_watch.tui.state.tokens.stream_pieces import PIECES_KEPT, Piece
from moe_watch.tui.text.format import clock_time, count, number, percent, probability, size
from moe_watch.tui.text.sanitize import inert, one_line
from moe_watch.tui.text.word_wrap import SENTENCE_LIMIT, wrapped
from moe_watch.tui.widgets.bars.header import done_share
from moe_watch.tui.widgets.frame_widget import Panel
from moe_watch.tui.widgets.panels.token_wrap import PieceSpan, TokenWrap, WrappedLine

Colouring = Literal["surprisal", "router entropy"]
WHEEL_LINES = 3
ELAPSED_AFTER = 2.0
"""Seconds of waiting after which the elapsed time is shown."""
READOUT_HEIGHT = 6
"""Least height of a panel with a readout of one token."""
_FINISHED_MARKS = {
    "eos": "■ end of text",
    "length": "■ token limit reached",
    "context": "■ context full",
    "user": "■ stopped",
}
_STAGES = {
    "starting": "starting the worker",
    "reading": "reading the model",
    "loading": "loading the model",
    "prefill": "reading the prompt",
}


class RenderedLine(NamedTuple):
    """Rendered line, and the state that it was rendered for."""

    look: Hashable
    strip: Strip


class StreamPanel(Panel):
    """Text of the run. Follows the end unless scrolled back."""

    NAME = "STREAM"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "scroll_by(-1)", show=False),
        Binding("down", "scroll_by(1)", show=False),
        Binding("home", "scroll_home", show=False),
    ]

    def __init__(self, *, id: str) -> None:  # noqa: A002 - the name that Textual uses
        super().__init__(id=id)
        self.colouring: Colouring = "surprisal"
        self.top: int | None = None
        """Index of the first line shown, counting dropped lines; None follows the end."""
        self.pointed: Piece | None = None
        """The piece under the mouse."""
        self._wrap = TokenWrap(1)
        self._wrapped: tuple[tuple[int, int], int] = ((0, 0), 0)
        """Run and text that are wrapped, and the number of their pieces so far."""
        self._last_role = ""
        self._would_stop = False
        """The model sampled an end of text at the last piece."""
        self._cached: list[WrappedLine] = []
        """Lines with a cached rendering."""

    def state(self, frame: Frame) -> Hashable:
        view = frame.view
        waited = int(frame.waited) if not view.stream.seen else 0
        return view.runs, view.stream.seen, frame.status, view.progress, frame.queued_text, waited

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002 - Textual's signature
        """Leave `home` to the app in a replay, where it seeks."""
        return not (action == "scroll_home" and self.frame is not None and self.frame.seekable)

    def toggle_colouring(self) -> None:
        """Colour by the other quantity."""
        self.colouring = "router entropy" if self.colouring == "surprisal" else "surprisal"
        self.redraw()

    # Scrolling

    def page(self, pages: int) -> None:
        """Scroll by pages; negative numbers scroll back."""
        self.action_scroll_by(pages * max(1, self._text_height - 1))

    def follow(self) -> None:
        """Show the end, and follow it."""
        self.top = None
        self.redraw()

    def action_scroll_by(self, lines: int) -> None:
        """Scroll by lines; the panel follows the end again once it is reached."""
        end = self._wrap.dropped + max(0, len(self._wrap.lines) - self._text_height)
        top = max(self._wrap.dropped, (end if self.top is None else self.top) + lines)
        self.top = None if top >= end else top
        self.redraw()

    def action_scroll_home(self) -> None:
        """Go to the oldest line kept."""
        self.top = self._wrap.dropped
        self.redraw()

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.action_scroll_by(-WHEEL_LINES)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.action_scroll_by(WHEEL_LINES)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        offset = event.get_content_offset(self)
        self._point_at(None if offset is None else self._piece_at(offset.x, offset.y))

    def on_leave(self) -> None:
        self._point_at(None)

    def _point_at(self, piece: Piece | None) -> None:
        if piece is not self.pointed:
            self.pointed = piece
            self.redraw()

    def _piece_at(self, x: int, y: int) -> Piece | None:
        line = self._first_line + y
        if y >= self._text_height or line >= len(self._wrap.lines):
            return None
        x -= self._wrap.lines[line].indent
        for run in self._wrap.lines[line].runs if x >= 0 else ():
            x -= cell_len(run.text)
            if x < 0:
                return run.piece
        return None

    # Wrapping

    def _wrap_new(self, view: RunView, width: int) -> None:
        """Wrap new pieces; wrap all pieces again after a change of text or width."""
        text, done = self._wrapped
        if text != (view.runs, view.stream.texts) or width != self._wrap.width:
            self._wrap, done, self._last_role = TokenWrap(width), max(0, view.stream.seen - len(view.pieces)), ""
            self.top = self.pointed = None
        for piece in view.stream.newest(min(view.stream.seen - done, len(view.pieces))):
            self._add(piece)
        self._wrapped = ((view.runs, view.stream.texts), view.stream.seen)
        self._wrap.drop_before(self._wrap.pieces - PIECES_KEPT)
        if self.top is not None:
            self.top = max(self.top, self._wrap.dropped)

    def _add(self, piece: Piece) -> None:
        wrap = self._wrap
        if self._last_role == "injected" and piece.role == "generated":
            wrap.end_line()
        match piece.role:
            case "inject":
                wrap.end_line()
                wrap.add_mark(piece, f" ⟶ {piece.text} ")
            case "mask":
                wrap.end_line()
                wrap.add_mark(piece, f" {OFF} {piece.text} ")
                wrap.end_line()
            case "fresh":
                wrap.add_rule(piece, f" fresh context at token {count(piece.i)} ")
            case "jump":
                wrap.add_rule(piece, f" text before token {count(piece.i)} is not shown after a seek ")
            case "begin":
                wrap.add_rule(piece, f" the recording begins at token {count(piece.i)} ")
            case "end":
                wrap.end_line()
                wrap.add_mark(piece, _FINISHED_MARKS.get(piece.text, f"■ {one_line(piece.text)}"))
                wrap.end_line()
            case "change":
                wrap.add_mark(piece, f"◇ {piece.text} ")
            case "note":
                wrap.add_mark(piece, f"◆ {one_line(piece.text, 60)} " if piece.text else "◆ ")
            case "refused":
                wrap.add_mark(piece, f"⊘ {one_line(piece.text, 60)} ")
            case "warning":
                wrap.add_mark(piece, f"⚠ {one_line(piece.text, 60)} ")
            case _:
                if piece.would_stop and not self._would_stop:  # one marker for several in a row
                    wrap.add_rule(piece, f" end of text, continued at {count(piece.i)} ")
                wrap.add(piece, piece.text)
                if piece.omitted:
                    wrap.add_mark(piece, f"… {count(piece.omitted)} more characters")
        self._last_role, self._would_stop = piece.role, piece.would_stop

    # Drawing

    @property
    def _text_height(self) -> int:
        height = self.content_size.height
        return height - 1 if height >= READOUT_HEIGHT else height

    @property
    def _first_line(self) -> int:
        """Index of the first line shown."""
        if self.top is not None:
            return self.top - self._wrap.dropped
        return max(0, len(self._wrap.lines) - self._text_height)

    def draw(self, frame: Frame, size: Size) -> list[Strip]:
        width, height = size
        view = frame.view
        self._wrap_new(view, width)
        if view.is_dense:  # another run may have been coloured by router entropy before
            self.colouring = "surprisal"
        self.label(f"coloured by {self.colouring}", *(self._scroll_note() or self._legend()))
        if not view.stream.seen:
            return self._draw_waiting(frame, width, height)
        first = self._first_line
        lines = self._wrap.lines[first : first + self._text_height]
        at_end = first + len(lines) == len(self._wrap.lines)
        rows = [self._line(line, width, now=at_end and line is lines[-1]) for line in lines]
        self._drop_cached(lines)
        if self._text_height == height:
            return rows
        blank = self.row(width).strip()
        return [*rows, *[blank] * (self._text_height - len(rows)), self._draw_readout(frame, width)]

    def _scroll_note(self) -> tuple[Part, ...]:
        if self.top is None:
            return ()
        below = len(self._wrap.lines) - self._first_line - self._text_height
        return ((f" {count(below)} lines below · end follows again ", self.palette.accent),)

    def _legend(self) -> tuple[Part, ...]:
        ink = self.palette
        low, high = (
            (" expected ", " surprising ") if self.colouring == "surprisal" else (" low entropy ", " high entropy ")
        )
        return ((low, ink.muted), *(("■", style) for style in ink.tokens), (high, ink.muted))

    def _line(self, line: WrappedLine, width: int, *, now: bool) -> Strip:
        """Return the cached rendering of a line, or render it if something has changed."""
        look = self._look(line, now=now)
        if isinstance(line.rendered, RenderedLine) and line.rendered.look == look:
            return line.rendered.strip
        strip = self._draw_line(line, width, now=now)
        line.rendered = RenderedLine(look, strip)
        return strip

    def _drop_cached(self, lines: list[WrappedLine]) -> None:
        """Drop cached renderings of lines that have left the panel: one takes several kilobytes."""
        seen = {id(line) for line in lines}
        for line in self._cached:
            if id(line) not in seen:
                line.rendered = None
        self._cached = lines

    def _look(self, line: WrappedLine, *, now: bool) -> Hashable:
        """Return the state that a line's rendering depends on, besides its text."""
        pointed = self.pointed is not None and any(run.piece is self.pointed for run in line.runs)
        cursor = now and self.frame is not None and self.frame.status
        return id(self.palette), self.colouring, cursor, id(self.pointed) if pointed else 0

    def _draw_line(self, line: WrappedLine, width: int, *, now: bool) -> Strip:
        ink, row = self.palette, self.row(width)
        if line.rule:
            text = line.runs[0].text
            side = max(0, width - cell_len(text)) // 2
            return row.put("─" * side, ink.faint).put(text, ink.muted).put("─" * width, ink.faint).strip()
        row.put(" " * line.indent)
        for run in line.runs:
            self._put_run(row, run)
        if now and self.frame is not None and self.frame.status in ("streaming", "prefill"):
            row.put("▌", ink.accent)
        return row.strip()

    def _put_run(self, row: CellLine, run: PieceSpan) -> None:
        """Draw a piece's text; an underline begins at its first letter, unless the text is only spaces."""
        style, text = self._style(run), run.text
        if style.underline and not run.piece.text.isspace():
            text = run.text.lstrip(" ")
            row.put(run.text[: len(run.text) - len(text)], style + Style(underline=False))
        row.put(text, style)

    def _style(self, run: PieceSpan) -> Style:
        ink, piece = self.palette, run.piece
        if run.mark:
            return {
                "inject": ink.chip,
                "mask": ink.chip,
                "end": ink.status.good,
                "note": ink.accent_bold,
                "change": ink.accent,
            }.get(piece.role, ink.status.warn)
        if piece.role == "prompt":
            style = ink.muted + Style(italic=True)  # expected tokens have the same grey
        elif piece.role == "injected":
            style = ink.accent + Style(italic=True)
        else:
            style = self._token_style(piece)
        return style + Style(reverse=True) if piece is self.pointed else style

    def _token_style(self, piece: Piece) -> Style:
        """Return the style of a token; the last step is also underlined, so that it is visible without colour."""
        value, limits = _colour_value(piece, self.colouring)
        if value is None:
            return self.palette.text
        step = sum(value >= limit for limit in limits)
        style = self.palette.tokens[step]
        return style + Style(underline=True) if step == len(limits) else style

    def _draw_readout(self, frame: Frame, width: int) -> Strip:
        """Draw the values of the token under the mouse, or of the newest token."""
        ink, row = self.palette, self.row(width)
        piece = self.pointed or _newest_token(reversed(frame.view.stream.newest(8)))
        if piece is not None:
            row.put("▸ " if self.pointed else "", ink.accent).put(_quoted(piece.text), ink.strong)
            parts = [part for name, text in _readings(piece) for part in ((f"  {name} ", ink.muted), (text, ink.text))]
            row.first_that_fits(*(parts[:end] for end in range(len(parts), -1, -2)))
        return row.strip()

    def _centred(self, text: str, style: Style, width: int) -> Strip:
        return self.row(width).to((width - cell_len(text)) // 2).put(text, style).strip()

    def _draw_waiting(self, frame: Frame, width: int, height: int) -> list[Strip]:
        """Draw the progress of loading or prefill, before the first token."""
        ink = self.palette
        progress = frame.view.progress
        blank = self.row(width).strip()
        if frame.status == "failed":
            return self.message(width, height, one_line(frame.view.message or "the run failed", SENTENCE_LIMIT))
        if frame.view.counts_only:
            return self.message(width, height, frame.view.no_token_text)
        stage = "waiting for the first token" if progress is None else _STAGES[progress.stage]
        if progress is not None and progress.note:
            stage = f"{stage}: {one_line(progress.note, SENTENCE_LIMIT)}"
        rows = [self._centred(line, ink.text, width) for line in wrapped(stage, width)]
        share = done_share(progress)
        if progress is not None and share is not None:
            bar = min(40, width - 8)
            filled = round(share * bar)
            row = self.row(width).to((width - bar - 6) // 2)
            row.put("━" * filled, ink.accent).put("━" * (bar - filled), ink.chart.track)
            rows += [blank, row.put(f" {percent(share, 0)}", ink.strong).strip()]
            rows.append(self._centred(_amount(progress), ink.muted, width))
        if (times := _times(frame.waited, share)) is not None:
            rows.append(self._centred(times, ink.muted, width))
        return [blank] * max(0, (height - len(rows)) // 2) + rows


def _times(waited: float, share: float | None) -> str | None:
    """Return the elapsed time, and the remaining time at this rate; None within the first seconds."""
    if waited < ELAPSED_AFTER:
        return None
    left = waited * (1 - share) / share if share and share < 1 else None
    return f"{clock_time(waited)} elapsed" + ("" if left is None else f", about {clock_time(left)} left")


def _colour_value(piece: Piece, colouring: Colouring) -> tuple[float | None, tuple[float, ...]]:
    return (piece.surprisal, SURPRISAL_LIMITS) if colouring == "surprisal" else (piece.entropy, ENTROPY_LIMITS)


def _newest_token(pieces: Iterable[Piece]) -> Piece | None:
    return next((piece for piece in pieces if piece.role in ("prompt", "injected", "generated")), None)


def _quoted(text: str) -> str:
    return f"‘{inert(text[:24])}’"


def _readings(piece: Piece) -> list[tuple[str, str]]:
    readings = []
    if piece.surprisal is not None and piece.probability is not None:
        readings += [("p", probability(piece.probability)), ("surprisal", number(piece.surprisal))]
    if piece.entropy is not None:
        readings.append(("entropy", number(piece.entropy)))
    return [*readings, ("token", count(piece.i))]


def _amount(progress: Progress) -> str:
    total = progress.total or 0
    if progress.unit == "bytes":
        return f"{size(progress.done)} of {size(total)}"
    return f"{count(progress.done)} of {count(total)} {progress.unit or ''}".rstrip()
