"""Memory that a model takes, measured in a separate process: buffer sizes, MLX's counters, and the process by kind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import msgspec

from moe_watch.backends.engine_sizes import EngineSizes
from moe_watch.backends.model_files.catalog import locate
from moe_watch.backends.protocol import EngineOptions

TOKENS, FEW_TOKENS = 512, 16
"""Prompt tokens that llama.cpp evaluates, and for models above `LARGE`. Its buffers do not grow with the text, but
their pages count once they are written."""
LARGE = 1_000_000_000


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of one process after a prompt, in bytes."""

    weights: int
    kv: int
    compute: int
    repacked: int = 0
    peak: int | None = None
    """MLX's peak counter."""
    anonymous: int = 0
    """Memory that no file backs (RssAnon)."""
    file: int = 0
    """Resident pages of files (RssFile), the mapped weights among them."""


def measure(engine: str, model: str, options: EngineOptions) -> Measured:
    """Load a model, evaluate a prompt, and return the memory that it takes."""
    return _measure_mlx(model, options) if engine == "mlx" else _measure_llama(model, options)


def _measure_llama(model: str, options: EngineOptions) -> Measured:
    from llama_cpp import llama_cpp as lib

    from moe_watch.backends.llama.bindings import log
    from moe_watch.backends.llama.context import new_context
    from moe_watch.backends.llama.engine import load
    from moe_watch.backends.llama.memory_sizes import MIB, OUTPUT, breakdown

    engine = load(locate(model, "llama.cpp"), options=options, progress=lambda _: None)
    tokens = FEW_TOKENS if (engine.model.bytes or 0) > LARGE else min(TOKENS, engine.context_length - 1)
    for _ in engine.prefill([2] * tokens, lambda _: None):
        pass
    found = breakdown(engine._loaded.context)
    kinds = _resident()
    log.listen()
    lib.llama_free(new_context(engine._loaded.model, engine._loaded.settings, None))
    output = sum(float(match[2]) * MIB for match in log.matches(OUTPUT))
    measured = Measured(
        weights=sum(weights for name, _, (weights, _, _) in found if name != "CPU_Mapped"),
        kv=sum(kv for _, _, (_, kv, _) in found),
        compute=sum(compute for _, _, (_, _, compute) in found) + int(output),
        repacked=sum(weights for name, _, (weights, _, _) in found if name == "CPU_REPACK"),
        anonymous=kinds["RssAnon"],
        file=kinds["RssFile"],
    )
    engine.close()
    return measured


def _measure_mlx(model: str, options: EngineOptions) -> Measured:
    import mlx.core as mx

    from moe_watch.backends.mlx.engine import load

    engine = load(locate(model, "mlx"), options=options, progress=lambda _: None)
    weights, loading = mx.get_active_memory(), mx.get_peak_memory()
    mx.reset_peak_memory()
    for _ in engine.prefill([2] * ((options.context or engine.context_length) - 1), lambda _: None):
        pass
    running, active = mx.get_peak_memory(), mx.get_active_memory()
    kinds = _resident()
    return Measured(
        weights=weights,
        kv=active - weights,
        compute=running - active,
        peak=max(loading, running),
        anonymous=kinds["RssAnon"],
        file=kinds["RssFile"],
    )


def _resident() -> dict[str, int]:
    """Return the memory of this process by kind, from /proc (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = (re.fullmatch(r"(Rss\w+):\s+(\d+) kB", line) for line in lines)
    return {match[1]: int(match[2]) * 1024 for match in found if match}


def measured_apart(engine: str, model: str, options: EngineOptions) -> Measured:
    """Return the memory of a model, measured in a new process."""
    request = msgspec.json.encode(options).decode()
    run = subprocess.run(
        [sys.executable, "-m", "tests.backends.memory.measured", engine, model, request],
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode:
        raise RuntimeError(f"{model}: {run.stderr[-2000:]}")
    return msgspec.json.decode(run.stdout.splitlines()[-1], type=Measured)


def peak_of(sizes: EngineSizes) -> int:
    """Return the predicted value of MLX's peak counter."""
    return max(sum(each.total for each in sizes.buffers), sizes.loading)


def main() -> None:
    """Measure one model in this process, and print the result."""
    engine, model, options = sys.argv[1:]
    found = measure(engine, model, msgspec.json.decode(options, type=EngineOptions))
    sys.stdout.write(f"{msgspec.json.encode(found).decode()}\n")


if __name__ == "__main__":
    main()
