"""Decoder that reads a token and checks its numbers in one pass: nearly all lines of a session are valid tokens.

`moe_watch.sessions.reading.validation` checks a line that fails here once more, and words the fault.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from operator import attrgetter
from typing import Annotated, Any, TypeAlias, get_type_hints

import msgspec
from msgspec import Meta
from msgspec.structs import FieldInfo

from moe_watch.routing.events import LEAST_LOGPROB, Header, Token
from moe_watch.sessions.reading.bounds import ABSENT_ID, MAX_INTEGER, MAX_TOKEN_ID, MOST_SECONDS
from moe_watch.sessions.reading.validation import most_of

TypeForm: TypeAlias = Any
"""A type as a value, for msgspec; `typing` has no name for it before Python 3.15."""

_SHARE = Annotated[float, Meta(ge=0, le=1)]
_FIELDS = msgspec.structs.fields(Token)


def token_decoder(header: Header) -> Callable[[bytes], Token]:
    """Return a function that decodes a token's line.

    It raises `msgspec.DecodeError` if a number is outside its range, a list has another length than the header gives,
    or the experts of a layer are null. It does not detect a duplicate expert in a layer, or a wrong index.
    """
    model = header.model
    most = tuple(most_of(header).items())
    decode = msgspec.json.Decoder(_kind(len(model.layers), model.experts, sum(model.k_by_layer), most)).decode
    names = [field.name for field in _FIELDS]
    values = attrgetter(*names)

    def decode_token(line: bytes) -> Token:
        return Token(**dict(zip(names, values(decode(line)), strict=True)))

    return decode_token


@lru_cache(maxsize=8)  # defining a type takes a millisecond
def _kind(layers: int, experts: int, chosen: int, most: tuple[tuple[str, int], ...]) -> TypeForm:
    """Return a struct with `Token`'s fields, each with the range of its numbers in this model."""
    kinds = get_type_hints(Token) | _numbers() | _rows(layers, experts, chosen, dict(most))
    fields = [(field.name, kinds[field.name], *_default(field, chosen)) for field in _FIELDS]
    return msgspec.defstruct("SoundToken", fields, kw_only=True, gc=False, tag_field="event", tag="token")


def _numbers() -> dict[str, TypeForm]:
    return {
        "i": _integer(0, MAX_INTEGER),
        "t": Annotated[float, Meta(ge=0, le=MOST_SECONDS)],
        "id": _integer(ABSENT_ID, MAX_TOKEN_ID),
        "logprob": Annotated[float, Meta(ge=LEAST_LOGPROB, le=0)] | None,
        "top_margin": _SHARE | None,
        "choice_gap": _SHARE | None,
    }


def _rows(layers: int, experts: int, chosen: int, most: dict[str, int]) -> dict[str, TypeForm]:
    return {
        "experts": _row(chosen, _integer(0, max(0, experts - 1))),
        "weights": _row(chosen, _integer(0, most["weights"]) | None) | None,
        "entropy": _row(layers, _integer(0, most["entropy"]) | None) | None,
        "margin": _row(layers, _integer(0, most["margin"]) | None) | None,
        "probs": _row(layers * experts, _integer(0, most["probs"]) | None) | None,
    }


def _row(length: int, of: TypeForm) -> TypeForm:
    return Annotated[list[of], Meta(min_length=length, max_length=length)]


def _integer(least: int, most: int) -> TypeForm:
    return Annotated[int, Meta(ge=least, le=most)]


def _default(field: FieldInfo, chosen: int) -> tuple[object, ...]:
    """Return a field's default if the field may be absent; `experts` only if no layer selects any."""
    if field.name == "experts":
        return () if chosen else (msgspec.field(default_factory=list),)
    return () if field.required else (field.default,)
