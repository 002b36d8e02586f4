"""Run without a dashboard: a progress bar on standard error, the summary on standard output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moe_watch.commands.output import complain, print_result, say
from moe_watch.commands.watching.exit_notice import exit_notice

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar
    from rich.progress import TaskID

    from moe_watch.routing.events import Progress, State, StreamItem
    from moe_watch.routing.results import RunSummary
    from moe_watch.sessions.live.source import LiveSource
    from moe_watch.sessions.replaying.source import ReplaySource


def follow(source: LiveSource | ReplaySource, *, total: int | None, quiet: bool = False) -> RunSummary | None:
    """Run a source to its end with a progress bar, and return its summary; None if no run began.

    Args:
        source: a source that was not started yet.
        total: number of decode tokens, if known.
        quiet: show no progress bar.

    Raises:
        UserError: the run could not begin, or the file could not be read.
    """
    from moe_watch.sessions.live.headless import run_headless

    with progress_bar(quiet=quiet) as bar:
        view = _BarView(bar, total)
        summary = run_headless(source, view.show, closing=exit_notice)
    if source.fatal_error is not None:
        raise source.fatal_error
    for error in view.errors:
        complain(error)
    return summary


def finish(source: LiveSource | ReplaySource, summary: RunSummary | None, *, as_json: bool) -> None:
    """Print the summary on standard output, and everything else on standard error."""
    from moe_watch.sessions.source import Recordable

    recording = source.recording if isinstance(source, Recordable) else None
    for warning in source.warnings:
        complain(warning)
    if recording is not None and recording.problem:
        complain(recording.problem)
    if as_json:
        print_result(summary)
    else:
        from moe_watch.commands.recordings.summary_text import summary_lines

        for line in summary_lines(summary):
            say(line)
    if recording is not None and recording.path:
        say(f"recorded to {recording.path}", err=True)


def require_whole(source: LiveSource, summary: RunSummary | None) -> None:
    """Exit with status 1 if the run ended in an error, or was not recorded to its end."""
    ended = summary and summary.ended
    if source.recording.problem or (ended and ended.state == "error"):
        raise click.exceptions.Exit(1)


def progress_bar(*, quiet: bool = False) -> ProgressBar:
    """Return a progress bar on standard error, which is hidden if `quiet` or if that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as ProgressBar

    console = Console(stderr=True)
    return ProgressBar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[amount]}", markup=False),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=quiet or not console.is_terminal,
    )


def new_task(bar: ProgressBar) -> TaskID:
    """Return a task for `show_amount`, without an amount yet."""
    return bar.add_task("starting", total=None, amount="")


def show_amount(
    bar: ProgressBar, task: TaskID, description: str, done: int, total: int | None, unit: str | None
) -> None:
    """Show the done amount of a task in its unit; `bytes` are scaled."""
    bar.update(task, description=description, completed=done, total=total, amount=_amount(done, total, unit))


def show_progress(bar: ProgressBar, task: TaskID, progress: Progress) -> None:
    """Show the progress of loading or of a prompt."""
    description = f"{progress.stage}: {progress.note}" if progress.note else progress.stage
    show_amount(bar, task, description, progress.done, progress.total, progress.unit)


def note(bar: ProgressBar, line: str) -> None:
    """Print a line on standard error, above the progress bar if it is shown."""
    from moe_watch.tui.text.sanitize import inert

    if bar.disable:
        say(line, err=True)
    else:
        bar.console.print(inert(line), markup=False, highlight=False, soft_wrap=True)


def show_pause(bar: ProgressBar, state: State) -> None:
    """Print on standard error that the run pauses or resumes by itself, above the progress bar."""
    from moe_watch.tui.text.sanitize import one_line

    if state.why in ("temperature", "memory") and state.message:
        note(bar, one_line(state.message, 300))


def _amount(done: int, total: int | None, unit: str | None) -> str:
    from moe_watch.tui.text.format import fraction

    if total is None:
        return ""
    return fraction(done, total) if unit == "bytes" else f"{done:,} of {total:,} {unit or ''}".rstrip()


class _BarView:
    """Progress bar of a stream."""

    def __init__(self, bar: ProgressBar, total: int | None) -> None:
        self._bar = bar
        self._total = total
        self._task = new_task(bar)
        self._generated = 0
        self.errors: list[str] = []
        """Errors and warnings of the run, one line each."""

    def show(self, item: StreamItem) -> None:
        from moe_watch.routing.events import Progress, RunWarning, State, Token

        if isinstance(item, Progress):
            show_progress(self._bar, self._task, item)
        elif isinstance(item, RunWarning) and item.text not in self.errors:
            self.errors.append(item.text)
        elif isinstance(item, Token) and item.phase == "decode":
            self._generated += 1
            show_amount(self._bar, self._task, "generating", self._generated, self._total, "tokens")
        elif isinstance(item, State) and item.state == "error" and item.message:
            self.errors.append(item.message)
        elif isinstance(item, State):
            show_pause(self._bar, item)
