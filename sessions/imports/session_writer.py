"""An imported trace as a session file: a header that says what is there, and only events that can be had.

Routing per token becomes tokens. Counts become keyframes, one for each step that was counted: the state of a run after
tokens that nobody recorded, so that no token is made up.
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
from moe_watch.sessions.reading.lines import MAX_LINE
from moe_watch.sessions.reading.validation import ABSENT_ID, EventChecker, ShapeError, check_header
from moe_watch.sessions.recording.recorder import Recorder
from moe_watch.sessions.text import UNKNOWN
from moe_watch.sessions.version import version

IN_ORDER = "steps stand in the order of the dump: if the recorder's buffer ran over, that is not the order in time"

SURELY_FIT = 1 << 17
"""Layers × experts whose keyframe is shorter than a line may be, whatever is counted."""


def write_trace(
    trace: Trace, source: Path, output: Path | None, *, model: str | None, force: bool, folder: Path | None = None
) -> Path:
    """Record a trace; returns the file.

    Args:
        trace: what was imported.
        source: the file that it comes from.
        output: where to record it; None makes a name in `folder`.
        model: what the model is called.
        force: replace `output` if it exists.
        folder: for files without a given name, the one for recordings by default.

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
    """The header of an imported run. What no field can leave open is said in its warnings."""
    routed = isinstance(trace, RoutedTrace)
    absent = [
        f"imported from {source.name}, {trace.what}: when it ran, temperature and seed are not known",
        *(() if routed else ("only counts of selections: no tokens, and nothing that needs their order",)),
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
    """The events of a trace, each as a reader of the file would accept it."""
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
    """Refuse a keyframe that no reader would take in: it has a line to itself, with several numbers per expert."""
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
    """Tokens, and changes where routing begins or ceases to be there: nothing is observed with the tap off."""
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
    if not tapped:  # a screen at the end shows the run, and not that its last token has no routing
        yield Change(i=len(trace.experts), t=0.0, tap=True)


def _totals(trace: CountedTrace) -> Ints:
    """What was counted up to the end of each step `[S, L, E]`; steps that no layer got further in go with the next."""
    totals = trace.counts[None] if trace.steps is None else trace.steps.cumsum(0)
    tokens = totals.sum(-1).max(-1)
    found: Ints = totals[np.append(tokens[1:] > tokens[:-1], True)]
    return found


def _keyframe(instruments: Instruments, trace: CountedTrace, counts: Ints) -> Keyframe:
    """The state of fresh instruments, but for what was counted `[L, E]`: without tokens there are no averages."""
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
