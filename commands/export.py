"""`moe-watch export`: a recorded session as tables for other programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from commands.options import session_file
from commands.output import complain, say
from routing.errors import UserError

if TYPE_CHECKING:
    from sessions.export.exporting import Exported

EPILOG = """
Tables: tokens, routing (one row per token and layer), chunks, usage, probabilities, forks, events, vitals.

Columns: docs/data.md, and session.json beside the tables.
"""


@click.command(short_help="Write a session as Parquet, CSV, JSON or NumPy arrays.", epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", "form", type=click.Choice(["parquet", "csv", "npz", "json"]), required=True, help="Format.")
@click.option("--table", metavar="NAME", help="Only this table, as one file.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="PATH", help="A folder; with --table, a file.")
@click.option("--force", is_flag=True, help="Write over existing files.")
@click.option(
    "--spreadsheet", is_flag=True, help="CSV: keep text that begins with =, +, - or @ from being taken for a formula."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was written as one JSON object.")
def export(
    file: Path, form: str, table: str | None, output: Path | None, force: bool, spreadsheet: bool, as_json: bool
) -> None:
    """Write the tables of FILE, a recorded session, for pandas, Polars, DuckDB, R or a spreadsheet.

    Numbers are in natural units, what was not recorded is null, and text is as it was recorded. Parquet needs
    pyarrow, which the extra `export` brings.
    """
    if spreadsheet and form != "csv":
        raise UserError(f"--spreadsheet with --to {form}", advice="it is for CSV: leave it out, or use --to csv")

    from sessions.export.exporting import ExportPlan, export_session

    plan = ExportPlan(form, output, table, force, spreadsheet)  # type: ignore[arg-type]  # a choice of the option
    exported = export_session(session_file(file), plan)
    for warning in exported.warnings:
        complain(warning)
    if as_json:
        result = {"output": str(exported.output), "format": form, "rows": exported.rows, "warnings": exported.warnings}
        click.echo(json.dumps(result))
        return
    for line in _lines(exported):
        say(line)


def _lines(exported: Exported) -> list[str]:
    width = max(map(len, exported.rows), default=0)
    return [*(f"{name:<{width}}  {rows:>12,} rows" for name, rows in exported.rows.items()), f"in {exported.output}"]
