"""Server responses as typed parts, and the facts that each states: token ids, numbers of tokens, the first row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import msgspec

from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.typed_json import Payload, typed

MOST_TOKEN_ID = 1 << 31
EXTENSIONS = ("meta_info", "sgl_ext", "sglext", "nvext", "engine_data")
"""Keys of objects that servers add to a response or to a choice."""
USAGE = "usage"
AS_SENT = "give it as the server sent it"
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]
IdLists = Sequence[int | list[int]]
"""Token ids, or one list of them for each choice."""


class RoutingFields(msgspec.Struct, frozen=True):
    """Expert ids in a part, and the token at which their rows begin."""

    routed_experts: Payload | None = None
    prompt_routed_experts: Payload | None = None
    routed_experts_start_len: int | None = None
    routed_experts_prompt_start: int | None = None

    @property
    def start(self) -> int | None:
        """Tokens before the first row, as a server states them beside the rows."""
        return _first((self.routed_experts_start_len, self.routed_experts_prompt_start))


class TokenIdFields(msgspec.Struct, frozen=True):
    """Token ids in a part, under the keys of vLLM, verifiers and SGLang."""

    prompt_token_ids: list[int] | None = None
    prompt_ids: list[int] | None = None
    input_ids: list[int | list[int]] | None = None
    token_ids: list[int] | None = None
    completion_token_ids: list[int] | None = None
    completion_ids: list[int] | None = None
    output_ids: list[int | list[int]] | None = None

    @property
    def prompt(self) -> IdLists | None:
        """Ids of the prompt."""
        return _first_ids((self.prompt_token_ids, self.prompt_ids, self.input_ids))

    @property
    def generated(self) -> IdLists | None:
        """Ids of the generated tokens."""
        return _first_ids((self.token_ids, self.completion_token_ids, self.completion_ids, self.output_ids))


class ResponseTokenCounts(msgspec.Struct, frozen=True):
    """Numbers of tokens in a part."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None


@dataclass(frozen=True, slots=True)
class ResponsePart:
    """A response, one of its choices, or an extension of either; each may hold routing, token ids and counts."""

    routing: RoutingFields = field(default_factory=RoutingFields)
    ids: TokenIdFields = field(default_factory=TokenIdFields)
    counts: ResponseTokenCounts = field(default_factory=ResponseTokenCounts)
    extensions: Mapping[str, ResponsePart] = field(default_factory=dict)
    """By key, in the order of `EXTENSIONS`."""
    usage: ResponsePart | None = None
    choices: list[ResponsePart] | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class ResponseChoice:
    """One choice of one response, with all parts that belong to it, the nearest first."""

    parts: list[tuple[str, ResponsePart]]
    """Each with the key of the extension that it is; empty for a choice and a response."""
    index: int
    where: str
    model: str | None
    warnings: list[str] = field(default_factory=list)

    @property
    def start(self) -> int | None:
        """Tokens before the first row, as the response states them; None if it does not."""
        return _first(part.routing.start for _, part in self.parts)

    @property
    def prompt_routing(self) -> Payload | None:
        """Expert ids of the prompt, where the response has them apart; None if it does not."""
        held = (part.routing.prompt_routed_experts for _, part in self.parts)
        return next((payload for payload in held if payload is not None), None)

    @property
    def prompt_ids(self) -> list[int] | None:
        """Token ids of the prompt."""
        return self._checked(_first_ids(part.ids.prompt for _, part in self.parts))

    @property
    def generated_ids(self) -> list[int] | None:
        """Token ids of the generated tokens."""
        return self._checked(_first_ids(part.ids.generated for _, part in self.parts))

    @property
    def prompt_tokens(self) -> int | None:
        """Number of tokens of the prompt; None if the response does not state it."""
        ids = self.prompt_ids
        return _first(part.counts.prompt_tokens for _, part in self.parts) if ids is None else len(ids)

    @property
    def total(self) -> int | None:
        """Number of prompt tokens and generated tokens together; None if the response does not state both."""
        prompt, ids = self.prompt_tokens, self.generated_ids
        generated = _first(part.counts.completion_tokens for _, part in self.parts) if ids is None else len(ids)
        return None if prompt is None or generated is None else prompt + generated

    def _checked(self, found: IdLists | None) -> list[int] | None:
        ids: object = found
        if found is not None and any(isinstance(each, list) for each in found):  # SGLang: one list for each choice
            ids = found[self.index] if self.index < len(found) else None
        if ids is None:
            return None
        if not isinstance(ids, list):
            raise UserError(f"{self.where}: token ids, and lists of them", advice=AS_SENT)
        for each in ids:
            if not isinstance(each, int) or not 0 <= each < MOST_TOKEN_ID:
                raise UserError(f"{self.where}: a token id of {str(each)[:24]}", advice=AS_SENT)
        return list(ids)


def read_part(value: object, where: str) -> ResponsePart:
    """Convert decoded JSON to a part, with its choices and extensions.

    Args:
        value: the JSON object.
        where: its name in messages.

    Raises:
        UserError: a value in it has another type.
    """
    keys = typed(value, dict[str, object], where)
    choices = keys.get("choices")
    model = keys.get("model")
    return ResponsePart(
        routing=typed(value, RoutingFields, where),
        ids=typed(value, TokenIdFields, where),
        counts=typed(value, ResponseTokenCounts, where),
        extensions={key: read_part(keys[key], f"{where}, {key}") for key in EXTENSIONS if keys.get(key) is not None},
        usage=None if keys.get(USAGE) is None else read_part(keys[USAGE], f"{where}, {USAGE}"),
        choices=None if choices is None else _read_choices(choices, where),
        model=model if isinstance(model, str) else None,
    )


def _read_choices(choices: object, where: str) -> list[ResponsePart]:
    found = typed(choices, list[object], f"{where}, choices")
    return [read_part(each, f"{where}, choice {at}") for at, each in enumerate(found)]


def choice_of(response: ResponsePart, index: int, where: str) -> ResponseChoice:
    """Return one choice of a response, with all that belongs to it.

    Raises:
        UserError: there is no such choice.
    """
    choices = [response] if response.choices is None else response.choices
    if not 0 <= index < len(choices):
        raise UserError(f"{where}: no choice {index}", advice="use --choice 0 up to the last one")
    chosen = choices[index]
    parts = list(_parts("", chosen))
    if chosen is not response:
        parts += _parts("", response if len(choices) == 1 else _without_sums(response))
    return ResponseChoice(parts, index, where, response.model)


def _parts(name: str, part: ResponsePart) -> Iterator[tuple[str, ResponsePart]]:
    yield name, part
    for key, extension in part.extensions.items():
        yield from _parts(key, extension)
    if part.usage is not None:
        yield USAGE, part.usage


def _without_sums(response: ResponsePart) -> ResponsePart:
    """Return a response of several choices without its number of generated tokens, a sum over all choices."""
    if response.usage is None:
        return response
    prompt = ResponseTokenCounts(prompt_tokens=response.usage.counts.prompt_tokens)
    return replace(response, usage=ResponsePart(counts=prompt))


def _first(values: Iterable[int | None]) -> int | None:
    """Return the first number that is not None; None if there is none."""
    return next((each for each in values if each is not None), None)


def _first_ids(values: Iterable[IdLists | None]) -> IdLists | None:
    """Return the first list that is not None; None if there is none."""
    return next((each for each in values if each is not None), None)
