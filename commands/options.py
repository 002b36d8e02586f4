"""Options that several commands share, and their checks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from moe_watch.routing.errors import UserError

if TYPE_CHECKING:
    from moe_watch.backends.protocol import EngineOptions, TemplateFile
    from moe_watch.backends.run_spec import InjectionSchedule, SamplerOptions

Stop = Literal["eos", "never"]
Command = TypeVar("Command", bound=Callable[..., Any])

Options = dict[str, Any]
"""Options of a command by name, as click passes them."""

DEFAULT_MODEL = "pocket"

CHAT = ("system", "template")
"""Options of a chat template."""

EXAMPLE = "run.moe.jsonl"
"""File name of a session, for advice."""

MAX_SEED = 2**32 - 2
"""Largest seed that every engine accepts: llama.cpp's seeds have 32 bits, and the largest one means `any`."""

LONGEST_TEXT = 100_000_000
"""Bytes. No context is nearly that long."""

MAX_COUNT = 2**31 - 1
"""Largest value of a count: llama.cpp's counts have 32 bits."""

MAX_TEMPERATURE = 1_000_000
"""Far beyond the temperature at which all tokens are equally likely. A session cannot store every float."""


class Count(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """Integer that every engine and every file can store. The command checks its range."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number.

        Raises:
            click.BadParameter: the value is no integer.
            UserError: it is too large.
        """
        number: int = click.INT.convert(value, param, ctx)
        option = param.opts[-1] if param else "a number"
        require(number <= MAX_COUNT, f"{option} is {value}", f"use {MAX_COUNT} at most")
        return number


COUNT = Count()


def model_choice(command: Command) -> Command:
    """Add MODEL, as an argument or as `--model`."""
    named = click.option("--model", "model_option", metavar="MODEL", help="Same as the MODEL argument.")
    return click.argument("model", required=False)(named(command))


def chosen_model(positional: str | None, named: str | None) -> str:
    """Return the model that was given; `pocket` if none was.

    Raises:
        UserError: two different models were given.
    """
    given = {model for model in (positional, named) if model is not None}
    if len(given) > 1:
        raise UserError(f"two models given, {positional!r} and {named!r}", advice="name one of them")
    return given.pop() if given else DEFAULT_MODEL


def generation_options(command: Command) -> Command:
    """Add the options of a generation, which `run_settings` collects."""
    for option in reversed(_GENERATION):
        command = option(command)
    return command


def engine_options(command: Command) -> Command:
    """Add the options of the engine, which `engine_options_of` collects, except `--backend`."""
    for option in reversed(_ENGINE):
        command = option(command)
    return command


def engine_options_of(options: Options) -> EngineOptions:
    """Remove the engine's options from a command's options, and return them.

    Raises:
        UserError: a value is out of its range.
    """
    from moe_watch.backends.engine_options import check_ranges
    from moe_watch.backends.protocol import EngineOptions

    given = {name: options.pop(name) for name in EngineOptions.__struct_fields__}
    found = EngineOptions(**given | {"tensor_overrides": list(given["tensor_overrides"])})
    check_ranges(found)
    return found


_ENGINE = (
    click.option("--backend", default="auto", show_default=True, metavar="NAME", help="auto, mlx or llama.cpp."),
    click.option(
        "--context",
        type=COUNT,
        metavar="N",
        help="Context length in tokens. Default: the model's own; for llama.cpp, at most 8,192.",
    ),
    click.option(
        "--threads", type=COUNT, metavar="N", help="llama.cpp: number of threads. Default: all cores but one."
    ),
    click.option("--gpu-layers", type=COUNT, metavar="N", help="llama.cpp: number of layers on the GPU; -1 for all."),
    click.option("--batch", type=COUNT, metavar="N", help="llama.cpp: prompt tokens evaluated in one call."),
    click.option(
        "--micro-batch", type=COUNT, metavar="N", help="llama.cpp: prompt tokens evaluated at once; a batch is split."
    ),
    click.option("--mmap/--no-mmap", default=None, help="llama.cpp: map the model file into memory, or read it."),
    click.option(
        "--mlock/--no-mlock", default=None, help="llama.cpp: lock the model in memory, so that it is not swapped out."
    ),
    click.option("--kv-type", metavar="TYPE", help="llama.cpp: type of the KV cache: f32, f16, bf16, q8_0, q4_0, …"),
    click.option(
        "-ot",
        "--override-tensor",
        "tensor_overrides",
        multiple=True,
        metavar="PATTERN=BUFFER",
        help="llama.cpp: keep the tensors whose names match in this memory, e.g. ffn_.*_exps=CPU. Repeatable.",
    ),
    click.option(
        "--experts-per-token",
        type=COUNT,
        metavar="N",
        help="Number of experts that every MoE layer selects for a token, in place of the model's own.",
    ),
    click.option(
        "--trust-remote-code",
        is_flag=True,
        help="MLX: run Python code from the model's folder, with all your rights. Read it first.",
    ),
)

_CHAT = (
    click.option("--system", metavar="TEXT", help="System prompt, for a model with a chat template."),
    click.option(
        "--template",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Chat template (Jinja) to use in place of the model's.",
    ),
)

_PROMPT = (
    click.option("--prompt", metavar="TEXT", help="Text that the model continues."),
    click.option("--prompt-file", type=click.Path(path_type=Path), metavar="FILE", help="Read the prompt from a file."),
)

_GENERATION = (
    *_PROMPT,
    click.option("--raw", is_flag=True, help="Use the prompt unchanged, without the model's chat template."),
    *_CHAT,
    click.option("--tokens", type=COUNT, metavar="N", help="Number of tokens to generate."),
    click.option("--chunk-size", type=COUNT, default=20, show_default=True, metavar="N", help="Tokens per chunk."),
    click.option(
        "--temperature", type=float, default=1.0, show_default=True, help="Sampling temperature; 0 is greedy."
    ),
    click.option(
        "--top-p",
        type=float,
        default=1.0,
        show_default=True,
        help="Sample from the likeliest tokens up to this total probability.",
    ),
    click.option(
        "--top-k",
        type=COUNT,
        default=0,
        show_default=True,
        metavar="N",
        help="Sample from the N likeliest tokens; 0 for all.",
    ),
    click.option(
        "--seed",
        type=int,
        metavar="N",
        help="Seed of the sampler, to repeat a run exactly. Default: random, and recorded.",
    ),
    click.option(
        "--stop",
        type=click.Choice(["eos", "never"]),
        help="At the end of the model's text: end the run (eos), or continue (never).  [default: never]",
    ),
    click.option("--perturb", metavar="TEXT", help="Text to inject on a schedule; needs --every."),
    click.option(
        "--every", type=COUNT, default=0, metavar="CHUNKS", help="Number of chunks between injections of --perturb."
    ),
    click.option(
        "--teacher",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Teacher forcing: evaluate the tokens of this session, with its seed.",
    ),
    *_ENGINE,
)


def prompt_file_options(command: Command) -> Command:
    """Add `--prompt` and `--prompt-file`, which `prompt_of` collects."""
    for option in reversed(_PROMPT):
        command = option(command)
    return command


def chat_options(command: Command) -> Command:
    """Add `--system` and `--template`, which `system_of` and `template_of` collect."""
    for option in reversed(_CHAT):
        command = option(command)
    return command


def recording_options(command: Command) -> Command:
    """Add the options of the file to record to."""
    force = click.option("--force", is_flag=True, help="Overwrite an existing file.")
    output = click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="File to record to. Default: a new file in the data directory.",
    )
    return output(force(command))


def checked_output(output: Path | None) -> Path | None:
    """Return the file to record to.

    Raises:
        UserError: it is a folder, or no file name.
    """
    if output is not None:
        require(str(output) not in {".", "-"}, "--output names no file", "give a file to record to")
        require(not output.is_dir(), f"--output: {output} is a folder", f"give a file in it, as {output / EXAMPLE}")
    return output


def check_generation(options: Options) -> None:
    """Check the options of `generation_options`.

    Raises:
        UserError: an option is out of its range, or two options exclude each other.
    """
    tokens, seed, text, every = (options[name] for name in ("tokens", "seed", "perturb", "every"))
    require(tokens is None or tokens > 0, f"--tokens is {tokens}", "generate at least 1")
    check_sampler(options["chunk_size"], options["temperature"], options["top_p"], options["top_k"])
    require(seed is None or 0 <= seed <= MAX_SEED, f"--seed is {seed}", f"use 0 up to {MAX_SEED}")
    require(every >= 0, f"--every is {every}", "use at least 1 chunk")
    require(text != "", "--perturb is empty", "give the text that is to be injected")
    require(bool(text) == (every > 0), "--perturb and --every go together", "give both")
    check_chat(options)
    if options["teacher"] is not None:
        given = [f"--{name}" for name in ("prompt", "tokens", "perturb", *CHAT) if options[name] is not None]
        require(not given, f"--teacher and {' and '.join(given)} given", "the session has all tokens: keep one of them")


def check_chat(options: Options) -> None:
    """Check the options of `chat_options` beside `raw`.

    Raises:
        UserError: a raw prompt has a system prompt or a template, or the system prompt is empty.
    """
    given = [f"--{name}" for name in CHAT if options[name] is not None]
    one = "which formats a prompt" if given == ["--template"] else "which only a chat template formats"
    require(
        not (given and options["raw"]),
        f"--raw and {' and '.join(given)} given, {one}",
        f"leave out --raw or {' and '.join(given)}",
    )
    require(options["system"] != "", "--system is empty", "give a text, or leave it out")


def system_of(options: Options) -> str | None:
    """Take the system prompt out of a command's options."""
    from moe_watch.sessions.text import whole_text

    text = options.pop("system")
    return None if text is None else whole_text(text)


def template_of(options: Options) -> TemplateFile | None:
    """Take the chat template out of a command's options.

    Raises:
        UserError: its file cannot be read, or is empty.
    """
    from moe_watch.backends.protocol import TemplateFile
    from moe_watch.sessions.text import whole_text

    file = options.pop("template")
    if file is None:
        return None
    source = text_of(file, "the chat template")
    require(bool(source.strip()), f"--template: {file} is empty", "give a Jinja chat template")
    return TemplateFile(name=whole_text(file.name), source=source)


def sampler_of(options: Options, stop: Stop) -> SamplerOptions:
    """Take the sampler out of a command's options.

    Args:
        options: with `temperature`, `top_p` and `top_k`, and with `stop` if the command has that option.
        stop: default of `stop`.
    """
    from moe_watch.backends.run_spec import SamplerOptions

    given = {name: options.pop(name) for name in ("temperature", "top_p", "top_k")}
    return SamplerOptions(**given, stop=options.pop("stop", None) or stop)


def injections_of(options: Options) -> InjectionSchedule | None:
    """Take the schedule of injections out of a command's options."""
    from moe_watch.backends.run_spec import InjectionSchedule

    text, every = options.pop("perturb"), options.pop("every")
    return None if text is None else InjectionSchedule(text=text, every=every)


def prompt_of(options: Options) -> str | None:
    """Take the prompt out of a command's options; None if there is none.

    Raises:
        UserError: its file cannot be read, or there are two prompts.
    """
    return _prompt(options.pop("prompt"), options.pop("prompt_file"))


def _prompt(text: str | None, file: Path | None) -> str | None:
    if file is None:
        return text
    require(text is None, "--prompt and --prompt-file both given", "keep one of them")
    return text_of(file, "the prompt")


def text_of(file: Path, what: str) -> str:
    """Return the text of a file, without a byte order mark.

    Args:
        file: the file, or a device or FIFO.
        what: content of the file, for messages.

    Raises:
        UserError: the file cannot be read, is not UTF-8, or is longer than `LONGEST_TEXT`.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(LONGEST_TEXT + 1)
    except OSError as error:
        raise UserError(f"cannot read {what} from {file}: {error.strerror}", advice="check the path") from error
    require(len(content) <= LONGEST_TEXT, f"{file} is longer than {LONGEST_TEXT:,} bytes", "give a shorter text")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text (byte {error.start})", advice="give a text file") from error


def check_sampler(chunk_size: int, temperature: float, top_p: float, top_k: int) -> None:
    """Check the settings of the sampler, and the chunk size.

    Raises:
        UserError: an option is out of its range.
    """
    require(chunk_size > 0, f"--chunk-size is {chunk_size}", "a chunk has at least 1 token")
    limits = f"use 0 up to {MAX_TEMPERATURE}"
    require(0 <= temperature <= MAX_TEMPERATURE, f"--temperature is {temperature}", limits)
    require(0 < top_p <= 1, f"--top-p is {top_p}", "use a share above 0 and up to 1")
    require(top_k >= 0, f"--top-k is {top_k}", "use 0 (all) or more")


def require(holds: bool, what: str, advice: str) -> None:
    """Check an option.

    Raises:
        UserError: `holds` is false; its text is `what` and `advice`.
    """
    if not holds:
        raise UserError(what, advice=advice)
