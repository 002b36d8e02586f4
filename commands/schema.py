"""`moe-watch schema`: JSON Schema of the results that `--json` prints."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import click

from moe_watch.routing.errors import UserError

if TYPE_CHECKING:
    from msgspec import Struct


class PrintedResult(NamedTuple):
    """Result that commands print with `--json`."""

    title: str
    commands: tuple[str, ...]
    struct: type[Struct]


def printed_results() -> dict[str, PrintedResult]:
    """Return all results by name, in the order of docs/json.md."""
    from moe_watch.backends.discovery.results import ModelList
    from moe_watch.backends.memory.results import MemoryReport, PublishedMemoryReport
    from moe_watch.routing.results import FitReport, RunSummary
    from moe_watch.sessions.checking.results import CheckReport
    from moe_watch.sessions.results.ablation import AblationReport
    from moe_watch.sessions.results.comparison import ComparisonResult
    from moe_watch.sessions.results.conversion import ExportReport, ImportReport
    from moe_watch.sessions.results.cost import BenchReport
    from moe_watch.sessions.results.measurement import MeasurementReport
    from moe_watch.sessions.results.perplexity import PerplexityReport
    from moe_watch.sessions.results.profile import ExpertProfile
    from moe_watch.sessions.results.prompt import ShownPrompt
    from moe_watch.sessions.results.pruning import PruneReport
    from moe_watch.sessions.results.recordings import RecordingList, RecordingPreview
    from moe_watch.sessions.results.verification import SalvageReport, VerifyReport

    return {
        "run": PrintedResult("A run", ("record", "replay --headless"), RunSummary),
        "fit": PrintedResult("A fit", ("fit",), FitReport),
        "cost": PrintedResult("A cost", ("bench",), BenchReport),
        "measurement": PrintedResult("A measurement", ("measure",), MeasurementReport),
        "perplexity": PrintedResult("A perplexity", ("perplexity",), PerplexityReport),
        "comparison": PrintedResult("A comparison", ("compare",), ComparisonResult),
        "ablation": PrintedResult("An ablation", ("ablate",), AblationReport),
        "models": PrintedResult("Models", ("models",), ModelList),
        "recordings": PrintedResult("Recordings", ("sessions",), RecordingList),
        "recording": PrintedResult("A recording", ("sessions show",), RecordingPreview),
        "verification": PrintedResult("A verification", ("verify",), VerifyReport),
        "salvage": PrintedResult("A salvage", ("verify --salvage",), SalvageReport),
        "import": PrintedResult("An import", ("import",), ImportReport),
        "export": PrintedResult("An export", ("export",), ExportReport),
        "check": PrintedResult("Checks before a run", ("check",), CheckReport),
        "prompt": PrintedResult("A prompt as sent", ("check --show-prompt",), ShownPrompt),
        "profile": PrintedResult("A profile of experts", ("profile",), ExpertProfile),
        "prune": PrintedResult("A pruning", ("prune",), PruneReport),
        "memory": PrintedResult("The memory of a model", ("memory",), MemoryReport),
        "published": PrintedResult("The memory of a published model", ("memory --for",), PublishedMemoryReport),
    }


@click.command()
@click.argument("name", required=False)
def schema(name: str | None) -> None:
    """Print the JSON Schema of result NAME, with a description of each key.

    Without NAME: list all results and the commands that print them with --json.
    """
    known = printed_results()
    if name is None:
        _print_list(known)
        return
    if name not in known:
        raise UserError(f"there is no result called {name!r}", advice=f"use {', '.join(known)}")

    import json

    from msgspec.json import schema as schema_of

    click.echo(json.dumps(schema_of(known[name].struct), indent=2, ensure_ascii=False))


def _print_list(known: dict[str, PrintedResult]) -> None:
    from moe_watch.commands.output import say
    from moe_watch.commands.tables import table_lines

    rows = [[name, ", ".join(f"{command} --json" for command in each.commands)] for name, each in known.items()]
    for line in table_lines([["NAME", "PRINTED BY"], *rows]):
        say(line)
