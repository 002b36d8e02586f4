"""Runs that the real recorder wrote in several files, because the disk was full in between."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import msgspec
import pytest

import moe_watch
from moe_watch.routing.events import Keyframe, Token, from_json, to_json
from moe_watch.sessions.live.source import LiveSource
from moe_watch.sessions.notebook import Session
from moe_watch.sessions.recording import pending as gaps
from tests.run_specs import run_settings
from tests.sessions.kit import Drained, Stage, path_of, wait_until
from tests.sessions.recording.test_durability import fill_disk, wait_for_failure

STRETCH = 98
"""Tokens before each time that the disk is full."""
MEANWHILE = 32
"""Tokens while it is."""
FIRST_END, SECOND_END = 2 + STRETCH, 2 + 2 * STRETCH + MEANWHILE
"""Tokens of the run up to the ends of its first and its second file."""
TOKENS = SECOND_END + MEANWHILE + STRETCH
MEASURED = range(10, (TOKENS - 2) // 4)
"""Complete chunks after the warm-up."""
LITTLE_ROOM = 12_500
"""Bytes that can be kept while nothing can be written, so that some of the tokens meanwhile are lost."""


def record(folder: Path, *, full: bool, room: int = gaps.KEPT_BYTES) -> Path:
    """Record a run of `TOKENS` tokens in chunks of 4; the disk is full twice, or never. Returns its first file."""
    stage = Stage(folder)
    source = LiveSource(run_settings(prompt="def", chunk_size=4), stage.around)
    drained = Drained(source)
    source.start()
    drained.wait_for(Token, 2)
    first = path_of(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gaps, "KEPT_BYTES", room)
        for _ in range(2):
            _generate(stage, drained, STRETCH)
            if full:
                fill_disk(source)
            _generate(stage, drained, MEANWHILE)
            if full:
                wait_for_failure(source)
                stage.clock.advance(gaps.FIRST_WAIT)
                wait_until(lambda: source.recording.mode == "recording", "another file")
        _generate(stage, drained, STRETCH)
    stage.worker.finish("length")
    drained.wait_for_end()
    source.close()
    return first


def _generate(stage: Stage, drained: Drained, number: int) -> None:
    there = len(drained.of(Token))
    stage.worker.generate(number)
    drained.wait_for(Token, there + number)


def part(first: Path, number: int) -> Path:
    """A later file of a run."""
    return first.with_name(first.name.replace(".moe.jsonl", f".{number}.moe.jsonl"))


def keyframe_of(path: Path) -> Keyframe:
    """The state that a later file begins with."""
    found = from_json(path.read_bytes().splitlines()[1])
    assert isinstance(found, Keyframe)
    return found


def lost_chunks(first: Path) -> list[range]:
    """Chunks that lie between the files of a run of three and are in none."""
    ends = [(count - 2) // 4 for count in (FIRST_END, SECOND_END)]
    return [range(end, keyframe_of(part(first, number)).chunks) for number, end in enumerate(ends, 2)]


def in_words(gaps: list[range]) -> str:
    """Stretches of chunks as they are told."""
    return ", ".join(f"{gap[0]} to {gap[-1]}" for gap in gaps)


def opened(path: Path) -> tuple[Session, list[str]]:
    """A session, and what was warned of as it was opened."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        session = moe_watch.open(path)
    return session, [str(each.message) for each in caught]


def copied(first: Path, folder: Path) -> Path:
    """A run's files in another folder, where a test may spoil them; returns the first one."""
    shutil.copytree(first.parent, folder)
    return folder / first.name


def change(path: Path, line: int, **fields: object) -> None:
    """Change fields of the event on a line of a file, 0-based."""
    lines = path.read_bytes().splitlines()
    lines[line] = to_json(msgspec.structs.replace(from_json(lines[line]), **fields))
    path.write_bytes(b"\n".join(lines) + b"\n")
