"""`moe-watch bench`: measure the observation cost on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import click

from moe_watch.commands.options import COUNT, chosen_model, engine_options, engine_options_of, model_choice, require
from moe_watch.commands.output import complain, print_result, say
from moe_watch.commands.watching.headless import new_task, progress_bar, show_amount, show_progress
from moe_watch.commands.watching.settings import check_model, default_prompt

if TYPE_CHECKING:
    from moe_watch.backends.protocol import Ready
    from moe_watch.routing.events import Cost, Progress
    from moe_watch.routing.stats.timing_noise import Noise
    from moe_watch.sessions.bench import BenchResult, VariantRates
    from moe_watch.sessions.live.settings import RunSettings
    from moe_watch.sessions.results.cost import BenchReport, BenchRow

NO_TAP = "a dense model has no tap: its rows with and without one both measure text and events alone"


@click.command()
@model_choice
@engine_options
@click.option("--rounds", type=COUNT, default=10, show_default=True, metavar="N", help="Number of rounds, 6 or more.")
@click.option("--tokens", type=COUNT, default=200, show_default=True, metavar="N", help="Tokens per measurement.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def bench(rounds: int, tokens: int, as_json: bool, **options: Any) -> int:
    """Measure the cost of observing MODEL on this machine.

    MODEL is a folder, a .gguf file, a Hugging Face id, a name that `moe-watch models` lists, or pocket, the built-in
    small model.

    Each round measures, in turn: the engine's own loop; moe-watch with the tap off; with the tap on; with a recording
    as well; with recording and dashboard. Ratios are to the engine's own loop in the same round. The cost of the tap
    is stored, and the dashboard shows it from then on. If the measurement is too noisy, nothing is stored and the
    exit status is 1: close other programs, or measure more rounds.
    """
    from moe_watch.sessions.bench import Bench
    from moe_watch.tui.offscreen import run_unseen

    settings = _settings(rounds, tokens, **options)
    with progress_bar() as bar:
        task, done = new_task(bar), count()

        def loading(progress: Progress) -> None:
            show_progress(bar, task, progress)

        def measured() -> None:
            show_amount(bar, task, "measuring", next(done), running.measurements(rounds), "measurements")

        with Bench(settings, loading, dashboard=run_unseen) as running:
            bar.reset(task)
            measured()
            result = running.run(rounds, measured)
    ready = running.ready
    if as_json:
        print_result(_report(ready, rounds, tokens, result))
    else:
        _print(ready, rounds, tokens, result)
    if ready.model.is_dense:  # not stored: there is no cost of a tap
        complain(NO_TAP)
        return 0
    if result.cost is None:
        complain(
            f"too noisy, the cost of the tap is not stored: {result.doubt}; close other programs, or raise --rounds"
        )
        return 1
    _keep(ready, result.cost, result.noise)
    return 0


def _settings(
    rounds: int, tokens: int, *, model: str | None, model_option: str | None, backend: str, **engine: Any
) -> RunSettings:
    """Return the settings of the measured runs.

    Raises:
        UserError: an option is invalid, or the model cannot be found.
    """
    from moe_watch.backends.run_spec import RunSpec
    from moe_watch.routing.stats.ratios import FEWEST_ROUNDS
    from moe_watch.sessions.bench import FEWEST_TOKENS
    from moe_watch.sessions.live.settings import RunSettings

    name = chosen_model(model, model_option)
    require(rounds >= FEWEST_ROUNDS, f"--rounds is {rounds}", f"a 95 % interval needs at least {FEWEST_ROUNDS}")
    require(tokens >= FEWEST_TOKENS, f"--tokens is {tokens}", f"a rate needs at least {FEWEST_TOKENS}")
    options = engine_options_of(engine)
    check_model(name, backend, options)
    return RunSettings(
        model=name,
        backend=backend,  # type: ignore[arg-type]  # checked by `check_model`
        options=options,
        spec=RunSpec(prompt=default_prompt(name), tokens=tokens),
    )


def _report(ready: Ready, rounds: int, tokens: int, result: BenchResult) -> BenchReport:
    from msgspec import convert

    from moe_watch.sessions.results.cost import BenchReport, CostResult, NoiseResult

    is_dense = ready.model.is_dense
    return BenchReport(
        model=ready.model.name,
        backend=ready.backend.name,
        device=ready.backend.device,
        rounds=rounds,
        tokens=tokens,
        rows=[_row(row) for row in result.rows],
        cost=convert(result.cost, CostResult, from_attributes=True) if result.cost and not is_dense else None,
        cost_unavailable=NO_TAP if is_dense else result.doubt,
        noise=convert(result.noise, NoiseResult, from_attributes=True),
    )


def _row(row: VariantRates) -> BenchRow:
    from moe_watch.sessions.results.cost import BenchRow

    return BenchRow(
        name=row.name,
        phase=row.phase,
        tokens_per_second=row.tokens_per_second,
        ratio=row.ratio.value,
        interval=row.ratio.interval,
        too_noisy=row.doubt,
    )


def _print(ready: Ready, rounds: int, tokens: int, result: BenchResult) -> None:
    """Print one table per phase, as ratios differ by phase."""
    from moe_watch.routing.stats.ratios import table
    from moe_watch.routing.stats.timing_noise import in_words

    rows = result.rows
    backend = ready.backend
    threads = "" if backend.threads is None else f", threads: {backend.threads}"
    say(f"{ready.model.name} on {backend.name} ({backend.version}), {backend.device}{threads}")
    say(f"{rounds} rounds, {tokens} generated tokens per measurement")
    for phase in ("decode", "prefill"):
        say("")
        for line in table({row.name: row.rates for row in rows if row.phase == phase}, corner=phase).splitlines():
            say(line)
        for line in _doubts(rows, phase):
            say(line)
    say("")
    say(f"while measuring: {in_words(result.noise)}")


def _doubts(rows: Sequence[VariantRates], phase: str) -> list[str]:
    return [f"{row.name}: too noisy ({row.doubt})" for row in rows if row.phase == phase and row.doubt is not None]


def _keep(ready: Ready, cost: Cost, noise: Noise) -> None:
    from moe_watch.sessions.live.cost import keep_cost

    try:
        keep_cost(ready.model, ready.backend, cost, noise)
    except OSError as error:
        complain(f"the dashboard will not show this cost: it cannot be stored ({error.strerror or error})")
