"""Readers of server responses with routed experts: vLLM, SGLang, NVIDIA Dynamo, and the runs that verifiers records.

Expert ids `[tokens, layers, top-k]` are in a choice or beside the choices, with one row less than tokens: the last
token is sampled and never evaluated. vLLM (`--enable-return-routed-experts`) sends base64 of an `.npy` file, or nested
lists with the prompt's ids apart; gateways send `{"data": base64, "shape", "dtype", "start"}`. SGLang sends base64 of
int32 without a shape, in `meta_info` of `/generate`, in `sgl_ext` of a choice, or in `sglext` of a response. Rows may
begin after a prefix that the client asked to leave out: at `start`, or at `routed_experts_start_len`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from moe_watch.routing.arrays import ABSENT, Ints
from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.document import Document
from moe_watch.sessions.imports.plausibility import validated_routing
from moe_watch.sessions.imports.readers.payloads import PayloadRows, rows_of
from moe_watch.sessions.imports.readers.response_parts import (
    AS_SENT,
    EXTENSIONS,
    MOST_TOKEN_ID,
    ResponseChoice,
    choice_of,
    read_part,
)
from moe_watch.sessions.imports.traces import NO_PROMPT, ImportOptions, RoutedTrace, known_prompt_tokens
from moe_watch.sessions.imports.typed_json import array_of
from moe_watch.sessions.reading.validation import ABSENT_ID

OF_SGLANG = frozenset({"meta_info", "sgl_ext", "sglext"})
UNCHECKED = "the response does not state its number of tokens: {} by the given shape"
NO_ROUTED_EXPERTS = "without routed experts"


# -- recognition


def is_verifiers(document: Document) -> bool:
    """Return whether a file has runs of verifiers: turns with the ids of prompt and completion."""
    if document.kind not in ("json", "json lines"):
        return False
    return document.has("completion_ids") or isinstance(document.first.get("trajectory"), list)


def is_sglang(document: Document) -> bool:
    """Return whether a file is a response of SGLang."""
    return _is_response(document) and any(OF_SGLANG & each.keys() for each in _with_choices(document))


def is_vllm(document: Document) -> bool:
    """Return whether a file is a response of vLLM, or of a gateway in front of it."""
    if document.kind == "arrays":
        return document.has("routed_experts")
    return _is_response(document) and not is_sglang(document)


def is_stream(document: Document) -> bool:
    """Return whether a file is a stream of server-sent events without routing."""
    return document.kind == "events"


def _is_response(document: Document) -> bool:
    if document.kind not in ("json", "json lines", "events") or not document.records:
        return False
    found = _with_choices(document)
    if document.kind == "events":
        return any(_holds_routing(each) for each in found)
    keys = {"choices", "routed_experts", "meta_info", "nvext"}
    return any(keys & each.keys() for each in found[:1])


def _holds_routing(part: Mapping[str, object]) -> bool:
    if part.get("routed_experts") is not None:
        return True
    extensions = (part.get(key) for key in EXTENSIONS)
    return any(isinstance(each, dict) and _holds_routing(each) for each in extensions)


def _with_choices(document: Document) -> list[Mapping[str, object]]:
    """Return the responses and their choices, as decoded."""
    found: list[Mapping[str, object]] = []
    for each in document.records:
        response = _unwrapped(each)
        if isinstance(response, dict):
            choices = response.get("choices")
            found += [
                response,
                *(one for one in (choices if isinstance(choices, list) else []) if isinstance(one, dict)),
            ]
    return found


def _unwrapped(record: object) -> object:
    """Return the response of a record; a record of a batch has it in `response.body`."""
    response = record.get("response") if isinstance(record, dict) else None
    body = response.get("body") if isinstance(response, dict) else None
    return body if isinstance(body, dict) else record


# -- reading


def read_vllm(document: Document, options: ImportOptions) -> RoutedTrace:
    """Read a response of vLLM, or an array of expert ids `[tokens, layers, top-k]`.

    Raises:
        UserError: there is no routing in it, or it cannot be read.
    """
    if document.kind == "arrays" or not any(isinstance(each, dict) for each in document.records):
        value, where = document.value, str(document.path)
        found = array_of(value["routed_experts"] if isinstance(value, dict) else value, where)
        return _trace(ResponseChoice([], 0, where, None), PayloadRows(found, certain=True), None, options, "vLLM")
    return _read(document, options, "vLLM")


def read_sglang(document: Document, options: ImportOptions) -> RoutedTrace:
    """Read a response of SGLang.

    Raises:
        UserError: there is no routing in it, or it cannot be read.
    """
    return _read(document, options, "SGLang")


def read_verifiers(document: Document, options: ImportOptions) -> RoutedTrace:
    """Read one turn that verifiers recorded.

    Raises:
        UserError: there is no routing in it, or it cannot be read.
    """
    return _read(document, options, "verifiers")


def _read(document: Document, options: ImportOptions, engine: str) -> RoutedTrace:
    choice = _choice(document, options, engine)
    held = ((name, part.routing.routed_experts) for name, part in choice.parts)
    holder = next(((name, payload) for name, payload in held if payload is not None), None)
    if holder is None:
        advice = {
            "vLLM": "serve with --enable-return-routed-experts, and ask for return_routed_experts",
            "SGLang": "serve with --enable-return-routed-experts, and ask for return_routed_experts",
        }.get(engine, "record with an engine that returns routed experts")
        raise UserError(f"{choice.where}: a response of {engine} {NO_ROUTED_EXPERTS}", advice=advice)
    name, payload = holder
    if name in OF_SGLANG:
        engine = "SGLang"
    if name == "sglext" and choice.index:
        what = f"{choice.where}: sglext holds the routing of choice 0 only"
        raise UserError(what, advice="ask for return_meta_info, or for one choice")
    total = choice.total
    start = _one_start(options.start, choice.start, choice.where)
    at, documented = f"{choice.where}, routed_experts", "int32" if name in OF_SGLANG else None
    rows = rows_of(payload, options, at, total=total, start=start, documented=documented)
    if not rows.certain and total is None:
        choice.warnings.append(UNCHECKED.format(len(rows.ids)))
    before = choice.prompt_routing
    if before is None:
        return _trace(choice, rows, choice.prompt_tokens, options, engine)
    at = f"{choice.where}, prompt_routed_experts"
    prompt = rows_of(before, options, at, total=None, start=None, documented=None)
    return _trace(choice, _joined(prompt, rows, choice.where), len(prompt.ids), options, engine)


def _choice(document: Document, options: ImportOptions, engine: str) -> ResponseChoice:
    runs = list(_runs(document))
    where = str(document.path)
    if options.run is None and len(runs) > 1:
        what = f"{where}: {len(runs):,} responses of {engine}"
        raise UserError(what, advice=f"choose one with --run 0 up to {len(runs) - 1:,}")
    if not 0 <= (options.run or 0) < len(runs):
        raise UserError(f"{where}: no run {options.run or 0}", advice=f"use --run 0 up to {max(0, len(runs) - 1):,}")
    return choice_of(read_part(runs[options.run or 0], where), options.choice, where)


def _runs(document: Document) -> Iterator[object]:
    """Yield the responses in a file, or the turns of verifiers' runs; of a stream, the events with routing."""
    for record in document.records:
        response = _unwrapped(record)
        if document.kind == "events":
            if isinstance(response, dict) and any(
                _holds_routing(each) for each in _with_choices(Document(document.path, "json", response))
            ):
                yield response
        elif isinstance(response, dict) and isinstance(response.get("trajectory"), list):
            for turn in response["trajectory"]:
                tokens = turn.get("tokens") if isinstance(turn, dict) else None
                yield tokens if isinstance(tokens, dict) else turn
        else:
            yield response


def _one_start(given: int | None, stated: int | None, where: str) -> int | None:
    if given is not None and stated is not None and given != stated:
        raise UserError(f"{where}: rows begin at token {stated}", advice=f"leave out --start {given}")
    found = stated if given is None else given
    if found is not None and not 0 <= found < MOST_TOKEN_ID:
        raise UserError(f"{where}: rows begin at token {found}", advice=AS_SENT)
    return found


def _joined(prompt: PayloadRows, generated: PayloadRows, where: str) -> PayloadRows:
    if prompt.ids.shape[1:] != generated.ids.shape[1:] or prompt.ids.ndim != 3:
        raise UserError(f"{where}: prompt and completion have different shapes", advice="give one whole response")
    if prompt.start or generated.start:
        what = f"{where}: rows begin at token {prompt.start or generated.start}, and the prompt's rows are apart"
        raise UserError(what, advice="ask for all rows")
    both = np.concatenate([prompt.ids.astype(np.int64), generated.ids.astype(np.int64)])
    return PayloadRows(both, certain=prompt.certain and generated.certain)


# -- a trace


def _trace(
    choice: ResponseChoice, rows: PayloadRows, prompt_tokens: int | None, options: ImportOptions, engine: str
) -> RoutedTrace:
    """Place rows at their tokens."""
    where = choice.where
    warnings: list[str] = []
    shape, experts = validated_routing(rows.ids, options, where, warnings, certain=rows.certain)
    start = rows.start or (options.start or 0)
    prompt_ids, generated_ids = choice.prompt_ids, choice.generated_ids
    total = choice.total
    experts = _placed(experts, start, total, where)
    if start:
        warnings.append(f"rows begin at token {start}: the tokens before it have no routing")
    given = known_prompt_tokens(options, where, prompt_tokens)
    if given is None:
        warnings.append(NO_PROMPT)
    ids = _placed_ids(prompt_ids, generated_ids, len(experts), given)
    what = f"{engine}'s routed experts"
    return RoutedTrace(
        engine, what, shape, experts, given or 0, ids, model=choice.model, warnings=[*choice.warnings, *warnings]
    )


def _placed(experts: Ints, start: int, total: int | None, where: str) -> Ints:
    """Return one row per token: absent before `start`, and at the last token, which was never evaluated."""
    if total is None:
        total = start + len(experts)
    missing = total - start - len(experts)
    if missing not in (0, 1):
        since = f" from token {start} on" if start else ""
        what = f"{where}: {len(experts)} rows{since} for {total} tokens"
        raise UserError(what, advice="give one whole response, or the number of tokens before the rows with --start")
    found = np.full((total, *experts.shape[1:]), ABSENT, np.int64)
    found[start : start + len(experts)] = experts
    return found


def _placed_ids(
    prompt: list[int] | None, generated: list[int] | None, total: int, prompt_tokens: int | None
) -> Ints | None:
    """Return token ids `[T]`, `ABSENT_ID` where the response leaves them out; None if it has none."""
    if prompt is None and (generated is None or prompt_tokens is None):
        return None
    found = np.full(total, ABSENT_ID, np.int64)
    if prompt is not None:
        found[: len(prompt)] = prompt[:total]
    first = len(prompt) if prompt is not None else prompt_tokens
    if generated is not None and first is not None and first + len(generated) <= total:
        found[first : first + len(generated)] = generated
    return found
