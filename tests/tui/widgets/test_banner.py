"""Banner messages are shown to their end at every width."""

from __future__ import annotations

import re

import pytest
from rich.cells import cell_len

from moe_watch.sessions.source import RecordingStatus
from moe_watch.tui.text.word_wrap import wrapped
from tests.tui.conftest import lines, running, shown
from tests.tui.events import MadeUpRun
from tests.tui.scripted import REPLAY, REPLAYING

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


class TestAutomaticPauses:
    COOLING = "paused to cool down: coretemp Package id 0 91 °C, above 85, resumes at 80"

    @staticmethod
    def paused(message=COOLING, why="temperature"):
        run = MadeUpRun()
        return run, [*run.prompt(), *run.generate(30), *run.state("paused", why=why, message=message)]

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("why", ["temperature", "memory"])
    async def test_reason_is_read_to_its_end_with_the_key_that_resumes(self, size, why):
        _, items = self.paused(why=why)
        async with running(items, size=size) as (app, _, _):
            banner = app.dashboard.query_one("#banner")
            assert words(self.COOLING) in words(shown(banner))
            assert "space resume" in lines(banner)[-1]

    async def test_it_goes_with_the_pause(self):
        run, items = self.paused()
        items += run.state("resumed", why="temperature", message="cooled down: coretemp Package id 0 79 °C")
        async with running(items) as (app, _, _):
            assert "cool down" not in shown(app.dashboard.query_one("#banner"))

    async def test_a_lost_sensor_replaces_the_reason(self):
        run, items = self.paused()
        lost = "paused to cool down, and coretemp Package id 0 cannot be read any more (gone): resume by hand"
        items += run.state("paused", why="temperature", message=lost)
        async with running(items, size=(120, 40)) as (app, _, _):
            text = words(shown(app.dashboard.query_one("#banner")))
            assert words(lost) in text
            assert words(self.COOLING) not in text

    async def test_a_replay_shows_it_without_an_offer(self):
        _, items = self.paused()
        async with running(items, abilities=REPLAY, origin=REPLAYING) as (app, _, _):
            text = shown(app.dashboard.query_one("#banner"))
            assert words(self.COOLING) in words(text)
            assert "space" not in text

    async def test_a_pause_of_the_user_has_no_banner(self):
        _, items = self.paused(message=None, why="user")
        async with running(items) as (app, _, _):
            assert not app.dashboard.query_one("#banner").has_class("-shown")
