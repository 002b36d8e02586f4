"""`moe-watch prune`: write a model without its least important experts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moe_watch.commands.options import COUNT, MAX_SEED, require
from moe_watch.commands.output import complain, print_result, say
from moe_watch.commands.tables import table_lines
from moe_watch.commands.watching.headless import new_task, progress_bar, show_amount

if TYPE_CHECKING:
    from moe_watch.sessions.experts.model_pruning import PlannedPruning
    from moe_watch.sessions.results.pruning import PruneBy, PrunedLayer, PruneReport

BY = ("count", "weight", "saliency", "damage", "random")
HEADING = ["LAYER", "LEAVE", "LEAVE, NEVER ROUTED", "COUNT LOST", "WEIGHT LOST"]
ALL = "all"
MOST_SHOWN = 12
"""Expert numbers of one cell."""

EPILOG = """
\b
--by count     fewest tokens select the expert
--by weight    least router weight over all tokens
--by saliency  smallest mean of ‖weight · f(x)‖ over its own tokens (REAP)
--by damage    smallest rise of surprisal without it, by `moe-watch ablate`
--by random    a control for the others

The written model is the given one with these experts masked. Limits, and the experts' original numbers: docs/prune.md.
"""


@click.command(epilog=EPILOG)
@click.argument("model")
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--keep", type=COUNT, required=True, metavar="N", help="Number of experts that each MoE layer keeps.")
@click.option("--by", type=click.Choice(BY), required=True, help="Ranking; the lowest experts of each layer leave.")
@click.option(
    "--from",
    "ranking",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File with the ranking: a profile, an ablation, a recording, imported counts or an importance matrix. With "
    "--by random: the usage that the shares are of.",
)
@click.option("--seed", type=COUNT, metavar="N", help="Seed of --by random. Default: 0.")
@click.option(
    "--same-weights",
    is_flag=True,
    help="Accept a ranking of a model with another name: another form of the same weights, such as a quantization.",
)
@click.option("--dry-run", is_flag=True, help="Show what leaves, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def prune(
    model: str,
    output: Path,
    keep: int,
    by: PruneBy,
    ranking: Path | None,
    seed: int | None,
    *,
    same_weights: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write MODEL with N experts in each MoE layer as OUT: a .gguf file, or a folder in Hugging Face layout.

    Weights are copied as they are stored, in any quantization. OUT must not exist; it appears only when it is complete.
    """
    require(by == "random" or seed is None, f"--seed with --by {by}", "it is for --by random: omit it")
    require(seed is None or 0 <= seed <= MAX_SEED, f"--seed is {seed}", f"use 0 to {MAX_SEED}")

    from moe_watch.sessions.experts.model_pruning import PruneOrder, plan_pruning
    from moe_watch.sessions.library.lookup import session_file

    order = PruneOrder(
        model=model,
        output=output,
        keep=keep,
        by=by,
        ranking=None if ranking is None else session_file(ranking),
        seed=seed or 0,
        same_weights=same_weights,
    )
    planned = plan_pruning(order)
    for warning in planned.report.warnings:
        complain(warning)
    if not as_json:
        for line in _lines(planned.report):
            say(line)
    report = planned.report if dry_run else _write(planned)
    if as_json:
        print_result(report)
    elif not dry_run:
        from moe_watch.tui.text.format import size

        say(f"written to {report.output}: {size(report.bytes_after)}")


def _write(planned: PlannedPruning) -> PruneReport:
    from moe_watch.sessions.experts.model_pruning import write_planned

    with _unwinding(), progress_bar() as bar:
        task = new_task(bar)
        return write_planned(planned, lambda done, total: show_amount(bar, task, "pruning", done, total, "bytes"))


@contextmanager
def _unwinding() -> Iterator[None]:
    """Let SIGTERM or a closed terminal end the process once the unfinished file is removed."""
    received: list[int] = []

    def end(number: int, _frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    ending = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) == signal.SIG_DFL]
    for each in ending:
        signal.signal(each, end)
    try:
        yield
    finally:
        for each in ending:
            signal.signal(each, signal.SIG_DFL)
        if received:
            os.kill(os.getpid(), received[0])


def _lines(report: PruneReport) -> list[str]:
    from moe_watch.tui.text.format import size

    rows = [[str(each.layer), *_cells(each)] for each in report.layers]
    total = [ALL, "", "", _percent(report.count_lost), _percent(report.weight_lost)]
    by = report.by if report.seed is None else f"{report.by}, seed {report.seed}"
    return [
        f"{report.model}: {report.keep} of {report.experts} experts stay in each layer, by {by}",
        *table_lines([HEADING, *rows, total], right=(0, 3, 4)),
        *_unknown(report),
        f"{size(report.bytes_before)} before, {size(report.bytes_after)} after",
    ]


def _unknown(report: PruneReport) -> list[str]:
    """Return the reason of the shares that are not known, as a line; none if all are."""
    from moe_watch.tui.text.sanitize import one_line

    shares = {"selections": report.count_lost, "router weights": report.weight_lost}
    lacking = [name for name, share in shares.items() if share is None]
    if not lacking:
        return []
    if report.ranking is None:
        return ["–: not known without the usage of the experts: give a file of it with --from"]
    return [f"–: {one_line(report.ranking)} has no {' and no '.join(lacking)}"]


def _cells(layer: PrunedLayer) -> list[str]:
    """Return the experts that leave, the never routed ones apart, and the shares that leave with them."""
    never = set(layer.never_routed or ())
    unrouted = _numbers([each for each in layer.dropped if each in never]) or "none"
    return [
        _numbers([each for each in layer.dropped if each not in never]) or "none",
        "–" if layer.never_routed is None else unrouted,
        _percent(layer.count_lost),
        _percent(layer.weight_lost),
    ]


def _numbers(experts: list[int]) -> str:
    shown = " ".join(map(str, experts[:MOST_SHOWN]))
    return f"{shown} and {len(experts) - MOST_SHOWN} more" if len(experts) > MOST_SHOWN else shown


def _percent(share: float | None) -> str:
    from moe_watch.tui.text.format import percent

    return "–" if share is None else percent(share)
