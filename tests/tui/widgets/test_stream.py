"""The stream panel, and hostile text anywhere."""

from __future__ import annotations

from math import log

import msgspec
import pytest
from textual.events import MouseScrollUp

from moe_watch.routing.events import Token
from moe_watch.sessions.source import RecordingStatus
from moe_watch.tui.state.tokens import stream_pieces
from moe_watch.tui.state.tokens.stream_pieces import CHARACTERS_KEPT
from moe_watch.tui.widgets.panels import stream as stream_panel
from tests.tui.conftest import lines, press, running, settle, shown, style_at
from tests.tui.events import MadeUpRun, header, main_run
from tests.tui.scripted import LIVE

HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07[bold red]not bold[/bold red][@click=app.quit]quit[/] \u202etxet\u200b \x9b31m [/unclosed"
)


def tokens(*texts, run=None, **changes):
    """Return a run with generated tokens of these texts."""
    run = run or MadeUpRun(header(prompt="def f():\n"))
    prompt = list(run.prompt())
    generated = [item for text in texts for item in run.token(text, "generated")]
    changed = (msgspec.structs.replace(item, **changes) if isinstance(item, Token) else item for item in generated)
    return [*prompt, *changed]


async def test_text_is_shown_wrapped_with_the_newest_token_at_the_end():
    async with running(tokens("alpha", " beta", " gamma")) as (app, _, _):
        text = shown(app.dashboard.stream)
        assert "alpha beta gamma▌" in text
        assert "‘ gamma’" in text


async def test_hostile_text_is_inert_everywhere_it_is_shown():
    head = header(model=msgspec.structs.replace(header().model, name=HOSTILE))
    run = MadeUpRun(head)
    items = [*tokens(HOSTILE, run=run), *run.inject(HOSTILE), *run.state("error", message=HOSTILE)]
    hostile = RecordingStatus("failed", HOSTILE, HOSTILE, 1, HOSTILE)
    async with running(items, recording=hostile, abilities=LIVE | {"restart"}) as (app, _, _):
        board = app.dashboard
        everything = "\n".join(
            [
                *(shown(panel) for panel in board.panels),
                *lines(board.query_one("#header")),
                *lines(board.query_one("#banner")),
            ]
        )
        assert "[bold red]not bold[/bold red][@click=app.quit]quit[/]" in everything.replace("│", "").replace("\n", "")
        assert "␛[2J" in everything
        assert not any(ord(character) < 32 and character != "\n" for character in everything)
        assert not set("\x9b\u202e\u200b") & set(everything)
        tooltip = str(board.query_one("#header").tooltip)
        assert "\x1b" not in tooltip
        assert "[/unclosed" in tooltip


async def test_a_hostile_mark_note_is_inert():
    async with running(tokens("x")) as (app, pilot, source):
        await press(app, pilot, "s", *"[b]x[/b]", "enter")
        assert source.asked[-1] == ("mark", "[b]x[/b]")


@pytest.mark.parametrize(("logprob", "step"), [(-0.1, 0), (-0.7, 1), (-2.0, 2), (-4.0, 3), (-9.0, 4)])
async def test_the_colour_of_a_token_is_its_surprisal(logprob, step):
    async with running(tokens("word", logprob=logprob)) as (app, _, _):
        stream = app.dashboard.stream
        row = next(y for y, line in enumerate(lines(stream)) if line.startswith("word"))
        style = style_at(stream, 0, row)
        assert style.color == stream.palette.tokens[step].color
        assert bool(style.underline) == (step == 4)


async def test_v_colours_by_router_entropy_instead():
    async with running(tokens("word", logprob=-9.0, entropy=[9500] * 6)) as (app, pilot, _):
        stream = app.dashboard.stream
        await press(app, pilot, "v")
        assert "coloured by router entropy" in shown(stream)
        row = next(y for y, line in enumerate(lines(stream)) if line.startswith("word"))
        assert style_at(stream, 0, row).color == stream.palette.tokens[4].color
        await press(app, pilot, "v")
        assert "coloured by surprisal" in shown(stream)


async def test_prompt_injection_and_marks_look_like_what_they_are():
    run = MadeUpRun()
    items = [
        *tokens("text", run=run),
        *run.inject(),
        *run.token("after", "generated"),
        *run.state("fresh_context"),
        *run.token("again", "generated"),
        *run.state("finished", why="eos"),
    ]
    async with running(items) as (app, _, _):
        stream = app.dashboard.stream
        text = lines(stream)
        ink = stream.palette
        assert style_at(stream, 0, 0).color == ink.muted.color
        row = next(y for y, line in enumerate(text) if "⟶ go on" in line)
        assert text[row] == " ⟶ go on  Please continue:"
        assert style_at(stream, 1, row).bgcolor == ink.accent.color
        assert style_at(stream, 12, row).color == ink.accent.color
        assert text[row + 1] == "after"
        assert f" fresh context at token {run.i - 1} " in text[row + 2]
        assert text[row + 2].startswith("───")
        assert text[row + 3 : row + 5] == ["again", "■ end of text"]


async def test_where_the_model_would_have_stopped_is_marked_once_for_several_in_a_row():
    run = MadeUpRun()
    items = [*run.prompt(), *tokens_with_stop(run, "one", "two!", "three!", "four", "five!")]
    async with running(items) as (app, _, _):
        text = lines(app.dashboard.stream)
        at = next(y for y, line in enumerate(text) if line.endswith("one"))
        first, second = f" end of text, continued at {run.i - 4} ", f" end of text, continued at {run.i - 1} "
        assert first in text[at + 1]
        assert text[at + 1].startswith("──")
        assert text[at + 2] == "twothreefour"
        assert second in text[at + 3]
        assert text[at + 4] == "five▌"


def tokens_with_stop(run, *texts):
    """Return generated tokens; `!` marks a token at which the model sampled an end of text."""
    for text in texts:
        for item in run.token(text.rstrip("!"), "generated"):
            stopped = isinstance(item, Token) and text.endswith("!")
            yield msgspec.structs.replace(item, would_stop=True) if stopped else item


async def test_scrolling_back_stays_there_until_the_end_is_asked_for():
    run = MadeUpRun()
    items = [*run.prompt(), *run.generate(600)]
    async with running(items) as (app, pilot, source):
        stream = app.dashboard.stream
        assert "▌" in "".join(lines(stream))
        await press(app, pilot, "pageup")
        before = lines(stream)[:-1]
        assert "lines below · end follows again" in shown(stream)
        source.add(run.generate(60))
        await settle(app, pilot)
        assert lines(stream)[:-1] == before
        await press(app, pilot, "end")
        assert "▌" in "".join(lines(stream))
        assert "lines below" not in shown(stream)


async def test_wheel_and_page_down_scroll_too():
    run = MadeUpRun()
    async with running([*run.prompt(), *run.generate(600)]) as (app, pilot, _):
        stream = app.dashboard.stream
        stream.post_message(MouseScrollUp(stream, 3, 3, 0, -1, 0, False, False, False))
        await settle(app, pilot)
        assert stream.top is not None
        await press(app, pilot, "pagedown")
        assert stream.top is None


async def test_a_token_under_the_mouse_is_read_out():
    async with running(tokens("alpha", " beta", logprob=-0.5)) as (app, pilot, _):
        stream = app.dashboard.stream
        row = next(y for y, line in enumerate(lines(stream)) if line.startswith("alpha"))
        await pilot.hover(stream, offset=(1 + stream.gutter.left, row + stream.gutter.top))
        await settle(app, pilot)
        assert lines(stream)[-1].startswith("▸ ‘alpha’  p 61 %  surprisal 0.50")


@pytest.mark.parametrize(("probability", "said"), [(0.004, "<1 %"), (0.0051, "1 %"), (1.0, "100 %")])
async def test_what_is_unlikely_is_not_said_to_be_impossible(probability, said):
    async with running(tokens("word", logprob=log(probability))) as (app, _, _):
        assert f"  p {said}  surprisal" in lines(app.dashboard.stream)[-1]


@pytest.mark.parametrize("character", ["漢", "\u0301", "\x1b", "\n", "a"])
async def test_of_an_endless_token_only_the_beginning_is_drawn(character):
    async with running(tokens(character * 1_048_576, " after")) as (app, _, _):
        stream = app.dashboard.stream
        assert "… 1,044,576 more characters" in shown(stream)
        assert "after▌" in shown(stream)
        drawn = sum(len(run.text) for line in stream._wrap.lines for run in line.runs)
        assert drawn < 10 * CHARACTERS_KEPT
        assert len(stream._wrap.lines) <= CHARACTERS_KEPT + 10


async def test_narrower_wraps_anew_with_the_same_words():
    async with running(main_run(200)) as (app, pilot, _):
        await pilot.resize_terminal(100, 40)
        await settle(app, pilot)
        stream = app.dashboard.stream
        assert all(stream.render_line(y).cell_length == stream.content_size.width for y in range(5))


async def test_what_is_kept_of_the_text_does_not_grow_beyond_what_can_be_scrolled_to(monkeypatch):
    """Pieces, wrapped spans and cached lines stay bounded after many more tokens than are kept."""
    monkeypatch.setattr(stream_panel, "PIECES_KEPT", 300)
    monkeypatch.setattr(stream_pieces, "PIECES_KEPT", 300)
    monkeypatch.setattr(stream_pieces, "PIECES_SLACK", 0)
    run = MadeUpRun(header(2, 4, 1))
    async with running(run.prompt()) as (app, pilot, source):
        wrap, sizes = app.dashboard.stream._wrap, []
        for _ in range(4):
            for _ in range(8):
                source.add(run.generate(50))
                await settle(app, pilot)
            runs = [piece for line in app.dashboard.stream._wrap.lines for piece in line.runs]
            pictures = [line for line in app.dashboard.stream._wrap.lines if line.rendered is not None]
            assert len(pictures) <= app.dashboard.stream.content_size.height
            sizes.append((len(app.view.pieces), len({id(each.piece) for each in runs}), len(wrap.lines)))
        assert sizes[0][0] == 300
        assert all(pieces == 300 for pieces, _, _ in sizes)
        assert all(250 <= held <= 330 for _, held, _ in sizes)
        assert max(number for _, _, number in sizes) < 100


async def test_equal_texts_are_one_text_in_memory():
    run = MadeUpRun()
    async with running([*run.prompt(), *run.generate(1200)]) as (app, _, _):
        pieces = [piece for piece in app.view.pieces if piece.role == "generated"]
        assert len(pieces) == 1200
        assert len({id(piece.text) for piece in pieces}) == len({piece.text for piece in pieces})
        wrapped = [each for line in app.dashboard.stream._wrap.lines for each in line.runs if not each.mark]
        whole = [each for each in wrapped if each.text == each.piece.text]
        assert len(whole) > 900
        assert all(each.text is each.piece.text for each in whole)


@pytest.mark.parametrize(
    ("text", "underlined"),
    [(" word", "word"), ("    word", "word"), ("word", "word"), ("two words", "two words"), ("   ", "   ")],
)
async def test_the_line_under_a_surprising_token_leaves_out_the_spaces_before_it(text, underlined):
    run = MadeUpRun(header(prompt="def f():\n"))
    items = [*run.prompt(), *(surprising(item) for item in run.token(text, "generated"))]
    async with running(items) as (app, _, _):
        stream = app.dashboard.stream
        row = next(y for y, line in enumerate(lines(stream)) if "▌" in line)
        under = [segment for segment in stream.render_line(row) if segment.style and segment.style.underline]
        assert "".join(segment.text for segment in under) == underlined


async def test_wrapped_text_stands_under_the_beginning_of_its_line_also_for_the_mouse():
    run = MadeUpRun(header(prompt="x\n"))
    words = [f" w{number:02}" for number in range(40)]
    items = [*run.prompt(), *(item for text in ("       ", *words) for item in run.token(text, "generated"))]
    async with running(items, size=(80, 30)) as (app, _, _):
        stream = app.dashboard.stream
        row = next(y for y, line in enumerate(lines(stream)) if "w30" in line)
        text = lines(stream)[row]
        assert text.startswith(" " * 7 + " w") or text.startswith(" " * 7 + "w")
        assert stream._piece_at(text.index("w30"), row).text == " w30"
        assert stream._piece_at(3, row) is None


def surprising(item):
    return msgspec.structs.replace(item, logprob=-9.0) if isinstance(item, Token) else item
