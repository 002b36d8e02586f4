"""Results of `verify` and `verify --salvage`: verdicts on files, and copies of damaged ones."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType


class FaultResult(Struct, frozen=True, kw_only=True):
    """Fault of one kind."""

    check: Annotated[str, Meta(description="Fixed name of the check that found it.")]
    line: Annotated[
        int | None, Meta(description="Line of the first one, from 1; null if it concerns the file as a whole.")
    ]
    text: Annotated[str, Meta(description="The first one as a sentence.")]
    count: Annotated[int, Meta(description="Number of faults of this kind.")]


class FileVerdict(Struct, frozen=True, kw_only=True):
    """Verdict on one file. A file that cannot be read has `file`, `status` and `error` only."""

    file: Annotated[str, Meta(description="Path of the file.")]
    status: Annotated[
        Literal[0, 1, 2], Meta(description="0 without a fault, 1 with faults, 2 if the file cannot be read.")
    ]
    error: Annotated[str | UnsetType, Meta(description="Why the file cannot be read; left out if it can.")] = UNSET
    schema: Annotated[tuple[int, int] | UnsetType, Meta(description="Major and minor version of the file format.")] = (
        UNSET
    )
    lines: Annotated[int | UnsetType, Meta(description="Number of lines.")] = UNSET
    tokens: Annotated[int | UnsetType, Meta(description="Number of tokens.")] = UNSET
    chunks: Annotated[int | UnsetType, Meta(description="Number of recorded chunks.")] = UNSET
    unknown_events: Annotated[
        int | UnsetType, Meta(description="Number of events of a newer version, which are not checked.")
    ] = UNSET
    findings: Annotated[list[FaultResult] | UnsetType, Meta(description="Faults in the order of lines.")] = UNSET
    remarks: Annotated[list[str] | UnsetType, Meta(description="Notes that are no faults, one line each.")] = UNSET


class RunVerdict(Struct, frozen=True, kw_only=True):
    """Verdict on the files of one run together."""

    file: Annotated[str, Meta(description="First file of the run.")]
    parts: Annotated[list[str], Meta(description="Its continuation files in order.")]
    status: Annotated[Literal[0, 1], Meta(description="0 if the files fit together, 1 if they do not.")]
    tokens: Annotated[int, Meta(description="Tokens in all of them.")]
    findings: Annotated[list[FaultResult], Meta(description="Faults; `line` is null.")]
    remarks: Annotated[list[str], Meta(description="Notes that are no faults, one line each.")]


class VerifyReport(Struct, frozen=True, kw_only=True):
    """Verdict on files and on the runs that they form."""

    files: Annotated[list[FileVerdict], Meta(description="One object per file.")]
    runs: Annotated[list[RunVerdict], Meta(description="One object per run.")]


class LeftOutResult(Struct, frozen=True, kw_only=True):
    """Line that was not copied."""

    line: Annotated[int, Meta(description="Number of the line, from 1.")]
    reason: Annotated[str, Meta(description="Why it was left out.")]


class SalvageReport(Struct, frozen=True, kw_only=True):
    """Copy of the readable part of a damaged session."""

    output: Annotated[str, Meta(description="Path of the copy.")]
    lines: Annotated[int, Meta(description="Lines in the copy.")]
    tokens: Annotated[int, Meta(description="Tokens in the copy.")]
    left_out: Annotated[list[LeftOutResult], Meta(description="Lines left out; the first 1,000.")]
    left_out_lines: Annotated[int, Meta(description="Number of lines left out.")]
    missing_tokens: Annotated[int, Meta(description="Tokens that are missing from the copy.")]
    computed: Annotated[int, Meta(description="Chunks and keyframes recomputed from the tokens that remain.")]
