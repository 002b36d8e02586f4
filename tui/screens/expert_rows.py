"""Rows and sentences of the page of experts."""

from __future__ import annotations

from math import isnan

from rich.cells import cell_len, set_cell_size
from textual.content import Content

from moe_watch.sessions.text import plural
from moe_watch.tui.state.expert_ranking import ExpertFacts, KeepPlan
from moe_watch.tui.state.mask_words import OFF, off_text
from moe_watch.tui.text.format import NOT_AVAILABLE, count, number, percent
from moe_watch.tui.text.sanitize import one_line

CUT = "│"
"""Between the experts that stay and the ones that go."""
_NUMBERS = (("count lost", 10), ("weight lost", 11), ("never", 5), ("rarely", 6), ("off", 3))
_LAYER = 6
LEAST_ORDER = 22
TOP_SHOWN = 5
"""Experts that stay which are shown where there is no room for all."""
_GAP = "  "
NUMBERS_WIDTH = sum(width + len(_GAP) for _, width in _NUMBERS)
MUTED = "$foreground 60%"


def order_width(plan: KeepPlan, width: int) -> int:
    """Return the cells for the experts of a layer in a list of this width, enough for the longest row."""
    facts = plan.facts
    longest = facts.experts * (len(str(facts.experts - 1)) + 1) + int(facts.off.sum(1).max(initial=0)) + len(CUT) + 2
    return max(LEAST_ORDER, min(width - _LAYER - NUMBERS_WIDTH, longest))


def layer_head(room: int) -> Content:
    """Return the titles of the columns of `layer_row`."""
    order = set_cell_size(f"by importance {CUT} goes", room)
    return Content.styled(f"{'layer':<{_LAYER}}{order}" + _numbers([title for title, _ in _NUMBERS]), MUTED)


def layer_row(plan: KeepPlan, layer: int, room: int, names: list[list[int]] | None = None) -> Content:
    """Return the row of a layer (position): its experts by importance, and the shares that are lost.

    Args:
        plan: of all layers.
        layer: position.
        room: cells for the experts.
        names: other numbers of the experts `[L][E]`.
    """
    facts = plan.facts
    stay, go = _order(plan, layer, room, names)
    off = int(facts.off[layer].sum())
    cells = [
        percent(plan.counts_lost[layer]),
        percent(plan.mass_lost[layer]),
        str(int(facts.never[layer].sum())),
        str(int(facts.rarely[layer].sum())),
        str(off or "–"),
    ]
    fill = " " * max(0, room - cell_len(stay) - cell_len(go))
    return Content.assemble((f"{facts.layers[layer]:<{_LAYER}}", "bold"), stay, (go, "$warning"), fill, _numbers(cells))


def _numbers(cells: list[str]) -> str:
    return "".join(f"{_GAP}{cell:>{width}}" for cell, (_, width) in zip(cells, _NUMBERS, strict=True))


def _order(plan: KeepPlan, layer: int, room: int, names: list[list[int]] | None) -> tuple[str, str]:
    """Return the experts that stay and the ones that go, as far as there is room."""
    masked = plan.facts.mask.masked(plan.facts.layers[layer])

    def name(expert: int) -> str:
        number_ = expert if names is None else names[layer][expert]
        return f"{OFF}{number_}" if expert in masked else str(number_)

    going = set(plan.dropped[layer].tolist())
    order = plan.order[layer].tolist()
    stay = " ".join(name(each) for each in order if each not in going)
    go = [name(each) for each in order if each in going]
    whole = f" {CUT} {' '.join(go)}" if go else ""
    if cell_len(stay) + cell_len(whole) <= room:
        return stay, whole
    first = " ".join(name(each) for each in order[:TOP_SHOWN] if each not in going)
    lead = f"{first} …" if plan.keep > TOP_SHOWN else stay
    lead = lead if cell_len(lead) <= room // 3 else "…"
    shown = len(go)
    while shown and cell_len(f"{lead} {CUT} {_shortened(go, shown)}") > room:
        shown -= 1
    return lead, f" {CUT} {_shortened(go, shown)}"


def _shortened(go: list[str], shown: int) -> str:
    """Return the first names, and the number of the others."""
    if not shown:
        return plural(len(go), "expert")
    more = f" … {len(go) - shown} more" if shown < len(go) else ""
    return " ".join(go[:shown]) + more


def detail_head(facts: ExpertFacts) -> Content:
    """Return the titles of the columns of `detail_rows`."""
    return Content.styled(_detail_line(facts, [title for title, _ in _detail_columns(facts)], ""), MUTED)


def detail_rows(plan: KeepPlan, layer: int, names: list[list[int]] | None = None) -> Content:
    """Return one line per expert of a layer (position), the most important first."""
    facts, lines = plan.facts, [detail_head(plan.facts)]
    going = set(plan.dropped[layer].tolist())
    total = int(facts.counts[layer].sum())
    for rank, expert in enumerate(plan.order[layer].tolist(), 1):
        selections = int(facts.counts[layer, expert])
        shown = str(expert) if names is None else f"{expert} ({names[layer][expert]})"
        cells = [str(rank), shown, count(selections), percent(selections / total) if total else NOT_AVAILABLE]
        if facts.mass is not None:
            cells.append(number(float(facts.mass[layer, expert]), 1))
        if facts.saliency is not None:
            cells.append(_known(float(facts.saliency[layer, expert]), ".4g"))
        if facts.damage is not None:
            cells.append(_known(float(facts.damage[layer, expert]), "+.4f"))
        notes = [
            *(["goes"] if expert in going else []),
            *([f"{OFF} off"] if facts.off[layer, expert] else []),
            *(["never selected"] if facts.never[layer, expert] else []),
            *(["rarely selected"] if facts.rarely[layer, expert] else []),
        ]
        line = _detail_line(facts, cells, ", ".join(notes))
        lines.append(Content.styled(line, "$warning") if expert in going else Content(line))
    return Content("\n").join(lines)


def _known(value: float, form: str) -> str:
    return NOT_AVAILABLE if isnan(value) else f"{value:{form}}".replace("-", "−")


def _detail_columns(facts: ExpertFacts) -> list[tuple[str, int]]:
    columns = [("rank", 4), ("expert", 9), ("count", 9), ("share", 7)]
    if facts.mass is not None:
        columns.append(("weight mass", 11))
    if facts.saliency is not None:
        columns.append(("saliency", 9))
    return [*columns, ("Δ nats", 8)] if facts.damage is not None else columns


def _detail_line(facts: ExpertFacts, cells: list[str], notes: str) -> str:
    columns = zip(cells, _detail_columns(facts), strict=True)
    return "  ".join(f"{cell:>{width}}" for cell, (_, width) in columns) + f"   {notes}".rstrip()


def sentences(plan: KeepPlan) -> list[str]:
    """Return what the plan loses, in words, the most important first."""
    facts, found = plan.facts, []
    selections, mass = plan.overall
    gone = int(plan.dropped.size)
    if not gone:
        found.append(f"All {facts.experts} experts of each layer stay: nothing is lost.")
    else:
        weight = "" if isnan(mass) else f" and {percent(mass)} of the weight mass"
        found.append(
            f"If each layer keeps {plan.keep} of {facts.experts} experts by {plan.name}, {count(gone)} go "
            f"({facts.experts - plan.keep} per layer): they have "
            f"{percent(selections)} of the selections{weight} of {plural(facts.tokens, 'token')}."
        )
    never, rarely = int(facts.never.sum()), int(facts.rarely.sum())
    if never or rarely:
        found.append(
            f"{plural(never, 'expert')} never selected, {rarely} rarely (less than a tenth of the even share)."
        )
    else:
        found.append("Every expert was selected, none of them rarely.")
    if facts.mask:
        whose = "its" if len(facts.mask) == 1 else "their"
        found.append(f"{off_text(facts.mask)}: {whose} tokens go to other experts.")
    if facts.mass is not None and facts.mass_from:
        found.append(f"The weight mass is of the tokens from {count(facts.mass_from)} on: keyframes do not hold it.")
    worst = plan.worst_damage
    if worst is not None:
        source = one_line(facts.sources[1], 32)
        cost = f"{worst:+.4f}".replace("-", "−")
        found.append(f"Of the experts that go, the worst costs {cost} nats per token if it alone is off ({source}).")
    elif gone:
        found.append("Shares are not damage: `moe-watch ablate` measures what leaving one out costs.")
    return found
