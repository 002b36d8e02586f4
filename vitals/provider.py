"""Interface of a provider of vitals: some fields of a `Vitals` event, or the reason why they are absent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class UnavailableError(Exception):
    """Failure to read a provider; `str()` is the reason, in words for the user."""


class Provider(Protocol):
    """Provider of one or more vitals."""

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of `moe_watch.routing.events.Vitals` that it fills."""

    def read(self) -> Mapping[str, Any]:
        """Return the current values of all `fields` by name.

        The key `unavailable` may give reasons why parts of a value are left out, by the names of the parts.

        Raises:
            UnavailableError: there is no value; the message is the reason.
        """
