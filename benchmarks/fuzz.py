"""Damaged session files by the thousand: whatever stands in one, it is read, judged and salvaged, or refused in a line.

    python -m benchmarks.fuzz --files 100000 --keep /tmp/found
    python -m benchmarks.fuzz --guided 600 --keep /tmp/found

The first one mutates recordings at random, the second one is led by coverage (`pip install atheris`) and runs for so
many seconds. Both go through everything that reads sessions: the reader, a replay with jumps up to the summary and the
fold of the dashboard, verify, salvage, and an export. Anything but a `UserError`, a file that takes longer than 20 s,
and more than 4 GiB of memory is a find, and is kept with its traceback.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import zstandard

from routing.errors import UserError
from routing.events import State, to_json
from routing.summary import Summary
from sessions.export.exporting import ExportPlan, export_session
from sessions.reader import read_session
from sessions.replay import ReplaySource
from sessions.salvage import salvage
from sessions.source import END, HOME, STEP, Jump
from sessions.verify import verify
from tui.view import RunView

TESTS = Path(__file__).parents[1] / "tests"
LINES = 45
"""Of each recording: short files are mutated faster, and as deeply."""
SECONDS = 20.0
MEMORY = 4 << 30
JUMPS = (END, Jump("token", 3), STEP, Jump("chunk", 1), HOME, Jump("time", 0.1), Jump("mark", 0), END)

INTERESTING: tuple[Any, ...] = (
    *(None, True, "", "x", [], {}, [[]], {"event": "token"}, [None], "\x1b[2J", "NaN", 0.5, 1e-320, 1e308, -1e308),
    *(0, -1, 1, 2, 7, 255, 256, 65_535, 65_536, 2**31, 2**53, 2**53 + 1, 2**63, 2**64, -(2**63), 10**300),
    *("token", "chunk", "session", "keyframe", "finished", "fresh_context", "prefill", "decode", "chronomoe-v1"),
)
BYTES = (
    *(b"\x00", b"\xff", b"\n", b"\n\n", b"{", b"}", b"[", b"]", b'"', b"\\", b"\\ud800"),
    *(b"NaN", b"1e999", b"\xef\xbb\xbf"),
)

Mutation = Callable[[bytes, random.Random], bytes]


class TooLongError(Exception):
    """A file took longer than any may."""


# -- what is mutated


SOUND_SHARE = 0.9
"""Of the files that are mutated; the others are damaged already."""


def sound() -> list[bytes]:
    """Sessions of every kind and version, with every event."""
    files = [*(TESTS / "golden").glob("*.jsonl"), *(TESTS / "sessions" / "recorded").glob("*.jsonl")]
    whole = [b"".join(path.read_bytes().splitlines(keepends=True)[:LINES]) for path in sorted(files)]
    return [*whole, *map(_every_event, whole)]


def damaged() -> list[bytes]:
    """Files that were found to be hard."""
    folder = TESTS / "sessions"
    return [path.read_bytes() for name in ("bad_files", "fuzz_found") for path in sorted((folder / name).glob("*"))]


def made(seed: int, sessions: list[bytes], hard: list[bytes]) -> bytes:
    """The damaged file of this seed."""
    rng = random.Random(seed)
    return mutated(rng.choice(sessions if rng.random() < SOUND_SHARE else hard), rng)


def _every_event(session: bytes) -> bytes:
    """A session with the events that few have."""
    more: list[dict[str, Any]] = [
        {"event": "change", "i": 9, "t": 0.3, "tap": False, "multistep": True, "sampling": {"seed": 1, "top_k": 5}},
        {"event": "cost", "tap_off": 10.0, "tap_on": 9.0, "ratio": 0.9, "interval": [0.8, 1.0], "i": 9},
        {"event": "fork", "i": 9, "t": 0.3, "arm": "text", "replicate": 0, "seed": 3, "text": "x"}
        | {"injected": [1], "generated": [2, 3]},
        {"event": "state", "state": "fresh_context", "i": 9, "t": 0.3},
        {"event": "marker", "i": 9, "t": 0.3, "note": "here"},
    ]
    return session + b"".join(json.dumps(event).encode() + b"\n" for event in more)


# -- how


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to four mutations of a file, and now and then its compressed form."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        data = rng.choice(MUTATIONS)(data, rng)
    if rng.random() < 0.05:
        data = rng.choice((_same, _flip))(zstandard.compress(data), rng)
    return data


def _same(data: bytes, _: random.Random) -> bytes:
    return data


def _flip(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 10))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.choice(BYTES) * rng.choice((1, 1, 2, 50)) + data[at:]


def _remove(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 2, 5, 40)) :]


def _swap_lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    if lines:
        a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[a], lines[b] = lines[b], lines[a]
    return b"".join(lines)


def _drop_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    if lines:
        del lines[rng.randrange(len(lines))]
    return b"".join(lines)


def _repeat_line(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    if lines:
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
    return b"".join(lines)


def _change_value(data: bytes, rng: random.Random) -> bytes:
    """One value of one line, at any depth, becomes another."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    at = rng.choice((0, rng.randrange(len(lines)), rng.randrange(len(lines))))
    with suppress(ValueError, RecursionError):
        value = json.loads(lines[at])
        lines[at] = json.dumps(_with_another(value, rng)).encode() + b"\n"
    return b"".join(lines)


def _with_another(value: Any, rng: random.Random) -> Any:
    """The value with one part of it replaced, removed, or added to."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(sorted(value))
        if rng.random() < 0.1:
            return {key: each for key, each in value.items() if key != name}
        return value | {name: _with_another(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:at] + value[at + 1 :] if rng.random() < 0.5 else value[:at] + value[at : at + 1] + value[at:]
        return [*value[:at], _with_another(value[at], rng), *value[at + 1 :]]
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.4:
        return value + rng.choice((-1, 1, 0.5, -value, value, 1000))
    return rng.choice(INTERESTING)


MUTATIONS: tuple[Mutation, ...] = (
    *(_flip, _cut, _insert, _remove, _swap_lines, _drop_line, _repeat_line),
    *(_change_value,) * 7,
)


# -- what is done with a file


def exercise(path: Path, folder: Path) -> str:
    """Have everything read a file; returns how the reader ended: `read`, `torn` or `refused`.

    Raises:
        Exception: what must not be.
    """
    for read in (_play, verify):
        with suppress(UserError):
            read(path)
    _save(path, folder / "copy.moe.jsonl")
    with suppress(UserError):
        export_session(path, ExportPlan("csv", folder / "export", None, True))
    return _read(path)


def _read(path: Path) -> str:
    try:
        with closing(read_session(path)) as reader:
            for event in reader:
                to_json(event)
            return "torn" if reader.torn else "read"
    except UserError as error:
        if "\n" in str(error):
            raise AssertionError(f"more than one line: {error}") from error
        return "refused"


def _play(path: Path) -> None:
    """To the end, then here and there, as a screen does."""
    source, view, summary = ReplaySource(path, speed=0), RunView(), Summary()
    with closing(source):
        source.start()
        for jump in (None, *JUMPS):
            if jump is not None:
                source.seek(jump)
            for item in _played(source):
                view.feed(item)
                summary.feed(item)
        json.dumps(summary.result(), allow_nan=False)


def _played(source: ReplaySource) -> Iterator[Any]:
    while True:
        yield from source.drain()
        if source.ended:
            break
    if source.fatal_error is not None:
        yield State(state="error", i=0, t=0.0, message=str(source.fatal_error))


def _save(path: Path, copy: Path) -> None:
    """A copy of what can be read can be read, and saves all of itself."""
    copy.unlink(missing_ok=True)
    try:
        salvage(path, copy)
    except UserError:
        assert not copy.exists()
        return
    outcome = _read(copy)
    assert outcome == "read", f"a salvaged copy is {outcome}"


@contextmanager
def in_time(seconds: float = SECONDS) -> Iterator[None]:
    """Raises `TooLongError` in what takes longer."""

    def over(_number: int, _frame: FrameType | None) -> None:
        raise TooLongError(f"longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- many files


def main() -> int:
    """Run; the status is 1 if anything was found."""
    parser = argparse.ArgumentParser(description="Read damaged session files by the thousand.")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guided", type=float, default=0.0, metavar="SECONDS", help="led by coverage, for so long")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-found"))
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    if options.guided:
        _guided(options.guided, options.keep)
    return _at_random(options.files, options.seed, options.keep)


def _at_random(files: int, seed: int, keep: Path) -> int:
    sessions, hard = sound(), damaged()
    outcomes, finds = Counter[str](), Counter[str]()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fuzzed.moe.jsonl"
        for number in range(seed, seed + files):
            path.write_bytes(made(number, sessions, hard))
            outcomes[_outcome(path, Path(folder), keep, finds, str(number))] += 1
    seconds = time.monotonic() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{files} files in {seconds:.0f} s, at most {peak:.0f} MiB: {dict(outcomes)}")
    for find, times in finds.most_common():
        print(f"{times:>6} × {find}")
    return 1 if finds else 0


def _outcome(path: Path, folder: Path, keep: Path, finds: Counter[str], name: str) -> str:
    try:
        with in_time():
            return exercise(path, folder)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        find = f"{type(error).__name__} in {os.path.basename(last.filename)}:{last.lineno}: {str(error)[:80]}"
        if not finds[find]:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / name).write_bytes(path.read_bytes())
            (keep / f"{name}.txt").write_text(traceback.format_exc())
        finds[find] += 1
        return "found"


def _guided(seconds: float, keep: Path) -> None:
    """Let atheris lead; it ends the program."""
    atheris = importlib.import_module("atheris")  # has no types, and is not there on every machine
    keep.mkdir(parents=True, exist_ok=True)
    seeds = Path(tempfile.mkdtemp(prefix="seeds-"))
    for number, data in enumerate([*sound(), *damaged()]):
        (seeds / str(number)).write_bytes(data)
    atheris.instrument_all()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    path = folder / "fuzzed.moe.jsonl"

    def one(data: bytes) -> None:
        path.write_bytes(data)
        exercise(path, folder)

    limits = (f"-max_total_time={seconds:.0f}", f"-timeout={SECONDS:.0f}", "-rss_limit_mb=4096", "-max_len=60000")
    atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={keep}/", str(seeds)], one)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
