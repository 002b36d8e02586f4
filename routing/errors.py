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


def system_error(name: object, error: Exception, *, advice: str, failed: str = "") -> UserError:
    """Return an error of the system as a `UserError`.

    Args:
        name: the file or folder.
        error: an `OSError`, or a `ValueError` for a path that no file can have.
        advice: what to do about it.
        failed: what failed, such as `cannot be written`.
    """
    reason = getattr(error, "strerror", None) or str(error)
    return UserError(f"{name}: {failed} ({reason})" if failed else f"{name}: {reason}", advice=advice)
