"""Sources that return a list of items, and a manual clock. For tests of the dashboard only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from moe_watch.routing.events import StreamItem
from moe_watch.routing.router.masks import ExpertMask
from moe_watch.sessions.live.preview import PromptPreview
from moe_watch.sessions.source import Jump, Origin, PaceStatus, RecordingStatus, Timeline

LIVE = frozenset({"pause", "perturb", "turn", "prompt", "rate", "record", "mark", "tap", "multistep", "mask"})
REPLAY = frozenset({"pause", "speed"})
SEEKABLE = REPLAY | {"seek"}
RECORDING = RecordingStatus("recording", "pocket-20261120-1.moe.jsonl", "/data/pocket-20261120-1.moe.jsonl", 84_200)
MODEL = Origin("model")
REPLAYING = Origin(
    "session", name="pocket-20261120-1.moe.jsonl", path="/data/pocket-20261120-1.moe.jsonl", bytes=84_200
)


class ManualClock:
    """Clock that advances only by `advance`."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class ScriptedReplay:
    """A source that returns its items when drained, and stores the commands that it receives."""

    def __init__(
        self,
        items: Iterable[StreamItem] = (),
        *,
        abilities: Iterable[str] = LIVE,
        origin: Origin = MODEL,
        pace: PaceStatus | None = None,
        ended: bool = False,
        timeline: Timeline | None = None,
    ) -> None:
        self.abilities = frozenset(abilities)
        self.origin = origin
        plays = "speed" in self.abilities or origin.kind == "session"
        default = PaceStatus("speed", 1.0, False) if plays else PaceStatus("rate", 30.0, False)
        self.pace = pace or default
        self.ended = ended
        self.timeline = timeline
        self.warnings: list[str] = []
        self.asked: list[tuple] = []
        self._items = list(items)

    def add(self, items: Iterable[StreamItem]) -> None:
        """Add items to return."""
        self._items += items

    def start(self) -> None:
        self.asked.append(("start",))

    def drain(self) -> list[StreamItem]:
        items, self._items = self._items, []
        return items

    def pause(self) -> None:
        self.asked.append(("pause",))
        self.pace = replace(self.pace, paused=True)

    def resume(self) -> None:
        self.asked.append(("resume",))
        self.pace = replace(self.pace, paused=False)

    def set_pace(self, value: float) -> None:
        self.asked.append(("set_pace", value))
        self.pace = replace(self.pace, value=value)

    def seek(self, jump: Jump) -> None:
        self.asked.append(("seek", jump))

    def close(self) -> None:
        self.asked.append(("close",))


class Scripted(ScriptedReplay):
    """The same with a model and a recording."""

    def __init__(
        self, items: Iterable[StreamItem] = (), *, recording: RecordingStatus = RECORDING, **options: Any
    ) -> None:
        super().__init__(items, **options)
        self.recording = recording
        self.previews: list[PromptPreview] = []

    def perturb(self, text: str, *, form: str = "raw", at_once: bool = False) -> None:
        self.asked.append(("perturb", text, form, at_once))

    def turn(self, text: str) -> None:
        self.asked.append(("turn", text))

    def preview(self, text: str, *, turn: bool) -> PromptPreview:
        self.asked.append(("preview", text, turn))
        self.previews.append(PromptPreview())
        return self.previews[-1]

    def mask(self, mask: ExpertMask) -> None:
        self.asked.append(("mask", mask))

    def set_tap(self, on: bool) -> None:
        self.asked.append(("set_tap", on))

    def set_multistep(self, on: bool) -> None:
        self.asked.append(("set_multistep", on))

    def prompt(self, text: str) -> None:
        self.asked.append(("prompt", text))

    def set_recording(self, on: bool) -> None:
        self.asked.append(("set_recording", on))
        self.recording = RECORDING if on else RecordingStatus("off")

    def mark(self, note: str) -> None:
        self.asked.append(("mark", note))

    def restart(self) -> None:
        self.asked.append(("restart",))


def scripted(items: Iterable[StreamItem], **options: Any) -> ScriptedReplay:
    """Return a replay if the items come from a session file, and a live run otherwise."""
    kind = ScriptedReplay if options.get("origin", MODEL).kind == "session" else Scripted
    return kind(items, **options)
