"""Commands of a run, and refusals of commands that cannot be carried out."""

from __future__ import annotations

from collections.abc import Callable

from moe_watch.backends.generation.inbox import Inbox
from moe_watch.backends.protocol import Command, Failed, PromptShown, Start


class RunEnds(Exception):  # noqa: N818 - not an error
    """Unwinds the run because of a command that ends it."""

    def __init__(self, why: str, following: Start | None = None) -> None:
        self.why = why
        self.following = following
        super().__init__(why)


class CommandPort:
    """Queue of commands, and the way back for refusals.

    Args:
        inbox: the queue.
        report: sends a refusal or an answer to the parent.
        flush: sends all events so far, so that a refusal follows them.
    """

    def __init__(self, inbox: Inbox, report: Callable[[Failed | PromptShown], None], flush: Callable[[], None]) -> None:
        self._inbox = inbox
        self._report = report
        self._flush = flush
        self._refused_once: set[str] = set()

    def pop(self, timeout: float | None) -> Command | None:
        """Remove and return the next command; waits up to `timeout` seconds, with None forever. None if empty."""
        return self._inbox.pop(timeout)

    def answer(self, answer: PromptShown) -> None:
        """Send an answer that is no event of the run."""
        self._report(answer)

    def refuse(self, command: str, why: str) -> None:
        """Report that a command is not carried out, after all earlier events."""
        self._flush()
        self._report(Failed(message=why, fatal=False, command=command))

    def refuse_once(self, command: str, why: str) -> None:
        """Report a refusal unless it was reported before."""
        if why not in self._refused_once:
            self._refused_once.add(why)
            self.refuse(command, why)
