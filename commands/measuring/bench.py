"""`moe-watch bench`: measure what observing costs on this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

import click

from moe_watch.commands.options import COUNT, chosen_model, engine_options, engine_options_of, model_choice, require
from moe_watch.commands.output import complain, say
from moe_watch.commands.watching.headless import new_task, progress_bar, show_amount, show_progress
from moe_watch.commands.watching.settings import check_model, default_prompt

if TYPE_CHECKING:
    from moe_watch.backends.protocol import Ready
    from moe_watch.routing.events import Progress
    from moe_watch.sessions.bench import BenchResult, VariantRates
    from moe_watch.sessions.live.settings import RunSettings


@click.command(short_help="Measure what observing costs.")
@model_choice
@engine_options
@click.option(
    "--rounds", type=COUNT, default=10, show_default=True, metavar="N", help="Measure everything N times, 6 or more."
)
@click.option("--tokens", type=COUNT, default=200, show_default=True, metavar="N", help="Tokens in a measurement.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def bench(rounds: int, tokens: int, as_json: bool, **options: Any) -> int:
    """Measure what observing MODEL costs on this machine.

    MODEL is a folder, a .gguf file, a Hugging Face id, or pocket, the small model inside.

    In turn: the engine's own loop; ours with the tap off, and on; ours recorded; and with the dashboard beside it.
    Ratios are to the first one in the same round. The cost of the tap is kept, and shown at the top of the dashboard
    from then on. Where the measurement is too noisy, nothing is kept and the exit status is 1: close other programs, or
    measure more rounds.
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
        click.echo(json.dumps(_result(ready, rounds, tokens, result), allow_nan=False))
    else:
        _print(ready, rounds, tokens, result)
    if result.doubt is not None:
        complain(f"too noisy, the cost of the tap is not kept: {result.doubt}; close other programs, or raise --rounds")
        return 1
    _keep(ready, result)
    return 0


def _settings(
    rounds: int, tokens: int, *, model: str | None, model_option: str | None, backend: str, **engine: Any
) -> RunSettings:
    """What to measure.

    Raises:
        UserError: an option cannot be used, or the model cannot be found, with what to do about it.
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


def _result(ready: Ready, rounds: int, tokens: int, result: BenchResult) -> dict[str, Any]:
    from msgspec import to_builtins

    return {
        "model": ready.model.name,
        "backend": ready.backend.name,
        "device": ready.backend.device,
        "rounds": rounds,
        "tokens": tokens,
        "rows": [
            {
                "name": row.name,
                "phase": row.phase,
                "tokens_per_second": row.tokens_per_second,
                "ratio": row.ratio.value,
                "interval": row.ratio.interval,
                "too_noisy": row.doubt,
            }
            for row in result.rows
        ],
        "cost": _cost(result),
        "cost_unavailable": result.doubt,
        "noise": to_builtins(result.noise),
    }


def _cost(result: BenchResult) -> dict[str, Any] | None:
    cost = result.cost
    if cost is None:
        return None
    return {"tap_off": cost.tap_off, "tap_on": cost.tap_on, "ratio": cost.ratio, "interval": cost.interval}


def _print(ready: Ready, rounds: int, tokens: int, result: BenchResult) -> None:
    """Print one table per phase: the ratios of one are not those of the other."""
    from moe_watch.routing.stats.ratios import table
    from moe_watch.routing.stats.timing_noise import in_words

    rows = result.rows
    backend = ready.backend
    threads = "" if backend.threads is None else f", threads: {backend.threads}"
    say(f"{ready.model.name} on {backend.name} ({backend.version}), {backend.device}{threads}")
    say(f"{rounds} rounds, {tokens} generated tokens in each measurement")
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


def _keep(ready: Ready, result: BenchResult) -> None:
    from moe_watch.sessions.live.cost import keep_cost

    cost = result.cost
    assert cost is not None
    try:
        keep_cost(ready.model, ready.backend, cost, result.noise)
    except OSError as error:
        complain(f"the dashboard will not show this cost: it cannot be kept ({error.strerror or error})")
