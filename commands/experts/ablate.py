"""`moe-watch ablate`: switch off each expert alone and measure the damage."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_watch.commands.experts.result_files import kept_for_dashboard, say_places
from moe_watch.commands.options import (
    COUNT,
    Options,
    checked_output,
    chosen_model,
    engine_options,
    engine_options_of,
    model_choice,
    require,
)
from moe_watch.commands.output import complain, print_result, say
from moe_watch.commands.watching.headless import new_task, note, progress_bar, show_amount, show_progress
from moe_watch.commands.watching.settings import checked_load

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar

    from moe_watch.backends.protocol import Load
    from moe_watch.routing.events import Progress
    from moe_watch.sessions.experts.given_tokens import GivenTokens
    from moe_watch.sessions.live.shared_worker import KeptWorker
    from moe_watch.sessions.results.ablation import AblationReport

DEFAULT_TOKENS = 4096
SAMPLE = 4
"""Evaluations before the estimate of the time."""
SHORTEST_WINDOW = 21
"""Tokens: one that is given and a block that is predicted."""


@click.command(epilog="Definitions, statistics and limits: docs/ablation.md.")
@model_choice
@click.option(
    "--teacher", type=click.Path(path_type=Path), metavar="FILE", help="Evaluate the tokens of this recorded session."
)
@click.option(
    "--corpus",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Evaluate this corpus: one JSON object per line, or a text as *.txt.",
)
@click.option("--layers", metavar="L,…", help="Indices of the MoE layers to measure. Default: all.")
@click.option(
    "--experts",
    default="all",
    show_default=True,
    metavar="all|N",
    help="Measure all experts, or N of each layer, spread over the ranks by usage.",
)
@click.option(
    "--window", type=COUNT, metavar="N", help="Tokens evaluated in one context.  [default: 512, or the trained length]"
)
@click.option(
    "--tokens", type=COUNT, default=DEFAULT_TOKENS, show_default=True, metavar="N", help="Largest number of tokens."
)
@click.option("--saliency/--no-saliency", default=True, help="Measure saliency, to be compared with the damage.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the result to this file. Needed to resume a measurement.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
@engine_options
def ablate(as_json: bool, output: Path | None, force: bool, **options: Any) -> None:
    """Switch off each expert of MODEL alone, and measure the damage.

    MODEL is a folder, a .gguf file, a Hugging Face id, a name that `moe-watch models` lists, or pocket, the built-in
    small model.

    The damage is the rise of the surprisal over the same given tokens, in nats per token, and the divergence (KL) of
    the predictions. Both have 95 % intervals, and p-values corrected over all experts. Beside them are count, weight
    mass and saliency of each expert, and how well each ranking predicts the damage (Spearman's ρ).

    The time is estimated before the measurement begins. With --output, a measurement that was interrupted is resumed by
    the same command.
    """
    from moe_watch.sessions import paths

    output = checked_output(output)
    load, choice = _choices(options)
    if output is not None:
        paths.check_replaceable(output, force=force)
    report = _measure(load, choice, output)
    if as_json:
        print_result(report)
    else:
        from moe_watch.commands.experts.ablation_text import report_lines

        for line in report_lines(report):
            say(line)
    kept = kept_for_dashboard(report, "ablation", another_k=load.options.experts_per_token is not None)
    say_places("ablation", output, kept=kept)


class _Choice:
    """Tokens and experts to measure, as the user chose them."""

    def __init__(self, options: Options) -> None:
        self.teacher: Path | None = options["teacher"]
        self.corpus: Path | None = options["corpus"]
        self.window: int | None = options["window"]
        self.tokens: int = options["tokens"]
        self.saliency: bool = options["saliency"]
        require(
            (self.teacher is None) != (self.corpus is None),
            "ablate needs tokens to evaluate" if self.teacher is None else "--teacher and --corpus both given",
            "give --teacher SESSION or --corpus FILE",
        )
        require(
            self.window is None or self.window >= SHORTEST_WINDOW,
            f"--window is {self.window}",
            f"use at least {SHORTEST_WINDOW} tokens",
        )
        require(self.tokens > 0, f"--tokens is {self.tokens}", "use at least 1")
        self.layers = _layers(options["layers"])
        self.experts = _experts(options["experts"])

    def given(self, worker: KeptWorker) -> GivenTokens:
        """Return the tokens in windows."""
        from moe_watch.sessions.experts.given_tokens import corpus_tokens, session_tokens
        from moe_watch.sessions.scoring.windows import chosen_window

        length = chosen_window(self.window, worker.ready.model.trained_length, None)
        if self.corpus is not None:
            return corpus_tokens(worker, self.corpus, length, self.tokens)
        return session_tokens(worker, self.teacher or Path(), length, self.tokens)


def _choices(options: Options) -> tuple[Load, _Choice]:
    """Return the command that loads the model, and the tokens and experts to measure.

    Raises:
        UserError: an option is invalid, or the model cannot be found or is dense.
    """
    from moe_watch.backends.model_files.catalog import locate
    from moe_watch.backends.model_files.preflight import is_dense_model
    from moe_watch.sessions.experts.ablation import DENSE, MOE_ONLY

    name = chosen_model(options["model"], options["model_option"])
    engine, backend = engine_options_of(options), options["backend"]
    choice = _Choice(options)
    for given in (choice.teacher, choice.corpus):
        require(given is None or not given.is_dir(), f"{given} is a folder", "give a file")
    load = checked_load(name, backend, engine)
    require(not is_dense_model(locate(name, backend)), f"{name}: {DENSE}", MOE_ONLY)
    return load, choice


def _layers(text: str | None) -> list[int] | None:
    if text is None:
        return None
    parts = [each.strip() for each in text.split(",")]
    require(
        all(each.isascii() and each.isdigit() and len(each) < 10 for each in parts),
        f"--layers is {text!r}",
        "give indices of MoE layers separated by commas, as 0,3",
    )
    return [int(each) for each in parts]


def _experts(text: str) -> int | None:
    if text == "all":
        return None
    require(
        text.isascii() and text.isdigit() and len(text) < 10 and int(text) > 0,
        f"--experts is {text!r}",
        "use all, or the number of experts per layer",
    )
    return int(text)


def _measure(load: Load, choice: _Choice, output: Path | None) -> AblationReport:
    from moe_watch.sessions.experts.ablation import measure, plan_of
    from moe_watch.sessions.experts.ablation_file import to_bytes
    from moe_watch.sessions.experts.ablation_records import AblationRecords, partial_file
    from moe_watch.sessions.experts.ablation_report import ablation_report
    from moe_watch.sessions.live.shared_worker import KeptWorker
    from moe_watch.sessions.paths import replace_file, sync_folder, writing

    path = None if output is None else partial_file(output)
    view: _AblationView | None = None
    try:
        with progress_bar() as bar:
            view = _AblationView(bar, path)
            with KeptWorker(load, view.loading) as worker:
                tokens = choice.given(worker)
                plan = plan_of(worker.ready, tokens, choice.layers, choice.experts, saliency=choice.saliency)
                view.tokens = tokens.predicted / len(tokens.windows)
                with AblationRecords(plan, [len(sizes) for sizes in tokens.blocks], path) as records:
                    chosen = measure(worker, plan, tokens, records, view)
                    view.computing()
                    report = ablation_report(plan, tokens, records, chosen)
                    if output is not None:
                        with writing(output):
                            replace_file(output, to_bytes(report))
                        sync_folder(output.parent)
                    records.discard()
    except KeyboardInterrupt:
        if view is not None:
            view.interrupted()
        raise
    view.finished()
    return report


class _AblationView:
    """Progress of an ablation on standard error. A `moe_watch.sessions.experts.ablation.AblationWatcher`."""

    def __init__(self, bar: ProgressBar, path: Path | None) -> None:
        self._bar = bar
        self._path = path
        self._task = new_task(bar)
        self._total = 0
        self._found = 0
        """Evaluations of an earlier attempt."""
        self._done = 0
        """Evaluations of this attempt."""
        self._busy = 0.0
        """Seconds of them."""
        self._last = 0.0
        self.tokens = 0.0
        """Mean number of predicted tokens of a window."""

    def loading(self, progress: Progress) -> None:
        show_progress(self._bar, self._task, progress)

    def counted(self, windows: int, total: int) -> None:
        show_amount(self._bar, self._task, "all experts on", windows, total, "windows")

    def planned(self, evaluations: int, measured: int) -> None:
        self._total, self._found = evaluations, measured
        self._bar.reset(self._task)
        if measured:
            note(self._bar, f"resumed: {measured:,} of {evaluations:,} evaluations are measured already")

    def begun(self) -> None:
        self._last = time.monotonic()

    def evaluated(self) -> None:
        now = time.monotonic()
        self._busy += now - self._last
        self._last = now
        self._done += 1
        left = self._total - self._found - self._done
        if self._done == SAMPLE and left > 0:
            from moe_watch.tui.text.format import duration

            about = duration(self._each * left)
            note(self._bar, f"{left + SAMPLE:,} evaluations with one expert off: about {about}")
        done = self._found + self._done
        show_amount(self._bar, self._task, "one expert off", done, self._total, "evaluations")

    def computing(self) -> None:
        self._bar.update(self._task, description="intervals", total=None, amount="")

    def interrupted(self) -> None:
        """Print the number of evaluations that are kept."""
        done = self._found + self._done
        if not self._total:
            complain("interrupted before the first evaluation with an expert off; resume: same command")
        elif self._path is None:
            complain("interrupted; without --output nothing is kept")
        else:
            complain(f"interrupted with {done:,} of {self._total:,} evaluations in {self._path}; resume: same command")

    def finished(self) -> None:
        """Print the speed of this attempt."""
        if self._done and self.tokens:
            speed = self._each / self.tokens * 1000
            say(f"{speed:.3g} s per expert and 1,000 tokens", err=True)

    @property
    def _each(self) -> float:
        """Mean seconds per evaluation."""
        return self._busy / max(1, self._done)
