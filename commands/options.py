"""Options that mean the same on every command that takes them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from moe_watch.routing.errors import UserError

if TYPE_CHECKING:
    from moe_watch.backends.protocol import EngineOptions
    from moe_watch.backends.run_spec import InjectionSchedule, SamplerOptions

Stop = Literal["eos", "never"]
Command = TypeVar("Command", bound=Callable[..., Any])

DEFAULT_MODEL = "pocket"

EXAMPLE = "run.moe.jsonl"
"""What a session may be called."""

MAX_SEED = 2**32 - 2
"""What every engine takes: llama.cpp's seeds have 32 bits, and the highest one means `any`."""

LONGEST_TEXT = 100_000_000
"""Bytes; no context is nearly as long."""

MAX_COUNT = 2**31 - 1
"""The largest number of anything: llama.cpp's counts have 32 bits."""

MAX_TEMPERATURE = 1_000_000
"""Far beyond where all tokens are equally likely; a session cannot hold every number that a float can."""


class Count(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    """A whole number that every engine and every file can hold. Whether it makes sense is for the command to say."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number.

        Raises:
            click.BadParameter: it is none.
            UserError: it is too large.
        """
        number: int = click.INT.convert(value, param, ctx)
        option = param.opts[-1] if param else "a number"
        require(number <= MAX_COUNT, f"{option} is {value}", f"use {MAX_COUNT} at most")
        return number


COUNT = Count()


def model_choice(command: Command) -> Command:
    """MODEL, positional or as `--model`."""
    named = click.option("--model", "model_option", metavar="MODEL", help="The same as the MODEL argument.")
    return click.argument("model", required=False)(named(command))


def chosen_model(positional: str | None, named: str | None) -> str:
    """The one model that was asked for, `pocket` if none was.

    Raises:
        UserError: two different ones were.
    """
    given = {model for model in (positional, named) if model is not None}
    if len(given) > 1:
        raise UserError(f"two models given, {positional!r} and {named!r}", advice="name one of them")
    return given.pop() if given else DEFAULT_MODEL


def generation_options(command: Command) -> Command:
    """What to generate, and how. Collected by `run_settings`."""
    for option in reversed(_GENERATION):
        command = option(command)
    return command


def engine_options(command: Command) -> Command:
    """What runs the model, and how. Collected by `engine_options_of`, except `--backend`."""
    for option in reversed(_ENGINE):
        command = option(command)
    return command


def engine_options_of(options: dict[str, Any]) -> EngineOptions:
    """Take what is for the engine out of a command's options.

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
        help="Tokens that the context holds. If not given, the model's own; llama.cpp: 8,192 at most.",
    ),
    click.option("--threads", type=COUNT, metavar="N", help="llama.cpp: threads. All cores but one if not given."),
    click.option("--gpu-layers", type=COUNT, metavar="N", help="llama.cpp: so many layers on the GPU; -1 is all."),
    click.option("--batch", type=COUNT, metavar="N", help="llama.cpp: tokens of a prompt in one call."),
    click.option("--micro-batch", type=COUNT, metavar="N", help="llama.cpp: tokens of a prompt evaluated at once."),
    click.option("--mmap/--no-mmap", default=None, help="llama.cpp: map the file into memory, or read it."),
    click.option("--mlock/--no-mlock", default=None, help="llama.cpp: keep the model from being swapped out."),
    click.option("--kv-type", metavar="TYPE", help="llama.cpp: numbers in the KV cache; f32, f16, bf16, q8_0, q4_0, …"),
    click.option(
        "-ot",
        "--override-tensor",
        "tensor_overrides",
        multiple=True,
        metavar="PATTERN=BUFFER",
        help="llama.cpp: where tensors are kept whose names match, e.g. ffn_.*_exps=CPU. Repeatable.",
    ),
    click.option(
        "--trust-remote-code",
        is_flag=True,
        help="MLX: run Python code that the model's folder brings, with all your rights. Read it before.",
    ),
)

_GENERATION = (
    click.option("--prompt", metavar="TEXT", help="What the model goes on from."),
    click.option("--prompt-file", type=click.Path(path_type=Path), metavar="FILE", help="Read the prompt from a file."),
    click.option("--raw", is_flag=True, help="Leave the prompt as it is, without the model's chat template."),
    click.option("--tokens", type=COUNT, metavar="N", help="Generate so many tokens."),
    click.option("--chunk-size", type=COUNT, default=20, show_default=True, metavar="N", help="Tokens in a chunk."),
    click.option("--temperature", type=float, default=1.0, show_default=True, help="0 takes the likeliest token."),
    click.option("--top-p", type=float, default=1.0, show_default=True, help="Draw from this share of probability."),
    click.option("--top-k", type=COUNT, default=0, show_default=True, help="Draw from so many tokens; 0 is all."),
    click.option("--seed", type=int, metavar="N", help="Repeat a run exactly. Drawn and recorded if not given."),
    click.option(
        "--stop",
        type=click.Choice(["eos", "never"]),
        help="At the end of the model's text: stop, or continue it.  [default: never]",
    ),
    click.option("--perturb", metavar="TEXT", help="Inject this text on a schedule; needs --every."),
    click.option("--every", type=COUNT, default=0, metavar="CHUNKS", help="How often --perturb injects."),
    click.option(
        "--teacher",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Take the tokens of this recorded session, and its seed.",
    ),
    *_ENGINE,
)


def recording_options(command: Command) -> Command:
    """Where the session goes."""
    force = click.option("--force", is_flag=True, help="Write over an existing file.")
    output = click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Record to this file, or to a new one in the data directory.",
    )
    return output(force(command))


def checked_output(output: Path | None) -> Path | None:
    """The file to record to.

    Raises:
        UserError: it is no file's name, or a folder's.
    """
    if output is not None:
        require(str(output) not in {".", "-"}, "--output names no file", "give a file to record to")
        require(not output.is_dir(), f"--output: {output} is a folder", f"give a file in it, as {output / EXAMPLE}")
    return output


def session_file(named: Path) -> Path:
    """The file of a recorded session: a path, or a name as `moe-watch sessions` lists it.

    Raises:
        UserError: it can only be such a name, and there is no such session.
    """
    if os.path.exists(named) or named.name != str(named):
        return named

    from moe_watch.sessions.library.listing import find_session

    try:
        return find_session(named.name)
    except UserError as error:
        raise UserError(f"{error.what}, and no such file here", advice=error.advice) from error


def check_generation(options: dict[str, Any]) -> None:
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
    require(bool(text) == (every > 0), "--perturb and --every go together", "give text and chunks")
    if options["teacher"] is not None:
        given = [f"--{name}" for name in ("prompt", "tokens", "perturb") if options[name] is not None]
        require(not given, f"--teacher and {' and '.join(given)} given", "the session has all tokens: keep one of them")


def sampler_of(options: dict[str, Any], stop: Stop) -> SamplerOptions:
    """Take the sampler out of a command's options.

    Args:
        options: with `temperature`, `top_p` and `top_k`, and with `stop` if the command has that option.
        stop: default of `stop`.
    """
    from moe_watch.backends.run_spec import SamplerOptions

    given = {name: options.pop(name) for name in ("temperature", "top_p", "top_k")}
    return SamplerOptions(**given, stop=options.pop("stop", None) or stop)


def injections_of(options: dict[str, Any]) -> InjectionSchedule | None:
    """Take the schedule of injections out of a command's options."""
    from moe_watch.backends.run_spec import InjectionSchedule

    text, every = options.pop("perturb"), options.pop("every")
    return None if text is None else InjectionSchedule(text=text, every=every)


def prompt_of(options: dict[str, Any]) -> str | None:
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
    """The whole text of a file, without the mark that some editors put before it.

    Args:
        file: a file, or something that is read like one.
        what: is in it, for messages.

    Raises:
        UserError: it cannot be read, is no text, or has no end.
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
    """Refuse what no run can draw tokens with, or be cut into chunks by.

    Raises:
        UserError: an option is out of its range.
    """
    require(chunk_size > 0, f"--chunk-size is {chunk_size}", "a chunk holds at least 1 token")
    limits = f"use 0 up to {MAX_TEMPERATURE}"
    require(0 <= temperature <= MAX_TEMPERATURE, f"--temperature is {temperature}", limits)
    require(0 < top_p <= 1, f"--top-p is {top_p}", "use a share above 0 and up to 1")
    require(top_k >= 0, f"--top-k is {top_k}", "use 0 (all) or more")


def require(holds: bool, what: str, advice: str) -> None:
    """Refuse an option that cannot be used.

    Raises:
        UserError: `what` is wrong with it.
    """
    if not holds:
        raise UserError(what, advice=advice)
