"""Answers of servers as typed parts, and what each of them states: token ids, numbers of tokens, the first row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

import msgspec

from moe_watch.routing.errors import UserError
from moe_watch.sessions.imports.typed_json import Payload

MOST_TOKEN_ID = 1 << 31
EXTENSIONS = ("meta_info", "sgl_ext", "sglext", "nvext", "engine_data")
AS_SENT = "give it as the server sent it"
Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 31)]


class Part(msgspec.Struct):
    """A response, one of its choices, or an extension of either: whatever may hold routing or token ids."""

    routed_experts: Payload | None = None
    prompt_routed_experts: Payload | None = None
    routed_experts_start_len: int | None = None
    routed_experts_prompt_start: int | None = None
    prompt_token_ids: list[int] | None = None
    prompt_ids: list[int] | None = None
    input_ids: list[int | list[int]] | None = None
    token_ids: list[int] | None = None
    completion_token_ids: list[int] | None = None
    completion_ids: list[int] | None = None
    output_ids: list[int | list[int]] | None = None
    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    usage: Part | None = None
    meta_info: Part | None = None
    sgl_ext: Part | None = None
    sglext: Part | None = None
    nvext: Part | None = None
    engine_data: Part | None = None
    choices: list[Part] | None = None
    model: Any = None

    @property
    def start(self) -> int | None:
        """Tokens before the first row, as a server states them beside the rows."""
        both = (self.routed_experts_start_len, self.routed_experts_prompt_start)
        return next((each for each in both if each is not None), None)


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice of one response, with all parts that belong to it, the nearest first."""

    parts: list[tuple[str, Part]]
    """Each with the name of the extension that it is; empty for a choice and a response."""
    choice: int
    where: str
    model: str | None
    warnings: list[str] = field(default_factory=list)

    def first(self, *names: str) -> Any:
        """Return the first value that is there under one of these names; None if there is none."""
        for _, part in self.parts:
            for name in names:
                if (value := getattr(part, name)) is not None:
                    return value
        return None

    @property
    def prompt_ids(self) -> list[int] | None:
        """Token ids of the prompt."""
        return self._ids("prompt_token_ids", "prompt_ids", "input_ids")

    @property
    def generated_ids(self) -> list[int] | None:
        """Token ids of the answer."""
        return self._ids("token_ids", "completion_token_ids", "completion_ids", "output_ids")

    @property
    def prompt_tokens(self) -> int | None:
        """Number of tokens of the prompt, as far as the response tells."""
        ids = self.prompt_ids
        stated: int | None = self.first("prompt_tokens")
        return stated if ids is None else len(ids)

    @property
    def total(self) -> int | None:
        """Number of tokens of prompt and answer, as far as the response tells."""
        prompt, ids = self.prompt_tokens, self.generated_ids
        generated = self.first("completion_tokens") if ids is None else len(ids)
        return None if prompt is None or generated is None else prompt + generated

    def _ids(self, *names: str) -> list[int] | None:
        found = self.first(*names)
        if found is not None and any(isinstance(each, list) for each in found):  # SGLang: one list for each choice
            found = found[self.choice] if self.choice < len(found) else None
        if found is None:
            return None
        if not isinstance(found, list):
            raise UserError(f"{self.where}: token ids, and lists of them", advice=AS_SENT)
        for each in found:
            if not isinstance(each, int) or not 0 <= each < MOST_TOKEN_ID:
                raise UserError(f"{self.where}: a token id of {str(each)[:24]}", advice=AS_SENT)
        return list(found)


def answer_of(response: Part, choice: int, where: str) -> Answer:
    """Return one choice of a response, with all that belongs to it.

    Raises:
        UserError: there is no such choice.
    """
    choices = [response] if response.choices is None else response.choices
    if not 0 <= choice < len(choices):
        raise UserError(f"{where}: no choice {choice}", advice="use --choice 0 up to the last one")
    chosen = choices[choice]
    parts = list(_parts("", chosen))
    if chosen is not response:
        parts += _parts("", response if len(choices) == 1 else _without_sums(response))
    return Answer(parts, choice, where, response.model if isinstance(response.model, str) else None)


def _parts(name: str, part: Part) -> Iterator[tuple[str, Part]]:
    yield name, part
    for each in EXTENSIONS:
        inner = getattr(part, each)
        if inner is not None:
            yield from _parts(each, inner)
    if part.usage is not None:
        yield "usage", part.usage


def _without_sums(response: Part) -> Part:
    """A response of several choices without its usage of tokens generated, which is of all of them together."""
    if response.usage is None:
        return response
    return msgspec.structs.replace(response, usage=Part(prompt_tokens=response.usage.prompt_tokens))
