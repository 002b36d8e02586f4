"""The one kind of error that a person caused and can repair."""

from __future__ import annotations


class UserError(Exception):
    """Something the user gave cannot be used.

    `str(error)` is one line that says what is wrong, where, and what to do about it. Commands print it
    on stderr and exit with status 2; it never reaches a person as a traceback.
    """

    def __init__(self, what: str, *, advice: str = "") -> None:
        self.what = what
        self.advice = advice
        super().__init__(f"{what}: {advice}" if advice else what)
