"""Command palette: search in the registry of actions."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider

from moe_watch.tui.input.actions import Action, palette_actions
from moe_watch.tui.state.frame import Frame


class Performer(Protocol):
    """Interface of the app to the palette."""

    @property
    def frame_now(self) -> Frame: ...

    async def action_perform(self, name: str) -> None: ...


class ActionProvider(Provider):
    """Provider of every action that can be performed now."""

    @property
    def _performer(self) -> Performer:
        return cast(Performer, self.app)

    async def discover(self) -> Hits:
        for action in palette_actions(self._performer.frame_now):
            yield DiscoveryHit(self._title(action), self._command(action), help=action.description)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for action in palette_actions(self._performer.frame_now):
            title = self._title(action)
            score = max(matcher.match(title), matcher.match(action.description) / 2)
            if score > 0:
                yield Hit(score, matcher.highlight(title), self._command(action), help=action.description)

    def _title(self, action: Action) -> str:
        title = action.caption(self._performer.frame_now)
        return f"{title}  ({action.shown})" if action.shown else title

    def _command(self, action: Action) -> Callable[[], object]:
        return partial(self._performer.action_perform, action.id)
