"""Settings that change the memory of a run, as the command's options name them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from msgspec.structs import replace

from moe_watch.backends.engine_options import flag
from moe_watch.backends.protocol import EngineOptions

CONTEXTS = (4096, 2048)
"""Tokens of smaller contexts to try."""
SMALL_MICRO_BATCH = 64
"""Prompt tokens evaluated at once: compute buffers shrink with it, prefill gets slower."""
SMALL_KV = "q8_0"
LONG = 8192
"""Longest context to try with MLX, whose default is the model's own."""
ROUNDS, SLOWER = "rounds keys and values", "slower prefill"
COPIED, MAPPED = "weights are read into memory, not mapped", "weights are mapped"
EXPERTS_ON_CPU = "ffn_.*_exps=CPU"
FLOAT_KV = frozenset({"f32", "f16", "bf16"})


@dataclass(frozen=True, slots=True)
class Variant:
    """One set of options, for a model."""

    model: str
    options: EngineOptions
    note: str = ""
    """Name of another quantization, or a cost of the setting."""
    rank: int = 0
    """Order of preference; a run loses more with a higher number."""

    @property
    def arguments(self) -> str:
        return arguments_of(self.options)

    def command(self, backend: str) -> str:
        """Return the complete command line of a run with this `--backend`."""
        words = ("moe-watch watch", shlex.quote(self.model), "" if backend == "auto" else f"--backend {backend}")
        return " ".join(filter(None, (*words, self.arguments)))


def arguments_of(options: EngineOptions) -> str:
    """Return the options as they are written on a command line; empty for defaults."""
    words: list[str] = []
    for name in options.__struct_fields__:
        value = getattr(options, name)
        if value is None or value is False and name not in {"mmap", "mlock"} or value == []:
            continue
        if isinstance(value, bool):
            words.append(flag(name) if value else f"--no-{flag(name).removeprefix('--')}")
        elif isinstance(value, list):
            words += [word for each in value for word in ("-ot", shlex.quote(each))]
        else:
            words += [flag(name), str(value)]
    return " ".join(words)


def variants(
    model: str, engine: str, options: EngineOptions, *, context: int, kv_type: str | None, on_gpu: bool
) -> Iterator[Variant]:
    """Yield other settings of a run, from the one that loses least.

    Args:
        model: name of the model on the command line.
        engine: `mlx` or `llama.cpp`.
        options: options as given.
        context: length of the context with them, in tokens.
        kv_type: type of the KV cache with them.
        on_gpu: llama.cpp supports a GPU.
    """
    shorter = [length for length in CONTEXTS if length < context]
    if engine == "mlx":
        yield from (
            Variant(model, replace(options, context=length), rank=1) for length in (LONG, *CONTEXTS) if length < context
        )
        return
    yield from (Variant(model, replace(options, context=length), rank=1) for length in shorter)
    if on_gpu:
        yield from _on_gpu(model, options)
    small_cache = SMALL_KV if kv_type in FLOAT_KV else options.kv_type
    if small_cache != options.kv_type:
        for length in (options.context, *shorter):
            yield Variant(model, replace(options, context=length, kv_type=small_cache), ROUNDS, rank=2)
    if options.micro_batch is None or options.micro_batch > SMALL_MICRO_BATCH:
        small = replace(options, micro_batch=SMALL_MICRO_BATCH)
        yield Variant(model, small, SLOWER, rank=2)
        least = replace(small, context=min(shorter, default=options.context), kv_type=small_cache)
        yield Variant(model, least, SLOWER, rank=4)
    maps = options.mmap is not False
    yield Variant(model, replace(options, mmap=not maps), COPIED if maps else MAPPED, rank=5)


def _on_gpu(model: str, options: EngineOptions) -> Iterator[Variant]:
    """Yield placements of the weights outside the GPU."""
    if not options.tensor_overrides:
        yield Variant(model, replace(options, tensor_overrides=[EXPERTS_ON_CPU]), "experts on the CPU", rank=2)
    if options.gpu_layers != 0:
        yield Variant(model, replace(options, gpu_layers=0), "no layer on the GPU", rank=3)
