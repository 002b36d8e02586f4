"""`moe-watch perplexity`: perplexity of a model on a text, and its ratio to another model's."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moe_watch.commands.options import COUNT, chosen_model, engine_options, engine_options_of, model_choice, require
from moe_watch.commands.output import print_result, say
from moe_watch.commands.watching.headless import new_task, note, progress_bar, show_amount, show_progress
from moe_watch.commands.watching.settings import checked_load
from moe_watch.routing.errors import UserError

if TYPE_CHECKING:
    from moe_watch.backends.protocol import EngineOptions
    from moe_watch.routing.events import Progress
    from moe_watch.routing.router.masks import ExpertMask
    from moe_watch.sessions.results.perplexity import PerplexityReport, PerplexityValue
    from moe_watch.sessions.scoring.perplexity import ModelScore, TextToScore

EPILOG = """
The convention is that of llama.cpp's own tool: whole windows of --context tokens, the first token replaced by the
begin-of-text token where the vocabulary has one, and the second half of each window scored. Definitions:
docs/measurements.md, "Perplexity".
"""


@click.command(epilog=EPILOG)
@model_choice
@click.option("--text", type=click.Path(path_type=Path), required=True, metavar="FILE", help="Text to score, UTF-8.")
@click.option("--against", metavar="MODEL", help="Also score this model, and compare the two token by token.")
@click.option("--ablate", metavar="L:E,…", help="Switch these experts of MODEL off: layer and expert numbers.")
@click.option("--windows", type=COUNT, metavar="N", help="Score only the first N windows.")
@engine_options
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def perplexity(
    text: Path,
    against: str | None,
    ablate: str | None,
    windows: int | None,
    as_json: bool,
    model: str | None,
    model_option: str | None,
    backend: str,
    **options: Any,
) -> None:
    """Measure the perplexity of MODEL on a text.

    MODEL is a folder, a .gguf file, a Hugging Face id, a name that `moe-watch models` lists, or pocket, the built-in
    small model. --context is the length of a window, 512 by default. --experts-per-token and --ablate apply to MODEL
    alone, so that MODEL can be compared with itself: `--ablate 0:3 --against MODEL`.
    """
    from moe_watch.commands.watching.settings import check_model
    from moe_watch.routing.router.masks import ExpertMask, parse_mask
    from moe_watch.sessions.scoring.perplexity import read_text

    engine = engine_options_of(options)
    given = read_text(text, engine.context, windows)
    mask = ExpertMask() if ablate is None else parse_mask(ablate)
    require(windows is None or windows >= 2, f"--windows is {windows}", "give 2 or more")
    name = chosen_model(model, model_option)
    if against is not None:  # before the first model is scored, which may take an hour
        check_model(against, backend, _without_k(engine))
    first = _scored(name, backend, engine, given, mask)
    second = None
    if against is not None:
        second = _scored(against, backend, _without_k(engine), given, ExpertMask())
        _require_same_tokens(first, second)
    report = _report(given, first, second)
    if as_json:
        print_result(report)
    else:
        for line in _lines(report):
            say(line)


def _without_k(engine: EngineOptions) -> EngineOptions:
    from msgspec.structs import replace

    return replace(engine, experts_per_token=None)


def _scored(model: str, backend: str, engine: EngineOptions, text: TextToScore, mask: ExpertMask) -> ModelScore:
    """Load a model, and score the text with a progress bar; the time it takes is printed after the first window.

    Raises:
        UserError: the model cannot be loaded, or cannot score the text.
    """
    from moe_watch.sessions.scoring.perplexity import score_text

    load = checked_load(model, backend, engine)
    with progress_bar() as bar:
        task = new_task(bar)

        def loading(progress: Progress) -> None:
            show_progress(bar, task, progress)

        def scored(done: int, total: int) -> None:
            show_amount(bar, task, "scoring", done, total, "windows")

        def estimated(seconds: float) -> None:
            from moe_watch.tui.text.format import duration

            note(bar, f"{model}: about {duration(seconds)} for the whole text, by its first window")

        return score_text(load, text, mask, loading=loading, scored=scored, estimated=estimated)


def _require_same_tokens(first: ModelScore, second: ModelScore) -> None:
    if first.windows.ids != second.windows.ids or first.windows.begin != second.windows.begin:
        raise UserError(
            f"{first.ready.model.name} and {second.ready.model.name} divide the text into different tokens",
            advice="compare models with the same tokenizer",
        )


def _report(text: TextToScore, first: ModelScore, second: ModelScore | None) -> PerplexityReport:
    from msgspec.structs import asdict

    from moe_watch.routing.stats.perplexity import paired
    from moe_watch.sessions.results.perplexity import PerplexityRatio, PerplexityReport

    compared = None if second is None else paired(first.surprisals, second.surprisals)
    return PerplexityReport(
        **asdict(_value(first)),
        tokens=sum(map(len, first.surprisals)),
        context=text.window,
        windows=len(first.surprisals),
        text=text.name,
        text_tokens=first.windows.tokens,
        text_sha256=text.sha256,
        against=None if second is None else _value(second),
        paired=None
        if compared is None
        else PerplexityRatio(
            ratio=compared.ratio,
            ratio_interval=compared.ratio_interval,
            difference=compared.difference,
            difference_interval=compared.difference_interval,
        ),
    )


def _value(scored: ModelScore) -> PerplexityValue:
    from moe_watch.routing.stats.perplexity import perplexity as perplexity_of
    from moe_watch.sessions.results.perplexity import PerplexityValue

    found, model = perplexity_of(scored.surprisals), scored.ready.model
    return PerplexityValue(
        model=model.name,
        quantization=model.quantization,
        backend=scored.ready.backend.name,
        experts_per_token=model.experts_per_token,
        ablate=str(scored.mask) or None,
        perplexity=found.perplexity,
        standard_error=found.standard_error,
        interval=found.interval,
    )


def _lines(report: PerplexityReport) -> list[str]:
    """Return the report as lines of text."""
    lines = [_line(report)]
    if report.against is not None and report.paired is not None:
        paired = report.paired
        lines += [
            _line(report.against),
            f"ratio to {report.against.model}: {paired.ratio:.4f} ({_interval(paired.ratio_interval, '.4f')})",
            "difference, paired by token: "
            f"{paired.difference:+.4f} nats per token ({_interval(paired.difference_interval, '+.4f')})",
        ]
    lines.append(
        f"{report.tokens:,} of {report.text_tokens:,} tokens scored, in {report.windows} windows of {report.context}"
    )
    return lines


def _line(value: PerplexityValue) -> str:
    named = f"{value.model} ({value.quantization or value.backend})"
    without = f" without {value.ablate}" if value.ablate else ""
    return (
        f"{named}{without}: perplexity {value.perplexity:.4f} ± {value.standard_error:.5f} "
        f"({_interval(value.interval, '.4f')})"
    )


def _interval(interval: tuple[float, float] | None, form: str) -> str:
    if interval is None:
        return "too few tokens for an interval"
    return f"95 %: {interval[0]:{form}} to {interval[1]:{form}}"
