from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest
import zstandard

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Chunk, Header, State, Token, to_json
from moe_watch.sessions.live.headless import run_headless
from moe_watch.sessions.reading.store import Spool, open_store
from moe_watch.sessions.recording.recorder import Recorder
from moe_watch.sessions.replaying.source import ReplaySource
from moe_watch.sessions.source import END, HOME, Jump
from tests.sessions.kit import HEADER, Drained, ManualClock, make_token, tokens, wait_until

FINISHED = State(state="finished", i=6, t=0.3, why="length")


def line(event):
    return to_json(event) + b"\n"


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "session.moe.jsonl"


@pytest.fixture
def recorder(path, clock):
    recorder = Recorder.create(path, HEADER, clock=clock)
    yield recorder
    recorder.close()


@pytest.fixture
def pipe():
    """A pipe's two ends; the spool closes the one that it reads."""
    end, beginning = os.pipe()
    with os.fdopen(beginning, "wb", buffering=0) as writer:
        yield end, writer


def followed(path, clock, speed=1.0):
    source = ReplaySource(path, clock, speed, follow=True)
    source.start()
    return source


def append(recorder, *events):
    for event in events:
        recorder.append(event)


def indices(items):
    return [item.i for item in items if isinstance(item, Token)]


class TestGrowingFile:
    def test_begins_at_the_end_and_shows_what_comes_at_once(self, path, clock, recorder):
        append(recorder, *tokens(2000))
        source = followed(path, clock)
        first = source.drain()
        assert isinstance(first[0], Header)
        assert indices(first)[-1] == 1999
        assert source.drain() == []
        append(recorder, make_token(2000), make_token(2001))
        assert indices(source.drain()) == [2000, 2001]
        assert not source.ended
        assert source.timeline.tokens == source.timeline.position == 2002

    def test_half_a_line_waits_for_the_other_half(self, path, clock):
        whole = line(make_token(0))
        path.write_bytes(line(HEADER))
        source = followed(path, clock)
        source.drain()
        with path.open("ab", buffering=0) as file:
            file.write(whole[:40])
            assert source.drain() == []
            file.write(whole[40:])
            assert indices(source.drain()) == [0]
        assert source.warnings == []

    def test_file_without_a_header_yet(self, path, clock):
        path.write_bytes(b"")
        source = followed(path, clock)
        assert source.drain() == []
        assert not source.ended
        assert source.abilities == frozenset()
        path.write_bytes(line(HEADER) + line(make_token(0)))
        assert [type(item) for item in source.drain()] == [Header, Token]

    def test_what_is_no_session_is_said_when_it_comes(self, path, clock):
        path.write_bytes(b"")
        source = followed(path, clock)
        path.write_bytes(b"Dear diary\n")
        (state,) = source.drain()
        assert "line 1: no session header" in state.message
        assert source.ended

    def test_chunks_are_computed_as_in_a_replay(self, path, clock, recorder):
        source = followed(path, clock)
        append(recorder, *tokens(9))
        played = Drained(source)
        assert [chunk.last for chunk in played.of(Chunk)] == [3, 7]

    def test_the_end_of_the_run_ends_it_and_more_goes_on(self, path, clock, recorder):
        append(recorder, *tokens(6), FINISHED)
        source = followed(path, clock)
        assert FINISHED in source.drain()
        assert source.drain() == []
        assert source.ended
        append(recorder, make_token(6))
        assert indices(source.drain()) == [6]
        assert not source.ended

    def test_pause_holds_what_comes(self, path, clock, recorder):
        source = followed(path, clock)
        source.drain()
        source.pause()
        append(recorder, *tokens(3))
        assert source.drain() == []
        source.resume()
        assert indices(source.drain()) == [0, 1, 2]

    def test_going_back_leaves_the_end_and_going_to_the_end_follows_again(self, path, clock, recorder):
        append(recorder, *tokens(30))
        source = followed(path, clock)
        source.drain()
        source.seek(Jump("token", 10))
        assert indices(source.drain()) == list(range(10))
        append(recorder, make_token(30))
        clock.advance(0.0501)
        assert indices(source.drain()) == [10]
        source.seek(END)
        assert indices(source.drain()) == list(range(31))
        append(recorder, make_token(31))
        assert indices(source.drain()) == [31]

    def test_without_a_screen_everything_is_summed_up(self, path, recorder):
        append(recorder, *tokens(2500), State(state="finished", i=2500, t=125.0, why="length"))
        source = ReplaySource(path, speed=0, follow=True)
        assert run_headless(source, lambda item: None).tokens.generated == 2500

    @pytest.mark.parametrize(
        ("spoil", "reason"),
        [
            (lambda path: path.unlink(), "removed while it was followed"),
            (lambda path: os.truncate(path, 100), "truncated while it was followed"),
            (
                lambda path: [path.rename(path.with_name("old")), path.write_bytes(line(HEADER))],
                "replaced by another file while it was followed",
            ),
        ],
        ids=["removed", "cut off", "replaced"],
    )
    def test_file_that_goes_away(self, path, clock, recorder, spoil, reason):
        append(recorder, *tokens(3))
        source = followed(path, clock)
        source.drain()
        spoil(path)
        (state,) = source.drain()
        assert state.state == "error"
        assert state.message == f"{path}: {reason}: open it again"
        assert source.ended
        assert source.drain() == []

    def test_cut_off_while_it_is_replayed(self, path, clock, recorder):
        append(recorder, *tokens(3000))
        source = ReplaySource(path, clock)
        source.start()
        source.drain()
        os.truncate(path, 5000)
        source.seek(Jump("token", 2500))
        items = source.drain()
        assert items[-1].message == f"{path}: truncated while it was read: open it again"

    def test_compressed_file_cannot_be_followed(self, path):
        path.write_bytes(zstandard.compress(line(HEADER)))
        with pytest.raises(UserError, match="a file compressed with zstd cannot be followed: omit --follow"):
            followed(path, ManualClock())


class TestPipe:
    def test_shown_as_it_comes(self, pipe, clock):
        end, writer = pipe
        source = followed(Spool(end, "standard input"), clock)
        played = Drained(source)
        writer.write(line(HEADER))
        played.wait_for(Header)
        for token in tokens(3):
            writer.write(line(token))
            played.wait_for(Token, token.i + 1)
        writer.close()
        wait_until(lambda: played.of(Token) and source.ended, "the end")
        assert (source.origin.name, source.origin.path) == ("standard input", "")

    def test_seeks_in_what_came(self, pipe, clock):
        end, writer = pipe
        source = followed(Spool(end, "standard input"), clock)
        for event in (HEADER, *tokens(40)):
            writer.write(line(event))
        played = Drained(source)
        wait_until(lambda: len(played.of(Token)) >= 40, "the tokens")
        source.pause()
        source.seek(Jump("token", 7))
        assert indices(source.drain()) == list(range(7))
        source.seek(HOME)
        assert source.drain() == [HEADER]

    def test_recorded_time(self, pipe, clock):
        end, writer = pipe
        for event in (HEADER, *tokens(40)):
            writer.write(line(event))
        writer.close()
        source = ReplaySource(Spool(end, "standard input"), clock)
        source.start()
        played = Drained(source)
        played.wait_for(Token)
        clock.advance(0.1001)
        assert indices(source.drain()) == [1, 2]

    def test_nothing_comes(self, pipe, clock):
        end, writer = pipe
        source = followed(Spool(end, "standard input"), clock)
        played = Drained(source)
        writer.close()
        (state,) = played.wait_for(State)
        assert state.message == "standard input: the file is empty: this is not a moe-watch session"
        assert str(source.fatal_error) == state.message

    def test_last_line_cut_off(self, pipe, clock):
        end, writer = pipe
        writer.write(line(HEADER) + line(make_token(0)) + b'{"event":"tok')
        writer.close()
        source = followed(Spool(end, "standard input"), clock)
        wait_until(lambda: source.drain() == [] and source.ended, "the end")
        assert source.warnings == ["standard input: the last line is cut off; read up to line 2"]

    def test_compressed_as_it_comes(self, pipe, clock):
        end, writer = pipe
        packer = zstandard.ZstdCompressor().compressobj()
        source = followed(Spool(end, "standard input"), clock)
        played = Drained(source)
        for event in (HEADER, *tokens(3)):
            writer.write(packer.compress(line(event)) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
        assert len(played.wait_for(Token, 3)) == 3

    def test_kept_where_nobody_else_can_read_it(self, pipe, tmp_path, monkeypatch):
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        end, _ = pipe
        spool = Spool(end, "standard input")
        assert list(tmp_path.iterdir()) == []
        assert stat.S_IMODE(os.fstat(spool._file.fileno()).st_mode) == 0o600
        spool.close()

    def test_no_room_for_it(self):
        """Runs in a separate process with a limit of the file size."""
        script = (
            "import os, resource, signal; from moe_watch.sessions.reading.store import Spool\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
            "spool = Spool(0, 'standard input')\n"
            "spool.wait()\n"
            "try:\n    spool.size()\nexcept Exception as error:\n    print(error)\n"
        )
        done = subprocess.run([sys.executable, "-c", script], input=bytes(100_000), capture_output=True, check=True)
        assert done.stdout.decode() == "standard input: File too large: free space for temporary files, or set TMPDIR\n"


class TestCompressedFile:
    def test_replays_and_seeks(self, tmp_path, clock):
        path = tmp_path / "session.moe.jsonl.zst"
        path.write_bytes(zstandard.compress(b"".join(map(line, [HEADER, *tokens(400)]))))
        source = ReplaySource(path, clock)
        source.start()
        wait_until(lambda: source.drain() == [] and source.timeline and source.timeline.tokens == 400, "all of it")
        source.seek(Jump("token", 300))
        assert indices(source.drain()) == list(range(300))

    def test_too_large_a_window_is_refused(self, tmp_path):
        path = tmp_path / "session.moe.jsonl.zst"
        parameters = zstandard.ZstdCompressionParameters(window_log=30, enable_ldm=True)
        packer = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        path.write_bytes(packer.compress(line(HEADER)) + packer.flush())
        store = open_store(path)
        store.wait()
        with pytest.raises(UserError, match="the compressed data is damaged"):
            store.size()
