"""Commands to the source, from keys and dialogs. Independent of screens."""

from __future__ import annotations

from dataclasses import dataclass, replace

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import PerturbationForm
from moe_watch.routing.router.masks import ExpertMask, check_mask
from moe_watch.sessions.replaying.search import Search, Searchable
from moe_watch.sessions.source import (
    BACK,
    HOME,
    STEP,
    Jump,
    PaceStatus,
    PendingPreview,
    Recordable,
    Seekable,
    Source,
    Steerable,
    Timeline,
)
from moe_watch.tui.input.seeking import SEEK_SECONDS, parse_jump, share_of, stop_beside
from moe_watch.tui.state.frame import Queued, is_paused
from moe_watch.tui.state.pace import scale_of
from moe_watch.tui.state.pressure.injections import GO_ON
from moe_watch.tui.state.run import RunView


class Unanswered:
    """Preview of a source without a model, which is never answered."""

    answer = None


@dataclass(frozen=True, slots=True)
class AskedMask:
    """Mask that was asked for and is not in effect yet."""

    mask: ExpertMask
    runs: int
    """Number of runs at the time of the command."""


class Control:
    """Sender of commands to the present source; stores the commands that have not taken effect yet.

    A command that the source has no interface for is ignored; `abilities` does not list it.
    """

    def __init__(self, source: Source, view: RunView) -> None:
        self.source = source
        self.view = view
        self.sought = ""
        """Text of the last search."""
        self.search: Search | None = None
        """Search under way."""
        self._queued: Queued | None = None
        self._mask: AskedMask | None = None
        self._aim: int | None = None
        """Token that the timeline was last pointed at, since the last frame."""

    def change_source(self, source: Source) -> None:
        """Stop the search, and send later commands to another source."""
        self.stop_search()
        self.source = source

    # Run

    @property
    def steering(self) -> Steerable | None:
        """The source, if it has a model that takes commands."""
        return self.source if isinstance(self.source, Steerable) else None

    @property
    def queued(self) -> Queued | None:
        """The injection that was asked for and has not arrived."""
        waiting = self._queued
        if waiting is None:
            return None
        view = self.view
        arrived = (view.runs, view.perturbations) != (waiting.runs, waiting.perturbations)
        if arrived or view.status in ("finished", "failed"):
            self._queued = None
        return self._queued

    def refused(self, command: str) -> None:
        """Forget the injection or the mask that waits: it was refused."""
        if command in ("inject", "start"):
            self._queued = None
        elif command == "mask":
            self._mask = None

    def toggle_pause(self) -> None:
        """Pause, or resume; at the end of a recording, play again."""
        if self.source.ended and "seek" in self.source.abilities:
            self.seek(HOME)
            self.source.resume()
        elif is_paused(self.source.pace, self.view):
            self.source.resume()
        else:
            self.source.pause()

    def toggle_tap(self) -> None:
        """Switch the tap on or off."""
        if (run := self.steering) is not None:
            run.set_tap(self.view.tap_off_at is not None)

    def toggle_multistep(self) -> None:
        """Pause after every chunk, or not."""
        if (run := self.steering) is not None:
            run.set_multistep(not self.view.multistep)

    @property
    def mask(self) -> ExpertMask:
        """Experts that are off, or will be from the next token on."""
        asked = self._mask
        if asked is not None and (asked.runs != self.view.runs or asked.mask == self.view.mask):
            asked = self._mask = None
        return self.view.mask if asked is None else asked.mask

    def switch_experts(self, mask: ExpertMask) -> str:
        """Switch these experts off, and all others on; return the reason of a refusal, or an empty text.

        The engine refuses more: masks that leave no choice among the groups of a router.
        """
        run, header = self.steering, self.view.header
        if run is None or header is None:
            return "no model is loaded"
        try:
            check_mask(mask, header.model, None)
        except UserError as error:
            return str(error)
        run.mask(mask)
        self._mask = AskedMask(mask, self.view.runs)
        return ""

    def go_on(self, *, at_once: bool = False) -> None:
        """Inject the default text at the next chunk boundary, or at once."""
        self._perturb(GO_ON, "raw", "go on", at_once=at_once)

    def say(self, text: str, form: PerturbationForm, *, at_once: bool = False) -> None:
        """Inject a text at the next chunk boundary, or at once."""
        self._perturb(text, form, "next turn" if form == "turn" else "say", at_once=at_once)

    def _perturb(self, text: str, form: PerturbationForm, label: str, *, at_once: bool) -> None:
        if (run := self.steering) is not None:
            run.perturb(text, form=form, at_once=at_once)
            self._queued = Queued(label, self.view.runs, self.view.perturbations, at_once)

    def turn(self, text: str) -> None:
        """Ask the next turn of the conversation, at once."""
        if (run := self.steering) is not None:
            run.turn(text)

    def preview(self, text: str, *, turn: bool) -> PendingPreview:
        """Ask for a prompt, or the next turn, as the model would be sent it."""
        return Unanswered() if (run := self.steering) is None else run.preview(text, turn=turn)

    def prompt(self, text: str) -> None:
        """Begin a new run with a prompt."""
        if (run := self.steering) is not None:
            run.prompt(text)

    def restart(self) -> None:
        """Start a new worker."""
        if (run := self.steering) is not None:
            run.restart()

    # Pace

    def change_pace(self, steps: int) -> PaceStatus:
        """Set the next higher or lower pace, and return it; a live run applies it a moment later."""
        pace = self.source.pace
        return self._set_pace(scale_of(pace).next(pace.value, steps))

    def unlimited(self) -> PaceStatus:
        """Remove the limit of the pace."""
        return self._set_pace(0.0)

    def _set_pace(self, value: float) -> PaceStatus:
        asked = replace(self.source.pace, value=value)
        self.source.set_pace(value)
        return asked

    # Recording

    def toggle_recording(self) -> None:
        """Switch recording on or off."""
        if isinstance(self.source, Recordable):
            self.source.set_recording(self.source.recording.mode != "recording")

    def mark(self, note: str) -> None:
        """Add a marker to the recording."""
        if isinstance(self.source, Recordable):
            self.source.mark(note)

    # Seek

    @property
    def timeline(self) -> Timeline | None:
        """Extent of the recording and the position in it, if the source can seek."""
        return self.source.timeline if isinstance(self.source, Seekable) else None

    def seek(self, jump: Jump) -> None:
        """Go to another position in the recording."""
        if isinstance(self.source, Seekable):
            self.source.seek(jump)

    def seek_seconds(self, direction: int) -> None:
        """Go `SEEK_SECONDS` of recorded time forward or back."""
        self.seek(Jump("time", direction * SEEK_SECONDS, relative=True))

    def step(self, direction: int) -> None:
        """Pause playback, and go one token forward or back."""
        self.source.pause()
        self.seek(STEP if direction > 0 else BACK)

    def seek_stop(self, direction: int) -> bool:
        """Go to the next or previous marker or injection; return False if there is none."""
        timeline = self.timeline
        playing = not (self.source.pace.paused or self.source.ended)
        jump = None if timeline is None else stop_beside(timeline, direction, playing=playing)
        if jump is not None:
            self.seek(jump)
        return jump is not None

    def seek_written(self, text: str) -> str:
        """Go to the position that the user wrote; return why it is none, or an empty text."""
        try:
            if (timeline := self.timeline) is not None:
                self.seek(parse_jump(text, timeline))
        except UserError as error:
            return str(error)
        return ""

    def seek_tenth(self, tenth: int) -> None:
        """Go to a tenth of the recording; 0 is its beginning."""
        if (timeline := self.timeline) is not None:
            self.seek(share_of(timeline, tenth / 10))

    def aim(self, token: int) -> None:
        """Go to a token with the next frame: a dragged mouse points at many tokens, and each seek reads the file."""
        self._aim = token

    def follow_aim(self) -> None:
        """Go to the token of the last `aim`."""
        if self._aim is not None and "seek" in self.source.abilities:
            self.seek(Jump("token", self._aim))
        self._aim = None

    # Search

    def find(self, text: str) -> bool:
        """Begin a search for the next occurrence of a text; return False if the source cannot be searched now."""
        self.stop_search()
        self.sought = text
        self.search = self.source.search(text) if isinstance(self.source, Searchable) else None
        return self.search is not None

    def follow_search(self) -> Search | None:
        """Return the search under way. One that is over is returned once, and its match is the target of a seek."""
        search = self.search
        if search is not None and search.over:
            self.search = None
            if search.match is not None:
                self.source.pause()
                self.seek(Jump("token", search.match.last + 1))
        return search

    def stop_search(self) -> None:
        """Stop the search under way."""
        if self.search is not None:
            self.search.stop()
        self.search = None
