"""`moe-watch check`: check the machine, and a model, before a run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from moe_watch.commands.models.show_prompt import show_prompt, show_prompt_options, take_prompt_options
from moe_watch.commands.options import chosen_model, engine_options, engine_options_of, model_choice, require
from moe_watch.commands.output import print_result, say
from moe_watch.commands.watching.headless import new_task, progress_bar, show_progress

if TYPE_CHECKING:
    from moe_watch.routing.events import Progress
    from moe_watch.sessions.checking.model_files import CheckedModel
    from moe_watch.sessions.checking.results import CheckReport, CheckResult

NOT_FINE = 1
NAME_WIDTH = 17
"""Longest name of a check and a space."""
WORDS = {"ok": "ok  ", "warning": "warn", "fail": "FAIL"}
"""Words of a status on the screen; the colour only repeats them."""
COLOURS = {"ok": "green", "warning": "yellow", "fail": "red"}
WIDEST = 120
"""Cells of a line; longer ones are hard to read."""

EPILOG = """
\b
Exit status: 0 no check failed, 1 one failed, 2 there is no such model.
What each message means, and what to do: docs/troubleshooting.md.
"""


@click.command(epilog=EPILOG)
@model_choice
@engine_options
@show_prompt_options
@click.option("--quick", is_flag=True, help="Do not load the model: check its files and its memory only.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def check(model: str | None, model_option: str | None, quick: bool, as_json: bool, **options: Any) -> None:
    """Check the machine, and MODEL if one is given, before a run.

    The machine: engines and how they are built, memory, disk, sensors, terminal. The model: its files, its memory, and
    a few tokens in a separate process: MoE layers, captured routing, chat template, end of text, speed.

    Each line is ok, warn or FAIL, with what was measured and what to do. A warning is a limitation that a run works
    with. With --show-prompt: print one prompt as the model would be sent it, with its tokens, and check its format.
    """
    backend = options.pop("backend")
    engine = engine_options_of(options)
    prompt = take_prompt_options(options)
    if prompt["show_prompt"]:
        require(not quick, "--quick and --show-prompt given", "keep one of them: a prompt needs the model")
        is_fine = show_prompt(chosen_model(model, model_option), backend, engine, prompt, as_json=as_json)
        raise click.exceptions.Exit(0 if is_fine else NOT_FINE)
    found = None
    if model is not None or model_option is not None:
        from moe_watch.sessions.checking.model_files import CheckedModel

        found = CheckedModel.find(chosen_model(model, model_option), backend, engine)
    require(found is not None or not quick, "--quick without a model", "give the model to check")
    report = _run(found, quick=quick, silent=as_json)
    if as_json:
        print_result(report)
    else:
        _conclude(report, found)
    if not report.ok:
        raise click.exceptions.Exit(NOT_FINE)


def _run(model: CheckedModel | None, *, quick: bool, silent: bool) -> CheckReport:
    """Make all checks and print each when it is finished; Ctrl-C ends the worker first."""
    from moe_watch.sessions.checking.results import report_of

    done: list[CheckResult] = []
    loading = _Loading()
    with closing(_checks(model, loading, quick=quick)) as checks:
        while (each := loading.while_waiting(checks)) is not None:
            done.append(each)
            if not silent:
                _print(each)
    return report_of(done, None if model is None else model.name)


class _Loading:
    """Progress bar that is shown during each check, and gone before its line is printed."""

    def while_waiting(self, checks: Iterator[CheckResult]) -> CheckResult | None:
        """Return the next check; None after the last one."""
        with progress_bar() as bar:
            self._bar, self._task = bar, new_task(bar)
            bar.update(self._task, description="checking")
            return next(checks, None)

    def __call__(self, progress: Progress) -> None:
        """Show the progress of loading the model."""
        show_progress(self._bar, self._task, progress)


def _checks(
    model: CheckedModel | None, loading: Callable[[Progress], None], *, quick: bool
) -> Generator[CheckResult, None, None]:
    from moe_watch.sessions.checking.sequence import machine_checks, model_checks
    from moe_watch.sessions.checking.time_limit import Cancellation
    from moe_watch.tui.terminal.abilities import terminal_abilities
    from moe_watch.tui.terminal.checks import terminal_checks

    cancellation = Cancellation()
    yield from terminal_checks(terminal_abilities())
    yield from machine_checks(cancellation)
    if model is not None:
        yield from model_checks(model, cancellation, loading, quick=quick)


# -- text


def _print(each: CheckResult) -> None:
    from moe_watch.tui.text.sanitize import inert
    from moe_watch.tui.text.word_wrap import wrapped

    room = max(20, min(shutil.get_terminal_size().columns, WIDEST) - NAME_WIDTH - 6)
    lines = wrapped(inert(each.value), room)
    if each.advice:
        first, *others = wrapped(inert(each.advice), room - 2)
        lines += [f"→ {first}", *(f"  {line}" for line in others)]
    word = click.style(WORDS[each.status], fg=COLOURS[each.status], bold=each.status == "fail")
    click.echo(f"{word}  {each.name:<{NAME_WIDTH}}{lines[0]}", color=False if "NO_COLOR" in os.environ else None)
    for line in lines[1:]:
        click.echo(f"{'':{NAME_WIDTH + 6}}{line}")


def _conclude(report: CheckReport, model: CheckedModel | None) -> None:
    """Print how many checks failed, and the next step."""
    from moe_watch.sessions.text import plural

    failed = sum(each.status == "fail" for each in report.checks)
    warned = sum(each.status == "warning" for each in report.checks)
    say("")
    if failed:
        say(f"{plural(failed, 'check')} failed, {plural(warned, 'warning')}: do what the lines with FAIL say")
    elif model is None:
        say(f"ready, {plural(warned, 'warning')}; next: moe-watch check MODEL (`moe-watch models` lists them)")
    else:
        say(f"ready, {plural(warned, 'warning')}; next: moe-watch watch {model.command}")
