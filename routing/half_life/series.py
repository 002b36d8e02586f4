"""Mid-pressure series of a run, one for each context, to which half-lives are fitted."""

from __future__ import annotations

from moe_watch.routing.contexts import ContextNumbers
from moe_watch.routing.events import Change, Chunk, Keyframe, StreamItem, Token
from moe_watch.routing.half_life.chronomoe import EntropyCollapse, entropy_collapse
from moe_watch.routing.half_life.fit import Fit, fit_half_life, too_long, too_short
from moe_watch.routing.pressure.instruments import lacks_start
from moe_watch.routing.router.present_mask import PresentMask


def since_mask(masked_at: int | None) -> str:
    """Return in words that a series begins with a change of the mask; empty without one."""
    return "" if masked_at is None else f"since the mask changed at token {masked_at:,}"


class ContextSeries:
    """P_mid of the measured chunks of one context.

    Args:
        mode: pressure mode of the chunks.
        number: number of the context in its run, from 0.
    """

    def __init__(self, mode: str, number: int = 0) -> None:
        self.mode = mode
        self.number = number
        self.positions: list[int] = []
        """Index of each chunk in the run."""
        self.mid: list[float] = []
        self.begins_at: Keyframe | None = None
        """State before the first recorded token; None if that is the first token of the context."""
        self.masked_at: int | None = None
        """Index of the first token since the last change of the mask; the series has the chunks after it. None without
        a change in the context."""
        self._entropies: list[float] = []
        self._unmeasured = 0
        self._fit: tuple[int, Fit] | None = None
        """The last fit, with its number of chunks."""

    @property
    def has_start(self) -> bool:
        """True if the first measured chunk of the context, or since the mask changed, is or will be in the series."""
        if self.masked_at is not None or self.begins_at is None:
            return True
        return not lacks_start(self.begins_at, self.mode)

    @property
    def unavailable(self) -> str:
        """Reason why nothing can be fitted yet; empty if a fit is possible."""
        if self.begins_at is not None and not self.has_start:
            return f"the recording begins at chunk {self.begins_at.chunks}, after the first measured one"
        if self._unmeasured and not self.mid:
            return f"{self._unmeasured} chunks have no pressure: a signal it needs was not recorded"
        problem = too_short(len(self.mid)) or too_long(len(self.mid))
        return f"{problem} {since_mask(self.masked_at)}".rstrip() if problem else ""

    def fit(self) -> Fit | None:
        """Fit the half-life of the series so far; return None if it is `unavailable`."""
        if self.unavailable:
            return None
        if self._fit is None or self._fit[0] != len(self.mid):
            fit = fit_half_life(self.mid, mode=self.mode, positions=self.positions)
            self._fit = len(self.mid), fit
        return self._fit[1]

    def entropy_collapse(self) -> EntropyCollapse | None:
        """Return the fall of router entropy over the same chunks; None if a chunk has no router entropy."""
        return entropy_collapse(self._entropies) if len(self._entropies) == len(self.mid) else None

    def change_mask(self, i: int) -> None:
        """Begin again: the chunks before token `i` were computed with another mask."""
        self.masked_at = i
        self.positions, self.mid, self._entropies = [], [], []
        self._unmeasured, self._fit = 0, None

    def feed(self, chunk: Chunk) -> bool:
        """Take in a measured chunk; return False if it has no pressure."""
        if chunk.pressures is None:
            self._unmeasured += 1
            return False
        self.positions.append(chunk.index)
        self.mid.append(chunk.pressures.mid)
        if chunk.signals is not None:
            self._entropies.append(chunk.signals.router_entropy)
        return True


class MidSeries:
    """Series of a run's contexts; it is fed the items of the run in order.

    Each context is a separate series: no fit spans two contexts, or two masks. Attributes without a context number
    refer to the `judged` context.

    Args:
        mode: pressure mode of the chunks.
    """

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.contexts: list[ContextSeries] = [ContextSeries(mode)]
        """In order; contexts that are in no file are missing."""
        self._begun = False
        self._numbers = ContextNumbers()
        self._masked = PresentMask()

    def feed(self, item: StreamItem) -> bool:
        """Take in one item; return True if a series grew."""
        masked = self._masked.after(item)
        if self._numbers.feed(item):
            self._begin(item)
        elif isinstance(item, Keyframe) and item.i and not self._begun:
            self.current.begins_at = item
        if isinstance(item, Change | Keyframe) and masked is not self._masked:
            begins = not self._begun if isinstance(item, Keyframe) else not item.i
            if not begins:
                self.current.change_mask(item.i)
            self._masked = masked
        self._begun |= isinstance(item, Token)
        if not isinstance(item, Chunk) or item.partial or item.warm_up:
            return False
        return self.current.feed(item)

    @property
    def current(self) -> ContextSeries:
        """The series of the newest context."""
        return self.contexts[-1]

    @property
    def judged(self) -> ContextSeries:
        """The newest context that can be fitted; the newest context if none can."""
        return next((each for each in reversed(self.contexts) if not each.unavailable), self.current)

    def context(self, number: int) -> ContextSeries | None:
        """Return the series of the context with this number, from 0; None if no file has any of it."""
        return next((each for each in self.contexts if each.number == number), None)

    def number_of(self, chunk: Chunk) -> int:
        """Return the context number of the chunk that was fed last."""
        return self._numbers.of(chunk)

    @property
    def mid(self) -> list[float]:
        """P_mid of the judged context."""
        return self.judged.mid

    @property
    def positions(self) -> list[int]:
        """Index of each of these chunks in the run."""
        return self.judged.positions

    @property
    def unavailable(self) -> str:
        """Reason why nothing can be fitted yet; empty if a fit is possible."""
        return self.judged.unavailable

    def fit(self) -> Fit | None:
        """Fit the half-life of the judged context; return None if it is `unavailable`."""
        return self.judged.fit()

    def entropy_collapse(self) -> EntropyCollapse | None:
        """Return the fall of router entropy in the judged context; None if a chunk has no router entropy."""
        return self.judged.entropy_collapse()

    def _begin(self, item: StreamItem) -> None:
        """Begin the series of a context; its `fresh_context` may be in no file."""
        if isinstance(item, Keyframe) and not self._begun and not self.current.mid:
            self.contexts.pop()  # the recording begins in a later context
        self.contexts.append(ContextSeries(self.mode, self._numbers.current))
        if isinstance(item, Keyframe):
            self.current.begins_at = item
