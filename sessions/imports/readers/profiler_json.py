"""Readers of the JSON that routing profilers write: activation counts of experts, or the routing of prompts.

`activation_counts` has a list of counts for each layer. An atlas has `prompts`, each with its tokens as text and
`routing`: for each token the experts of every layer.
"""

from __future__ import annotations

import msgspec

from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.document import Document
from moe_watch.sessions.imports.readers.rows import Row, trace_of
from moe_watch.sessions.imports.readers.sparse_counts import counts_trace
from moe_watch.sessions.imports.traces import (
    MAX_LAYER,
    CountedTrace,
    ImportOptions,
    RoutedTrace,
    known_experts_per_token,
)
from moe_watch.sessions.imports.typed_json import ExpertId, Index, typed


class _Profile(msgspec.Struct):
    """Counts by layer."""

    activation_counts: dict[str, list[int]]
    num_experts: int | None = None
    num_experts_per_tok: int | None = None
    top_k: int | None = None
    model: str | None = None


class _LayerRouting(msgspec.Struct):
    """The experts of one token in one layer."""

    layer: Index
    experts: list[ExpertId]


class _Prompt(msgspec.Struct):
    """One evaluated prompt."""

    routing: list[list[_LayerRouting]]
    tokens: list[str] | None = None


class _Atlas(msgspec.Struct):
    """The routing of several prompts."""

    prompts: list[_Prompt]
    num_experts: int | None = None
    top_k: int | None = None
    model: str | None = None


def is_profile(document: Document) -> bool:
    """Return whether a file is a profile of counts."""
    return document.kind == "json" and document.mapping is not None and document.has("activation_counts")


def is_atlas(document: Document) -> bool:
    """Return whether a file has the routing of prompts."""
    if document.kind != "json" or document.mapping is None:
        return False
    prompts = document.mapping.get("prompts")
    return isinstance(prompts, list) and bool(prompts) and isinstance(prompts[0], dict) and "routing" in prompts[0]


def read_profile(document: Document, options: ImportOptions) -> CountedTrace:
    """Read counts by layer.

    Raises:
        UserError: it is damaged, or does not fit the number of experts.
    """
    where = str(document.path)
    profile = typed(document.value, _Profile, where)
    counts: dict[tuple[int, int], int] = {}
    for name, row in profile.activation_counts.items():
        if not (name.isascii() and name.isdigit() and len(name) < 8 and int(name) <= MAX_LAYER):
            raise UserError(f"{where}: a layer called {name[:40]!r}", advice="name layers by their index")
        if min(row, default=0) < 0 or len(row) != len(next(iter(profile.activation_counts.values()))):
            raise UserError(f"{where}: layer {name}: not a count for each expert", advice="give it as it was written")
        counts |= {(int(name), expert): count for expert, count in enumerate(row)}
    experts = max((expert for _, expert in counts), default=-1) + 1
    if profile.num_experts not in (None, experts):
        what = f"{where}: {experts} counts in a layer, but num_experts is {profile.num_experts}"
        raise UserError(what, advice="give it as it was written")
    stated = profile.num_experts_per_tok if profile.top_k is None else profile.top_k
    chosen = options.experts_per_token if stated is None else known_experts_per_token(options, where, stated)
    known = ImportOptions(options.model, options.experts, chosen, options.layers, phase=options.phase)
    what = "a profile of activation counts"
    return counts_trace(counts, known, where, engine="unknown", what=what, experts=experts, model=profile.model)


def read_atlas(document: Document, options: ImportOptions) -> RoutedTrace:
    """Read the routing of one prompt.

    Raises:
        UserError: it is damaged, or has several prompts and the user chose none.
    """
    where = str(document.path)
    atlas = typed(document.value, _Atlas, where)
    if options.run is None and len(atlas.prompts) > 1:
        what = f"{where}: an atlas of {len(atlas.prompts)} prompts"
        raise UserError(what, advice=f"choose one with --run 0 up to {len(atlas.prompts) - 1}")
    if not 0 <= (options.run or 0) < len(atlas.prompts):
        raise UserError(f"{where}: no run {options.run}", advice=f"use --run 0 up to {len(atlas.prompts) - 1}")
    prompt = atlas.prompts[options.run or 0]
    if atlas.top_k is not None:
        known_experts_per_token(options, where, atlas.top_k)
    rows = [
        Row(token, each.layer, each.experts, None, f"{where}, token {token}")
        for token, layers in enumerate(prompt.routing)
        for each in layers
    ]
    if not rows:
        raise UserError(f"{where}: no routing in it", advice="give it as it was written")
    found = trace_of(
        rows,
        options,
        where,
        engine="unknown",
        what="an atlas of routing",
        model=atlas.model,
        experts=atlas.num_experts,
    )
    if atlas.top_k not in (None, found.shape.experts_per_token):
        what = f"{where}: {found.shape.experts_per_token} experts in a row, but top_k is {atlas.top_k}"
        raise UserError(what, advice="give it as it was written")
    return _with_texts(found, prompt.tokens, where)


def _with_texts(found: RoutedTrace, texts: list[str] | None, where: str) -> RoutedTrace:
    if texts is None:
        return found
    if len(texts) != len(found.experts):
        what = f"{where}: {len(texts)} tokens, but routing of {len(found.experts)}"
        raise UserError(what, advice="give it as it was written")
    return RoutedTrace(
        found.engine, found.what, found.shape, found.experts, found.prompt_tokens, None, texts, found.model,
        found.warnings,
    )  # fmt: skip
