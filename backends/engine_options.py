"""Options that each engine supports, and their ranges. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.errors import UserError

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
"""Number types of a KV cache that llama.cpp has kernels for, by llama.cpp's names."""

SUPPORTED: dict[str, frozenset[str]] = {
    "llama.cpp": frozenset(EngineOptions.__struct_fields__) - {"trust_remote_code"},
    "mlx": frozenset({"context", "experts_per_token", "trust_remote_code"}),
}
"""Fields of `EngineOptions` that each engine supports."""

FLAGS = {"tensor_overrides": "--override-tensor"}
"""Command-line names of fields whose option has another name."""

MIN_BATCH = 2
"""Tokens. llama.cpp aborts if a batch is smaller than the number of sequences (`n_seq_max`) of the context."""

LONGEST_CONTEXT = 2**31 - 1
"""Tokens: engines count positions in 32 bits."""

_UNSET = EngineOptions()

_RANGES: dict[str, tuple[Callable[[int], bool], str]] = {
    "threads": (lambda number: number >= 1, "use at least 1"),
    "gpu_layers": (lambda number: number >= -1, "use 0 or more, or -1 for all"),
    "context": (lambda number: number >= 1, "use at least 1 token"),
    "batch": (lambda number: number >= MIN_BATCH, f"use at least {MIN_BATCH} tokens"),
    "micro_batch": (lambda number: number >= MIN_BATCH, f"use at least {MIN_BATCH} tokens"),
    "experts_per_token": (lambda number: number >= 1, "use at least 1"),
}


def flag(field: str) -> str:
    """Return the command-line option of a field of `EngineOptions`."""
    return FLAGS.get(field, f"--{field.replace('_', '-')}")


def check_ranges(options: EngineOptions) -> None:
    """Refuse values that no engine can use.

    Raises:
        UserError: a value is out of its range.
    """
    for field, (is_possible, advice) in _RANGES.items():
        value = getattr(options, field)
        if value is not None and not is_possible(value):
            raise UserError(f"{flag(field)} is {value}", advice=advice)
    if options.context is not None and options.context > LONGEST_CONTEXT:
        raise UserError(f"--context is {options.context}", advice=f"use {LONGEST_CONTEXT:,} tokens at most")
    if options.kv_type is not None and options.kv_type.lower() not in KV_TYPES:
        raise UserError(f"--kv-type is {options.kv_type!r}", advice=f"use one of {', '.join(KV_TYPES)}")
    if options.batch is not None and options.micro_batch is not None and options.micro_batch > options.batch:
        raise UserError(
            f"--micro-batch is {options.micro_batch} and --batch {options.batch}",
            advice="give a --micro-batch that is not larger than --batch",
        )
    for override in options.tensor_overrides:
        split_override(override)


def split_override(override: str) -> tuple[str, str]:
    """Return the pattern and the buffer name of one override.

    Raises:
        UserError: the pattern or the buffer name is missing.
    """
    pattern, _, buffer = override.rpartition("=")
    if not pattern or not buffer:
        raise UserError(
            f"{flag('tensor_overrides')} is {override!r}", advice="use PATTERN=BUFFER, for example ffn_.*_exps=CPU"
        )
    return pattern, buffer


def check_support(engine: str, options: EngineOptions) -> None:
    """Refuse options that the engine does not support.

    Raises:
        UserError: the engine does not support one of them.
    """
    given = {field for field, value in msgspec.structs.asdict(options).items() if value != getattr(_UNSET, field)}
    beyond = [flag(field) for field in options.__struct_fields__ if field in given - SUPPORTED[engine]]
    if beyond:
        other = next((name for name, fields in SUPPORTED.items() if given <= fields), None)
        raise UserError(
            f"the {engine} backend does not support {' or '.join(beyond)}",
            advice="leave it out" if other is None else f"leave it out, or use --backend {other}",
        )


def check_context(asked: int | None, longest: int | None) -> None:
    """Refuse a context that is longer than the model supports.

    Args:
        asked: value of `--context`; None leaves the length to the engine.
        longest: longest context that the model supports; None if its files do not give it.

    Raises:
        UserError: the context is too long.
    """
    if asked is not None and longest is not None and asked > longest:
        raise UserError(f"--context is {asked}", advice=f"use at most {longest:,} tokens, which the model supports")
