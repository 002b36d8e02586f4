"""Build of an installed engine: version, devices, and whether its tap is fast on this machine."""

from __future__ import annotations

import msgspec


class EngineBuild(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about an engine's library, which only the library itself can report."""

    version: str
    devices: list[str]
    """Devices that it can compute on, GPUs first: `Metal (Apple M3 Pro)`, `CPU (AMD EPYC)`."""
    features: list[str] = []
    """Instruction sets and options of the build."""
    tap: str
    """Method by which routing is read."""
    slow: str = ""
    """Reason why the tap is slower than it could be; empty if it is not."""
    notes: list[str] = []
    """Facts about the first evaluation."""


class BuildAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of the process that imports the engine."""

    build: EngineBuild | None = None
    problem: str = ""
    """Reason why the library cannot be used."""
