"""What a source of vitals is: some fields of a `Vitals` event, or the reason why they cannot be had."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class UnavailableError(Exception):
    """A source cannot be read here; `str()` says why, in words for the person at the screen."""


class Provider(Protocol):
    """One source of vitals."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of `moe_watch.routing.events.Vitals` that it fills."""

    def read(self) -> Mapping[str, Any]:
        """Current values by field name, all of `fields`.

        Beside them `unavailable` may give reasons why parts of a value are left out, by the names of those parts.

        Raises:
            UnavailableError: there is nothing to be had, and why.
        """
