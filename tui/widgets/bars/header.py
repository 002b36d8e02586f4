"""Header: model, status, recording, generation rate, and observation cost."""

from __future__ import annotations

from collections.abc import Hashable

from msgspec import UNSET
from rich.style import Style
from textual.content import Content
from textual.geometry import Size
from textual.strip import Strip

from moe_watch.routing.events import Cost, Header, Progress
from moe_watch.routing.stats.timing_noise import doubt
from moe_watch.sessions.text import routers_text, top_k_text
from moe_watch.tui.drawing.line import CellLine, Part, cells_of, on
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.state.settings import sampling_text
from moe_watch.tui.text.format import count, percent, rate, signed, size
from moe_watch.tui.text.sanitize import one_line
from moe_watch.tui.widgets.frame_widget import FrameWidget

DETAIL_LEVELS = (5, 4, 3, 2, 1)
"""Levels of detail, from everything to 60 columns: without the program's name, fewer words, without the file's name."""
_SUFFIX = ".moe.jsonl"


class HeaderBar(FrameWidget):
    """One row, shortened step by step until it fits; the tooltip shows everything."""

    def state(self, frame: Frame) -> Hashable:
        return self._parts(frame, DETAIL_LEVELS[0])

    def draw(self, frame: Frame, size: Size) -> list[Strip]:
        self.tooltip = Content("\n".join(details(frame)))
        for detail in DETAIL_LEVELS:
            left, right = self._parts(frame, detail)
            if cells_of(*left, *right) + 3 <= size.width:
                break
        bar = self.palette.bar
        row = CellLine(size.width, bar).put(" ")
        room = size.width - cells_of(*right) - 3
        lead = CellLine(max(0, room), bar)
        for text, style in left:
            lead.put(text, style)
        for segment in lead.strip():
            row.put(segment.text, segment.style)
        row.put(" ")
        for text, style in right:
            row.put(text, style)
        return [row.strip()]

    def _parts(self, frame: Frame, detail: int) -> tuple[tuple[Part, ...], tuple[Part, ...]]:
        """Return the left and right parts; at detail 1 only the essentials."""
        ink = self.palette
        muted, text = on(ink.muted, ink.bar), ink.bar
        left: list[Part] = []
        if frame.simulated:
            left += [(" SIMULATED ", ink.chip), (" ", text)]
        if detail >= 5:
            left += [("moe-watch", on(ink.accent_bold, ink.bar)), ("  ", text)]
        left += self._model(frame, detail)
        left += [("  ", text), self._status(frame, detail)]
        if frame.view.multistep and detail >= 3:
            left.append(("  multistep", muted))
        separator: Part = (" · ", muted)
        right = [*self._recording(frame, detail), separator, self._rate(frame)]
        if detail > 1 or frame.view.tap_off_at is not None:
            right += [separator, self._cost(frame, detail)]
        return tuple(left), tuple(right)

    def _model(self, frame: Frame, detail: int) -> list[Part]:
        ink, header = self.palette, frame.view.header
        text, muted = ink.bar, on(ink.muted, ink.bar)
        if header is None:
            name = one_line(base_name(frame.origin.model), 32 if detail > 1 else 16)
            return [(name, on(ink.strong, ink.bar)) if name else ("no model yet", muted)]
        return [
            (one_line(header.model.name, 32 if detail > 1 else 16), on(ink.strong, ink.bar)),
            (f" · {one_line(header.backend.name, 16)}" if detail > 1 else "", text),
            (f" · {shape(header, short=detail < 4)}" if detail > 1 else "", muted),
        ]

    def _status(self, frame: Frame, detail: int) -> Part:
        ink = self.palette
        glyph, style = {
            "loading": ("◌", ink.muted),
            "waiting": ("◌", ink.muted),
            "prefill": ("◌", ink.accent),
            "streaming": ("▸", ink.accent),
            "paused": ("‖", ink.status.warn),
            "finished": ("■", ink.status.good),
            "failed": ("✗", ink.status.bad),
        }[frame.status]
        if frame.silence:
            status = f"{frame.status}, " if detail >= 3 else ""
            return f"{glyph} {status}{frame.silence}", on(ink.status.warn, ink.bar)
        words = [glyph, frame.status]
        if frame.status in ("loading", "prefill") and (share := done_share(frame.view.progress)) is not None:
            words.append(percent(share, 0))
        if frame.why and detail >= 5:
            words.append(f"({frame.why})")
        return " ".join(words), on(style, ink.bar)

    def _recording(self, frame: Frame, detail: int) -> list[Part]:
        ink, recording = self.palette, frame.recording
        text = ink.bar
        whole = frame.origin.name if frame.words.badge else recording.name
        shown = whole if detail >= 5 else whole.removesuffix(_SUFFIX)
        name = f" {one_line(shown, 40)}" if detail >= 3 else ""
        if frame.words.badge:
            return [(frame.words.badge, on(ink.accent_bold, ink.bar)), (f"{name} {frame.pace_text}", text)]
        match recording.mode:
            case "recording":
                sign = "● REC with a gap" if recording.problem else "● REC"
                return [
                    (sign, on(ink.status.bad, ink.bar) + Style(bold=True)),
                    (f"{name} {size(recording.bytes)}", text),
                ]
            case "failed":
                problem = f": {one_line(recording.problem, 60)}" if detail >= 5 and recording.problem else ""
                return [(f"recording failed{problem}", on(ink.status.bad, ink.bar) + Style(bold=True))]
            case "off":
                begun = frame.view.header is not None  # before the header there is nothing to record
                return [("○ not recording", on(ink.status.warn if begun else ink.muted, ink.bar))]

    def _rate(self, frame: Frame) -> Part:
        value = frame.view.rate.value() if frame.status == "streaming" and not frame.silence else None
        ink = self.palette
        return ("– tok/s", on(ink.muted, ink.bar)) if value is None else (f"{rate(value)} tok/s", ink.bar)

    def _cost(self, frame: Frame, detail: int) -> Part:
        ink = self.palette
        cost = frame.view.cost
        if frame.view.is_dense:
            return "no tap", on(ink.muted, ink.bar)
        if frame.view.tap_off_at is not None:
            return "tap off", on(ink.status.warn, ink.bar)
        if cost is None:
            return "tap cost n/a", on(ink.muted, ink.bar)
        if doubt(cost.ratio, cost.interval) is not None:
            return "tap cost too noisy", on(ink.muted, ink.bar)
        return f"tap {cost_text(cost) if detail >= 3 else more_time(cost.ratio)}", ink.bar


def base_name(model: str) -> str:
    """Return the last part of the path of a folder or file, or of a Hub id without its owner."""
    return model.rstrip("/").rpartition("/")[2]


def shape(header: Header, *, short: bool = False) -> str:
    """Return the numbers of layers, experts, and experts per token; `dense` without MoE layers."""
    model = header.model
    routers = routers_text(len(model.layers), model.experts, model.experts_per_token)
    top = top_k_text(model.experts_per_token)
    if short and not model.is_dense:
        routers = f"{len(model.layers)}×{model.experts} {top}"
    own = model.own_experts_per_token
    if short and model.is_dense:
        return "dense"
    return routers if own is UNSET else routers.replace(top, f"k={_k(model.experts_per_token)}, own {_k(own)}")


def _k(experts_per_token: int | list[int]) -> str:
    """Return a number of experts per token, or its range over the layers."""
    return top_k_text(experts_per_token).removeprefix("top-")


def more_time(ratio: float) -> str:
    """Return the added time per token in percent, from a ratio of speeds."""
    return f"{signed(100 * (1 / ratio - 1), 1)} %"


def cost_text(cost: Cost) -> str:
    """Return the observation cost with its 95 % interval."""
    if cost.interval is None:
        return more_time(cost.ratio)
    low, high = (signed(100 * (1 / ratio - 1), 1) for ratio in reversed(cost.interval))
    return f"{more_time(cost.ratio)} [{low}, {high}]"


def done_share(progress: Progress | None) -> float | None:
    """Return the completed share of loading or prefill, 0 to 1; None if unknown."""
    if progress is None or not progress.total:
        return None
    return min(1.0, progress.done / progress.total)


def details(frame: Frame) -> list[str]:
    """Return the lines of the tooltip: everything that the bar may leave out."""
    lines = [] if frame.view.header is None else _model_details(frame.view.header)
    lines += _changed_details(frame)
    recording = frame.recording
    if path := recording.path or frame.origin.path:
        lines.append(f"file: {one_line(path, 120)}")
    if recording.problem:
        lines.append(f"recording: {one_line(recording.problem, 120)}")
    lines.append(f"pace: {frame.pace_text}")
    lines.append(_cost_details(frame))
    return lines


def _model_details(header: Header) -> list[str]:
    model, backend = header.model, header.backend
    name = f"{one_line(model.name)} ({one_line(model.architecture)}), {shape(header)}"
    engine = f"{one_line(backend.name)} {one_line(backend.version)} on {one_line(backend.device)}"
    lines = [name, f"engine: {engine}", f"tap: {one_line(backend.tap)}"]
    if model.parameters is not None:
        lines.append(f"parameters: {count(model.parameters)}")
    return lines


def _changed_details(frame: Frame) -> list[str]:
    """Return the settings that may change during the run."""
    view, lines = frame.view, []
    if view.sampling is not None:
        lines.append(f"sampling: {sampling_text(view.sampling)}, seed {view.sampling.seed}")
    if view.multistep:
        lines.append("multistep: waits after every chunk")
    if view.tap_off_at is not None:
        lines.append(f"tap: off, routing is not observed from token {count(view.tap_off_at)} on")
    return lines


def _cost_details(frame: Frame) -> str:
    cost = frame.view.cost
    if frame.view.is_dense:
        return "tap cost: none"
    if cost is None:
        return "tap cost: not measured yet for this model and engine on this machine; `moe-watch bench` does"
    interval = "" if cost.interval is None else f" [{cost.interval[0]:.3f}, {cost.interval[1]:.3f}]"
    why = doubt(cost.ratio, cost.interval)
    noisy = "" if why is None else f"; too noisy: {why}"
    speeds = f"{rate(cost.tap_off)} tok/s without, {rate(cost.tap_on)} with"
    return f"tap cost: {speeds}, ratio {cost.ratio:.3f}{interval}{noisy}"
