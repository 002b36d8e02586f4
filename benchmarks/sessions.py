"""Benchmark of long sessions: file size, speed of writing and opening, and duration of a seek.

python -m benchmarks.sessions --tokens 1000000 --keep DIR

The sessions are generated once, which takes minutes and gigabytes, and reused from DIR.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import numpy as np

from moe_watch.routing.arrays import Floats
from moe_watch.routing.events import BackendInfo, Event, Header, ModelInfo, Sampling, Token, Vitals
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.sessions.paths import SUFFIX
from moe_watch.sessions.reading.index import KEYFRAME, TOKEN, LineIndex, read_tail
from moe_watch.sessions.reading.store import FileStore
from moe_watch.sessions.recording.recorder import Recorder
from moe_watch.sessions.replaying.source import ReplaySource
from moe_watch.sessions.source import END, Jump

WRITTEN = 20_000
"""Number of tokens in the benchmark of writing."""
MADE = 512
"""Number of routings that are generated once and then used in turn."""
SEEKS = 100
"""Number of seeks."""
PLAYED = 5000
"""Number of tokens that are played."""
MEGABYTE = 1e6
PROGRAM = (sys.executable, "-m", "moe_watch")


@dataclass(frozen=True, slots=True)
class SessionShape:
    """Size of a model's routing, and its budget in bytes per token."""

    layers: int
    experts: int
    experts_per_token: int
    budget: int

    def __str__(self) -> str:
        return f"{self.layers} layers × {self.experts_per_token} of {self.experts} experts"


POCKET = SessionShape(6, 8, 2, 1000)
SHAPES = (SessionShape(48, 128, 8, 4000), SessionShape(32, 8, 2, 1000), POCKET)


def header(shape: SessionShape) -> Header:
    """Return the header of a generated session."""
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


class RoutingFields(TypedDict):
    """Fields of a token with its routing."""

    experts: list[int | None]
    weights: list[int | None]
    entropy: list[int | None]
    margin: list[int | None]


def routings(shape: SessionShape, rng: np.random.Generator) -> Iterator[RoutingFields]:
    """Yield the routing of tokens by routers with preferred experts."""
    bias = rng.normal(0, 1.0, (shape.layers, shape.experts))
    while True:
        logits = bias + rng.normal(0, 1.5, bias.shape)
        pi = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        order = np.argsort(-pi, 1)[:, : shape.experts_per_token]
        chosen = np.take_along_axis(pi, order, 1)
        entropy = -(pi * np.log(pi)).sum(1) / np.log(shape.experts)
        yield {
            "experts": [*order.ravel().tolist()],
            "weights": _steps(chosen / chosen.sum(1, keepdims=True)),
            "entropy": _steps(entropy),
            "margin": _steps(chosen[:, 0] - chosen[:, 1]),
        }


def _steps(values: Floats) -> list[int | None]:
    steps: list[int | None] = np.rint(values.ravel() * 1e4).astype(np.int64).tolist()
    return steps


def tokens(shape: SessionShape, number: int) -> Iterator[Token]:
    """Yield successive decode tokens, 50 per second."""
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


def events(shape: SessionShape, number: int) -> Iterator[Event]:
    """Yield a whole run: tokens, the chunks and keyframes of the instruments, and vitals once a second."""
    instruments = Instruments(header(shape))
    for token in tokens(shape, number):
        yield token
        yield from instruments.feed(token)
        if token.i % 50 == 0:
            yield Vitals(t=token.t, memory_total=16_000_000_000, memory_used=9_000_000_000 + token.i)


def make(path: Path, shape: SessionShape, number: int) -> None:
    """Record a generated run, unless the file exists."""
    if path.exists():
        return
    part = path.with_suffix(".part")
    recorder = Recorder.create(part, header(shape), force=True)
    for event in events(shape, number):
        recorder.append(event)
    recorder.close()
    if recorder.problem:
        raise SystemExit(recorder.problem)
    part.rename(path)


def writing_speed(folder: Path, shape: SessionShape) -> float:
    """Return the tokens per second of a recorder that receives events without a pause."""
    made = list(events(shape, WRITTEN))
    with tempfile.TemporaryDirectory(dir=folder) as name:
        recorder = Recorder.create(Path(name) / "written.moe.jsonl", header(shape))
        began = time.perf_counter()
        for event in made:
            recorder.append(event)
        recorder.close()
        return WRITTEN / (time.perf_counter() - began)


def generation_speed() -> float:
    """Return the tokens per second of the fastest generation: the pocket model in llama.cpp, tap off."""
    command = [*PROGRAM, "bench", "pocket", "--backend", "llama.cpp", "--tokens", "400", "--json"]
    rows = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)["rows"]
    return float(next(row["tokens_per_second"] for row in rows if (row["name"], row["phase"]) == ("bare", "decode")))


def sizes(path: Path) -> tuple[int, int, int]:
    """Return the bytes of a session's token lines, of its keyframes, and of all lines."""
    index = LineIndex(FileStore(path))
    index.extend()
    return _bytes_of(TOKEN, index), _bytes_of(KEYFRAME, index), index.size


def _bytes_of(kind: int, index: LineIndex) -> int:
    found, line = 0, index.after(kind, 0)
    while line < index.lines:
        found += index.start_of(line + 1) - index.start_of(line)
        line = index.after(kind, line + 1)
    return found


def anonymous_memory() -> int:
    """Return the anonymous memory of this process in bytes, file pages excluded."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("this system does not report RssAnon")


def read(path: Path) -> dict[str, float]:
    """Open a session, seek in it, and play it; run in a separate process."""
    clock = Clock()
    source = ReplaySource(path)
    source.start()
    timeline = source.timeline
    if timeline is None:
        raise SystemExit(f"{path} has no token")
    opened = clock.read()
    source.pause()
    source.seek(END)
    while not source.ended:
        source.drain()
    found, drains = clock.read(), list[float]()
    jumps = [_jump(source, i, drains) for i in _positions(timeline.tokens)]
    source.set_pace(0)
    source.resume()
    clock, played = Clock(), 0
    while played < PLAYED and not source.ended:
        played += sum(isinstance(item, Token) for item in source.drain())
    return {
        "open": opened.wall,
        "found": found.wall,
        "found_cpu": found.cpu,
        "median": statistics.median(jump.wall for jump in jumps),
        "maximum": max(jump.wall for jump in jumps),
        "median_cpu": statistics.median(jump.cpu for jump in jumps),
        "maximum_cpu": max(jump.cpu for jump in jumps),
        "drain": max(drains),
        "memory": anonymous_memory(),
        "played": played / clock.read().wall,
    }


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of wall time, and of processor time of this process."""

    wall: float
    cpu: float


class Clock:
    """Stopwatch that starts when it is created."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def read(self) -> Took:
        """Return the time since then."""
        return Took(time.perf_counter() - self._wall, time.process_time() - self._cpu)


def _positions(number: int) -> list[int]:
    return random.Random(7).choices(range(number), k=SEEKS)


def _jump(source: ReplaySource, i: int, drains: list[float]) -> Took:
    """Seek to a token and read everything a screen needs; return the duration.

    Args:
        source: the session.
        i: index of the token.
        drains: list to which the durations of the calls are added that compute the chunks there.
    """
    clock = Clock()
    source.seek(Jump("token", i))
    source.drain()
    while (timeline := source.timeline) is not None and timeline.position < i:
        source.drain()
    took = clock.read()
    for _ in range(20):  # a user does not seek again before the chunks there are computed
        clock = Clock()
        source.drain()
        drains.append(clock.read().wall)
    return took


def plain(path: Path) -> float:
    """Return the seconds that `json.loads` takes for all lines."""
    began = time.perf_counter()
    with path.open("rb") as file:
        for line in file:
            json.loads(line)
    return time.perf_counter() - began


def measure(shape: SessionShape, path: Path) -> list[tuple[str, str, str]]:
    """Return the rows of one session: quantity, measured value, and promised bound."""
    of_tokens, of_frames, whole = sizes(path)
    child = [sys.executable, "-m", "benchmarks.sessions", "--read", str(path)]
    found = json.loads(subprocess.run(child, stdout=subprocess.PIPE, check=True).stdout)
    number, loads, rate = _tokens(path), plain(path), writing_speed(path.parent, shape)
    return [
        ("size", f"{whole / MEGABYTE:,.0f} MB", ""),
        ("a token's line", f"{of_tokens / number:,.0f} bytes", f"at most {shape.budget:,}"),
        ("keyframes, per token", f"{of_frames / number:,.0f} bytes", ""),
        ("everything, per token", f"{whole / number:,.0f} bytes", f"at most {shape.budget:,}"),
        ("written", f"{rate:,.0f} tokens/s", _against(rate, generation_speed()) if shape == POCKET else ""),
        ("opened: header, extent, first lines", f"{found['open']:.2f} s", "at most 1"),
        ("every line indexed", f"{found['found']:.2f} s, {found['found_cpu']:.2f} s of processor time", ""),
        (f"{SEEKS} seeks, median", _milliseconds(found, "median"), "at most 50"),
        (f"{SEEKS} seeks, longest", _milliseconds(found, "maximum"), "at most 50"),
        ("longest call after a seek", f"{found['drain'] * 1000:.0f} ms", ""),
        ("anonymous memory after them (RssAnon)", f"{found['memory'] / MEGABYTE:.0f} MB", "at most 300"),
        ("played, chunks computed", f"{found['played']:,.0f} tokens/s", ""),
        ("json.loads of every line", f"{loads:.1f} s", f"{loads / found['found']:.0f} × the time of indexing"),
    ]


def _tokens(path: Path) -> int:
    last = read_tail(FileStore(path)).last
    return 0 if last is None else last.i + 1


def _against(rate: float, generation: float) -> str:
    return f"{rate / generation:.0f} × pocket's fastest generation, {generation:,.0f} tokens/s; at least 20 ×"


def _milliseconds(found: dict[str, float], name: str) -> str:
    return f"{found[name] * 1000:.0f} ms, {found[f'{name}_cpu'] * 1000:.0f} ms of processor time"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="folder of the sessions, filled if they are missing")
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.read:
        print(json.dumps(read(arguments.read)))
    elif arguments.keep:
        arguments.keep.mkdir(parents=True, exist_ok=True)
        measure_all(arguments.keep, arguments.tokens)
    else:
        with tempfile.TemporaryDirectory(prefix="moe-watch-sessions-") as name:
            measure_all(Path(name), arguments.tokens)


def measure_all(folder: Path, number: int) -> None:
    """Print a table for each shape."""
    paths = {
        shape: folder / f"{shape.layers}x{shape.experts_per_token}of{shape.experts}-{number}{SUFFIX}"
        for shape in SHAPES
    }
    needed = sum(number * shape.budget for shape, path in paths.items() if not path.exists())
    if shutil.disk_usage(folder).free < needed:
        raise SystemExit(f"{folder}: {needed / 1e9:.1f} GB needed; choose another folder with --keep or TMPDIR")
    for shape, path in paths.items():
        make(path, shape, number)
        print(f"{shape}, {number:,} tokens; load average {os.getloadavg()[0]:.1f}\n")
        print("| | measured | promised |\n|---|---|---|")
        for row in measure(shape, path):
            print(f"| {' | '.join(row)} |")
        print(flush=True)


if __name__ == "__main__":
    main()
