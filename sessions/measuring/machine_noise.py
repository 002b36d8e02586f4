"""Noise of the machine during each run of a measurement, stored beside the runs in `noise.json`.

`results.json` is computed from the sessions alone and is bit-identical on any machine, so it cannot include this.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from moe_watch.backends.system.regular_files import read_regular
from moe_watch.routing.stats.timing_noise import Noise
from moe_watch.sessions.measuring.folder import write

NOISE_FILE = "noise.json"


def read_noise(folder: Path) -> dict[str, Noise]:
    """Read the noise by names of session files; empty if the file is missing or damaged."""
    with suppress(OSError, ValueError):
        return msgspec.json.decode(read_regular(folder / NOISE_FILE), type=dict[str, Noise])
    return {}


def keep_noise(folder: Path, file: str, noise: Noise) -> None:
    """Store one run's noise, in place of an earlier attempt's.

    Raises:
        UserError: the file cannot be written.
    """
    kept = read_noise(folder) | {file: noise}
    write(folder / NOISE_FILE, msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")


def range_in_words(noises: Sequence[Noise]) -> str:
    """Return the ranges over runs as a line of text; "n/a" without any run."""
    if not noises:
        return "n/a, not recorded for these runs"
    cores = ", ".join(sorted({str(noise.cores) for noise in noises}))
    load = _range([noise.load for noise in noises], 1.0, "{:.2f}")
    others = _range([noise.others for noise in noises], 100.0, "{:.0f}", " %")
    steal = _range([noise.steal for noise in noises], 100.0, "{:.0f}", " %")
    return f"load {load} on {cores} cores, other processes used {others} of the processors, steal {steal}"


def _range(values: Sequence[float | None], scale: float, shown: str, unit: str = "") -> str:
    known = [scale * value for value in values if value is not None]
    if not known:
        return "n/a"
    low, high = shown.format(min(known)), shown.format(max(known))
    return f"{low if low == high else f'{low} to {high}'}{unit}"
