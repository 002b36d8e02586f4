"""Writer of imported traces as session files: a header that names absent data, and only events with known data.

Routing per token becomes token events. Counts become keyframes, one for each counted step: the state of a run after
tokens that are not recorded, so that no token is invented.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from moe_watch.routing.arrays import ABSENT, Ints, nullable
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import (
    BackendInfo,
    Change,
    Event,
    Header,
    Keyframe,
    ModelInfo,
    Sampling,
    State,
    Token,
    to_json,
)
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.routing.router.gates import UNKNOWN_GATE
from moe_watch.sessions import paths
from moe_watch.sessions.imports.traces import CountedTrace, RoutedTrace, Trace, check_size
from moe_watch.sessions.reading.line_reader import MAX_LINE
from moe_watch.sessions.reading.validation import ABSENT_ID, EventChecker, ShapeError, check_header
from moe_watch.sessions.recording.recorder import Recorder
from moe_watch.sessions.text import UNKNOWN
from moe_watch.sessions.version import version

IN_ORDER = (
    "steps are in the order of the dump: after an overflow of the recorder's buffer, that is not their time order"
)

SURELY_FIT = 1 << 17
"""Layers × experts up to which a keyframe fits in a line with any counts."""


def write_trace(
    trace: Trace, source: Path, output: Path | None, *, model: str | None, force: bool, folder: Path | None = None
) -> Path:
    """Write a trace as a session; return its file.

    Args:
        trace: the imported trace.
        source: the file that it was read from.
        output: the session file; None makes a name in `folder`.
        model: name of the model; None takes the trace's.
        force: replace `output` if it exists.
        folder: folder for files without a given name; by default the folder for recordings.

    Raises:
        UserError: the trace is impossible, or the file cannot be written.
    """
    check_size(trace.shape, str(source))
    now = datetime.now(UTC)
    header = header_of(trace, source, model or trace.model or UNKNOWN, now)
    events = _checked(header, trace, source)
    recorder = _recorder(header, output, force=force, folder=folder or paths.sessions_directory(), now=now)
    try:
        for event in events:
            recorder.append(event)
    except BaseException:
        recorder.discard()
        raise
    recorder.close()
    if recorder.problem or recorder.path is None:
        raise UserError(f"{recorder.name}: {recorder.problem}", advice="choose another place with --output")
    return recorder.path


def header_of(trace: Trace, source: Path, model: str, now: datetime) -> Header:
    """Return the header of an imported run. Its warnings name the required fields that are unknown."""
    routed = isinstance(trace, RoutedTrace)
    absent = [
        f"imported from {source.name}, {trace.what}: its time, temperature and seed are unknown",
        *(() if routed else ("only counts of selections: no tokens, and no quantity that depends on their order",)),
        *((IN_ORDER,) if isinstance(trace, CountedTrace) and trace.steps is not None else ()),
        *(("no token ids",) if isinstance(trace, RoutedTrace) and trace.ids is None else ()),
        *(("no text",) if isinstance(trace, RoutedTrace) and trace.texts is None else ()),
    ]
    return Header(
        created=now.strftime("%Y-%m-%dT%H:%M:%SZ"),
        moe_watch=version(),
        model=ModelInfo(
            name=model,
            architecture=UNKNOWN,
            layers=trace.shape.layers,
            experts=trace.shape.experts,
            experts_per_token=trace.shape.experts_per_token,
            gate=UNKNOWN_GATE,
        ),
        backend=BackendInfo(name=trace.engine, version=UNKNOWN, device=UNKNOWN, tap=f"import of {trace.what}"),
        sampling=Sampling(seed=0),
        prompt="",
        capture=["experts"] if routed else ["counts"],
        warnings=[*absent, *trace.warnings],
    )


def _checked(header: Header, trace: Trace, source: Path) -> Iterator[Event]:
    """Yield the events of a trace, each checked as a reader of the file checks it."""
    checker = EventChecker(header)
    try:
        check_header(header)
        for event in _events(header, trace):
            checker.check(event)
            _check_length(event, header, source)
            yield event
    except ShapeError as error:
        raise UserError(f"{source}: {error}", advice="check --experts and --layers") from error


def _check_length(event: Event, header: Header, source: Path) -> None:
    """Refuse a keyframe that readers would reject: its line, with several numbers per expert, is too long."""
    cells = len(header.model.layers) * header.model.experts
    if isinstance(event, Keyframe) and cells > SURELY_FIT and len(to_json(event)) > MAX_LINE:
        what = f"{source}: {len(header.model.layers)} layers × {header.model.experts:,} experts"
        raise UserError(f"{what} are more than a session holds", advice="check --experts")


def _events(header: Header, trace: Trace) -> Iterator[Event]:
    instruments = Instruments(header)
    if isinstance(trace, CountedTrace):
        yield from (_keyframe(instruments, trace, total) for total in _totals(trace))
        yield State(state="finished", i=int(trace.rows.max(initial=0)), t=0.0, why="imported")
        return
    for event in _tokens(trace):
        yield event
        yield from instruments.feed(event)
    ending = State(state="finished", i=len(trace.experts), t=0.0, why="imported")
    yield ending
    yield from instruments.feed(ending)


def _tokens(trace: RoutedTrace) -> Iterator[Token | Change]:
    """Yield tokens, and changes where routing begins or ends: rows are unobserved with the tap off."""
    tapped = True
    for i, experts in enumerate(trace.experts):
        prompt = i < trace.prompt_tokens
        if tapped != bool((experts != ABSENT).any()):
            tapped = not tapped
            yield Change(i=i, t=0.0, tap=tapped)
        yield Token(
            i=i,
            t=0.0,
            phase="prefill" if prompt else "decode",
            source="prompt" if prompt else "generated",
            id=ABSENT_ID if trace.ids is None else int(trace.ids[i]),
            text="" if trace.texts is None else trace.texts[i],
            experts=nullable(experts),
        )
    if not tapped:  # at the end the dashboard shows the run, not that its last token has no routing
        yield Change(i=len(trace.experts), t=0.0, tap=True)


def _totals(trace: CountedTrace) -> Ints:
    """Return the counts up to the end of each step `[S, L, E]`; steps without further tokens join the next one."""
    totals = trace.counts[None] if trace.steps is None else trace.steps.cumsum(0)
    tokens = totals.sum(-1).max(-1)
    found: Ints = totals[np.append(tokens[1:] > tokens[:-1], True)]
    return found


def _keyframe(instruments: Instruments, trace: CountedTrace, counts: Ints) -> Keyframe:
    """Return the state of fresh instruments with the counts `[L, E]` set: without tokens there are no averages."""
    rows = counts.sum(-1) // trace.shape.experts_per_token
    nothing = np.zeros_like(counts).tolist(), np.zeros_like(rows).tolist()
    here = counts.tolist(), rows.tolist()
    prefill, decode = (here, nothing) if trace.phase == "prefill" else (nothing, here)
    return msgspec.structs.replace(
        instruments.keyframe(),
        i=int(rows.max(initial=0)),
        counts_prefill=prefill[0],
        rows_prefill=prefill[1],
        counts_decode=decode[0],
        rows_decode=decode[1],
    )


def _recorder(header: Header, output: Path | None, *, force: bool, folder: Path, now: datetime) -> Recorder:
    if output is not None:
        return Recorder.create(output, header, force=force)
    return Recorder.numbered(folder, paths.session_stem(header.model.name, now.date()), header)
