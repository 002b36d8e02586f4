"""Checks of the engines: which are installed, how they are built, and on which devices they compute."""

from __future__ import annotations

import os
from collections.abc import Callable

from moe_watch.backends.engine_build import EngineBuild
from moe_watch.backends.model_files.catalog import ENGINES, missing_packages
from moe_watch.backends.optional_packages import install_command
from moe_watch.backends.worker.engine_builds import engine_build
from moe_watch.routing.errors import UserError
from moe_watch.sessions.checking.results import CheckResult, failure, fine, warning

READS = {"huggingface": "folders in Hugging Face layout", "gguf": "GGUF files"}
"""Words for the format that an engine reads."""
SHOWN_FEATURES = frozenset(
    {"METAL", "CUDA", "VULKAN", "AVX", "AVX2", "AVX512", "NEON", "SVE", "BLAS", "OPENMP", "REPACK"}
)
"""Features of llama.cpp that decide its speed; the others are left out."""
COMPILER = "install a C compiler (cc), or set CC: the callback in Python costs some 0.9 µs per node of every token"

AskBuild = Callable[[str], EngineBuild]


def engine_check(name: str, *, ask: AskBuild = engine_build) -> CheckResult:
    """Check one engine of `ENGINES`.

    A missing engine is a failure only if there is no other one.

    Args:
        name: name of the engine.
        ask: imports the engine in a separate process, and returns its build.
    """
    entry, subject = ENGINES[name], f"engine {name}"
    if lacking := missing_packages(entry):
        advice = f"to watch {READS[entry.reads]}, run `{install_command(entry.extra)}`"
        others = any(not missing_packages(other) for other in ENGINES.values())
        return (warning if others else failure)(subject, f"not installed ({', '.join(lacking)})", advice)
    try:
        build = ask(name)
    except UserError as error:
        return failure(subject, error.what, error.advice)
    if build.slow:
        return warning(subject, f"{_described(build)}; slow, because {build.slow}", COMPILER)
    return fine(subject, _described(build))


def _described(build: EngineBuild) -> str:
    shown = [feature for feature in build.features if feature.split()[0] in SHOWN_FEATURES]
    parts = [build.version, ", ".join(build.devices), *([" ".join(shown)] if shown else []), f"tap: {build.tap}"]
    return "; ".join([*parts, *build.notes])


def processor_check() -> CheckResult:
    """Check the number of processors that this process may use."""
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    value = f"{usable} of {cores} logical processors usable" if usable < cores else f"{cores} logical processors"
    if usable < 2:
        return warning("processors", value, "the model and the screen share one processor: both are slower")
    return fine("processors", f"{value}; llama.cpp uses {usable - 1}, one is left to the screen")
