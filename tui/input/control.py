"""What keys do to the source. Knows nothing of screens."""

from __future__ import annotations

from dataclasses import replace

from moe_watch.routing.events import PerturbationForm
from moe_watch.sessions.replaying.search import Search, Searchable
from moe_watch.sessions.source import BACK, HOME, STEP, Jump, PaceStatus, Source
from moe_watch.tui.input.seeking import SEEK_SECONDS, parse_jump, share_of, stop_beside
from moe_watch.tui.state.frame import Queued, is_paused
from moe_watch.tui.state.injections import GO_ON
from moe_watch.tui.state.run import RunView

RATES = (1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 0.0)
"""Tokens per second that `+` and `−` go through; 0 is unlimited, and the fastest."""
SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 0.0)
"""Factors on recorded time, likewise."""


class Control:
    """Asks the source for things, and remembers what waits for the chunk boundary."""

    def __init__(self, source: Source, view: RunView) -> None:
        self.source = source
        self.view = view
        self._queued: Queued | None = None
        self._aim: int | None = None
        """The token that the timeline was last pointed at, since the last frame."""
        self.sought = ""
        """The text that was looked for last."""
        self.search: Search | None = None
        """What is looked for now."""

    @property
    def queued(self) -> Queued | None:
        """What was asked for and has not arrived."""
        waiting = self._queued
        if waiting is None:
            return None
        view = self.view
        arrived = (view.runs, view.perturbations) != (waiting.runs, waiting.perturbations)
        if arrived or view.status in ("finished", "failed"):
            self._queued = None
        return self._queued

    def refused(self) -> None:
        """What was asked for will not come."""
        self._queued = None

    def toggle_pause(self) -> None:
        """Pause, or resume what is paused; play again what was played to its end."""
        if self.source.ended and "seek" in self.source.abilities:
            self.source.seek(HOME)
            self.source.resume()
        elif is_paused(self.source.pace, self.view):
            self.source.resume()
        else:
            self.source.pause()

    def toggle_tap(self) -> None:
        """Observe routing, or leave it alone."""
        self.source.set_tap(self.view.tap_off_at is not None)

    def toggle_multistep(self) -> None:
        """Pause after every chunk, or no longer."""
        self.source.set_multistep(not self.view.multistep)

    def go_on(self, *, at_once: bool = False) -> None:
        """Inject the standard text at the next chunk boundary, or at once."""
        self._perturb(GO_ON, "raw", "go on", at_once=at_once)

    def say(self, text: str, form: PerturbationForm, *, at_once: bool = False) -> None:
        """Inject a text at the next chunk boundary, or at once."""
        self._perturb(text, form, "next turn" if form == "turn" else "say", at_once=at_once)

    def turn(self, text: str) -> None:
        """Answer in this context, at once."""
        self.source.perturb(text, form="turn", at_once=True)

    def change_pace(self, steps: int) -> PaceStatus:
        """Go to the next faster or slower pace, and return it; a live run takes it a moment later."""
        pace = self.source.pace
        return self._set_pace(next_pace(RATES if pace.kind == "rate" else SPEEDS, pace.value, steps))

    def unlimited(self) -> PaceStatus:
        """As fast as it goes."""
        return self._set_pace(0.0)

    def _set_pace(self, value: float) -> PaceStatus:
        asked = replace(self.source.pace, value=value)
        self.source.set_pace(value)
        return asked

    def toggle_recording(self) -> None:
        """Record, or stop recording."""
        self.source.set_recording(self.source.recording.mode != "recording")

    def seek(self, jump: Jump) -> None:
        """Go elsewhere in the recording."""
        self.source.seek(jump)

    def seek_seconds(self, direction: int) -> None:
        """Go some recorded seconds on, or back."""
        self.source.seek(Jump("time", direction * SEEK_SECONDS, relative=True))

    def step(self, direction: int) -> None:
        """Hold playback, and show one token more, or less."""
        self.source.pause()
        self.source.seek(STEP if direction > 0 else BACK)

    def seek_stop(self, direction: int) -> bool:
        """Go to the next mark or injection, or to the one before; False if there is none."""
        timeline = self.source.timeline
        playing = not (self.source.pace.paused or self.source.ended)
        jump = None if timeline is None else stop_beside(timeline, direction, playing=playing)
        if jump is not None:
            self.source.seek(jump)
        return jump is not None

    def seek_written(self, text: str) -> None:
        """Go to the place that a person wrote.

        Raises:
            UserError: it is no place.
        """
        if (timeline := self.source.timeline) is not None:
            self.source.seek(parse_jump(text, timeline))

    def seek_tenth(self, tenth: int) -> None:
        """Go to a tenth of the recording, 0 being its beginning."""
        if (timeline := self.source.timeline) is not None:
            self.source.seek(share_of(timeline, tenth / 10))

    def find(self, text: str) -> bool:
        """Begin to look for the next place of a text; False where nothing can be looked through."""
        self.stop_search()
        self.sought = text
        self.search = self.source.search(text) if isinstance(self.source, Searchable) else None
        return self.search is not None

    def follow_search(self) -> Search | None:
        """The search under way; one that is over is given once, and where it led is gone to."""
        search = self.search
        if search is not None and search.over:
            self.search = None
            if search.match is not None:
                self.source.pause()
                self.source.seek(Jump("token", search.match.last + 1))
        return search

    def stop_search(self) -> None:
        """Let be what is looked for."""
        if self.search is not None:
            self.search.stop()
        self.search = None

    def aim(self, token: int) -> None:
        """Go to a token with the next frame: a dragged mouse points at many, and each jump reads the file anew."""
        self._aim = token

    def follow_aim(self) -> None:
        """Do what `aim` was told."""
        if self._aim is not None and "seek" in self.source.abilities:
            self.source.seek(Jump("token", self._aim))
        self._aim = None

    def _perturb(self, text: str, form: PerturbationForm, label: str, *, at_once: bool) -> None:
        self.source.perturb(text, form=form, at_once=at_once)
        self._queued = Queued(label, self.view.runs, self.view.perturbations, at_once)


def next_pace(paces: tuple[float, ...], value: float, steps: int) -> float:
    """The next pace of the list above `value`, or below for a negative step; the ends stay."""

    def order(pace: float) -> float:
        return pace if pace > 0 else float("inf")

    if steps > 0:
        return next((pace for pace in paces if order(pace) > order(value)), paces[-1])
    return next((pace for pace in reversed(paces) if order(pace) < order(value)), paces[0])
