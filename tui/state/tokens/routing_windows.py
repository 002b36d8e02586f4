"""Routing of the last tokens of a run, by phase."""

from __future__ import annotations

from typing import Literal

from moe_watch.routing.events import Header, Keyframe, Token
from moe_watch.routing.row_layout import RowLayout
from moe_watch.sessions.text import plural
from moe_watch.tui.state.imported_counts import CountedWindow, counted_windows
from moe_watch.tui.state.tokens.token_window import Ids, TokenRouting, TokenWindow


class RoutingWindows:
    """One window of tokens per phase, and the experts of the newest token.

    The windows are mutable NumPy arrays that settle when they are read: a snapshot keeps what was read from them.

    Args:
        header: of the run; None before it, when there are no windows.
    """

    def __init__(self, header: Header | None = None) -> None:
        self.by_phase: dict[str, TokenWindow] = {}
        self.newest: Ids | None = None
        """Experts of the newest token."""
        self._layout = RowLayout([])
        self._before: Ids | None = None
        """Experts of the last token of this context."""
        if header is not None:
            shape, unit = (len(header.model.layers), header.model.experts), header.units.entropy
            self.by_phase = {phase: TokenWindow(*shape, entropy_unit=unit) for phase in ("prefill", "decode")}
            self._layout = RowLayout.of(header.model)

    @property
    def phase(self) -> Literal["decode", "prefill"]:
        """Phase of the tokens in `window`."""
        return "decode" if self.by_phase and self.by_phase["decode"].tokens else "prefill"

    @property
    def window(self) -> TokenWindow | None:
        """The last decode tokens; before the first of them, the last prompt tokens; None before the header."""
        return self.by_phase[self.phase] if self.by_phase else None

    def text(self, *, observed: bool) -> str:
        """Return the contents of `window` in words; `observed` adds that only some tokens are observed."""
        window = self.window
        if isinstance(window, CountedWindow):
            return window.text
        held = 0 if window is None else window.tokens
        noun = "observed token" if observed else "token"
        of_prompt = " of the prompt" if self.phase == "prefill" else ""
        return f"last {plural(held, noun)}{of_prompt}"

    def add(self, token: Token) -> None:
        """Process an observed token."""
        # With one k for all layers the flat row is kept: NumPy reshapes many tokens as fast as one.
        experts = token.experts if self._layout.is_even else self._layout.experts(token)
        self.by_phase[token.phase].add(TokenRouting(experts, token.entropy, self._before))
        self._before = self.newest = experts

    def add_counts(self, keyframe: Keyframe, experts: int) -> None:
        """Replace the windows by the counts of a keyframe, in a recording that has counts and no tokens."""
        self.by_phase = counted_windows(keyframe, experts, self.window)

    def begin_at(self, keyframe: Keyframe) -> None:
        """Continue after the token that a keyframe describes."""
        self._before = self._layout.experts_before(keyframe)

    def begin_context(self) -> None:
        """Begin a fresh context: its first token has no churn."""
        self._before = None

    def change_mask(self) -> None:
        """Mark the place of a change of the mask in the windows."""
        for window in self.by_phase.values():
            window.mark()

    def switch_tap(self) -> None:
        """Forget the newest token: the next observed token does not follow it."""
        self._before = self.newest = None
