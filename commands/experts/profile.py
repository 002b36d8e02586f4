"""`moe-watch profile`: which experts a model uses over given texts, and how stable the ranking is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_watch.commands.experts.result_files import kept_for_dashboard, say_places
from moe_watch.commands.options import COUNT, DEFAULT_MODEL, Options, engine_options, engine_options_of, require
from moe_watch.commands.output import complain, print_result, say
from moe_watch.commands.watching.headless import new_task, note, progress_bar, show_amount, show_progress
from moe_watch.commands.watching.settings import checked_load, require_routers
from moe_watch.routing.experts.rankings import BY_OPTION

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar

    from moe_watch.routing.events import Progress
    from moe_watch.sessions.experts.profile_file import LoadedProfile
    from moe_watch.sessions.experts.usage_groups import ObservedUsage

EPILOG = """
With --corpus, the texts are evaluated in windows, without generating. A corpus is JSON Lines, one example per line:

\b
  {"text": "…"}                                 plain text
  {"prompt": "…", "completion": "…"}            formatted by the chat template
  {"messages": [{"role": "user", "content": "…"}, …]}

A field "domain" groups the examples. A .txt file is one example.

Without --corpus, each FILE is a recording, counts of another program (as `moe-watch import` reads them), or an
importance matrix of llama-imatrix. Weights or saliency that they lack are absent. A single PROFILE.json is shown.

Definitions and limits: docs/profile.md.
"""


@click.command(epilog=EPILOG)
@click.argument("names", nargs=-1, metavar="MODEL | FILE…")
@click.option(
    "--corpus",
    "corpora",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Texts to evaluate with MODEL. Repeatable.",
)
@click.option("--saliency", is_flag=True, help="Measure the norms of the experts' weighted outputs too (REAP); slower.")
@click.option(
    "--window", type=COUNT, metavar="N", help="Tokens evaluated in one context.  [default: 512, or the trained length]"
)
@click.option("--keep", type=COUNT, metavar="N", help="Show the stability of keeping N experts.  [default: all N]")
@click.option(
    "--by",
    type=click.Choice(list(BY_OPTION)),
    default="count",
    show_default=True,
    help="Quantity by which the table ranks experts.",
)
@click.option("--experts", type=COUNT, metavar="N", help="Experts per layer, for a FILE that does not state it.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="PROFILE.json", help="Write the profile to this file."
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.option("--json", "as_json", is_flag=True, help="Print the profile as one JSON object.")
@engine_options
def profile(
    names: tuple[str, ...],
    corpora: tuple[Path, ...],
    keep: int | None,
    by: str,
    output: Path | None,
    force: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Count, weigh and rank the experts of MODEL over the texts of a corpus, or those in recordings.

    MODEL is a folder, a .gguf file, a Hugging Face id, a name that `moe-watch models` lists, or pocket, the built-in
    small model.

    For each expert: selections, router weight mass, and with --saliency the mean norm of its weighted output. Every
    row of every layer is observed. Resampling shows how stable each ranking is. PROFILE.json has the keys of other
    tools' activation profiles first. A dense model is refused.
    """
    _check_output(output, force=force)
    require(keep is None or keep >= 1, f"--keep is {keep}", "keep at least 1")
    keeps, another_k = () if keep is None else (keep,), options["experts_per_token"] is not None
    found = _of_model(names, corpora, keeps, options) if corpora else _of_files(names, keeps, options)
    if output is not None:
        from moe_watch.sessions.experts.profile_file import write_profile

        write_profile(found.profile, output)
    if as_json:
        print_result(found.profile)
    else:
        from moe_watch.commands.experts.profile_text import profile_lines

        for line in profile_lines(found, BY_OPTION[by], keep):
            say(line)
    for warning in [*found.profile.warnings, *found.warnings]:
        complain(warning)
    kept = bool(corpora) and kept_for_dashboard(found.profile, "profile", another_k=another_k)
    say_places("profile", output, kept=kept)


def _check_output(output: Path | None, *, force: bool) -> None:
    from moe_watch.sessions.paths import check_replaceable

    if output is None:
        require(not force, "--force without --output", "give the file to write")
        return
    require(str(output) not in {".", "-"}, "--output names no file", "give a file, as PROFILE.json")
    require(not output.is_dir(), f"--output: {output} is a folder", f"give a file in it, as {output / 'PROFILE.json'}")
    check_replaceable(output, force=force)


def _of_model(
    names: tuple[str, ...], corpora: tuple[Path, ...], keeps: tuple[int, ...], options: Options
) -> LoadedProfile:
    """Evaluate corpora with a model."""
    from msgspec.structs import replace

    from moe_watch.backends.model_files.catalog import locate
    from moe_watch.backends.model_files.preflight import longest_context
    from moe_watch.sessions.experts.evaluated_usage import evaluate_corpora
    from moe_watch.sessions.scoring.corpus import read_corpus
    from moe_watch.sessions.scoring.windows import WINDOW

    require(len(names) <= 1, f"--corpus and {len(names)} models given", "give one model")
    require(options.pop("experts") is None, "--experts and --corpus given", "the model has the number: leave it out")
    window, saliency, backend = (options.pop(name) for name in ("window", "saliency", "backend"))
    require(window is None or window >= 2, f"--window is {window}", "use at least 2 tokens")
    name, engine = names[0] if names else DEFAULT_MODEL, engine_options_of(options)
    load = checked_load(name, backend, engine)
    require_routers(name, backend, "a dense model has no experts to rank")
    texts = [read_corpus(path) for path in corpora]
    longest = longest_context(locate(name, backend))
    if window is not None and longest is not None:
        require(window <= longest, f"--window is {window}", f"use at most {longest:,} tokens, the context of {name}")
    if engine.context is None and longest is not None:
        load = replace(load, options=replace(engine, context=window or min(WINDOW, longest)))
    with progress_bar() as bar:
        view = _EvaluationView(bar)
        try:
            usage = evaluate_corpora(load, texts, view, window=window, saliency=saliency)
            bar.update(view.task, description="resampling", amount="")
            return _made(usage, keeps)
        except KeyboardInterrupt:
            complain(f"stopped after {view.done:,} of {view.total:,} tokens: nothing is written")
            raise


def _made(usage: ObservedUsage, keeps: tuple[int, ...]) -> LoadedProfile:
    from moe_watch.sessions.experts.profile_file import loaded
    from moe_watch.sessions.experts.profile_maker import make_profile

    return loaded(make_profile(usage, keeps), usage.corpus)


def _of_files(names: tuple[str, ...], keeps: tuple[int, ...], options: Options) -> LoadedProfile:
    """Read recordings, counts of other programs, or one profile."""
    from moe_watch.sessions.experts.measured_files import kind_of
    from moe_watch.sessions.experts.profile_file import read_profile
    from moe_watch.sessions.experts.recorded_usage import usage_of_files
    from moe_watch.sessions.imports.traces import ImportOptions

    require(bool(names), "neither --corpus nor a file given", "give texts for a model with --corpus, or recordings")
    experts, chosen = options.pop("experts"), options.pop("experts_per_token")
    _refuse_engine_options(options)
    for option, value in (("--experts", experts), ("--experts-per-token", chosen)):
        require(value is None or value >= 1, f"{option} is {value}", "use 1 or more")
    paths = [Path(name) for name in names]
    profiles = [path for path in paths if path.is_file() and kind_of(path) == "profile"]
    if profiles:
        require(
            len(paths) == 1, f"{profiles[0]} is a profile, and {len(paths)} files are given", "show a profile alone"
        )
        return read_profile(profiles[0])
    options_of_import = ImportOptions(experts=experts, experts_per_token=chosen)
    return _made(usage_of_files(paths, options_of_import, ("--experts", "--experts-per-token")), keeps)


def _refuse_engine_options(options: Options) -> None:
    """Refuse options that only have an effect on an evaluation."""
    context = click.get_current_context()
    given = [
        name for name in options if context.get_parameter_source(name) not in (None, click.core.ParameterSource.DEFAULT)
    ]
    flags = {"tensor_overrides": "--override-tensor"}
    named = " and ".join(flags.get(name, f"--{name.replace('_', '-')}") for name in given)
    require(not given, f"{named} without --corpus", "files are read, not evaluated: leave it out")


class _EvaluationView:
    """Progress on standard error. A `moe_watch.sessions.experts.evaluated_usage.EvaluationWatcher`."""

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar
        self.task = new_task(bar)
        self.done = self.total = 0
        """Evaluated tokens, and all."""

    def loading(self, progress: Progress) -> None:
        if not self.total:
            show_progress(self._bar, self.task, progress)

    def loaded(self) -> None:
        self._bar.reset(self.task, description="tokenizing", total=None, amount="")

    def estimated(self, seconds: float, tokens: int, number_of_windows: int) -> None:
        from moe_watch.tui.text.format import duration

        note(self._bar, f"{tokens:,} tokens in {number_of_windows:,} windows: about {duration(seconds)}")

    def evaluated(self, tokens: int, total: int) -> None:
        self.done, self.total = tokens, total
        show_amount(self._bar, self.task, "evaluating", tokens, total, "tokens")
