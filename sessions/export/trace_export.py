"""Export of a session's routing in trace formats of other programs: selections or counts, as one text file.

`layer,expert` is the format of llama.cpp's moe-trace, `layer_id,expert_id,count` of SGLang's recorder of early 2025,
and `.coli_usage` of colibri's usage history. None of them holds tokens, text or phases.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from moe_watch.routing.arrays import ABSENT, Ints
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Header, Keyframe, Phase
from moe_watch.sessions import paths
from moe_watch.sessions.export.exporter import Exported
from moe_watch.sessions.export.selection_counts import PHASES, RunCounts
from moe_watch.sessions.reading.multipart import RunReader
from moe_watch.sessions.reading.recompute import Beginnings
from moe_watch.sessions.reading.token_arrays import TokenArrays, TokenBatches

TraceForm = Literal["layer-expert", "layer-expert-count", "coli-usage"]
TRACE_FORMS: tuple[TraceForm, ...] = get_args(TraceForm)
ENDINGS: dict[TraceForm, str] = {
    "layer-expert": ".layer-expert.csv",
    "layer-expert-count": ".layer-expert-count.csv",
    "coli-usage": ".coli_usage",
}
MOST_COLIBRI_COUNT = (1 << 32) - 1
"""colibri counts in 32 bits."""


@dataclass(frozen=True, slots=True)
class TracePlan:
    """Trace file to write.

    Args:
        form: format of the file.
        output: the file; None names it after the session, in the working folder.
        phase: the only phase to write; None writes both.
        force: replace an existing file.
    """

    form: TraceForm
    output: Path | None = None
    phase: Phase | None = None
    force: bool = False


def export_trace(path: Path, plan: TracePlan) -> Exported:
    """Write the routing of a session, from all files of a multi-part session.

    Raises:
        UserError: the session cannot be read, lacks data that the format needs, or the file exists already.
    """
    output = plan.output or Path(paths.stem_of(path) + ENDINGS[plan.form])
    paths.check_replaceable(output, force=plan.force)
    with closing(RunReader(path)) as session:
        if session.header.is_dense:
            what = f"{path}: {session.header.model.name} is dense: it has no routing to write"
            raise UserError(what, advice="use --to csv or parquet, which write its tokens")
        if plan.form == "layer-expert" and session.header.counts_only:
            what = f"{path}: it has counts of selections but no single selections"
            raise UserError(what, advice="use --to layer-expert-count")
        rows = _replace(output, _lines(session, plan))
        return Exported(output, {plan.form: rows}, session.warnings)


def _replace(output: Path, lines: Iterator[str]) -> int:
    """Write lines to a private temporary file and rename it when it is complete; return the number of lines.

    The first line, which names columns or sizes, is not counted.

    Raises:
        UserError: the file cannot be written, or a line cannot be made.
    """
    with paths.writing(output):
        paths.make_private(output.parent)
        descriptor, beside = tempfile.mkstemp(prefix=".export-", dir=output.parent)
    try:
        written = -1
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            for line in lines:
                with paths.writing(output):
                    file.write(line)
                written += 1
            with paths.writing(output):
                file.flush()
                os.fsync(file.fileno())
        with paths.writing(output):
            os.replace(beside, output)
            paths.sync_folder(output.parent)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise
    return written


def _lines(session: RunReader, plan: TracePlan) -> Iterator[str]:
    if plan.form == "layer-expert":
        return _selections(session, plan.phase)
    counts = _counts(session, plan.phase)
    return _coli_usage(session.header, counts) if plan.form == "coli-usage" else _count_rows(session.header, counts)


def _selections(session: RunReader, phase: Phase | None) -> Iterator[str]:
    """Yield `layer,expert` in the order in which tokens and layers were evaluated."""
    layers = np.array(session.header.model.layers, np.int64)
    yield "layer,expert\n"
    for tokens in _batches(session):
        for token, kind in zip(tokens.experts, tokens.phase, strict=True):
            if phase in (None, kind):
                for layer, experts in zip(layers, token, strict=True):
                    yield from (f"{layer},{expert}\n" for expert in experts if expert != ABSENT)


def _batches(session: RunReader) -> Iterator[TokenArrays]:
    batches = TokenBatches(session.header)
    for event in session:
        yield from batches.feed(event)
    yield from batches.rest()


def _counts(session: RunReader, phase: Phase | None) -> Ints:
    """Return selections `[L, E]` of the whole run in one phase, or in both."""
    counted, batches, beginnings = RunCounts(session.header), TokenBatches(session.header), Beginnings()
    for event in session:
        for tokens in batches.feed(event):
            counted.add(tokens)
        if beginnings.feed(event) and isinstance(event, Keyframe):
            counted.begin_with(event)
    for tokens in batches.rest():
        counted.add(tokens)
    chosen = PHASES if phase is None else (phase,)
    return sum((counted.counts[each] for each in chosen), np.zeros_like(counted.counts["decode"]))


def _count_rows(header: Header, counts: Ints) -> Iterator[str]:
    yield "layer_id,expert_id,count\n"
    for layer, row in zip(header.model.layers, counts.tolist(), strict=True):
        yield from (f"{layer},{expert},{count}\n" for expert, count in enumerate(row))


def _coli_usage(header: Header, counts: Ints) -> Iterator[str]:
    """Yield colibri's text format without the line that names the engine: colibri refuses other engines' files."""
    if counts.max(initial=0) > MOST_COLIBRI_COUNT:
        advice = "use --to layer-expert-count"
        raise UserError(f"an expert was selected {counts.max():,} times, beyond colibri's 32 bits", advice=advice)
    layers = max(header.model.layers, default=-1) + 1
    yield f"-1 {layers} {header.model.experts}\n"
    for layer, row in zip(header.model.layers, counts.tolist(), strict=True):
        yield from (f"{layer} {expert} {count}\n" for expert, count in enumerate(row) if count)
