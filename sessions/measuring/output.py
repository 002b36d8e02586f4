"""Output files of a measurement beside its sessions."""

from __future__ import annotations

from pathlib import Path

from moe_watch.sessions.measuring import plots as figures
from moe_watch.sessions.measuring.estimates import Estimates
from moe_watch.sessions.measuring.folder import creating, write
from moe_watch.sessions.measuring.report import report

FIGURES = "figures"


def write_all(findings: Estimates, results: bytes, folder: Path) -> str:
    """Write `results.json`, the figures, and `report.md`; returns why there are no figures, or an empty string.

    Raises:
        UserError: a file cannot be written.
    """
    write(folder / "results.json", results)
    drawn: list[Path] = []
    without = "" if figures.can_draw() else figures.how_to_draw()
    if not without:
        with creating(folder / FIGURES):
            drawn = figures.draw(findings, folder / FIGURES)
    page = report(findings, [path.relative_to(folder) for path in drawn], without)
    write(folder / "report.md", page.encode("utf-8", "replace"))
    return without
