"""vLLM's routed experts: expert ids `[tokens, layers, top-k]` in a response, or alone.

`--enable-return-routed-experts` puts them into a choice of a response, as base64 of an `.npy` file (one row less than
tokens: the last one is never evaluated), or as nested lists with those of the prompt beside it. Gateways hand them on
as `{"data": base64, "shape", "dtype"}`, or as bare base64 of int16.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from routing.arrays import ABSENT, Ints
from routing.errors import UserError
from sessions.imports.loading import Array, array_of, is_npy, raw_array
from sessions.imports.traces import ImportOptions, RoutedTrace, layers_of, routed

KEY, PROMPT_KEY = "routed_experts", "prompt_routed_experts"
WHAT = "vLLM's routed experts"


def read_response(response: dict[str, Any], options: ImportOptions, dtype: str, where: str) -> RoutedTrace:
    """The routing in a response of the server, or in one choice of it.

    Args:
        response: JSON.
        options: what the response does not tell.
        dtype: of bare base64.
        where: what messages call it.

    Raises:
        UserError: there is no routing in it, or it cannot be read.
    """
    choice = _choice(response, options, where)
    if choice.get(KEY) is None:
        raise UserError(f"{where}: no routed_experts in it", advice="serve with --enable-return-routed-experts")
    found = _rows(choice[KEY], options, dtype, f"{where}, {KEY}")
    prompt, generated = _ids(response, choice, "prompt_token_ids"), _ids(response, choice, "token_ids")
    before = response.get(PROMPT_KEY, choice.get(PROMPT_KEY))
    prompt_tokens = None if prompt is None else len(prompt)
    if before is not None:
        head = _rows(before, options, dtype, f"{where}, {PROMPT_KEY}")
        found, prompt_tokens = _joined(head, found, where), len(head)
    ids = None if prompt is None or generated is None else np.array([*prompt, *generated], np.int64)
    model = response.get("model")
    return _trace(found, options, ids, prompt_tokens, where, model if isinstance(model, str) else None)


def read_array(found: Array, options: ImportOptions, where: str) -> RoutedTrace:
    """Expert ids `[tokens, layers, top-k]` alone.

    Raises:
        UserError: they are none.
    """
    return _trace(found, options, None, None, where, None)


def _trace(
    found: Array, options: ImportOptions, ids: Ints | None, prompt_tokens: int | None, where: str, model: str | None
) -> RoutedTrace:
    shape, experts = routed(found, options, where)
    warnings = []
    if ids is not None:
        experts = _to_tokens(experts, len(ids), where)
    given = options.prompt_tokens if options.prompt_tokens is not None else prompt_tokens
    if given is None:
        warnings.append("the trace does not tell which tokens are the prompt's: all stand as generated")
    if given is not None and given > len(experts):
        raise UserError(f"{where}: {len(experts)} tokens, and {given} of prompt", advice="check --prompt-tokens")
    return RoutedTrace("vLLM", WHAT, shape, experts, given or 0, ids, model=model, warnings=warnings)


def _to_tokens(experts: Ints, tokens: int, where: str) -> Ints:
    """One row per token: the last token of an answer was drawn and never evaluated."""
    missing = tokens - len(experts)
    if missing not in (0, 1):
        raise UserError(f"{where}: {len(experts)} rows for {tokens} tokens", advice="give one whole response")
    return np.concatenate([experts, np.full((missing, *experts.shape[1:]), ABSENT)])


def _choice(response: dict[str, Any], options: ImportOptions, where: str) -> dict[str, Any]:
    choices = response.get("choices", [response])
    if not isinstance(choices, list) or not 0 <= options.choice < len(choices):
        raise UserError(f"{where}: no choice {options.choice}", advice="use --choice 0 up to the last one")
    choice = choices[options.choice]
    if not isinstance(choice, dict):
        raise UserError(f"{where}: choice {options.choice} is no object", advice="give the server's whole response")
    return choice


def _rows(value: Any, options: ImportOptions, dtype: str, where: str) -> Array:
    if isinstance(value, str) and not is_npy(value):
        if options.layers is None or options.experts_per_token is None:
            raise UserError(f"{where}: bare numbers without a shape", advice="say --layers and --experts-per-token")
        layers = layers_of(len(options.layers), options, where)
        return raw_array(value, dtype, (len(layers), options.experts_per_token), where)
    return array_of(value, where)


def _joined(prompt: Array, generated: Array, where: str) -> Array:
    if prompt.shape[1:] != generated.shape[1:]:
        raise UserError(f"{where}: prompt and answer are of different shapes", advice="give one whole response")
    return np.concatenate([prompt.astype(np.int64), generated.astype(np.int64)])


def _ids(response: dict[str, Any], choice: dict[str, Any], key: str) -> list[int] | None:
    found = choice.get(key, response.get(key))
    sound = isinstance(found, list) and all(type(each) is int and 0 <= each < 1 << 31 for each in found)
    return found if sound else None
