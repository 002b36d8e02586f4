"""`moe-watch compare`: compare sessions, measurements and P_mid series."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from moe_watch.commands.options import require
from moe_watch.commands.output import complain, print_result, say

if TYPE_CHECKING:
    from moe_watch.sessions.comparing.pairs import Comparison

EPILOG = """
Each FILE is a session, a folder of `moe-watch measure`, or a series as `moe-watch fit` reads it. The first one is
compared with each of the others; p-values are corrected for the number of pairs (Holm).

\b
Routing is compared token by token as far as two sessions have the same
tokens. Record the second one with
  moe-watch record OTHER-MODEL --teacher FIRST.moe.jsonl
or record both with --temperature 0 and the same prompt.
"""


@click.command(epilog=EPILOG)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path), metavar="FILE FILE…")
@click.option("--pressure", metavar="MODE", help="Pressure mode to compute: measured-v2, measured-v1 or chronomoe-v1.")
@click.option("--figure", type=click.Path(path_type=Path), metavar="FILE", help="Draw a figure: .png, .svg or .pdf.")
@click.option("--force", is_flag=True, help="Overwrite an existing figure.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as one JSON object.")
def compare(files: tuple[Path, ...], pressure: str | None, figure: Path | None, force: bool, as_json: bool) -> None:
    """Compare half-lives, router entropy, expert usage, and routing token by token.

    A dense model is compared by what both have: text, surprisal, speed, memory and temperature.
    """
    require(len(files) > 1, f"{len(files) or 'no'} file{'s' * (not files)} to compare", "give two or more")
    if figure is not None:
        _check_figure(figure, force)

    from moe_watch.sessions.comparing.pairs import compare as compare_files
    from moe_watch.sessions.library.lookup import session_file

    found = compare_files([session_file(file) for file in files], pressure)
    for warning in (each for source in found.sources for each in source.warnings):
        complain(warning)
    if figure is not None:
        _draw(found, figure)
    _print(found, as_json)


def _check_figure(figure: Path, force: bool) -> None:
    from moe_watch.backends.optional_packages import install_command
    from moe_watch.sessions.comparing.plot import FORMATS
    from moe_watch.sessions.measuring.plots import can_draw

    require(figure.suffix in FORMATS, f"--figure is {figure}", f"name it {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    require(force or not figure.exists(), f"{figure} exists", "overwrite it with --force")
    require(can_draw(), "--figure needs matplotlib, which is not installed", f"run `{install_command('report')}`")


def _draw(found: Comparison, figure: Path) -> None:
    from moe_watch.sessions.comparing.plot import draw

    draw(found, figure)
    say(f"the figure is {figure}", err=True)


def _print(found: Comparison, as_json: bool) -> None:
    if as_json:
        from moe_watch.sessions.comparing.result import comparison_result

        print_result(comparison_result(found))
        return
    from moe_watch.commands.recordings.compare_text import comparison_lines

    for line in comparison_lines(found):
        say(line)
