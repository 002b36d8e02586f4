"""P₀ of a context, its half, and the crossing."""

from __future__ import annotations

from dataclasses import dataclass, replace

from moe_watch.routing.pressure.formulas import crossing


@dataclass(frozen=True, slots=True)
class MeasuredStart:
    """P₀ of a context, and the first chunk at or below half of it. Immutable: a measured chunk gives a new object."""

    initial: float | None = None
    """P₀: P_mid of the first measured chunk."""
    problem: str = ""
    """Reason why P₀ stays unknown."""
    crossing: int | None = None
    """Index of the first measured chunk at or below half of P₀."""

    @property
    def half(self) -> float | None:
        """Half of P₀."""
        return None if self.initial is None else self.initial / 2

    def after(self, index: int, mid: float) -> MeasuredStart:
        """Return the start after a measured chunk with this index and P_mid."""
        if self.problem:
            return self
        if self.initial is None:
            return replace(self, initial=mid)
        if self.crossing is None and crossing([self.initial, mid]):
            return replace(self, crossing=index)
        return self
