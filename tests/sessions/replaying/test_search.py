"""Search in a recording: matches, their positions and order, and the end of a search."""

from __future__ import annotations

import threading

import msgspec
import pytest

from moe_watch.routing.events import Marker, to_json
from moe_watch.sessions.reading.line_reader import MAX_LINE
from moe_watch.sessions.reading.store import FileStore
from moe_watch.sessions.replaying.search import Match, Search
from moe_watch.sessions.replaying.source import ReplaySource
from moe_watch.sessions.source import Jump
from tests.sessions.kit import HEADER, ManualClock, make_token, wait_until

WORDS = ["The", " cat", " sat", " on", " the", " m", "at", ".\n", "Ça", " \U0001f431", " THE", " end"]


def recorded(path, words=WORDS, *, source="generated", first=0):
    """A recording of one token per word."""
    events = [
        msgspec.structs.replace(make_token(first + at, source), text=word, phase="decode")
        for at, word in enumerate(words)
    ]
    path.write_bytes(b"".join(to_json(event) + b"\n" for event in [HEADER, *events]))
    return path


def looked(path, text, token=0):
    """A search from a token on that is over."""
    store = FileStore(path)
    begins = [0]
    for line in path.read_bytes().splitlines(keepends=True):
        begins.append(begins[-1] + len(line))
    search = Search(store, text, begins[1], begins[min(token + 1, len(begins) - 1)], begins[-1])
    wait_until(lambda: search.over, "the end of the search")
    search.stop()
    store.close()
    return search


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("cat", Match(1, 1)),
        ("the mat", Match(4, 6)),
        ("THE MAT.", Match(4, 7)),
        ("on the m", Match(3, 5)),
        ("t.", Match(6, 7)),
        (".\nç", Match(7, 8)),
        ("\U0001f431", Match(9, 9)),
        ("The cat sat on the mat.\nÇa", Match(0, 8)),
        ("the end", Match(10, 11)),
        (" ", Match(1, 1)),
        ("dog", None),
        ("catt", None),
    ],
)
def test_a_text_is_found_across_tokens_whatever_its_case(tmp_path, text, match):
    search = looked(recorded(tmp_path / "run.moe.jsonl"), text)
    assert search.match == match
    assert search.wrapped == (match is None)
    assert not search.problem


@pytest.mark.parametrize(
    ("token", "match", "wrapped"),
    [(0, Match(0, 0), False), (1, Match(4, 4), False), (5, Match(10, 10), False), (11, Match(0, 0), True)],
)
def test_places_are_gone_through_in_order_and_again_from_the_beginning(tmp_path, token, match, wrapped):
    search = looked(recorded(tmp_path / "run.moe.jsonl"), "the", token)
    assert (search.match, search.wrapped) == (match, wrapped)


@pytest.mark.parametrize("token", range(len(WORDS) + 1))
def test_a_place_is_found_from_wherever_one_is(tmp_path, token):
    search = looked(recorded(tmp_path / "run.moe.jsonl"), "sat on the mat", token)
    assert search.match == Match(2, 6)
    assert search.wrapped == (token > 2)


def test_the_prompt_is_left_out_and_separates(tmp_path):
    path = recorded(tmp_path / "run.moe.jsonl", ["one", " two"], source="prompt")
    with path.open("ab") as file:
        for at, (source, word) in enumerate([("generated", " two"), ("injected", " three"), ("prompt", " fo")], 2):
            file.write(to_json(msgspec.structs.replace(make_token(at, source), text=word)) + b"\n")
        file.write(to_json(msgspec.structs.replace(make_token(5), text="ur")) + b"\n")
    assert looked(path, "one").match is None
    assert looked(path, "two").match == Match(2, 2)
    assert looked(path, "two three").match == Match(2, 3)
    assert looked(path, "four").match is None


def test_missing_tokens_separate(tmp_path):
    path = recorded(tmp_path / "run.moe.jsonl", ["ab"])
    with path.open("ab") as file:
        file.write(to_json(msgspec.structs.replace(make_token(7), text="cd")) + b"\n")
    assert looked(path, "abcd").match is None
    assert looked(path, "cd").match == Match(7, 7)


def test_tokens_of_other_writers_are_read_and_other_lines_passed_over(tmp_path):
    path = recorded(tmp_path / "run.moe.jsonl", ["one "])
    with path.open("ab") as file:
        file.write(to_json(Marker(i=1, t=0.0, note="needle")) + b"\n\n")
        file.write(b'{"text":"no needle","event":"state"}\n{"i":9,"text":"needle"}\n\xff needle\n')
        file.write(b'{"text": "two n\\u0065edle", "source": "generated", "i": 1, "event": "token"}\n')
    assert looked(path, "one two needle").match == Match(0, 1)


def test_a_line_longer_than_any_may_be_is_passed_over(tmp_path):
    path = recorded(tmp_path / "run.moe.jsonl", ["one "])
    with path.open("ab") as file:
        file.write(b'{"event":"marker","note":"' + b"x" * (MAX_LINE + 1) + b'"}\n')
        file.write(to_json(msgspec.structs.replace(make_token(1), text="two")) + b"\n")
    assert looked(path, "one two").match == Match(0, 1)


class Blocking:
    """Store that blocks after some reads until an event is set."""

    name, complete = "slow", True

    def __init__(self, path):
        self._store = FileStore(path)
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.reads = 0

    def size(self):
        return self._store.size()

    def read(self, start, length):
        self.reads += 1
        if self.reads == 2:
            self.reached.set()
            self.go_on.wait()
        return self._store.read(start, length)


def test_a_search_says_how_far_it_is_and_can_be_stopped(tmp_path):
    path = recorded(tmp_path / "run.moe.jsonl", ["word "] * 4000)
    store = Blocking(path)
    begin = path.read_bytes().index(b"\n") + 1
    search = Search(store, "needle", begin, begin, path.stat().st_size)
    assert store.reached.wait(20)
    assert 0 < search.share < 1
    assert not search.over
    stopping = threading.Thread(target=search.stop)
    stopping.start()
    wait_until(lambda: search.stopping, "the wish to stop")
    store.go_on.set()
    stopping.join()
    assert search.over
    assert search.match is None
    assert search.share < 1
    assert not search.wrapped


def test_a_file_that_is_cut_off_meanwhile_is_a_problem_in_a_line(tmp_path):
    path = recorded(tmp_path / "run.moe.jsonl", ["word "] * 100)
    store = FileStore(path)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2])
    search = Search(store, "needle", 0, 0, size)
    wait_until(lambda: search.over, "the end of the search")
    assert search.problem.startswith(f"{path}: truncated while it was read")
    assert "\n" not in search.problem


def test_a_replay_looks_from_where_it_is_even_while_it_jumps(tmp_path):
    source = ReplaySource(recorded(tmp_path / "run.moe.jsonl"), ManualClock())
    assert source.search("the") is None
    source.start()
    source.pause()
    source.drain()
    first = source.search("the")
    wait_until(lambda: first.over, "the end of the search")
    assert first.match == Match(0, 0)
    source.seek(Jump("token", 5))
    source.drain()
    second = source.search("the")
    wait_until(lambda: second.over, "the end of the search")
    assert second.match == Match(10, 10)
    source.close()
    assert source.search("the") is None


def test_closing_ends_a_search(tmp_path):
    source = ReplaySource(recorded(tmp_path / "run.moe.jsonl", ["word "] * 3000), ManualClock())
    source.start()
    search = source.search("needle")
    source.close()
    assert search.over
