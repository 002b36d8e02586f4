"""Build of the installed llama.cpp: its devices, its instruction sets, and its callback."""

from __future__ import annotations

from llama_cpp import llama_cpp as lib

from moe_watch.backends.engine_build import EngineBuild
from moe_watch.backends.llama.bindings import VERSION, check_layout, device_names
from moe_watch.backends.llama.compiler import CannotCompile, compiled_tap

OFF = "0"


def engine_build() -> EngineBuild:
    """Return the facts about this build.

    Raises:
        UserError: its tensors have another layout, so that routing cannot be read.
    """
    check_layout()
    slow = ""
    try:
        compiled_tap()
    except CannotCompile as why:
        slow = str(why)
    return EngineBuild(
        version=f"llama-cpp-python {VERSION}",
        devices=device_names(),
        features=features(lib.llama_print_system_info().decode(errors="replace")),
        tap="a callback in Python" if slow else "a compiled callback",
        slow=slow,
    )


def features(said: str) -> list[str]:
    """Return the features in llama.cpp's system information, `CPU : AVX = 1 | AVX2 = 1 | OPENMP = 0 | `."""
    found = []
    for entry in said.replace(":", "|").split("|"):
        name, equals, value = (part.strip() for part in entry.partition("="))
        if equals and value != OFF:
            found.append(name if value == "1" else f"{name} {value}")
    return found
