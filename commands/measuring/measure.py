"""`moe-watch measure`: many runs of a model, and their joint estimates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_watch.commands.options import (
    COUNT,
    MAX_SEED,
    Options,
    chat_options,
    check_chat,
    check_sampler,
    chosen_model,
    engine_options,
    engine_options_of,
    model_choice,
    require,
    sampler_of,
    system_of,
    template_of,
    text_of,
)
from moe_watch.commands.output import complain, print_result, say
from moe_watch.commands.watching.ablate_option import ablate_option, mask_of
from moe_watch.commands.watching.headless import new_task, progress_bar, show_amount, show_pause, show_progress
from moe_watch.commands.watching.pause_options import control_of, control_options
from moe_watch.commands.watching.settings import check_model, default_prompt, require_routers
from moe_watch.routing.errors import UserError

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBar

    from moe_watch.backends.run_spec import ForkPlan
    from moe_watch.routing.events import Progress, StreamItem
    from moe_watch.routing.stats.timing_noise import Noise
    from moe_watch.sessions.measuring.estimates import Estimates
    from moe_watch.sessions.measuring.plan import Plan, PlannedRun

DEFAULT_RUNS = 8
MOST_RUNS = 10_000
"""Largest number of runs, with some 400 MB of memory. A hundred are more than any of the intervals needs."""
FEWEST_CHUNKS = 5
"""Fewest measured chunks of a run: the minimum of a fit."""
NEUTRAL = " This is a sentence among others."
"""Default of --neutral: it does not ask to continue. The worker cuts or repeats it to the length of the other text."""


@click.command()
@model_choice
@engine_options
@ablate_option
@control_options
@click.option("--chunks", type=COUNT, default=50, show_default=True, metavar="N", help="Measured chunks per run.")
@click.option("--chunk-size", type=COUNT, default=20, show_default=True, metavar="N", help="Tokens per chunk.")
@click.option(
    "--runs", type=COUNT, metavar="N", help=f"Number of runs. Default: {DEFAULT_RUNS}, or one per seed of --seeds."
)
@click.option(
    "--seed", type=int, metavar="BASE", help="First seed; runs have BASE, BASE + 1, … Default: random, and stored."
)
@click.option("--seeds", metavar="A,B,…", help="One run with each of these seeds.")
@click.option("--prompt", metavar="TEXT", help="Text that the model continues.")
@click.option(
    "--prompts",
    "prompts_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Prompts, used in turn: one per line, or a JSON list of texts.",
)
@click.option("--raw", is_flag=True, help="Use prompts unchanged, without the model's chat template.")
@chat_options
@click.option("--temperature", type=float, default=1.0, show_default=True, help="Sampling temperature; 0 is greedy.")
@click.option(
    "--top-p",
    type=float,
    default=1.0,
    show_default=True,
    help="Sample from the likeliest tokens up to this total probability.",
)
@click.option(
    "--top-k",
    type=COUNT,
    default=0,
    show_default=True,
    metavar="N",
    help="Sample from the N likeliest tokens; 0 for all.",
)
@click.option("--control/--no-control", default=True, help="Measure a late twin of each run; see above.")
@click.option(
    "--perturb",
    metavar="TEXT",
    help="Measure the effect of this text on mid-pressure, in forks that leave the run unchanged.",
)
@click.option("--neutral", metavar="TEXT", help="Neutral text to compare with, cut or repeated to the same length.")
@click.option("--every", type=COUNT, metavar="CHUNKS", help="Number of chunks between forks.  [default: 5]")
@click.option("--replicates", type=COUNT, metavar="N", help="Continuations per arm of a fork.  [default: 8]")
@click.option(
    "--form",
    type=click.Choice(["raw", "turn"]),
    help="Inject the texts unchanged, or as a new user turn.  [default: raw]",
)
@click.option(
    "-o",
    "--output",
    "--out",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder of the measurement.",
)
@click.option("--json", "as_json", is_flag=True, help="Print results.json, and the load on the machine.")
def measure(as_json: bool, folder: Path, **options: Any) -> None:
    """Measure mid-pressure of MODEL over a context, in many runs.

    MODEL is a folder, a .gguf file, a Hugging Face id, a name that `moe-watch models` lists, or pocket, the built-in
    small model.

    A single run proves little. `measure` repeats it with different seeds. Each run has ten warm-up chunks and then the
    measured ones; if the model ends its text, it is made to continue. DIR receives one session file per run,
    results.json, report.md, and figures if matplotlib is installed. The same command resumes a measurement that was
    stopped or killed.

    A trend over a growing context may be drift with position. So each run has a late twin: the same prompt and number
    of tokens, but with text of another run before the prompt. Chunks of the same age then differ in position alone, and
    chunks at the same position in age alone. This doubles the time; `--no-control` turns it off.

    A dense model has no router, and so no pressure: it is refused.
    """
    plan = _plan(folder, options)
    findings = _measure(plan, folder)

    from moe_watch.sessions.measuring.machine_noise import range_in_words
    from moe_watch.sessions.measuring.output import write_all
    from moe_watch.sessions.measuring.results import results, to_bytes, with_noise
    from moe_watch.sessions.measuring.wording import summary_lines

    found = results(findings)
    noise = _noise(findings, folder)
    without_figures = write_all(findings, to_bytes(found), folder)
    if as_json:
        print_result(with_noise(found, noise))
    else:
        for line in summary_lines(findings):
            say(line)
        say(f"while measuring: {range_in_words([each for each in noise.values() if each is not None])}")
    if without_figures:
        complain(without_figures)
    say(f"the report is {folder / 'report.md'}", err=True)


def _noise(findings: Estimates, folder: Path) -> dict[str, Noise | None]:
    """Return the load on the machine by session file; None for a run that was measured without recording it."""
    from moe_watch.sessions.measuring.machine_noise import read_noise

    known = read_noise(folder)
    files = [each.run.planned.file for each in (*findings.plain, *findings.late)]
    return {file: known.get(file) for file in files}


def _measure(plan: Plan, folder: Path) -> Estimates:
    from moe_watch.sessions.measuring.estimates import analyse
    from moe_watch.sessions.measuring.runner import measure as measure_runs
    from moe_watch.sessions.text import plural

    view: _View | None = None
    try:
        with progress_bar() as bar:
            view = _View(bar, plan)
            measured = measure_runs(plan, folder, view)
            bar.update(view.task, description="fitting")
            return analyse(measured)
    except KeyboardInterrupt:
        whole = view.whole if view else 0
        complain(f"stopped with {plural(whole, 'run')} complete in {folder}; the same command continues from there")
        raise


class _View:
    """Progress of a measurement on standard error. A `moe_watch.sessions.measuring.runner.Watcher`."""

    def __init__(self, bar: ProgressBar, plan: Plan) -> None:
        self._bar = bar
        self._plan = plan
        self.task = new_task(bar)
        self.whole = 0
        """Number of complete runs."""
        self._total = sum(self._steps(run) for run in plan.plain_runs()) + len(plan.seeds) * plan.control * plan.tokens
        self._done = 0
        self._name_now = ""
        """Name of the current run."""

    def loading(self, progress: Progress) -> None:
        if not self._done:
            show_progress(self._bar, self.task, progress)

    def found(self, run: PlannedRun) -> None:
        self.whole += 1
        self._total -= self._steps(run)

    def begin(self, run: PlannedRun) -> None:
        self._name_now = self._name(run)
        self._advance(0)

    def item(self, item: StreamItem) -> None:
        from moe_watch.routing.events import Fork, State, Token

        if isinstance(item, State):
            show_pause(self._bar, item)
        if isinstance(item, Token) and item.phase == "decode":
            self._advance(1)
        elif isinstance(item, Fork):
            self._advance(len(item.generated))

    def end(self, run: PlannedRun) -> None:
        self.whole += 1
        if self._bar.disable:
            say(f"{self._name(run)}: recorded", err=True)

    def _advance(self, tokens: int) -> None:
        self._done += tokens
        show_amount(self._bar, self.task, self._name_now, self._done, self._total, "tokens")

    def _steps(self, run: PlannedRun) -> int:
        """Return the number of tokens that a run generates, forks included."""
        branches = self._plan.branches if run.kind == "plain" else 0
        return self._plan.tokens + branches * self._plan.spec.chunk_size

    def _name(self, run: PlannedRun) -> str:
        kind = "run" if run.kind == "plain" else "late twin"
        return f"{kind} {run.number} of {len(self._plan.seeds)}"


def _plan(folder: Path, options: Options) -> Plan:
    """Return the plan of a command's options.

    Raises:
        UserError: an option cannot be used, or the model cannot be found.
    """
    from moe_watch.backends.run_spec import RunSpec
    from moe_watch.sessions.measuring.plan import Plan
    from moe_watch.sessions.text import whole_text

    engine = engine_options_of(options)
    name = chosen_model(options["model"], options["model_option"])
    prompts = _prompts(name, options["prompt"], options["prompts_file"])
    chunks, chunk_size, backend = options["chunks"], options["chunk_size"], options["backend"]
    require(chunks >= FEWEST_CHUNKS, f"--chunks is {chunks}", f"a fit needs at least {FEWEST_CHUNKS}")
    check_sampler(chunk_size, options["temperature"], options["top_p"], options["top_k"])
    forks = _forks(*(options[name] for name in ("perturb", "neutral", "every", "replicates", "form")))
    check_chat(options)
    system, template = system_of(options), template_of(options)
    seeds = _seeds(options["runs"], options["seed"], options["seeds"], folder)
    control = control_of(options)
    check_model(name, backend, engine)
    require_routers(name, backend)
    return Plan(
        model=name,
        backend=backend,
        options=engine,
        template=template,
        spec=RunSpec(
            raw=options["raw"],
            system=system,
            sampler=sampler_of(options, "never"),
            chunk_size=chunk_size,
            forks=forks,
            mask=mask_of(options),
        ),
        prompts=[whole_text(each) for each in prompts],
        seeds=seeds,
        chunks=chunks,
        control=options["control"],
        pauses=control,
    )


def _prompts(model: str, prompt: str | None, file: Path | None) -> list[str]:
    if file is None:
        require(prompt is None or bool(prompt.strip()), "--prompt is empty", "give a text to continue")
        return [default_prompt(model) if prompt is None else prompt]
    require(prompt is None, "--prompt and --prompts both given", "keep one of them")
    text = text_of(file, "prompts")
    found = [each for each in _split(text, file) if each.strip()]
    require(bool(found), f"{file} has no prompt", "write one per line, or a JSON list of texts")
    return found


def _split(text: str, file: Path) -> list[str]:
    """Return the lines of a text, or the texts of a JSON list."""
    import json

    if not text.lstrip().startswith("["):
        return text.splitlines()
    try:
        found = json.loads(text)
    except ValueError:
        return text.splitlines()
    require(
        all(isinstance(each, str) for each in found),
        f"{file} has items that are no texts",
        "write a JSON list of texts",
    )
    return list(found)


def _forks(
    text: str | None, neutral: str | None, every: int | None, replicates: int | None, form: str | None
) -> ForkPlan | None:
    from moe_watch.backends.run_spec import ForkPlan
    from moe_watch.routing.pressure.formulas import WARM_UP_CHUNKS
    from moe_watch.sessions.text import whole_text

    if text is None:
        given = {"--neutral": neutral, "--every": every, "--replicates": replicates, "--form": form}
        for name, value in given.items():
            require(value is None, f"{name} without --perturb", "give the text to measure")
        return None
    require(bool(text), "--perturb is empty", "give the text to measure")
    require(neutral is None or bool(neutral), "--neutral is empty", "give a text, or omit the option")
    require(every is None or every > 0, f"--every is {every}", "fork at every boundary with 1")
    require(replicates is None or replicates > 0, f"--replicates is {replicates}", "use at least 1")
    return ForkPlan(
        text=whole_text(text),
        neutral=NEUTRAL if neutral is None else whole_text(neutral),
        form=form or "raw",  # type: ignore[arg-type]  # a choice of the option
        replicates=replicates or 8,
        every=every or 5,
        first=WARM_UP_CHUNKS,
    )


def _seeds(runs: int | None, base: int | None, listed: str | None, folder: Path) -> list[int]:
    """Return the seeds of all runs. Default: the seeds of the measurement in the folder, or new ones."""
    require(runs is None or 0 < runs <= MOST_RUNS, f"--runs is {runs}", f"measure 1 to {MOST_RUNS}")
    if listed is not None:
        require(base is None, "--seed and --seeds both given", "keep one of them")
        found = _listed_seeds(listed)
        require(runs in (None, len(found)), f"--runs is {runs}, and --seeds has {len(found)}", "omit --runs")
        return found
    if base is None:
        base = _kept_base(folder)
    count = runs or DEFAULT_RUNS
    highest = MAX_SEED - count + 1
    require(
        0 <= base <= highest,
        f"--seed is {base}",
        f"use 0 up to {highest}, as each of the {count} runs has a different seed",
    )
    return list(range(base, base + count))


def _listed_seeds(listed: str) -> list[int]:
    try:
        found = [int(each) for each in listed.split(",")]
    except ValueError as error:
        raise UserError(f"--seeds is {listed!r}", advice="write numbers separated by commas, as 1,2,3") from error
    for seed in found:
        require(0 <= seed <= MAX_SEED, f"--seeds has {seed}", f"use 0 up to {MAX_SEED}")
    require(len(set(found)) == len(found), "--seeds has a seed twice", "the runs would be the same")
    return found


def _kept_base(folder: Path) -> int:
    """Return the first seed of the measurement in the folder, or a random one."""
    from moe_watch.sessions.live.environment import Surroundings
    from moe_watch.sessions.measuring.plan import read_plan

    kept = read_plan(folder)
    return kept.seeds[0] if kept else Surroundings().draw_seed()
