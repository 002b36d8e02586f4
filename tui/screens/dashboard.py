"""Main screen: two columns of panels, or one panel at a time in a small terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import Screen

from moe_watch.tui.state.frame import Frame
from moe_watch.tui.widgets.bars.banner import Banner
from moe_watch.tui.widgets.bars.footer import FooterBar
from moe_watch.tui.widgets.bars.header import HeaderBar
from moe_watch.tui.widgets.bars.tabs import TABS, TabBar
from moe_watch.tui.widgets.bars.timeline import TimelineBar
from moe_watch.tui.widgets.bars.too_small import LEAST_HEIGHT, LEAST_WIDTH, TooSmall
from moe_watch.tui.widgets.frame_widget import FrameWidget, Panel
from moe_watch.tui.widgets.panels.entropy import EntropyPanel
from moe_watch.tui.widgets.panels.experts.heatmap import ExpertHeatmap
from moe_watch.tui.widgets.panels.pressure.panel import PressurePanel
from moe_watch.tui.widgets.panels.stream import StreamPanel
from moe_watch.tui.widgets.panels.vitals.panel import VitalsPanel

MANY_EXPERTS = 96
"""Number of experts above which the heatmap gets all the width that the text can spare."""
MANY_LAYERS = 24
"""Number of layers above which the heatmap gets more height."""


class DashboardScreen(Screen[None]):
    """All panels and bars of one run."""

    AUTO_FOCUS = ""
    ALLOW_IN_MAXIMIZED_VIEW = "#header, #banner, #bottom, #too-small"
    HORIZONTAL_BREAKPOINTS = [(0, "-tiny"), (LEAST_WIDTH, "-narrow"), (100, "-wide"), (200, "-rich")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (LEAST_HEIGHT, "-short"), (22, "-medium"), (28, "-tall"), (50, "-high")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(str(number), f"tab('{tab}')", show=False) for number, tab in enumerate(TABS, 1)),
        Binding("left", "next_tab(-1)", show=False),
        Binding("right", "next_tab(1)", show=False),
        Binding("tab", "next_panel(1)", show=False),
        Binding("shift+tab", "next_panel(-1)", show=False),
        Binding("pageup", "page(-1)", show=False),
        Binding("pagedown", "page(1)", show=False),
        Binding("end", "follow", show=False),
    ]

    def __init__(self) -> None:
        super().__init__(id="dashboard", classes=f"-tab-{TABS[0]}")
        self.stream = StreamPanel(id="stream")
        self.pressure = PressurePanel(id="pressure")
        self.experts = ExpertHeatmap(id="experts")
        self.entropy = EntropyPanel(id="entropy")
        self.vitals = VitalsPanel(id="vitals")
        self.tab_bar = TabBar(id="tabs")
        self.timeline = TimelineBar(id="timeline")
        self._all: tuple[FrameWidget, ...] = ()
        self._seekable = False
        """Keys seek in a recording."""
        self._chosen: Panel | None = None
        """Panel to focus when it is visible."""

    @property
    def panels(self) -> tuple[Panel, ...]:
        """The five panels, in the order of their tabs."""
        return self.stream, self.experts, self.entropy, self.pressure, self.vitals

    def compose(self) -> ComposeResult:
        bars = HeaderBar(id="header"), Banner(id="banner"), self.timeline, FooterBar(id="footer")
        too_small = TooSmall(id="too-small")
        self._all = (*bars, self.tab_bar, too_small, *self.panels)
        yield bars[0]
        yield bars[1]
        yield self.tab_bar
        with Container(id="main"):
            with Container(id="left"):
                yield self.stream
                yield self.pressure
            with Container(id="right"):
                yield self.experts
                with Container(id="lower"):
                    yield self.entropy
                    yield self.vitals
        with Container(id="bottom"):
            yield from bars[2:]
        yield too_small

    def on_mount(self) -> None:
        """Apply the layout for this size now; Textual does so only after a first frame in the wrong one."""
        width, height = self.app.size
        for size, breakpoints in ((width, self.HORIZONTAL_BREAKPOINTS), (height, self.VERTICAL_BREAKPOINTS)):
            self.add_class(max((least, name) for least, name in breakpoints if size >= least)[1])

    def show(self, frame: Frame) -> None:
        """Draw a frame: only visible widgets, only what has changed."""
        self._seekable = frame.seekable
        if frame.view.header is not None:
            self.set_class(frame.view.header.model.experts > MANY_EXPERTS, "-many")
            self.set_class(len(frame.view.header.model.layers) > MANY_LAYERS, "-deep")
        for drawn in self._all:
            if isinstance(drawn, Banner | TimelineBar) or drawn.is_on_screen:
                drawn.show(frame)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:  # noqa: ARG002 - Textual's own
        """Leave arrows, digits and `end` to the app in a replay, where they seek, except `end` in a scrolled text."""
        if not self._seekable:
            return True
        return action not in ("next_tab", "tab") and (action != "follow" or self.stream.top is not None)

    def action_tab(self, tab: str) -> None:
        """Show a panel in a narrow terminal; focus it anywhere else."""
        if not self.one_column:
            self.panels[TABS.index(tab)].focus()
            return
        self.minimize()
        self.tab_bar.active = tab
        for name in TABS:
            self.set_class(name == tab, f"-tab-{name}")
        self.tab_bar.redraw()

    def action_next_tab(self, step: int) -> None:
        """Show the panel beside this one."""
        if self.one_column:
            self.action_tab(TABS[(TABS.index(self.tab_bar.active) + step) % len(TABS)])

    def action_next_panel(self, step: int) -> None:
        """Focus and show the next or previous panel; in a narrow terminal first the visible one."""
        if not self.one_column:
            (self.focus_next if step > 0 else self.focus_previous)()
            return
        before = self._chosen or self.focused
        at = TABS.index(self.tab_bar.active)
        if isinstance(before, Panel):
            at = (self.panels.index(before) + step) % len(self.panels)
        self._chosen = self.panels[at]
        if not self._chosen.is_on_screen:
            self.action_tab(TABS[at])
        self.call_after_refresh(self._focus_chosen)

    def _focus_chosen(self) -> None:
        if self._chosen is not None:
            self._chosen.focus()
        self._chosen = None

    def action_page(self, pages: int) -> None:
        """Scroll the stream."""
        self.stream.page(pages)

    def action_follow(self) -> None:
        """Follow the end of the stream."""
        self.stream.follow()

    @property
    def one_column(self) -> bool:
        """One panel is shown at a time."""
        return self.has_class("-narrow") or self.has_class("-short") or self.has_class("-medium")

    def switch(self, panel: Panel, toggle: Callable[[], None]) -> None:
        """Toggle a display of a panel, and show the panel if another tab or a maximised panel hides it."""
        toggle()
        self._bring_up(panel)

    def show_panel(self, panel: Panel) -> None:
        """Show a panel, and focus it."""
        self._bring_up(panel)
        self._chosen = panel
        self.call_after_refresh(self._focus_chosen)

    def show_layer(self, layer: int | None) -> None:
        """Show the heatmap with its cursor on a layer, by its position."""
        if layer is not None:
            self.show_panel(self.experts)
            self.call_after_refresh(self.experts.go_to, layer)

    def _bring_up(self, panel: Panel) -> None:
        if panel.is_on_screen:
            return
        self.minimize()
        if self.one_column:
            self.action_tab(TABS[self.panels.index(panel)])

    def toggle_maximized(self) -> None:
        """Maximise the focused panel, or that of the present tab; or restore the layout."""
        if self.maximized is not None:
            self.minimize()
            return
        focused = self.focused
        panel = focused if isinstance(focused, Panel) else self.panels[TABS.index(self.tab_bar.active)]
        self.maximize(panel, container=False)

    @on(TabBar.TabClicked)
    def choose_tab(self, message: TabBar.TabClicked) -> None:
        """Show the panel of a tab that was clicked."""
        self.action_tab(message.tab)
