"""Which options an engine can be told, and within which limits. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from moe_watch.backends.protocol import EngineOptions
from moe_watch.routing.errors import UserError

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
"""Types of a KV cache's numbers that llama.cpp has kernels for, in its own words."""

UNDERSTOOD: dict[str, frozenset[str]] = {
    "llama.cpp": frozenset(EngineOptions.__struct_fields__) - {"trust_remote_code"},
    "mlx": frozenset({"context", "trust_remote_code"}),
}
"""The fields of `EngineOptions` that an engine can be told."""

FLAGS = {"tensor_overrides": "--override-tensor"}
"""Names on the command line of fields that are not called the same there."""

FEWEST_AT_ONCE = 2
"""llama.cpp aborts where a batch is smaller than the number of sequences that a context keeps room for."""

LONGEST_CONTEXT = 2**31 - 1
"""Tokens: engines count positions in 32 bits."""

_UNSET = EngineOptions()

_RANGES: dict[str, tuple[Callable[[int], bool], str]] = {
    "threads": (lambda number: number >= 1, "use at least 1"),
    "gpu_layers": (lambda number: number >= -1, "use 0 or more, or -1 for all"),
    "context": (lambda number: number >= 1, "use at least 1 token"),
    "batch": (lambda number: number >= FEWEST_AT_ONCE, f"use at least {FEWEST_AT_ONCE} tokens"),
    "micro_batch": (lambda number: number >= FEWEST_AT_ONCE, f"use at least {FEWEST_AT_ONCE} tokens"),
}


def flag(field: str) -> str:
    """What a field of `EngineOptions` is called on the command line."""
    return FLAGS.get(field, f"--{field.replace('_', '-')}")


def check_ranges(options: EngineOptions) -> None:
    """Refuse values that no engine can use.

    Raises:
        UserError: one is out of its range.
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
            advice="a micro-batch is a part of a batch",
        )
    for override in options.tensor_overrides:
        split_override(override)


def split_override(override: str) -> tuple[str, str]:
    """The pattern and the buffer's name of one override.

    Raises:
        UserError: it names none.
    """
    pattern, _, buffer = override.rpartition("=")
    if not pattern or not buffer:
        raise UserError(
            f"{flag('tensor_overrides')} is {override!r}", advice="use PATTERN=BUFFER, for example ffn_.*_exps=CPU"
        )
    return pattern, buffer


def check_support(engine: str, options: EngineOptions) -> None:
    """Refuse what the engine could only ignore.

    Raises:
        UserError: it cannot be told one of these.
    """
    given = {field for field, value in msgspec.structs.asdict(options).items() if value != getattr(_UNSET, field)}
    beyond = [flag(field) for field in options.__struct_fields__ if field in given - UNDERSTOOD[engine]]
    if beyond:
        other = next((name for name, fields in UNDERSTOOD.items() if given <= fields), None)
        raise UserError(
            f"the {engine} backend cannot be told {' or '.join(beyond)}",
            advice="leave it out" if other is None else f"leave it out, or use --backend {other}, which can",
        )


def check_context(asked: int | None, longest: int | None) -> None:
    """Refuse a context that the model was not made for.

    Args:
        asked: what `--context` says; None is whatever fits.
        longest: the longest context that the model was made for; None if it does not say.

    Raises:
        UserError: it is too long.
    """
    if asked is not None and longest is not None and asked > longest:
        raise UserError(f"--context is {asked}", advice=f"the model was made for {longest:,} tokens at most")
