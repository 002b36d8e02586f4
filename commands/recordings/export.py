"""`moe-watch export`: a recorded session as tables, or in the forms of other routing tools."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_watch.commands.options import require, session_file
from moe_watch.commands.output import complain, say

if TYPE_CHECKING:
    from moe_watch.sessions.export.exporter import Exported

TABLES = ("parquet", "csv", "npz", "json")
FOREIGN = ("layer-expert", "layer-expert-count", "coli-usage")
EPILOG = """
Tables: tokens, routing (one row per token and layer), chunks, usage, probabilities, forks, events, vitals.

Columns: docs/data.md, and session.json beside the tables.

For other routing tools, as one file: layer-expert (llama.cpp's moe-trace), layer-expert-count (SGLang), coli-usage
(colibri).
"""


@click.command(short_help="Write a session as tables, or for other routing tools.", epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", "form", type=click.Choice([*TABLES, *FOREIGN]), required=True, help="Format.")
@click.option("--table", metavar="NAME", help="Only this table, as one file.")
@click.option("--phase", type=click.Choice(["prefill", "decode"]), help="Only this phase, for other routing tools.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="PATH", help="A folder; of one file, a file.")
@click.option("--force", is_flag=True, help="Write over existing files.")
@click.option(
    "--spreadsheet", is_flag=True, help="CSV: keep text that begins with =, +, - or @ from being taken for a formula."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was written as one JSON object.")
def export(file: Path, form: str, as_json: bool, **options: Any) -> None:
    """Write FILE, a recorded session, as tables for pandas, Polars, DuckDB, R or a spreadsheet.

    Numbers are in natural units, what was not recorded is null, and text is as it was recorded. Parquet needs
    pyarrow, which the extra `export` brings.
    """
    exported = _foreign(file, form, **options) if form in FOREIGN else _tables(file, form, **options)
    for warning in exported.warnings:
        complain(warning)
    if as_json:
        result = {"output": str(exported.output), "format": form, "rows": exported.rows, "warnings": exported.warnings}
        click.echo(json.dumps(result))
        return
    for line in _lines(exported):
        say(line)


def _tables(
    file: Path, form: str, *, table: str | None, output: Path | None, force: bool, spreadsheet: bool, phase: str | None
) -> Exported:
    require(not spreadsheet or form == "csv", f"--spreadsheet with --to {form}", "it is for CSV: leave it out")
    require(phase is None, f"--phase with --to {form}", "tables have a column for it: leave it out")

    from moe_watch.sessions.export.exporter import ExportPlan, export_session

    plan = ExportPlan(form, output, table, force, spreadsheet)  # type: ignore[arg-type]  # a choice of the option
    return export_session(session_file(file), plan)


def _foreign(
    file: Path, form: str, *, table: str | None, output: Path | None, force: bool, spreadsheet: bool, phase: str | None
) -> Exported:
    require(table is None, f"--table with --to {form}", "it is one file: leave it out")
    require(not spreadsheet, f"--spreadsheet with --to {form}", "it holds numbers only: leave it out")

    from moe_watch.sessions.export.trace_export import TracePlan, export_trace

    plan = TracePlan(form, output, phase, force)  # type: ignore[arg-type]  # choices of the options
    return export_trace(session_file(file), plan)


def _lines(exported: Exported) -> list[str]:
    width = max(map(len, exported.rows), default=0)
    return [*(f"{name:<{width}}  {rows:>12,} rows" for name, rows in exported.rows.items()), f"in {exported.output}"]
