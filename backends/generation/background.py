"""Work on a thread of its own, one piece at a time, handed over in few steps."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

Piece = TypeVar("Piece")


class Beside(Generic[Piece]):
    """Does pieces of work while its owner goes on with something else.

    An executor does so, too, and more; beside a model, whose weights drive everything else out of the caches, handing
    over takes it three times as long. The thread ends with this object.

    Args:
        work: does a piece; must not hold on to the owner of this object.
        name: of the thread.
    """

    def __init__(self, work: Callable[[Piece], None], name: str) -> None:
        self._pieces: SimpleQueue[tuple[Piece] | None] = SimpleQueue()
        self._ends: SimpleQueue[BaseException | None] = SimpleQueue()
        self._is_busy = False
        threading.Thread(target=_serve, args=(work, self._pieces, self._ends), name=name, daemon=True).start()
        weakref.finalize(self, self._pieces.put, None)

    def begin(self, piece: Piece) -> None:
        """Begin with a piece, once the one before is done; whatever that one raised is raised here."""
        self.settle()
        self._is_busy = True
        self._pieces.put((piece,))

    def settle(self) -> None:
        """Wait until all is done; whatever was raised there is raised here."""
        if self._is_busy:
            self._is_busy = False
            if (error := self._ends.get()) is not None:
                raise error


def _serve(
    work: Callable[[Piece], None],
    pieces: SimpleQueue[tuple[Piece] | None],
    ends: SimpleQueue[BaseException | None],
) -> None:
    """Work until there is no more to come."""
    while (given := pieces.get()) is not None:
        try:
            work(given[0])
        except BaseException as error:  # whoever waits must be told, whatever it is
            ends.put(error)
        else:
            ends.put(None)
        del given  # it may hold megabytes until the next one comes
