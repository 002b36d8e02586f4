"""Checks that tokens, keyframes and events agree about the experts that are switched off."""

from __future__ import annotations

from dataclasses import dataclass

from msgspec import UNSET

from moe_watch.routing.events import Change, Event, Header, Keyframe, Token
from moe_watch.routing.header import experts_per_token
from moe_watch.routing.router.masks import ExpertMask
from moe_watch.routing.router.present_mask import PresentMask, keyframe_mask
from moe_watch.sessions.reading.recompute import Beginnings
from moe_watch.sessions.verifying.issues import IssueCollector


@dataclass(frozen=True, slots=True)
class _MaskedLayer:
    layer: int
    """Model layer index."""
    chosen: slice
    """Its experts in a token's flat list."""
    probs: slice
    """Its probabilities in a token's flat list."""
    masked: frozenset[int]


class MaskChecks:
    """Checks of a run's masks and of its experts per token.

    Args:
        header: header of the run.
        findings: collector of the faults.
    """

    def __init__(self, header: Header, findings: IssueCollector) -> None:
        self._model = header.model
        self._findings = findings
        self._beginnings = Beginnings()
        self._present = PresentMask()
        self._layers: list[_MaskedLayer] = []
        self._next = 0
        self.forced: set[int] = set()
        """Positions of layers in which a mask left exactly as many experts as are selected."""

    def feed(self, event: Event, line: int) -> None:
        """Check the next event."""
        begins = self._beginnings.feed(event)
        if isinstance(event, Token):
            self._see_token(event, line)
        elif isinstance(event, Change):
            self._see_change(event, line)
        elif isinstance(event, Keyframe):
            self._see_keyframe(event, line, begins=begins)

    def _see_token(self, token: Token, line: int) -> None:
        since = self._present.since
        if since is not None and token.i < since and token.i >= self._next:
            self._findings.add("masks", f"a mask from token {since} on is recorded before token {token.i}", line)
        self._next = token.i + 1
        for each in self._layers:
            if chosen := each.masked.intersection(token.experts[each.chosen]):
                self._wrong(token, each.layer, min(chosen), "selects", line)
            if token.probs is not None and any(token.probs[each.probs][expert] for expert in each.masked):
                expert = next(expert for expert in sorted(each.masked) if token.probs[each.probs][expert])
                self._wrong(token, each.layer, expert, "has a probability of", line)

    def _wrong(self, token: Token, layer: int, expert: int, does: str, line: int) -> None:
        text = f"token {token.i} {does} expert {expert} of layer {layer}, which is switched off"
        self._findings.add("masks", text, line)

    def _see_change(self, change: Change, line: int) -> None:
        if change.experts_per_token is not UNSET:
            ours = experts_per_token(self._model.k_by_layer)
            if change.experts_per_token != ours:
                text = f"{change.experts_per_token} experts per token are named, but the header has {ours}"
                self._findings.add("experts per token", text, line)
        if change.mask is UNSET:
            return
        if change.i < self._next:
            text = f"a mask from token {change.i} on is recorded after token {self._next - 1}"
            self._findings.add("masks", text, line)
        self._take(self._present.after(change), line)

    def _see_keyframe(self, frame: Keyframe, line: int, *, begins: bool) -> None:
        if keyframe_mask(frame) == self._present.mask:
            return
        if not begins:
            text = f"the keyframe after {frame.i} tokens has the experts {_words(keyframe_mask(frame))} off"
            self._findings.add("masks", f"{text}, the events before it {_words(self._present.mask)}", line)
        self._take(self._present.after(frame), line)

    def _take(self, present: PresentMask, line: int) -> None:
        self._present = present
        self._layers, end = [], 0
        for at, (layer, k) in enumerate(zip(self._model.layers, self._model.k_by_layer, strict=True)):
            end += k
            masked, experts = present.mask.masked(layer), self._model.experts
            if not masked:
                continue
            probs = slice(at * experts, (at + 1) * experts)
            self._layers.append(_MaskedLayer(layer, slice(end - k, end), probs, masked))
            left = experts - len(masked)
            if left == k:
                self.forced.add(at)
            if left < k:
                self._findings.add("masks", f"a mask leaves {left} experts of layer {layer}, which selects {k}", line)


def _words(mask: ExpertMask) -> str:
    return str(mask) if mask else "none"
