"""Results of `sessions` and `sessions show`: recordings."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from moe_watch.routing.results import MaskResult


class HalfLifeResult(Struct, frozen=True, kw_only=True):
    """Half-life of the recorded chunks."""

    verdict: Annotated[str | None, Meta(description="Verdict of the fit; null if nothing can be fitted.")]
    half_life: Annotated[float | None, Meta(description="Half-life in chunks; null if not observed.")]
    words: Annotated[str, Meta(description="The verdict as a sentence, or why there is none.")]


class RecordingResult(Struct, frozen=True, kw_only=True):
    """Session file. The keys `model` to `half_life` are left out if the file has no readable header."""

    condition: Annotated[
        Literal["whole", "failed", "unfinished", "torn", "unreadable"],
        Meta(description="`whole`, `failed`, `unfinished`, `torn` or `unreadable`, as in the list of sessions."),
    ]
    problem: Annotated[str, Meta(description="Fault of the file as one line; empty if there is none.")]
    model: Annotated[str | UnsetType, Meta(description="Name of the model.")] = UNSET
    quantization: Annotated[str | UnsetType | None, Meta(description="Quantization of the model; null if unknown.")] = (
        UNSET
    )
    backend: Annotated[str | UnsetType, Meta(description="Name of the engine.")] = UNSET
    created: Annotated[str | UnsetType, Meta(description="Time of the recording in UTC, ISO 8601.")] = UNSET
    layers: Annotated[list[int] | UnsetType, Meta(description="Index of each MoE layer in the model.")] = UNSET
    experts: Annotated[int | UnsetType, Meta(description="Routed experts of a layer.")] = UNSET
    experts_per_token: Annotated[
        int | list[int] | UnsetType,
        Meta(description="Experts that a layer selects for a token; a list, one per MoE layer, where layers differ."),
    ] = UNSET
    continues: Annotated[
        str | UnsetType | None, Meta(description="First file of the run, for a continuation file; else null.")
    ] = UNSET
    tokens: Annotated[int | UnsetType, Meta(description="Tokens in this file.")] = UNSET
    end: Annotated[int | UnsetType, Meta(description="Tokens of the run at the end of this file.")] = UNSET
    chunks: Annotated[int | UnsetType, Meta(description="Chunks in this file.")] = UNSET
    ended: Annotated[
        str | UnsetType | None,
        Meta(description="Finish reason, or message of the error; null if the file does not have the end of the run."),
    ] = UNSET
    masks: Annotated[
        list[MaskResult] | UnsetType,
        Meta(description="Changes of the mask in order; empty if all experts were on throughout."),
    ] = UNSET
    half_life: Annotated[HalfLifeResult | UnsetType, Meta(description="Half-life of the recorded chunks.")] = UNSET
    name: Annotated[str, Meta(description="Name of the session: the file name without its endings.")]
    path: Annotated[str, Meta(description="Path of the file.")]
    run: Annotated[str, Meta(description="Name of the first file of the run.")]
    bytes: Annotated[int, Meta(description="Size of the file.")]
    modified: Annotated[float, Meta(description="Time of the last change, in seconds since 1970.")]


class RecordingList(Struct, frozen=True, kw_only=True):
    """Sessions of a folder."""

    folder: Annotated[str, Meta(description="Path of the folder.")]
    sessions: Annotated[list[RecordingResult], Meta(description="One object per file, newest first.")]


class RecordingPreview(RecordingResult, frozen=True, kw_only=True):
    """Session file, and the beginning of its text."""

    prompt: Annotated[str, Meta(description="Prompt as recorded.")]
    system: Annotated[str | None, Meta(description="System prompt; null without one.")]
    template: Annotated[
        str | None,
        Meta(description="Origin of the chat template: `model`, `library`, or `file`; null for a raw prompt."),
    ]
    template_file: Annotated[str | None, Meta(description="Name of the template's file; null if it has none.")]
    template_sha256: Annotated[str | None, Meta(description="SHA-256 of the template's text; null if unknown.")]
    text: Annotated[str, Meta(description="Beginning of the text, prompt included; up to 2,000 characters.")]
    capture: Annotated[list[str], Meta(description="Quantities recorded per token.")]
    warnings: Annotated[list[str], Meta(description="Warnings about the model and the engine, one line each.")]
