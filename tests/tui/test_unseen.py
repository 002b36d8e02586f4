"""The dashboard on a null terminal draws every frame, and exits when its source has ended."""

from __future__ import annotations

import pytest

from moe_watch.routing.errors import UserError
from moe_watch.tui.offscreen import UnseenDriver, run_unseen
from tests.tui.events import main_run
from tests.tui.scripted import Scripted


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """Return the bytes written to the null device."""
    frames: list[str] = []
    write = UnseenDriver.write

    def keep(driver: UnseenDriver, data: str) -> None:
        frames.append(data)
        write(driver, data)

    monkeypatch.setattr(UnseenDriver, "write", keep)
    return frames


class EndsOnceShown(Scripted):
    """Source that ends once the model's name has been drawn, or after more frames than drawing it can take."""

    frames: list[str]
    drained = 0

    def drain(self):
        self.drained += 1
        self.ended = self.drained > 100 or "pocket" in "".join(self.frames)
        return super().drain()


def test_it_draws_in_true_colour_and_leaves(written, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    source = EndsOnceShown(main_run(tokens=60))
    source.frames = written
    run_unseen(source)
    assert source.asked[0] == ("start",)
    assert source.asked[-1] == ("close",)
    drawn = "".join(written)
    assert "\x1b[38;2;" in drawn
    assert "pocket" in drawn


def test_a_failure_is_said(written, capsys):
    class Broken(Scripted):
        def drain(self):
            raise ValueError("no more")

    with pytest.raises(UserError, match="the dashboard failed"):
        run_unseen(Broken(ended=True))
