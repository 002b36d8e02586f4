"""Servers' answers with routed experts: vLLM, SGLang, NVIDIA Dynamo, and the runs that verifiers records of them.

Expert ids `[tokens, layers, top-k]` are in a choice or beside the choices, one row less than tokens: the last token
is drawn and never evaluated. vLLM (`--enable-return-routed-experts`) sends base64 of an `.npy` file, or nested lists
with those of the prompt apart; gateways send `{"data": base64, "shape", "dtype", "start"}`. SGLang sends base64 of bare
int32, in `meta_info` of `/generate`, in `sgl_ext` of a choice, or in `sglext` of a response. Rows may begin after a
prefix that the client asked to leave out: at `start`, or at `routed_experts_start_len`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from moe_watch.routing.arrays import ABSENT, Ints
from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.document import Document
from moe_watch.sessions.imports.plausibility import routed
from moe_watch.sessions.imports.readers.answers import EXTENSIONS, MOST_TOKEN_ID, Answer, Part, answer_of
from moe_watch.sessions.imports.readers.payloads import AnswerRows, rows_of
from moe_watch.sessions.imports.traces import NO_PROMPT, ImportOptions, RoutedTrace, known_prompt_tokens
from moe_watch.sessions.imports.typed_json import array_of, typed
from moe_watch.sessions.reading.validation import ABSENT_ID

OF_SGLANG = frozenset({"meta_info", "sgl_ext", "sglext"})
UNCHECKED = "the answer does not state its number of tokens: {} by the shape that was given"
NONE_IN_IT = "no routed experts in it"


# -- recognition


def is_verifiers(document: Document) -> bool:
    """Return whether a file has runs of verifiers: turns with the ids of prompt and completion."""
    first = document.records[0] if document.kind in ("json", "json lines") and document.records else None
    return isinstance(first, dict) and ("completion_ids" in first or isinstance(first.get("trajectory"), list))


def is_sglang(document: Document) -> bool:
    """Return whether a file is an answer of SGLang."""
    return _is_response(document) and any(OF_SGLANG & each.keys() for each in _with_choices(document))


def is_vllm(document: Document) -> bool:
    """Return whether a file is an answer of vLLM, or of what hands its answers on."""
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


def _holds_routing(part: dict[str, Any]) -> bool:
    if part.get("routed_experts") is not None:
        return True
    return any(isinstance(part.get(name), dict) and _holds_routing(part[name]) for name in EXTENSIONS)


def _with_choices(document: Document) -> list[dict[str, Any]]:
    """The responses, and their choices, as they are."""
    found: list[dict[str, Any]] = []
    for each in document.records:
        response = _unwrapped(each)
        if isinstance(response, dict):
            choices = response.get("choices")
            found += [
                response,
                *(one for one in (choices if isinstance(choices, list) else []) if isinstance(one, dict)),
            ]
    return found


def _unwrapped(record: Any) -> Any:
    """The response in a record of a batch, which has it in `response.body`."""
    if isinstance(record, dict) and isinstance(record.get("response"), dict):
        body = record["response"].get("body")
        return body if isinstance(body, dict) else record
    return record


# -- reading


def read_vllm(document: Document, options: ImportOptions) -> RoutedTrace:
    """Read an answer of vLLM, or expert ids `[tokens, layers, top-k]` alone.

    Raises:
        UserError: there is no routing in it, or it cannot be read.
    """
    if document.kind == "arrays" or not any(isinstance(each, dict) for each in document.records):
        value = document.value
        found = array_of(value["routed_experts"] if isinstance(value, dict) else value, str(document.path))
        return _trace(Answer([], 0, str(document.path), None), AnswerRows(found, certain=True), None, options, "vLLM")
    return _read(document, options, "vLLM")


def read_sglang(document: Document, options: ImportOptions) -> RoutedTrace:
    """Read an answer of SGLang.

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
    answer = _answer(document, options, engine)
    holder = next(((name, part) for name, part in answer.parts if part.routed_experts is not None), None)
    if holder is None:
        advice = {
            "vLLM": "serve with --enable-return-routed-experts, and ask for return_routed_experts",
            "SGLang": "serve with --enable-return-routed-experts, and ask for return_routed_experts",
        }.get(engine, "record with an engine that returns routed experts")
        raise UserError(f"{answer.where}: an answer of {engine}, and {NONE_IN_IT}", advice=advice)
    name, part = holder
    if name in OF_SGLANG:
        engine = "SGLang"
    if name == "sglext" and answer.choice:
        what = f"{answer.where}: sglext holds the routing of choice 0 only"
        raise UserError(what, advice="ask for return_meta_info, or for one answer")
    total = answer.total
    start = _one_start(options.start, answer.first("start"), answer)
    payload, at = part.routed_experts, f"{answer.where}, routed_experts"
    assert payload is not None
    rows = rows_of(payload, options, at, total=total, start=start, documented="int32" if name in OF_SGLANG else None)
    if not rows.certain and total is None:
        answer.warnings.append(UNCHECKED.format(len(rows.ids)))
    before = answer.first("prompt_routed_experts")
    if before is not None:
        head = rows_of(
            before, options, f"{answer.where}, prompt_routed_experts", total=None, start=None, documented=None
        )
        rows, prompt = _joined(head, rows, answer.where), len(head.ids)
        return _trace(answer, rows, prompt, options, engine)
    return _trace(answer, rows, answer.prompt_tokens, options, engine)


def _answer(document: Document, options: ImportOptions, engine: str) -> Answer:
    runs = list(_runs(document))
    where = str(document.path)
    if options.run is None and len(runs) > 1:
        what = f"{where}: {len(runs):,} answers of {engine}"
        raise UserError(what, advice=f"say which with --run 0 up to {len(runs) - 1:,}")
    if not 0 <= (options.run or 0) < len(runs):
        raise UserError(f"{where}: no run {options.run or 0}", advice=f"use --run 0 up to {max(0, len(runs) - 1):,}")
    return answer_of(typed(runs[options.run or 0], Part, where), options.choice, where)


def _runs(document: Document) -> Iterator[Any]:
    """The responses in a file, or the turns of verifiers' runs; of a stream, the events with routing."""
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


def _one_start(given: int | None, stated: int | None, answer: Answer) -> int | None:
    if given is not None and stated is not None and given != stated:
        raise UserError(f"{answer.where}: rows begin at token {stated}", advice=f"leave out --start {given}")
    found = stated if given is None else given
    if found is not None and not 0 <= found < MOST_TOKEN_ID:
        raise UserError(f"{answer.where}: rows begin at token {found}", advice="give it as the server sent it")
    return found


def _joined(prompt: AnswerRows, generated: AnswerRows, where: str) -> AnswerRows:
    if prompt.ids.shape[1:] != generated.ids.shape[1:] or prompt.ids.ndim != 3:
        raise UserError(f"{where}: prompt and answer are of different shapes", advice="give one whole response")
    if prompt.start or generated.start:
        what = f"{where}: rows begin at token {prompt.start or generated.start}, with the prompt's apart"
        raise UserError(what, advice="ask for all rows")
    both = np.concatenate([prompt.ids.astype(np.int64), generated.ids.astype(np.int64)])
    return AnswerRows(both, certain=prompt.certain and generated.certain)


# -- a trace


def _trace(
    answer: Answer, rows: AnswerRows, prompt_tokens: int | None, options: ImportOptions, engine: str
) -> RoutedTrace:
    """Put rows where their tokens are."""
    where = answer.where
    warnings: list[str] = []
    shape, experts = routed(rows.ids, options, where, warnings, certain=rows.certain)
    start = rows.start or (options.start or 0)
    prompt_ids, generated_ids = answer.prompt_ids, answer.generated_ids
    total = answer.total
    experts = _placed(experts, start, total, where)
    if start:
        warnings.append(f"rows begin at token {start}: the tokens before it have no routing")
    given = known_prompt_tokens(options, where, prompt_tokens)
    if given is None:
        warnings.append(NO_PROMPT)
    ids = _placed_ids(prompt_ids, generated_ids, len(experts), given)
    what = f"{engine}'s routed experts"
    return RoutedTrace(
        engine, what, shape, experts, given or 0, ids, model=answer.model, warnings=[*answer.warnings, *warnings]
    )


def _placed(experts: Ints, start: int, total: int | None, where: str) -> Ints:
    """One row per token: nothing before `start`, and nothing for the last token, which was never evaluated."""
    if total is None:
        total = start + len(experts)
    missing = total - start - len(experts)
    if missing not in (0, 1):
        since = f" from token {start} on" if start else ""
        what = f"{where}: {len(experts)} rows{since} for {total} tokens"
        raise UserError(what, advice="give one whole response, or say with --start how many tokens are before the rows")
    found = np.full((total, *experts.shape[1:]), ABSENT, np.int64)
    found[start : start + len(experts)] = experts
    return found


def _placed_ids(
    prompt: list[int] | None, generated: list[int] | None, total: int, prompt_tokens: int | None
) -> Ints | None:
    """Token ids `[T]`, `ABSENT_ID` for those that the response leaves out; None if it has none."""
    if prompt is None and (generated is None or prompt_tokens is None):
        return None
    found = np.full(total, ABSENT_ID, np.int64)
    if prompt is not None:
        found[: len(prompt)] = prompt[:total]
    first = len(prompt) if prompt is not None else prompt_tokens
    if generated is not None and first is not None and first + len(generated) <= total:
        found[first : first + len(generated)] = generated
    return found
