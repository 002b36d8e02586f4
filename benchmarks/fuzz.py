"""Fuzzer of session files: every file is read, verified and salvaged, or refused with one line.

    python -m benchmarks.fuzz --files 100000 --keep /tmp/found
    python -m benchmarks.fuzz --guided 600 --keep /tmp/found

The first command mutates recordings at random. The second is guided by coverage (`pip install atheris`) and runs for
the given number of seconds. Both run all code that reads sessions: the reader, a replay with seeks up to the summary
and the fold of the dashboard, verify, salvage, and an export. A crash is any exception other than `UserError`, a file
that takes longer than 20 s, or more than 4 GiB of memory; its file is kept with the traceback.
"""

from __future__ import annotations

import argparse
import importlib
import os
import resource
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.sessions.exercise import SECONDS, exercise, in_time
from tests.sessions.mutations import damaged, made, sound

MEMORY = 4 << 30


def main() -> int:
    """Run the fuzzer; return 1 if it found a crash."""
    parser = argparse.ArgumentParser(description="Fuzz the code that reads session files.")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--guided", type=float, default=0.0, metavar="SECONDS", help="guided by coverage")
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
    """Run atheris, which ends the program."""
    atheris = importlib.import_module("atheris")  # untyped, and optional
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
