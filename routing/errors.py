"""The error that the user caused and can correct."""

from __future__ import annotations


class UserError(Exception):
    """Input of the user that cannot be used.

    `str(error)` is one line with the problem, its place, and advice. Commands print it on stderr and exit with
    status 2; users never see it as a traceback.

    Args:
        what: the problem and its place.
        advice: what the user can do about it.
    """

    def __init__(self, what: str, *, advice: str = "") -> None:
        self.what = what
        self.advice = advice
        super().__init__(f"{what}: {advice}" if advice else what)


def reason_of(error: Exception) -> str:
    """Return the reason of an error of the operating system, or the text of another error."""
    return getattr(error, "strerror", None) or str(error)


def system_error(name: object, error: Exception, *, advice: str, failed: str = "") -> UserError:
    """Return an error of the system as a `UserError`.

    Args:
        name: the file or folder.
        error: an `OSError`, or a `ValueError` for a path that no file can have.
        advice: what to do about it.
        failed: what failed, such as `cannot be written`.
    """
    reason = reason_of(error)
    return UserError(f"{name}: {failed} ({reason})" if failed else f"{name}: {reason}", advice=advice)
