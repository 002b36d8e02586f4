"""A continuation beside the run, measured as the chunk that it would have been."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from moe_watch.backends.protocol import Branch
from moe_watch.backends.run_spec import ForkPlan
from moe_watch.routing.events import Chunk, Event, Fork, StreamItem, Token
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.sessions.live.environment import Surroundings
from moe_watch.sessions.live.forks import fork_event
from moe_watch.sessions.live.headless import run_headless
from moe_watch.sessions.live.source import LiveSource
from moe_watch.sessions.reading.reader import read_session
from tests.run_specs import run_settings
from tests.sessions.kit import HEADER, make_token

BOUNDARY = 2 + 3 * HEADER.chunk_size
INJECTED = 3


def before() -> list[Token]:
    """A prompt and three whole chunks."""
    return [make_token(i, "prompt" if i < 2 else "generated") for i in range(BOUNDARY)]


def continuation(injected: int = INJECTED, number: int = HEADER.chunk_size) -> list[Token]:
    return [
        replace(make_token(100 + n, "injected" if n < injected else "generated"), i=BOUNDARY + n)
        for n in range(injected + number)
    ]


def branch(tokens: list[Token]) -> Branch:
    return Branch(t=1.5, arm="text", replicate=2, seed=99, text=" go on", tokens=tokens)


def fed(events: list[Token]) -> Instruments:
    instruments = Instruments(HEADER)
    for event in events:
        instruments.feed(event)
    return instruments


def test_a_fork_is_the_chunk_that_the_run_would_have_had() -> None:
    tokens = continuation()
    fork = fork_event(branch(tokens), fed(before()))
    run = fed(before())
    derived: list[Event] = [event for token in tokens for event in run.feed(token)]
    [chunk] = [event for event in derived if isinstance(event, Chunk)]
    assert chunk.signals is not None
    assert chunk.pressures is not None
    assert (fork.signals, fork.pressures) == (chunk.signals, chunk.pressures)
    assert (chunk.tokens, chunk.partial) == (HEADER.chunk_size, False)


def test_a_fork_says_where_and_what() -> None:
    fork = fork_event(branch(continuation()), fed(before()))
    assert (fork.i, fork.t, fork.arm, fork.replicate, fork.seed, fork.text) == (BOUNDARY, 1.5, "text", 2, 99, " go on")
    assert fork.injected == [100, 101, 102]
    assert fork.generated == [103, 104, 105, 106]


def test_the_run_s_instruments_do_not_notice() -> None:
    instruments = fed(before())
    fork_event(branch(continuation()), instruments)
    assert instruments.keyframe() == fed(before()).keyframe()
    rest = [make_token(BOUNDARY + n) for n in range(8)]
    twin = fed(before())
    assert [instruments.feed(token) for token in rest] == [twin.feed(token) for token in rest]


def test_continuations_do_not_notice_each_other() -> None:
    instruments = fed(before())
    once = fork_event(branch(continuation()), instruments)
    fork_event(branch(continuation(injected=0)), instruments)
    assert fork_event(branch(continuation()), instruments) == once


def test_a_continuation_without_routing_has_no_signals() -> None:
    unseen = [
        replace(token, experts=[None] * len(token.experts), weights=None, entropy=None, margin=None)
        for token in continuation()
    ]
    fork = fork_event(branch(unseen), fed(before()))
    assert (fork.signals, fork.pressures) == (None, None)
    assert len(fork.generated) == HEADER.chunk_size


@pytest.mark.model
def test_forks_and_changes_of_a_real_run_are_recorded_and_replayed(tmp_path: Path) -> None:
    plan = ForkPlan(text=" go on", neutral=" so", replicates=2, first=2, every=2)
    settings = run_settings(
        model="pocket", prompt="def parse(", tokens=50, chunk_size=10, stop="never", seed=5, forks=plan
    )
    source = LiveSource(settings, Surroundings(folder=tmp_path / "data", providers=[]))
    shown: list[StreamItem] = []
    run_headless(source, shown.append)
    source.close()
    assert source.fatal_error is None
    forks = [item for item in shown if isinstance(item, Fork)]
    boundaries = [item.last + 1 for item in shown if isinstance(item, Chunk)][1:4:2]
    assert [(fork.i, fork.arm, fork.replicate) for fork in forks] == [
        (i, arm, number) for i in boundaries for arm in ("none", "neutral", "text") for number in range(2)
    ]
    assert all(fork.pressures is not None and len(fork.generated) == 10 for fork in forks)
    assert {len(fork.injected) for fork in forks if fork.arm != "none"} == {len(forks[-1].injected)} != {0}
    recorded = [event for event in read_session(Path(source.recording.path)) if isinstance(event, Fork)]
    assert recorded == forks
