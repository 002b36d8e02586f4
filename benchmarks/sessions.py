"""What long sessions cost: their size, how fast they are written and opened, and how long a jump takes.

python -m benchmarks.sessions --tokens 1000000
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from routing.arrays import Floats
from routing.events import BackendInfo, Event, Header, Keyframe, ModelInfo, Sampling, Token, Vitals
from routing.instruments import Instruments
from sessions.recorder import Recorder
from sessions.replay import ReplaySource
from sessions.source import Jump

FASTEST_RUN = 2000
"""Tokens per second of the fastest generation known, pocket's. Writing should be 20 times as fast."""
MADE = 512
"""Tokens' routings that are drawn once and then used in turn."""
SEEKS = 100
MEGABYTE = 1e6

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Shape:
    """A model's routing, and how many bytes a token of it may take."""

    layers: int
    experts: int
    experts_per_token: int
    budget: int

    def __str__(self) -> str:
        return f"{self.layers} layers × {self.experts_per_token} of {self.experts} experts"


SHAPES = (Shape(48, 128, 8, 4000), Shape(32, 8, 2, 1000), Shape(6, 8, 2, 1000))
"""The last one is pocket's."""


def header(shape: Shape) -> Header:
    """The first line of a made session."""
    model = ModelInfo(
        name="made",
        architecture="made",
        layers=list(range(shape.layers)),
        experts=shape.experts,
        experts_per_token=shape.experts_per_token,
        gate="top_k_softmax",
    )
    return Header(
        created="2026-11-20T09:00:00Z",
        moe_watch="0",
        model=model,
        backend=BackendInfo(name="made", version="0", device="none", tap="none"),
        sampling=Sampling(seed=7),
        prompt="made",
        capture=["experts", "weights", "entropy", "margin", "logprob"],
    )


def routings(shape: Shape, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    """Routing of tokens through routers with favourites: probabilities, and what is recorded of them."""
    bias = rng.normal(0, 1.0, (shape.layers, shape.experts))
    while True:
        logits = bias + rng.normal(0, 1.5, bias.shape)
        pi = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        order = np.argsort(-pi, 1)[:, : shape.experts_per_token]
        chosen = np.take_along_axis(pi, order, 1)
        entropy = -(pi * np.log(pi)).sum(1) / np.log(shape.experts)
        yield {
            "experts": order.ravel().tolist(),
            "weights": _steps(chosen / chosen.sum(1, keepdims=True)),
            "entropy": _steps(entropy),
            "margin": _steps(chosen[:, 0] - chosen[:, 1]),
        }


def _steps(values: Floats) -> list[int | None]:
    steps: list[int | None] = np.rint(values.ravel() * 1e4).astype(np.int64).tolist()
    return steps


def tokens(shape: Shape, number: int) -> Iterator[Token]:
    """Decode tokens in a row, 50 a second."""
    rng = np.random.default_rng(7)
    made = [routing for routing, _ in zip(routings(shape, rng), range(MADE), strict=False)]
    drawn = rng.random((MADE, 3)).round(4).tolist()
    for i in range(number):
        chance, margin, gap = drawn[(i * 7 + i // MADE) % MADE]
        yield Token(
            i=i,
            t=round(0.02 * i, 3),
            phase="decode",
            source="generated",
            id=(i * 7919) % 150_000,
            text=" some"[: 1 + i % 5],
            logprob=round(-3 * chance, 6),
            top_margin=margin,
            choice_gap=gap,
            **made[(i + i // MADE) % MADE],
        )


def events(shape: Shape, number: int) -> Iterator[Event]:
    """A whole run: tokens, what the instruments make of them, and a reading of the machine a second."""
    instruments = Instruments(header(shape))
    for token in tokens(shape, number):
        yield token
        yield from instruments.feed(token)
        if token.i % 50 == 0:
            yield Vitals(t=token.t, memory_total=16_000_000_000, memory_used=9_000_000_000 + token.i)


def write(path: Path, shape: Shape, number: int) -> tuple[float, int, int]:
    """Record a made run; returns seconds in the recorder, and the bytes of keyframes and of all else."""
    recorder = Recorder.create(path, header(shape))
    seconds, keyframes = 0.0, 0
    for event in events(shape, number):
        before, began = recorder.bytes, time.perf_counter()
        recorder.append(event)
        seconds += time.perf_counter() - began
        keyframes += recorder.bytes - before if isinstance(event, Keyframe) else 0
    recorder.close()
    if recorder.problem:
        raise SystemExit(recorder.problem)
    return seconds, keyframes, recorder.bytes - keyframes


def anonymous_memory() -> int:
    """Bytes of this process's own memory, pages of files left out."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this system does not say RssAnon")


def read(path: Path) -> dict[str, float]:
    """Open a session, jump about in it, and play on; in a process of its own."""
    opened, source = _timed(lambda: _opened(path))
    timeline = source.timeline
    assert timeline is not None
    source.drain()
    source.pause()
    took = [_jump(source, i) for i in _positions(timeline.tokens)]
    source.set_pace(0)
    source.resume()
    played = 0
    began = time.perf_counter()
    while played < 5000 and not source.ended:
        played += sum(isinstance(item, Token) for item in source.drain())
    return {
        "open": opened,
        "median": statistics.median(took),
        "maximum": max(took),
        "memory": anonymous_memory(),
        "played": played / (time.perf_counter() - began),
    }


def _positions(number: int) -> list[int]:
    return random.Random(7).choices(range(number), k=SEEKS)


def _opened(path: Path) -> ReplaySource:
    source = ReplaySource(path)
    source.start()
    return source


def _jump(source: ReplaySource, i: int) -> float:
    """Go there, and take in everything a screen needs; returns the seconds that took."""
    began = time.perf_counter()
    source.seek(Jump("token", i))
    source.drain()
    while (timeline := source.timeline) is not None and timeline.position < i:
        source.drain()
    took = time.perf_counter() - began
    for _ in range(20):  # a person does not jump again before the chunks there are computed
        source.drain()
    return took


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def plain(path: Path) -> float:
    """Seconds that `json.loads` takes for every line."""
    began = time.perf_counter()
    with path.open("rb") as file:
        for line in file:
            json.loads(line)
    return time.perf_counter() - began


def measure(shape: Shape, number: int, folder: Path) -> str:
    """Make one session and measure it; returns the table's lines."""
    path = folder / "made.moe.jsonl"
    seconds, keyframes, rest = write(path, shape, number)
    child = [sys.executable, "-m", "benchmarks.sessions", "--read", str(path)]
    found = json.loads(subprocess.run(child, stdout=subprocess.PIPE, check=True).stdout)
    loads = plain(path)
    path.unlink()
    rate = number / seconds
    rows = [
        ("size", f"{(keyframes + rest) / MEGABYTE:,.0f} MB", ""),
        ("a token without keyframes", f"{rest / number:,.0f} bytes", f"at most {shape.budget:,}"),
        ("keyframes, per token", f"{keyframes / number:,.0f} bytes", ""),
        (
            "written",
            f"{rate:,.0f} tokens/s",
            f"{rate / FASTEST_RUN:.0f} × the fastest run of all, pocket's",
        ),
        ("opened", f"{found['open']:.2f} s", "at most 1"),
        (f"{SEEKS} jumps, median", f"{found['median'] * 1000:.0f} ms", "at most 50"),
        (f"{SEEKS} jumps, longest", f"{found['maximum'] * 1000:.0f} ms", "at most 50"),
        ("own memory after them (RssAnon)", f"{found['memory'] / MEGABYTE:.0f} MB", "at most 300"),
        ("played, chunks computed", f"{found['played']:,.0f} tokens/s", ""),
        ("json.loads of every line", f"{loads:.1f} s", f"{loads / found['open']:.0f} × the opening"),
    ]
    return "\n".join(f"| {name} | {value} | {target} |" for name, value, target in rows)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        print(json.dumps(read(arguments.read)))
        return
    with tempfile.TemporaryDirectory(prefix="moe-watch-sessions-") as name:
        needed = arguments.tokens * SHAPES[0].budget * 5 // 4
        if shutil.disk_usage(name).free < needed:
            raise SystemExit(f"{name}: {needed / 1e9:.1f} GB are needed there; name another folder with TMPDIR")
        for shape in SHAPES:
            print(f"{shape}, {arguments.tokens:,} tokens\n\n| | measured | promised |\n|---|---|---|", flush=True)
            print(measure(shape, arguments.tokens, Path(name)), "\n", sep="", flush=True)


if __name__ == "__main__":
    main()
