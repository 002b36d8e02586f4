"""Banner messages are shown to their end at every width."""

from __future__ import annotations

import re

import pytest
from rich.cells import cell_len

from moe_watch.sessions.source import RecordingStatus
from moe_watch.tui.text.word_wrap import wrapped
from tests.tui.conftest import lines, running, shown
from tests.tui.events import MadeUpRun

SENTENCES = {
    "killed": (
        "the model's process was killed by the system (SIGKILL): out of memory? Free memory, or give a smaller "
        "model or --context (`moe-watch memory MODEL` lists what fits)"
    ),
    "hub": (
        "cannot reach the Hub for allenai/OLMoE-1B-7B-0125-Instruct (no network?) and the Hub cache has no copy of it: "
        "connect, or give a folder"
    ),
    "wide": "模型的进程被系统杀死了 " * 12 + "结束",
    "one long word": "/" + "very-long-folder-name" * 12 + "/model.gguf",
}
SIZES = [(60, 16), (80, 24), (120, 40), (200, 60)]


def words(text):
    """Return text without line breaks and indentation."""
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sentence", SENTENCES.values(), ids=SENTENCES)
async def test_why_it_failed_is_read_to_its_end(size, sentence):
    run = MadeUpRun()
    items = [*run.prompt(), *run.generate(30), *run.state("error", message=sentence)]
    async with running(items, size=size, abilities={"restart"}) as (app, _, _):
        banner = app.dashboard.query_one("#banner")
        text = lines(banner)
        assert len(text) == banner.outer_size.height
        assert words(sentence) in words(shown(banner))
        assert "saved: " in shown(banner)
        assert "R restart · q quit" in text[-1]
        assert all(cell_len(line) <= size[0] for line in text)


@pytest.mark.parametrize("size", SIZES)
async def test_why_nothing_is_recorded_is_read_to_its_end(size):
    problem = "no space left on the device that holds /home/someone/.local/share/moe-watch/sessions, trying again"
    run = MadeUpRun()
    recording = RecordingStatus("failed", "a.moe.jsonl", problem=problem)
    async with running([*run.prompt(), *run.generate(3)], size=size, recording=recording) as (app, _, _):
        assert words(f"not being recorded: {problem}") in words(shown(app.dashboard.query_one("#banner")))


@pytest.mark.parametrize("size", SIZES)
async def test_a_run_that_never_began_says_why_on_an_otherwise_empty_screen(size):
    items = MadeUpRun().state("error", message=SENTENCES["hub"])
    async with running(items, size=size, abilities={"restart"}) as (app, _, _):
        assert words(SENTENCES["hub"]) in words(shown(app.dashboard.query_one("#banner")))


async def test_the_banner_wraps_anew_when_the_terminal_changes():
    run = MadeUpRun()
    items = [*run.prompt(), *run.state("error", message=SENTENCES["killed"])]
    async with running(items, size=(200, 60), abilities={"restart"}) as (app, pilot, _):
        banner = app.dashboard.query_one("#banner")
        assert banner.outer_size.height == 2
        await pilot.resize_terminal(60, 20)
        app.tick()
        await pilot.pause()
        assert banner.outer_size.height == len(lines(banner)) > 3
        assert words(SENTENCES["killed"]) in words(shown(banner))


@pytest.mark.parametrize("size", SIZES)
async def test_why_a_panel_is_empty_is_read_to_its_end(size):
    run = MadeUpRun()
    async with running([*run.prompt(), *run.generate(3)], size=size) as (app, _, _):
        why = "n/a: " + SENTENCES["hub"]
        rows = app.dashboard.stream.message(38, 10, why)
        assert words(why) in words("".join(row.text for row in rows))


@pytest.mark.parametrize(
    ("sentence", "width", "expected"),
    [
        ("", 5, [""]),
        ("one two", 7, ["one two"]),
        ("one two", 6, ["one", "two"]),
        ("  one   two ", 20, ["one two"]),
        ("abcdefgh", 3, ["abc", "def", "gh"]),
        ("a 模型模型 b", 5, ["a", "模型", "模型", "b"]),
        ("模", 1, ["模"]),
    ],
)
def test_sentences_are_wrapped_by_words_and_by_cells(sentence, width, expected):
    assert wrapped(sentence, width) == expected
