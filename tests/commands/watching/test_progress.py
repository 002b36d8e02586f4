"""Text beside a progress bar: the amount in its unit."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from moe_watch.commands.watching.headless import new_task, progress_bar, show_amount, show_progress
from moe_watch.routing.events import Progress


@pytest.fixture
def bar(monkeypatch):
    """Return a bar on a terminal that stores its output."""
    monkeypatch.setattr(
        "rich.console.Console", lambda **_: Console(file=io.StringIO(), force_terminal=True, width=100, _environ={})
    )
    return progress_bar()


def drawn(bar) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(bar.get_renderable())
    return console.file.getvalue()


def test_bytes_are_scaled(bar):
    task = new_task(bar)
    show_progress(bar, task, Progress(stage="loading", done=11_200_000_000, total=26_000_000_000, unit="bytes"))
    assert drawn(bar).split()[0] == "loading"
    assert "11.2 of 26.0 GB" in drawn(bar)


def test_tokens_are_counted(bar):
    task = new_task(bar)
    show_amount(bar, task, "generating", 57, 1200, "tokens")
    assert "57 of 1,200 tokens" in drawn(bar)


def test_a_download_is_named_before_its_size_is_known(bar):
    task = new_task(bar)
    show_progress(bar, task, Progress(stage="reading", unit="bytes", note="downloading tiny/mixtral"))
    assert drawn(bar).startswith("reading: downloading tiny/mixtral ")
    assert " of " not in drawn(bar)
