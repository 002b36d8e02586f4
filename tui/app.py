"""The Textual app: one timer takes in what the source has, folds it, and draws a frame."""

from __future__ import annotations

import gc
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import events, on
from textual.app import App
from textual.binding import BindingType
from textual.driver import Driver
from textual.filter import LineFilter
from textual.timer import Timer

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Marker, Refused, RunWarning, StreamItem, Vitals
from moe_watch.sessions.replaying.source import ReplaySource
from moe_watch.sessions.source import END, HOME, PaceStatus, Source
from moe_watch.tui.drawing.colours import DARK, THEMES
from moe_watch.tui.input.actions import BY_ID, bindings, holder
from moe_watch.tui.input.command_palette import ActionProvider
from moe_watch.tui.input.control import Control
from moe_watch.tui.screens.ask import JUMP, NOTE, PROMPT, SAY, SAY_OR_TURN, TURN, AskScreen, Question, Reply
from moe_watch.tui.screens.dashboard import DashboardScreen
from moe_watch.tui.screens.find import FindScreen, quoted, told
from moe_watch.tui.screens.help import HelpScreen
from moe_watch.tui.screens.sessions import SessionsScreen
from moe_watch.tui.state.frame import Frame, pace_in_words
from moe_watch.tui.state.frame_rate import FrameRate
from moe_watch.tui.state.run import RunView, stage_of
from moe_watch.tui.state.trends import Trends
from moe_watch.tui.terminal.job_control import leave_on_signals, suspend
from moe_watch.tui.terminal.sanitize_filter import SanitizeFilter
from moe_watch.tui.text.sanitize import one_line
from moe_watch.tui.text.word_wrap import SENTENCE_LIMIT
from moe_watch.tui.widgets.bars.footer import FooterBar
from moe_watch.tui.widgets.bars.timeline import TimelineBar
from moe_watch.tui.widgets.toasts import Toasts

FOLD_SECONDS = 0.05
"""A frame without a timer takes in items for so long at most; what is left waits for the next one."""
FOLD_SHARE = 0.5
"""With a timer, for this share of the time between frames: a slower rate must not take in less."""
HISTORY_KEPT = 50
PACE_SECONDS = 2.0
"""How long a new pace is shown; several keys in a row are usual."""


class MoeWatchApp(App[None]):
    """The dashboard of one source.

    Starts the source when it is mounted and closes it when it ends.

    Args:
        source: where events come from.
        clock: seconds, monotonic; nothing here reads another clock.
        fps: frames per second at most; None leaves the timer out, and `tick` must be called.
        theme: name of a theme; None takes our dark one.
        simulated: says loudly that what is shown was made up. For tests of the dashboard only.
        executor: where fits are made; None for one thread beside the screen's.
        closing: entered while the source is closed, when the terminal is restored already.

    Raises:
        UserError: there is no such theme.
    """

    CSS_PATH = "dashboard.tcss"
    TITLE = "moe-watch"
    COMMANDS = {ActionProvider}  # noqa: RUF012 - Textual reads it from the class
    BINDINGS: ClassVar[list[BindingType]] = bindings()

    def __init__(
        self,
        source: Source,
        *,
        clock: Callable[[], float],
        fps: float | None = 12.0,
        theme: str | None = None,
        simulated: bool = False,
        executor: Executor | None = None,
        closing: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        super().__init__()
        self.animation_level = "none"
        for known in THEMES:
            self.register_theme(known)
        if theme is not None and theme not in self.available_themes:
            advice = f"one of {', '.join(sorted(self.available_themes))}"
            raise UserError(f"no theme is called {theme!r}", advice=advice)
        self.theme = theme or DARK.name
        self._inert = SanitizeFilter()
        self.source = source
        self.view = RunView()
        self.control = Control(source, self.view)
        self.trends = Trends(executor or ThreadPoolExecutor(1, thread_name_prefix="fits"), clock)
        self.toasts = Toasts(self, clock)
        self.simulated = simulated
        self.dashboard = board = DashboardScreen()
        self._clock = clock
        self._rate = None if fps is None else FrameRate(fps)
        self._timer: Timer | None = None
        self._backlog: deque[StreamItem] = deque()
        self._said: deque[str] = deque(maxlen=HISTORY_KEPT)
        self._while_closing = closing
        self._held = False
        """A replay was playing when the program was suspended."""
        self._unbound_told = False
        """It was said that a key does nothing."""
        self._stage: tuple[object, ...] = ()
        self._stage_began = clock()
        """When the present stage of loading or prefill began."""
        self._heard = clock()
        """When the worker last said anything."""
        self._performers: dict[str, Callable[[], object]] = {
            "pause": self.control.toggle_pause,
            "multistep": self.control.toggle_multistep,
            "tap": self.control.toggle_tap,
            "faster": lambda: self._tell_pace(self.control.change_pace(1)),
            "slower": lambda: self._tell_pace(self.control.change_pace(-1)),
            "unlimited": lambda: self._tell_pace(self.control.unlimited()),
            "restart": lambda: self.source.restart(),
            "go_on": self.control.go_on,
            "go_on_now": lambda: self.control.go_on(at_once=True),
            "say": self._ask_say,
            "turn": lambda: self._ask(TURN, lambda reply: self.control.turn(reply.text)),
            "prompt": lambda: self._ask(PROMPT, lambda reply: self.source.prompt(reply.text)),
            "back": lambda: self.control.seek_seconds(-1),
            "on": lambda: self.control.seek_seconds(1),
            "previous_token": lambda: self.control.step(-1),
            "next_token": lambda: self.control.step(1),
            "previous_mark": lambda: self._seek_stop(-1),
            "next_mark": lambda: self._seek_stop(1),
            "home": lambda: self.control.seek(HOME),
            "end": lambda: self.control.seek(END),
            "jump": lambda: self._ask(JUMP, lambda reply: self._seek_written(reply.text)),
            "tenth": lambda: self._ask(JUMP, lambda reply: self._seek_written(reply.text)),
            "find": self._find,
            "find_next": self._find_next,
            "record": self.control.toggle_recording,
            "mark": lambda: self._ask(NOTE, self._mark),
            "sessions": self._show_sessions,
            "pressure_mode": partial(board.switch, board.pressure, board.pressure.toggle_mode),
            "pressure_lines": partial(board.switch, board.pressure, board.pressure.toggle_lines),
            "pressure_fits": partial(board.switch, board.pressure, board.pressure.toggle_fits),
            "token_colour": partial(board.switch, board.stream, board.stream.toggle_colouring),
            "maximize": self.dashboard.toggle_maximized,
            "theme": self.search_themes,
            "help": lambda: self.push_screen(HelpScreen(self.frame_now)),
            "palette": self.action_command_palette,
            "suspend": self._suspend,
            "quit": self.exit,
        }

    @property
    def frame_now(self) -> Frame:
        """This moment."""
        return Frame.of(
            self.view,
            self.source,
            caught_up=not self._backlog,
            queued=self.control.queued,
            simulated=self.simulated,
            silent=self._clock() - self._heard,
            waited=self._clock() - self._stage_began,
            trend=self.trends.of(self.view, self.dashboard.pressure.mode(self.view)),
        )

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [*super().get_line_filters(), self._inert]

    def get_driver_class(self) -> type[Driver]:
        chosen = super().get_driver_class()
        if sys.platform == "win32" or chosen.__name__ != "LinuxDriver":
            return chosen
        from moe_watch.tui.terminal.resilient_driver import ResilientDriver  # imports what Windows does not have

        return ResilientDriver

    async def on_mount(self) -> None:
        leave_on_signals(self.exit)
        self.app_suspend_signal.subscribe(self, self._hold, immediate=True)
        self.app_resume_signal.subscribe(self, self._release)
        await self.push_screen(self.dashboard)
        self.source.start()
        self.call_after_refresh(self.tick)
        self._set_timer()
        gc.freeze()  # modules and widgets are here to stay, and to look through them takes longer than some frames

    def _suspend(self) -> None:
        if refusal := suspend(self._driver):
            self.notify(f"suspend: {refusal}", severity="warning")

    def _hold(self, _: object) -> None:
        """Hold a replay while the program is stopped; a live run waits by itself, once nothing reads what it sends."""
        self._held = self.source.recording.mode == "replay" and not self.source.pace.paused
        if self._held:
            self.source.pause()

    def _release(self, _: object) -> None:
        if self._held:
            self.source.resume()
        self._heard = self._clock()
        self.refresh(layout=True)

    def action_help_quit(self) -> None:
        """Textual's answer to ctrl+c, in our words."""
        self.notify(f"{BY_ID['quit'].shown} quits, or ctrl+q from anywhere", markup=False)

    async def action_quit(self) -> None:
        self.workers.cancel_all()  # a palette that still searches would not find its widgets
        self.exit()

    def on_unmount(self) -> None:
        gc.unfreeze()
        self.trends.close()
        with self._while_closing():
            self.source.close()

    def tick(self) -> None:
        """Take in what has arrived and draw a frame."""
        started = self._clock()
        self._follow_search()
        self._listen(started)
        budget = FOLD_SECONDS if self._rate is None else FOLD_SHARE * self._rate.interval
        while self._backlog and self._clock() - started <= budget:
            self._take_in(self._backlog.popleft())
        drawing = self._clock()
        self.toasts.warn_of_source(self.source.warnings)
        self.trends.follow(self.view, self.dashboard.pressure.mode(self.view))
        self._show()
        if self._rate is not None:
            self.call_after_refresh(self._frame_done, drawing)

    def _listen(self, now: float) -> None:
        """Fetch what has arrived; readings of the machine and marks are made here and say nothing of the worker."""
        self.control.follow_aim()
        arrived = self.source.drain()
        self._backlog.extend(arrived)
        if any(not isinstance(item, Vitals | Marker) for item in arrived):
            self._heard = now

    def _take_in(self, item: StreamItem) -> None:
        self.view.feed(item)
        stage = stage_of(self.view)
        if stage != self._stage:
            self._stage, self._stage_began = stage, self._clock()
        if isinstance(item, Refused) and self.source.recording.mode != "replay":
            self._tell_refusal(item)
        elif isinstance(item, RunWarning) and self.source.recording.mode != "replay":
            self.toasts.warn(item.text)

    def _tell_refusal(self, refused: Refused) -> None:
        """Show why a command was not carried out."""
        if refused.command in ("inject", "start"):
            self.control.refused()
        self.toasts.warn(refused.why)

    def _show(self) -> None:
        if self.dashboard.is_mounted:
            with self.batch_update():
                self.dashboard.show(self.frame_now)

    def _frame_done(self, drawing: float) -> None:
        """Adapt the rate to what drawing takes; taking in has a share of its own, whatever the rate is."""
        if self._rate is not None and self._rate.took(self._clock() - drawing):
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        if self._rate is not None:
            self._timer = self.set_interval(self._rate.interval, self.tick)

    def on_key(self, event: events.Key) -> None:
        """Say once that a key does nothing, and where those are that do."""
        unbound = self.screen is self.dashboard and event.key not in self.screen.active_bindings
        if unbound and event.key != "escape" and not self._unbound_told:
            self._unbound_told = True
            self.notify(f"no action on {one_line(event.key, 20)}: ? shows all keys", markup=False)

    async def action_press_key(self, key: str) -> None:
        """Do what a key stands for now."""
        await self.action_perform(holder(key, self.frame_now).id, key)

    async def action_perform(self, name: str, key: str = "") -> None:
        """Do what a key, the footer or the palette asks for, or say why not."""
        action = BY_ID[name]
        frame = self.frame_now
        if not action.offered(frame):
            self.toasts.tell(action.refusal(frame), severity="warning")
            return
        if "seek" in action.needs:
            self.control.stop_search()
        if name == "tenth" and key:
            self.control.seek_tenth(int(key))
        else:
            self._performers[name]()
        if "seek" in action.needs:  # or the next frame would only set out for there
            self.tick()
        else:
            self._show()

    @on(TimelineBar.Sought)
    def seek_pointed(self, message: TimelineBar.Sought) -> None:
        """The timeline was clicked, or dragged."""
        self.control.aim(message.token)

    @on(FooterBar.KeyClicked)
    async def perform_chosen(self, message: FooterBar.KeyClicked) -> None:
        """A key in the footer was clicked."""
        await self.action_perform(message.action.id)

    def _tell_pace(self, pace: PaceStatus) -> None:
        """Give a sign where the bars have none: a live run's pace is in the footer, if there is room for it."""
        if pace.kind == "rate":
            self.notify(f"pace: {pace_in_words(pace)}", timeout=PACE_SECONDS, markup=False)

    def _seek_stop(self, direction: int) -> None:
        if not self.control.seek_stop(direction):
            where = "after" if direction > 0 else "before"
            self.toasts.tell(f"no mark or injection {where} this token")

    def _seek_written(self, text: str) -> None:
        try:
            self.control.seek_written(text)
        except UserError as error:
            self.notify(one_line(str(error), SENTENCE_LIMIT), severity="warning", markup=False)

    def _find(self) -> None:
        self.push_screen(FindScreen(self.control.sought), lambda _: self.control.stop_search())

    def _find_next(self) -> None:
        if self.control.sought:
            self._look_for(self.control.sought)
        else:
            self._find()

    @on(FindScreen.Asked)
    def find_asked(self, message: FindScreen.Asked) -> None:
        """A text was written that is to be looked for."""
        self._look_for(message.text)

    def _look_for(self, text: str) -> None:
        if not self.control.find(text):
            self.notify(f"{BY_ID['find'].title}: nothing of the recording can be looked through", markup=False)

    def _follow_search(self) -> None:
        """Say how far a search is, and what it came to; going there was asked for already."""
        search = self.control.follow_search()
        under_way = search is not None and not search.over
        self.dashboard.timeline.note = f"{quoted(search.text)}: {told(search)}" if search and under_way else ""
        if search is None:
            return
        if isinstance(self.screen, FindScreen):
            self.screen.tell(search)
        elif search.over and (search.match is None or search.wrapped):
            self.notify(f"{quoted(search.text)}: {told(search)}", markup=False)

    def _show_sessions(self) -> None:
        recording = self.source.recording
        running = recording.mode != "replay" and not self.source.ended
        path = "" if recording.mode == "off" else recording.path
        self.push_screen(SessionsScreen(present=path, running=running), self._replay)

    def _replay(self, path: Path | None) -> None:
        """Leave the present source for a recording; what it recorded is closed in an orderly way."""
        if path is None:
            return
        source = ReplaySource(path, self._clock)
        try:
            source.start()
        except UserError as error:
            self.notify(one_line(str(error), SENTENCE_LIMIT), severity="warning", markup=False)
            return
        self.control.stop_search()
        before, self.source = self.source, source
        self.control.source = source
        self._backlog.clear()
        self.toasts.begin_source()
        left = [before]  # which a worker of Textual's, a reference cycle, would keep with all that it has read
        self.run_worker(partial(_close, left), thread=True, exit_on_error=False)
        self.tick()

    def _ask_say(self) -> None:
        question = SAY_OR_TURN if "turn" in self.source.abilities else SAY
        self._ask(question, lambda reply: self.control.say(reply.text, reply.form, at_once=reply.at_once))

    def _ask(self, question: Question, then: Callable[[Reply], None]) -> None:
        """Ask for a text, and do something with it if there is one."""

        def answered(reply: Reply | None) -> None:
            if reply is not None:
                self._remember(reply.text)
                then(reply)
                self._show()

        self.push_screen(AskScreen(question, list(self._said)), answered)

    def _remember(self, text: str) -> None:
        """Keep what was written, so that it can be written again; the same text twice only once."""
        if text and text not in list(self._said)[-1:]:
            self._said.append(text)

    def _mark(self, reply: Reply) -> None:
        self.source.mark(reply.text)
        self.notify(f"marked at token {self.view.tokens:,}", markup=False)


def _close(left: list[Source]) -> None:
    """Close a source and let go of it; frames drawn of it are reference cycles, and many for the collector to find."""
    left.pop().close()
    gc.collect()
