"""The Textual app: one timer drains the source, folds its events, and draws a frame."""

from __future__ import annotations

import gc
import sys
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
from moe_watch.routing.events import Perturbation, Refused, RunWarning, StreamItem
from moe_watch.sessions.experts.importance import ImportanceFile
from moe_watch.sessions.replaying.source import ReplaySource
from moe_watch.sessions.source import Source
from moe_watch.tui.drawing.colours import DARK, THEMES
from moe_watch.tui.input.actions import BY_ID, bindings, holder
from moe_watch.tui.input.command_palette import ActionProvider
from moe_watch.tui.input.control import Control
from moe_watch.tui.input.intake import Intake
from moe_watch.tui.screens.action_handlers import Performer, Performers
from moe_watch.tui.screens.check import CheckScreen
from moe_watch.tui.screens.dashboard import DashboardScreen
from moe_watch.tui.screens.dialogs import Dialogs
from moe_watch.tui.screens.experts import ExpertsScreen
from moe_watch.tui.screens.find import FindScreen
from moe_watch.tui.screens.help import HelpScreen
from moe_watch.tui.screens.sessions import SessionsScreen
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.state.frame_rate import FrameRate
from moe_watch.tui.state.importance import ImportanceOfRun
from moe_watch.tui.state.origin_words import model_of
from moe_watch.tui.state.pressure.injections import cut_in_words
from moe_watch.tui.state.pressure.trends import Trends
from moe_watch.tui.state.run import RunView
from moe_watch.tui.terminal.job_control import leave_on_signals, suspend
from moe_watch.tui.terminal.sanitize_filter import SanitizeFilter
from moe_watch.tui.text.sanitize import one_line
from moe_watch.tui.text.word_wrap import SENTENCE_LIMIT
from moe_watch.tui.widgets.bars.footer import FooterBar
from moe_watch.tui.widgets.bars.timeline import TimelineBar
from moe_watch.tui.widgets.toasts import Toasts

FOLD_SECONDS = 0.05
"""Without a timer, time for folding events before each frame; the rest waits for the next one."""
FOLD_SHARE = 0.5
"""With a timer, share of the frame interval for folding events: a lower frame rate must not fold fewer of them."""


class MoeWatchApp(App[None]):
    """The dashboard of one source.

    Starts the source when it is mounted and closes it when it ends.

    Args:
        source: where events come from.
        clock: seconds, monotonic; no other clock is read here.
        fps: frames per second at most; None for no timer, `tick` must then be called.
        theme: name of a theme; None for our dark one.
        simulated: mark the run as made up on the screen. For tests of the dashboard only.
        executor: where fits are computed; None for a thread.
        importance: profiles and ablations of the model, with their names; empty for the stored ones.
        closing: entered while the source is closed, after the terminal is restored.

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
        importance: Sequence[tuple[str, ImportanceFile]] = (),
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
        self.intake = Intake(self.view, clock)
        self.control = Control(source, self.view)
        self.trends = Trends(executor or ThreadPoolExecutor(1, thread_name_prefix="fits"), clock)
        self.toasts = Toasts(self, clock)
        self.importance = ImportanceOfRun(importance)
        self.simulated = simulated
        self.dashboard = DashboardScreen()
        self.dialogs = Dialogs(self, self.dashboard, self.control, self._show)
        self._clock = clock
        self._rate = None if fps is None else FrameRate(fps)
        self._timer: Timer | None = None
        self._while_closing = closing
        self._held = False
        """A replay was playing when the program was suspended."""
        self._unbound_shown = False
        """The message about a key without an action was shown."""
        performers = Performers(self, self.dashboard, self.control, self.dialogs, self.toasts)
        self._performers: dict[str, Performer] = {
            **performers.run(),
            **performers.seek(),
            **performers.panels(),
            "sessions": self._show_sessions,
            "experts": self._show_experts,
            "check": self._show_checks,
            "theme": self.search_themes,
            "help": lambda: self.push_screen(HelpScreen(self.frame_now)),
            "palette": self.action_command_palette,
            "suspend": self._suspend,
            "quit": self.exit,
        }

    @property
    def frame_now(self) -> Frame:
        """The frame of this moment."""
        return Frame.of(
            self.view,
            self.source,
            caught_up=self.intake.caught_up,
            queued=self.control.queued,
            simulated=self.simulated,
            silent=self.intake.silent,
            waited=self.intake.waited,
            trend=self.trends.of(self.view, self.dashboard.pressure.mode(self.view)),
            importance=self.importance.of(self.view.header),
        )

    def get_line_filters(self) -> Sequence[LineFilter]:
        return [*super().get_line_filters(), self._inert]

    def get_driver_class(self) -> type[Driver]:
        chosen = super().get_driver_class()
        if sys.platform == "win32" or chosen.__name__ != "LinuxDriver":
            return chosen
        from moe_watch.tui.terminal.resilient_driver import ResilientDriver  # imports modules that Windows lacks

        return ResilientDriver

    # Life cycle

    async def on_mount(self) -> None:
        leave_on_signals(self.exit)
        self.app_suspend_signal.subscribe(self, self._hold, immediate=True)
        self.app_resume_signal.subscribe(self, self._release)
        await self.push_screen(self.dashboard)
        self.source.start()
        self.call_after_refresh(self.tick)
        self._set_timer()
        gc.freeze()  # modules and widgets stay alive, and collecting them takes longer than some frames

    def _suspend(self) -> None:
        if refusal := suspend(self._driver):
            self.notify(f"suspend: {refusal}", severity="warning")

    def _hold(self, _: object) -> None:
        """Pause playback while the program is stopped. A live run pauses by itself, once its events are not read."""
        self._held = "speed" in self.source.abilities and not self.source.pace.paused
        if self._held:
            self.source.pause()

    def _release(self, _: object) -> None:
        if self._held:
            self.source.resume()
        self.intake.wake()
        self.refresh(layout=True)

    def action_help_quit(self) -> None:
        """Show which key quits; Textual binds this action to ctrl+c."""
        self.notify(f"{BY_ID['quit'].shown} quits, or ctrl+q from anywhere", markup=False)

    async def action_quit(self) -> None:
        self.workers.cancel_all()  # a palette that still searches would not find its widgets
        self.exit()

    def on_unmount(self) -> None:
        gc.unfreeze()
        self.trends.close()
        with self._while_closing():
            self.source.close()

    # Frames

    def tick(self) -> None:
        """Fold the events that arrived, and draw a frame."""
        started = self._clock()
        self.dialogs.follow_search()
        self.control.follow_aim()
        self.intake.drain(self.source, started)
        budget = FOLD_SECONDS if self._rate is None else FOLD_SHARE * self._rate.interval
        for item in self.intake.feed(started + budget):
            self._warn(item)
        drawing = self._clock()
        self.toasts.warn_of_source([*self.source.warnings, *self.importance.problems])
        self.trends.follow(self.view, self.dashboard.pressure.mode(self.view))
        self._show()
        if self._rate is not None:
            self.call_after_refresh(self._frame_done, drawing)

    def _warn(self, item: StreamItem) -> None:
        """Show a refused command or a warning of a run that takes commands; recorded ones are in the stream only."""
        if isinstance(item, Refused) and self.control.steering is not None:
            self.control.refused(item.command)
            self.toasts.warn(item.why)
        elif isinstance(item, RunWarning) and self.control.steering is not None:
            self.toasts.warn(item.text)
        elif isinstance(item, Perturbation) and self.control.steering is not None and (cut := cut_in_words(item)):
            self.toasts.tell(f"the template writes the conversation otherwise: {cut}")

    def _show(self) -> None:
        if self.dashboard.is_mounted:
            frame = self.frame_now
            with self.batch_update():
                self.dashboard.show(frame)
                if isinstance(self.screen, ExpertsScreen):
                    self.screen.show(frame, self._clock())

    def _frame_done(self, drawing: float) -> None:
        """Adapt the frame rate to the time of drawing; folding has a fixed share of any rate."""
        if self._rate is not None and self._rate.took(self._clock() - drawing):
            self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
        if self._rate is not None:
            self._timer = self.set_interval(self._rate.interval, self.tick)

    # Actions

    def on_key(self, event: events.Key) -> None:
        """Show once that a key has no action, and which key lists them."""
        unbound = self.screen is self.dashboard and event.key not in self.screen.active_bindings
        if unbound and event.key != "escape" and not self._unbound_shown:
            self._unbound_shown = True
            self.notify(f"no action on {one_line(event.key, 20)}: ? shows all keys", markup=False)

    async def action_press_key(self, key: str) -> None:
        """Perform the action that a key has now."""
        await self.action_perform(holder(key, self.frame_now).id, key)

    async def action_perform(self, name: str, key: str = "") -> None:
        """Perform an action of a key, the footer or the palette, or show why it cannot be performed."""
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
        if "seek" in action.needs:  # without this, the next frame would only begin the seek
            self.tick()
        else:
            self._show()

    @on(TimelineBar.Sought)
    def seek_pointed(self, message: TimelineBar.Sought) -> None:
        """Seek to where the timeline was clicked or dragged."""
        self.control.aim(message.token)

    @on(FooterBar.KeyClicked)
    async def perform_chosen(self, message: FooterBar.KeyClicked) -> None:
        """Perform the action of a key that was clicked in the footer."""
        await self.action_perform(message.action.id)

    @on(FindScreen.Asked)
    def find_asked(self, message: FindScreen.Asked) -> None:
        """Search for the text that was written."""
        self.dialogs.search(message.text)

    def _show_checks(self) -> None:
        frame = self.frame_now
        model = model_of(frame.origin)
        header = self.view.header if frame.status != "failed" else None
        self.push_screen(CheckScreen(model=model, header=header, no_color=self.no_color))

    def _show_experts(self) -> None:
        heatmap = self.dashboard.experts
        page = ExpertsScreen(self.frame_now, self._clock(), original=heatmap.original)
        self.push_screen(page, self.dashboard.show_layer)

    # Sessions

    def _show_sessions(self) -> None:
        frame = self.frame_now
        recorded = "" if frame.recording.mode == "off" else frame.recording.path
        running = self.control.steering is not None and not self.source.ended
        self.push_screen(SessionsScreen(present=frame.origin.path or recorded, running=running), self._replay)

    def _replay(self, path: Path | None) -> None:
        """Change to a recorded session; the source before is closed, and its recording completed."""
        if path is None:
            return
        source = ReplaySource(path, self._clock)
        try:
            source.start()
        except UserError as error:
            self.notify(one_line(str(error), SENTENCE_LIMIT), severity="warning", markup=False)
            return
        before, self.source = self.source, source
        self.control.change_source(source)
        self.intake.begin_source()
        self.toasts.begin_source()
        left = [before]  # a worker of Textual's is a reference cycle and would keep a source that it holds directly
        self.run_worker(partial(_close, left), thread=True, exit_on_error=False)
        self.tick()


def _close(left: list[Source]) -> None:
    """Close a source and release it; frames drawn of it are reference cycles, so collect them now."""
    left.pop().close()
    gc.collect()
