"""Words of the screen that depend on the origin of the events, live or replayed. No other module checks the origin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from moe_watch.sessions.source import Ability, Origin

FIXED = "not in a replay, the recording is what it is"


@dataclass(frozen=True, slots=True)
class OriginWords:
    """Words for one kind of origin."""

    end: str
    """Finish reason of a run that reports none."""
    machine: str
    """Machine that the vitals are from."""
    badge: str = ""
    """Sign in the header bar, instead of the status of the recording."""
    failed: str = ""
    """Statement about a run that failed, instead of the number of recorded tokens."""
    standstill: str = ""
    """Reason why little can be done while nothing plays."""
    never: Mapping[Ability, str] = field(default_factory=dict)
    """Reasons why commands cannot be carried out, for abilities that such a source lacks at any time or at first."""

    def refusal(self, needs: frozenset[Ability]) -> str:
        """Return the reason why a command with these needs is refused; empty if one of them can be met."""
        reasons = [self.never.get(ability, "") for ability in sorted(needs)]
        return reasons[0] if reasons and all(reasons) else ""


_WORDS: dict[Literal["model", "session"], OriginWords] = {
    "model": OriginWords(
        end="the run has ended",
        machine="of this machine",
        never={"seek": "only in a replay"},
    ),
    "session": OriginWords(
        end="end of the recording",
        machine="of the machine it was recorded on",
        badge="▶ REPLAY",
        failed="the recording ends here",
        standstill="the recording has ended",
        never={
            "perturb": FIXED,
            "turn": FIXED,
            "prompt": FIXED,
            "record": FIXED,
            "mark": FIXED,
            "tap": FIXED,
            "multistep": FIXED,
            "mask": FIXED,
            "rate": "in a replay, + goes up to it",
            "seek": "nothing of the recording is read yet",
            "restart": "a replay has no worker",
        },
    ),
}


def model_of(origin: Origin) -> str:
    """Return the model of a live run, as on the command line; empty for a replay, whose model need not be here."""
    return origin.model if origin.kind == "model" else ""


def words_of(origin: Origin) -> OriginWords:
    """Return the words for a source."""
    return _WORDS[origin.kind]
