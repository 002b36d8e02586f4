"""`moe-watch export`: write a session as tables, or in the trace format of another program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_watch.commands.options import require
from moe_watch.commands.output import complain, print_result, say
from moe_watch.commands.tables import table_lines

if TYPE_CHECKING:
    from moe_watch.sessions.export.exporter import Exported
    from moe_watch.sessions.results.conversion import ExportReport

TABLES = ("parquet", "csv", "npz", "json")
FOREIGN = ("layer-expert", "layer-expert-count", "coli-usage")
EPILOG = """
Tables: tokens, routing (one row per token and layer), chunks, usage, probabilities, forks, events, vitals.

Columns: docs/data.md, and session.json beside the tables.

Trace formats of other programs, one file each: layer-expert (llama.cpp's moe-trace), layer-expert-count (SGLang),
coli-usage (colibri).
"""


@click.command(epilog=EPILOG)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", "form", type=click.Choice([*TABLES, *FOREIGN]), required=True, help="Format.")
@click.option("--table", metavar="NAME", help="Write this table only, as one file.")
@click.option("--phase", type=click.Choice(["prefill", "decode"]), help="Write this phase only; for trace formats.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Folder to write to; for one file, the file.",
)
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@click.option(
    "--spreadsheet",
    is_flag=True,
    help="CSV: mark text that begins with =, +, - or @, so that it is not read as a formula.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the list of tables as one JSON object.")
def export(file: Path, form: str, as_json: bool, **options: Any) -> None:
    """Write session FILE as tables for pandas, Polars, DuckDB, R or a spreadsheet.

    Numbers are in natural units, values that were not recorded are null, and text is unchanged. Parquet needs pyarrow,
    which the extra `export` installs.
    """
    exported = _foreign(file, form, **options) if form in FOREIGN else _tables(file, form, **options)
    for warning in exported.warnings:
        complain(warning)
    if as_json:
        print_result(_report(exported, form))
        return
    for line in _lines(exported):
        say(line)


def _tables(
    file: Path, form: str, *, table: str | None, output: Path | None, force: bool, spreadsheet: bool, phase: str | None
) -> Exported:
    require(not spreadsheet or form == "csv", f"--spreadsheet with --to {form}", "it is for CSV: omit it")
    require(phase is None, f"--phase with --to {form}", "tables have a column for it: omit it")

    from moe_watch.sessions.export.exporter import ExportPlan, export_session
    from moe_watch.sessions.library.lookup import session_file

    plan = ExportPlan(form, output, table, force, spreadsheet)  # type: ignore[arg-type]  # a choice of the option
    return export_session(session_file(file), plan)


def _foreign(
    file: Path, form: str, *, table: str | None, output: Path | None, force: bool, spreadsheet: bool, phase: str | None
) -> Exported:
    require(table is None, f"--table with --to {form}", "it is one file: omit it")
    require(not spreadsheet, f"--spreadsheet with --to {form}", "it has numbers only: omit it")

    from moe_watch.sessions.export.trace_export import TracePlan, export_trace
    from moe_watch.sessions.library.lookup import session_file

    plan = TracePlan(form, output, phase, force)  # type: ignore[arg-type]  # choices of the options
    return export_trace(session_file(file), plan)


def _report(exported: Exported, form: str) -> ExportReport:
    from moe_watch.sessions.results.conversion import ExportReport

    return ExportReport(output=str(exported.output), format=form, rows=exported.rows, warnings=exported.warnings)


def _lines(exported: Exported) -> list[str]:
    counts = [[name, f"{rows:,} rows"] for name, rows in exported.rows.items()]
    return [*table_lines(counts, right=(1,)), f"in {exported.output}"]
