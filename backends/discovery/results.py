"""Result that `moe-watch models --json` prints."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct


class ListedModel(Struct, frozen=True, kw_only=True):
    """Model on this machine."""

    name: Annotated[str, Meta(description="Name for the command line: `moe-watch watch NAME`.")]
    path: Annotated[str, Meta(description="Folder, or first GGUF file.")]
    place: Annotated[
        Literal["built in", "Hugging Face", "llama.cpp", "Ollama", "LM Studio", "settings", "given"],
        Meta(description="Program or list that names the place; `given` is the command line."),
    ]
    format: Annotated[Literal["huggingface", "gguf"], Meta(description="Format of the files.")]
    engine: Annotated[
        str | None, Meta(description="Engine that reads it; null if the installed one has no code for it.")
    ]
    installed: Annotated[bool, Meta(description="Whether the engine of this format is installed.")]
    architecture: Annotated[str | None, Meta(description="Architecture by the name in its files; null if unknown.")]
    layers: Annotated[int | None, Meta(description="Number of MoE layers; 0 for a dense model, null if unknown.")]
    blocks: Annotated[int | None, Meta(description="Number of all layers; null if unknown.")]
    experts: Annotated[int | None, Meta(description="Experts per MoE layer; 0 for a dense model, null if unknown.")]
    experts_per_token: Annotated[
        int | list[int] | None,
        Meta(description="Experts per token; a list if layers differ, 0 for a dense model, null if unknown."),
    ]
    whole_experts: Annotated[
        int | None,
        Meta(description="Experts per MoE layer before `moe-watch prune`; null for a model that it did not prune."),
    ]
    bytes: Annotated[int, Meta(description="Size of the weight files.")]
    quantization: Annotated[
        str | None,
        Meta(
            description="Tensor types by share of the bytes, or the settings of an MLX quantization; null if unknown."
        ),
    ]
    template: Annotated[bool | None, Meta(description="Whether there is a chat template; null if unknown.")]
    needed_bytes: Annotated[
        int | None, Meta(description="Estimate of the memory at the default context; null if unknown.")
    ]
    fits: Annotated[
        bool | None, Meta(description="Whether the estimate is within `available_bytes`; null if there is none.")
    ]
    problem: Annotated[str | None, Meta(description="Reason why it cannot be used; null if there is none.")]


class OtherFile(Struct, frozen=True, kw_only=True):
    """File or folder that is no model."""

    path: Annotated[str, Meta(description="Its path.")]
    kind: Annotated[str, Meta(description="Description: an adapter, a vocabulary, the image part of a model.")]


class SearchedPlace(Struct, frozen=True, kw_only=True):
    """Folder that was searched."""

    place: Annotated[str, Meta(description="Program or list that names the place.")]
    folder: Annotated[str, Meta(description="Its path.")]
    exists: Annotated[bool, Meta(description="Whether the folder exists.")]
    models: Annotated[int, Meta(description="Models listed from it, broken ones included.")]


class ModelList(Struct, frozen=True, kw_only=True):
    """Models on this machine."""

    models: Annotated[
        list[ListedModel], Meta(description="Usable models in the order of the search, then broken ones.")
    ]
    others: Annotated[list[OtherFile], Meta(description="Files that are no model.")]
    searched: Annotated[list[SearchedPlace], Meta(description="Places in the order of the search.")]
    notes: Annotated[list[str], Meta(description="Parts that were not searched, one line each.")]
    available_bytes: Annotated[int, Meta(description="Memory that is available now.")]
