"""`moe-watch check MODEL --show-prompt`: a prompt as the model would be sent it, before a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from moe_watch.commands.options import (
    Command,
    Options,
    chat_options,
    check_chat,
    prompt_file_options,
    prompt_of,
    require,
    system_of,
    template_of,
)
from moe_watch.commands.output import complain, print_result, say
from moe_watch.commands.watching.headless import new_task, progress_bar, show_progress
from moe_watch.commands.watching.settings import default_prompt

if TYPE_CHECKING:
    from moe_watch.backends.protocol import EngineOptions, RenderedPrompt
    from moe_watch.sessions.results.prompt import ShownPrompt

IDS_PER_LINE = 12


def show_prompt_options(command: Command) -> Command:
    """Add `--show-prompt` and the options of a prompt."""
    shown = click.option("--show-prompt", is_flag=True, help="Print a prompt as the model would be sent it, and exit.")
    raw = click.option("--raw", is_flag=True, help="With --show-prompt: without the model's chat template.")
    return shown(prompt_file_options(raw(chat_options(command))))


def take_prompt_options(options: Options) -> Options:
    """Remove the options of `show_prompt_options` from a command's options, and return them.

    Raises:
        UserError: one of them was given without `--show-prompt`.
    """
    taken = {name: options.pop(name) for name in ("show_prompt", "prompt", "prompt_file", "raw", "system", "template")}
    given = [f"--{name.replace('_', '-')}" for name, value in taken.items() if value not in (None, False)]
    require(
        taken["show_prompt"] or not given,
        f"{' and '.join(given)} without --show-prompt",
        "add --show-prompt, which prints the prompt that they make",
    )
    return taken


def show_prompt(model: str, backend: str, engine: EngineOptions, options: Options, *, as_json: bool) -> bool:
    """Load a model and print a prompt as it would be sent; return whether the format check has no warning.

    Args:
        model: name or path of the model.
        backend: `auto` or the name of an engine.
        engine: options of the engine.
        options: options of `take_prompt_options`.
        as_json: print one JSON object.

    Raises:
        UserError: the model cannot be loaded, or the prompt cannot be sent.
    """
    from moe_watch.backends.run_spec import RunSpec
    from moe_watch.sessions.live.settings import RunSettings
    from moe_watch.sessions.live.shared_worker import KeptWorker
    from moe_watch.sessions.text import whole_text

    check_chat(options)
    prompt = prompt_of(options)
    text = default_prompt(model) if prompt is None else prompt
    spec = RunSpec(prompt=whole_text(text), raw=options["raw"], system=system_of(options))
    settings = RunSettings(
        spec=spec,
        model=model,
        backend=backend,  # type: ignore[arg-type]  # the worker refuses other names
        options=engine,
        template=template_of(options),
    )
    with progress_bar() as bar:
        task = new_task(bar)
        with KeptWorker(settings.load(), lambda progress: show_progress(bar, task, progress)) as worker:
            found = worker.preview(spec)
    if as_json:
        print_result(_result(found))
    else:
        _print(found)
    return not found.warnings


def _result(found: RenderedPrompt) -> ShownPrompt:
    from moe_watch.sessions.results.prompt import ShownPrompt

    template = found.template
    return ShownPrompt(
        text=found.text,
        ids=[token.id for token in found.tokens],
        special=[i for i, token in enumerate(found.tokens) if token.special],
        template=None if template is None else template.origin,
        template_file=None if template is None else template.name,
        template_sha256=None if template is None else template.sha256,
        warnings=found.warnings,
    )


def _print(found: RenderedPrompt) -> None:
    from moe_watch.tui.text.template_origin import template_in_words

    say(f"{len(found.tokens):,} tokens, {template_in_words(found.template)}")
    say("")
    for line in _lines(found):
        say(line)
    say("")
    ids = [str(token.id) for token in found.tokens]
    for start in range(0, len(ids), IDS_PER_LINE):
        say(" ".join(ids[start : start + IDS_PER_LINE]))
    for warning in found.warnings:
        complain(warning)


def _lines(found: RenderedPrompt) -> list[str]:
    """Return the text by lines, each line end visible, and special tokens in brackets."""
    shown = "".join(f"⟦{token.text}⟧" if token.special else token.text for token in found.tokens)
    lines = shown.split("\n")
    return [f"{line}⏎" for line in lines[:-1]] + lines[-1:]
