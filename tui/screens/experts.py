"""Page "which experts matter": the ranking of each layer, and what keeping N of E experts would lose."""

from __future__ import annotations

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList, Static

from moe_watch.tui.screens.expert_rows import detail_rows, layer_head, layer_row, order_width, sentences
from moe_watch.tui.state.expert_numbers import expert_ids
from moe_watch.tui.state.expert_ranking import ExpertFacts, KeepPlan, RankingName
from moe_watch.tui.state.frame import Frame
from moe_watch.tui.text.sanitize import one_line

SCROLL_KEYS = "tab and ↑ ↓ scroll"
"""Shown if the experts of a layer do not fit."""
KEYS = "← → number kept · r ranking · enter to the heatmap · esc back"
ROOM = 5
"""Cells of the list's frame and scrollbar."""
LEAST_SECONDS = 0.5
"""Time between two drawings: the numbers are to be read, and thousands of experts take some milliseconds."""
TALL = 30
"""Least height of a screen with a line for each sentence."""
NOTHING_YET = "no token yet"


class ExpertsScreen(ModalScreen[int | None]):
    """Screen that returns the layer (position) to show in the heatmap, or None.

    Args:
        frame: the run on the screen; later frames are given to `show`.
        now: seconds, monotonic.
        original: experts of a pruned model have their numbers in the whole model.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,E", "leave", show=False),
        Binding("left,minus", "keep_fewer", show=False, priority=True),
        Binding("right,plus,equals_sign", "keep_more", show=False, priority=True),
        Binding("r", "next_ranking", show=False),
    ]

    def __init__(self, frame: Frame, now: float, *, original: bool = False) -> None:
        super().__init__(id="experts-page")
        self.facts = ExpertFacts.of(frame)
        self.ranking: RankingName = "count"
        self.keep = 0 if self.facts is None else self.facts.usual_keep
        """Number of experts that each layer keeps; 0 before the first token."""
        self._original = original
        self._drawn = (frame.view.runs, frame.view.tokens)
        self._drawn_at = now

    def compose(self) -> ComposeResult:
        with Vertical(id="experts-box") as box:
            box.border_title = "Which experts matter"
            box.border_subtitle = KEYS
            yield Static(id="experts-choice")
            yield Static(id="experts-words")
            yield Static(id="experts-head")
            yield OptionList(id="experts-list", markup=False)
        with VerticalScroll(id="experts-layer"):
            yield Static(id="experts-detail")

    def on_mount(self) -> None:
        self._list.focus()
        self.watch(self._layer, "show_vertical_scrollbar", self._name_scroll_keys)
        self._draw()

    def on_resize(self) -> None:
        self._draw()

    @property
    def _list(self) -> OptionList:
        return self.query_one("#experts-list", OptionList)

    @property
    def _layer(self) -> VerticalScroll:
        return self.query_one("#experts-layer", VerticalScroll)

    def _name_scroll_keys(self, overflows: bool) -> None:
        self._layer.can_focus = overflows
        self._layer.border_subtitle = SCROLL_KEYS if overflows else ""

    @property
    def plan(self) -> KeepPlan | None:
        """The plan for the chosen number and ranking; None before the first token."""
        facts = self.facts
        if facts is None:
            return None
        name = self.ranking if self.ranking in facts.rankings else "count"
        keep = min(max(self.keep, facts.keeps.start), facts.experts)
        return KeepPlan(facts, name, keep)

    def show(self, frame: Frame, now: float) -> None:
        """Draw the run as it is now, unless it has no new token, or was drawn a moment ago."""
        at = frame.view.runs, frame.view.tokens
        if at == self._drawn or now - self._drawn_at < LEAST_SECONDS or not self.is_mounted:
            return
        self._drawn_at = now
        self._drawn, self.facts = at, ExpertFacts.of(frame)
        if self.facts is not None and not self.keep:
            self.keep = self.facts.usual_keep
        self._draw()

    def _draw(self) -> None:
        plan = self.plan
        if plan is None:
            self.query_one("#experts-words", Static).update(Content(NOTHING_YET))
            return
        facts, width = plan.facts, max(1, self.size.width - ROOM)
        box = self.query_one("#experts-box")
        box.border_title = Content(f"Which experts matter · {one_line(facts.header.model.name, 40)}")
        self.query_one("#experts-choice", Static).update(self._choice(plan))
        words = Content("\n" if self.size.height >= TALL else " ").join(Content(each) for each in sentences(plan))
        self.query_one("#experts-words", Static).update(words)
        self.set_class(self.size.height < TALL, "-short")
        room = order_width(plan, width)
        self.query_one("#experts-head", Static).update(layer_head(room))
        rows = [layer_row(plan, layer, room, self._names) for layer in range(len(facts.counts))]
        self._show_rows(rows)
        self.describe()

    def _show_rows(self, rows: list[Content]) -> None:
        listed = self._list
        if listed.option_count != len(rows):
            listed.clear_options()
            listed.add_options(rows)
            listed.highlighted = 0
            return
        for at, row in enumerate(rows):
            listed.replace_option_prompt_at_index(at, row)

    @property
    def _names(self) -> list[list[int]] | None:
        return expert_ids(self.facts.header.model) if self._original and self.facts is not None else None

    def _choice(self, plan: KeepPlan) -> Content:
        """Return the line with the number kept and the rankings, each of which can be clicked."""
        rankings = " ".join(
            f"[reverse] {name} [/]" if name == plan.name else f"[@click=screen.choose('{name}')] {name} [/]"
            for name in plan.facts.rankings
        )
        keep = f"[@click=screen.keep_fewer] ‹ [/][bold]{plan.keep}[/][@click=screen.keep_more] › [/]"
        return Content.from_markup(f"keep {keep} of {plan.facts.experts} per layer, by {rankings}")

    @on(OptionList.OptionHighlighted)
    def describe(self) -> None:
        """Show the experts of the layer under the cursor."""
        plan, at = self.plan, self._list.highlighted
        if plan is None or at is None or at >= len(plan.facts.counts):
            return
        self._layer.border_title = Content(f"Layer {plan.facts.layers[at]}")
        self.query_one("#experts-detail", Static).update(detail_rows(plan, at, self._names))

    # Actions

    @on(OptionList.OptionSelected)
    def choose_layer(self) -> None:
        """Return the layer under the cursor."""
        self.dismiss(self._list.highlighted if self.facts is not None else None)

    def action_leave(self) -> None:
        """Return to the dashboard."""
        self.dismiss(None)

    def action_keep_fewer(self) -> None:
        """Keep one expert fewer in each layer, as far as possible."""
        self._change_keep(-1)

    def action_keep_more(self) -> None:
        """Keep one expert more in each layer, as far as possible."""
        self._change_keep(1)

    def _change_keep(self, step: int) -> None:
        plan = self.plan
        if plan is not None:
            self.keep = min(max(plan.keep + step, plan.facts.keeps.start), plan.facts.experts)
            self._draw()

    def action_next_ranking(self) -> None:
        """Rank by the next known quantity."""
        plan = self.plan
        if plan is not None:
            known = plan.facts.rankings
            self.action_choose(known[(known.index(plan.name) + 1) % len(known)])

    def action_choose(self, name: RankingName) -> None:
        """Rank by a quantity."""
        self.ranking = name
        self._draw()
