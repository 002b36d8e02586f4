from __future__ import annotations

import pytest

from moe_watch.routing.events import Chunk, Marker, Perturbation, to_json
from moe_watch.sessions.reading import line_reader as session_lines
from moe_watch.sessions.reading.index import LineIndex, read_tail
from moe_watch.sessions.reading.line_grammar import (
    BLANK,
    CHUNK,
    GARBAGE,
    KEYFRAME,
    MARKER,
    OTHER,
    PERTURBATION,
    TOKEN,
    VITALS,
    EventPosition,
)
from moe_watch.sessions.reading.store import FileStore
from tests.sessions.kit import HEADER, make_token, tokens

KINDS = {"token": TOKEN, "chunk": CHUNK, "keyframe": KEYFRAME, "vitals": VITALS, "marker": MARKER}
KINDS |= {"perturbation": PERTURBATION}


@pytest.fixture
def write(tmp_path):
    path = tmp_path / "session.moe.jsonl"

    def write_lines(lines):
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        return path

    return write_lines


def index_of(path, **options):
    index = LineIndex(FileStore(path, **options))
    index.extend()
    return index


def kinds(index):
    return [index.kind(line) for line in range(index.lines)]


class TestKinds:
    def test_every_event(self, golden_path, golden_events):
        index = index_of(golden_path)
        expected = [KINDS.get(event.__struct_config__.tag, OTHER) for event in golden_events[1:]]
        assert kinds(index)[1:] == expected
        assert [index.line(at) for at in range(index.lines)] == golden_path.read_bytes().splitlines()

    def test_another_order_of_fields(self, golden_path, golden_events, write):
        path = write(b"{ " + to_json(event)[1:] for event in golden_events)
        assert kinds(index_of(path))[1:] == kinds(index_of(golden_path))[1:]

    def test_what_cannot_be_told(self, write):
        path = write([to_json(HEADER), b"", b"  \r", b"garbage", b'{"event":"later"}', b'{"event":"session"}', b"17"])
        assert kinds(index_of(path))[1:] == [BLANK, BLANK, *[GARBAGE] * 4]

    def test_landmarks(self, golden_path, golden_events):
        index = index_of(golden_path)
        assert index.chunks == [event for event in golden_events if isinstance(event, Chunk)]
        assert index.marks == [event for event in golden_events if isinstance(event, Marker)]
        assert index.perturbations == [event for event in golden_events if isinstance(event, Perturbation)]
        first = golden_events.index(index.chunks[0])
        assert index.landmarks_before(first) == []
        assert index.landmarks_before(first + 1) == [index.chunks[0]]


class TestGrowing:
    def test_takes_in_whole_lines_only(self, write):
        path = write([to_json(HEADER)])
        index = index_of(path, follow=True)
        line = to_json(make_token(0))
        with path.open("ab", buffering=0) as file:
            file.write(line[:50])
            index.extend()
            assert index.lines == 1
            file.write(line[50:] + b"\n" + line[:10])
            index.extend()
        assert kinds(index) == [GARBAGE, TOKEN]
        assert index.line(1) == line

    @pytest.mark.parametrize("block", [50, 1000])
    def test_blocks_of_any_size(self, golden_path, monkeypatch, block):
        expected = index_of(golden_path)
        monkeypatch.setattr("moe_watch.sessions.reading.index.BLOCK", block)
        index = index_of(golden_path)
        assert kinds(index) == kinds(expected)
        assert [index.start_of(at) for at in range(index.lines)] == [
            expected.start_of(at) for at in range(expected.lines)
        ]

    def test_line_that_never_ends(self, write, monkeypatch):
        monkeypatch.setattr(session_lines, "MAX_LINE", 1 << 20)
        path = write([to_json(HEADER)])
        with path.open("ab") as file:
            file.truncate(1 << 33)
        assert index_of(path).lines == 1


class TestFinding:
    @pytest.fixture
    def index(self, write):
        return index_of(write([to_json(HEADER), *(to_json(token) for token in tokens(50, first=10))]))

    @pytest.mark.parametrize("i", [0, 10, 11, 35, 59, 60, 10**9])
    def test_token(self, index, i):
        assert index.token_line(i) == 1 + min(max(0, i - 10), 50)

    def test_token_among_lines_that_say_nothing(self, write):
        made = [to_json(token) for token in tokens(50)]
        made[20:20] = [b'{"event":"token"', b"garbage"]
        made[40:40] = [b'{"event":"token","i":"x"}']
        index = index_of(write([to_json(HEADER), *made]))
        for i in range(50):
            assert index.place(index.token_line(i)) is None or index.place(index.token_line(i)).i == i

    @pytest.mark.parametrize(("seconds", "i"), [(0.0, 10), (0.5, 11), (0.51, 11), (2.94, 59), (2.95, 60), (99.0, 60)])
    def test_time(self, index, seconds, i):
        assert index.time_line(seconds) == 1 + i - 10

    def test_extent(self, index):
        first, last = index.extent()
        assert (first.i, first.t, last.i, last.t) == (10, 0.5, 59, 2.95)
        assert index.end == 60

    def test_number_in_another_notation(self, write):
        line = to_json(make_token(3)).replace(b'"t":0.15', b'"t":1.5e-1')
        assert index_of(write([to_json(HEADER), line])).place(1).t == 0.15


class TestALittleAtATime:
    @pytest.fixture(autouse=True)
    def _small_blocks(self, monkeypatch):
        monkeypatch.setattr("moe_watch.sessions.reading.index.BLOCK", 1000)

    @pytest.fixture
    def path(self, write):
        return write([to_json(HEADER), *(to_json(token) for token in tokens(50, first=10))])

    def test_the_end_is_known_before_all_lines_are(self, path):
        index = LineIndex(FileStore(path))
        index.extend(lambda: index.lines > 2)
        assert index.behind
        assert 0 < index.lines < 51
        assert index.extent() == index_of(path).extent()
        assert index.size == path.stat().st_size

    def test_it_goes_on_where_it_was_left(self, path):
        index, times = LineIndex(FileStore(path)), 0
        while index.behind:
            index.extend(lambda: True)
            times += 1
        assert times > 5
        assert kinds(index) == kinds(index_of(path))
        assert index.last_token() == index.extent()[1]

    def test_a_file_that_grew_meanwhile(self, path):
        index = LineIndex(FileStore(path, follow=True))
        index.extend(lambda: index.lines > 2)
        assert index.extent()[1].i == 59
        index.extend()
        with path.open("ab") as file:
            file.write(b"".join(to_json(token) + b"\n" for token in tokens(20, first=60)))
        index.extend(lambda: True)
        assert index.behind
        assert index.extent()[1].i == 79
        index.extend()
        assert index.extent()[1].i == 79


class TestTail:
    @pytest.fixture(autouse=True)
    def _small_blocks(self, monkeypatch):
        monkeypatch.setattr("moe_watch.sessions.reading.index.BLOCK", 1000)

    def tail(self, path):
        return read_tail(FileStore(path))

    def test_last_token_before_much_else(self, write):
        path = write([to_json(HEADER), *map(to_json, tokens(30)), *[b'{"event":"marker","i":30,"t":9.0}'] * 200])
        assert self.tail(path).last == EventPosition(29, 1.45)
        assert self.tail(path).end == path.stat().st_size

    def test_a_line_that_was_cut_off_is_left_out(self, write):
        path = write([to_json(HEADER), *map(to_json, tokens(30))])
        size = path.stat().st_size
        with path.open("ab") as file:
            file.write(to_json(make_token(30))[:100])
        assert self.tail(path).last == EventPosition(29, 1.45)
        assert self.tail(path).end == size

    def test_tokens_of_another_writer(self, write):
        path = write([to_json(HEADER), *(b"{ " + to_json(token)[1:] for token in tokens(30))])
        assert self.tail(path).last == EventPosition(29, 1.45)

    def test_no_token(self, write):
        assert self.tail(write([to_json(HEADER)])).last is None
        assert self.tail(write([])).end == 0

    def test_lines_without_end_are_not_read_into_memory(self, write, monkeypatch):
        monkeypatch.setattr(session_lines, "MAX_LINE", 1 << 16)
        path = write([to_json(HEADER)])
        with path.open("ab") as file:
            file.truncate(1 << 33)
        assert self.tail(path).last is None
