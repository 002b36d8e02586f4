from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import stat
import subprocess
import sys
from datetime import date
from pathlib import Path

import msgspec
import pytest

from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Chunk, Marker, State, Token, Unknown, Vitals
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.sessions import paths
from moe_watch.sessions.reading.reader import read_session
from moe_watch.sessions.recording.recorder import CHUNK_SYNC_SECONDS, SYNC_SECONDS, Recorder
from tests.sessions.kit import HEADER, ManualClock, make_token, tokens, wait_until

ROOT = Path(__file__).parents[3]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.moe.jsonl"


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


class TestFile:
    def test_reads_back_as_it_was_written(self, path, golden_events):
        header, *events = golden_events
        recorder = Recorder.create(path, header)
        for event in events:
            recorder.append(event)
        recorder.close()
        assert list(read_session(path)) == golden_events
        assert recorder.bytes == path.stat().st_size
        assert recorder.name == path.name
        assert recorder.problem == ""

    def test_events_of_later_versions_pass_through(self, path):
        recorder = Recorder.create(path, msgspec.structs.replace(HEADER, schema_minor=99))
        recorder.append(Unknown("later", b'{"event":"later" , "x":1}'))
        recorder.close()
        assert path.read_bytes().splitlines()[1] == b'{"event":"later" , "x":1}'

    def test_belongs_to_its_owner_alone(self, tmp_path):
        before = os.umask(0)
        try:
            Recorder.create(tmp_path / "a" / "b" / "c.moe.jsonl", HEADER).close()
        finally:
            os.umask(before)
        assert mode_of(tmp_path / "a" / "b" / "c.moe.jsonl") == 0o600
        assert mode_of(tmp_path / "a" / "b") == 0o700
        assert mode_of(tmp_path / "a") == 0o700

    def test_every_event_has_left_the_process_at_once(self, path):
        recorder = Recorder.create(path, HEADER, clock=ManualClock())
        for number, token in enumerate(tokens(5), start=2):
            recorder.append(token)
            assert len(path.read_bytes().splitlines()) == number
        recorder.close()

    def test_half_a_surrogate_pair_becomes_a_replacement_character(self, path):
        recorder = Recorder.create(path, HEADER)
        recorder.append(Marker(i=0, t=0.0, note="a\ud800b\udc00 \ud83d\ude00"))
        recorder.close()
        assert list(read_session(path))[1].note == "a\ufffdb\ufffd 😀"
        assert recorder.problem == ""

    def test_terminal_sequences_and_newlines_stay_inside_their_line(self, path):
        recorder = Recorder.create(path, HEADER)
        note = "\x1b[2J\r\n\x00[bold]\u2028\x85"
        recorder.append(Marker(i=0, t=0.0, note=note))
        recorder.close()
        assert b"\x1b" not in path.read_bytes()
        assert path.read_bytes().count(b"\n") == 2
        assert list(read_session(path))[1].note == note

    def test_after_close_nothing_is_written(self, path):
        recorder = Recorder.create(path, HEADER)
        recorder.close()
        recorder.close()
        recorder.append(make_token(0))
        assert list(read_session(path)) == [HEADER]


class TestNames:
    def test_never_over_an_existing_file(self, path):
        path.write_text("precious")
        with pytest.raises(UserError) as caught:
            Recorder.create(path, HEADER)
        assert str(caught.value) == f"{path}: exists already: choose another name, or replace it with --force"
        assert path.read_text() == "precious"

    def test_force_replaces_it(self, path):
        path.write_text("precious")
        path.chmod(0o644)
        recorder = Recorder.create(path, HEADER, force=True)
        recorder.append(make_token(0))
        recorder.close()
        assert list(read_session(path)) == [HEADER, make_token(0)]
        assert mode_of(path) == 0o600
        assert recorder.path == path
        assert list(path.parent.iterdir()) == [path]

    def test_force_leaves_what_a_reader_has_open(self, path):
        path.write_text("precious")
        with path.open() as file:
            recorder = Recorder.create(path, HEADER, force=True)
            recorder.append(make_token(0))
            recorder.close()
            assert file.read() == "precious"
        assert path.read_text() != "precious"

    def test_force_writes_through_a_link(self, path):
        target = path.with_name("target.moe.jsonl")
        target.touch()
        path.symlink_to(target)
        recorder = Recorder.create(path, HEADER, force=True)
        recorder.append(make_token(0))
        recorder.close()
        assert path.is_symlink()
        assert list(read_session(target)) == [HEADER, make_token(0)]

    def test_force_replaces_nothing_before_there_is_a_token(self, path):
        path.write_text("precious")
        recorder = Recorder.create(path, HEADER, force=True)
        recorder.append(Vitals(t=0.0))
        recorder.append(State(state="finished", i=0, t=0.0))
        assert path.read_text() == "precious"
        assert not recorder.in_place
        recorder.append(make_token(0))
        assert recorder.in_place
        assert [type(event) for event in read_session(path)] == [type(HEADER), Vitals, State, Token]
        recorder.close()
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize("end", [Recorder.close, Recorder.discard])
    def test_force_leaves_the_old_file_alone_if_no_token_came(self, path, end):
        path.write_text("precious")
        recorder = Recorder.create(path, HEADER, force=True)
        recorder.append(State(state="error", i=0, t=0.0))
        end(recorder)
        assert path.read_text() == "precious"
        assert list(path.parent.iterdir()) == [path]

    def test_force_that_cannot_take_the_place_any_more(self, path):
        path.write_text("precious")
        recorder = Recorder.create(path, HEADER, force=True)
        path.unlink()
        path.mkdir()
        recorder.append(make_token(0))
        assert recorder.problem == "Is a directory; nothing is recorded since token 0"
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.parametrize("tokens_before", [0, 3])
    def test_force_replaces_at_a_keyframe_of_a_run_that_has_begun(self, path, tokens_before):
        path.write_text("precious")
        instruments = Instruments(HEADER)
        for token in tokens(tokens_before):
            instruments.feed(token)
        recorder = Recorder.create(path, HEADER, force=True)
        recorder.append(instruments.keyframe())
        assert recorder.in_place == (tokens_before > 0)
        recorder.close()

    def test_discarded(self, path):
        recorder = Recorder.create(path, HEADER)
        recorder.discard()
        recorder.discard()
        assert list(path.parent.iterdir()) == []

    @pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "pipe"])
    def test_force_replaces_files_only(self, path, make):
        make(path)
        with pytest.raises(UserError, match="cannot be written \\(not a regular file\\)"):
            Recorder.create(path, HEADER, force=True)
        assert list(path.parent.iterdir()) == [path]

    def test_folder_that_is_a_file(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(UserError, match="cannot be written \\(Not a directory\\): choose another place"):
            Recorder.create(tmp_path / "file" / "run.moe.jsonl", HEADER)

    def test_first_free_number(self, tmp_path):
        stem = paths.session_stem("pocket", date(2026, 11, 20))
        for number in (1, 2, 4):
            (tmp_path / f"pocket-20261120-{number}.moe.jsonl").touch()
        names = []
        for _ in range(2):
            recorder = Recorder.numbered(tmp_path, stem, HEADER)
            recorder.close()
            names.append(recorder.name)
        assert names == ["pocket-20261120-3.moe.jsonl", "pocket-20261120-5.moe.jsonl"]

    @pytest.mark.parametrize(
        ("model", "name"),
        [
            ("pocket", "pocket"),
            ("Qwen/Qwen3-30B-A3B", "Qwen-Qwen3-30B-A3B"),
            ("../../etc/passwd", "etc-passwd"),
            (".hidden", "hidden"),
            ("a b\n\x1b[31m\u202e😀c", "a-b-31m-c"),
            ("", "model"),
            ("模型", "model"),
            ("x" * 300, "x" * 60),
        ],
    )
    def test_model_names_made_safe(self, model, name):
        assert paths.safe_name(model) == name

    def test_data_directory_of_the_platform(self, monkeypatch, tmp_path):
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        if sys.platform == "linux":
            assert paths.sessions_directory() == tmp_path / "moe-watch" / "sessions"
        assert paths.sessions_directory().parts[-2:] == ("moe-watch", "sessions")


class TestWriteThrough:
    """What reaches the disk, and when, seen from the calls to `fsync`."""

    @pytest.fixture
    def synced(self, monkeypatch):
        sizes = []
        real = os.fsync

        def fsync(descriptor):
            sizes.append(os.fstat(descriptor).st_size)
            real(descriptor)

        monkeypatch.setattr(os, "fsync", fsync)
        return sizes

    @pytest.fixture
    def clock(self):
        return ManualClock()

    @pytest.fixture
    def recorder(self, path, clock):
        return Recorder.create(path, HEADER, clock=clock)

    def test_once_a_second_while_events_come(self, recorder, clock, synced):
        for token in tokens(41):
            recorder.append(token)
            clock.advance(SYNC_SECONDS / 8)
        assert len(synced) == 5

    def test_at_chunk_ends_but_not_faster_than_a_disk_likes(self, recorder, clock, synced):
        chunk = Chunk(index=0, first=0, last=3, tokens=4)
        clock.advance(CHUNK_SYNC_SECONDS)
        recorder.append(chunk)
        assert synced == [recorder.bytes]
        recorder.append(chunk)
        assert len(synced) == 1

    def test_on_macos_beyond_the_memory_of_the_disk(self, recorder, synced, monkeypatch):
        full = []
        monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
        monkeypatch.setattr(fcntl, "fcntl", lambda descriptor, command: full.append((descriptor, command)))
        recorder.append(State(state="finished", i=0, t=0.0))
        assert full == [(recorder._sink.fileno(), 51)]
        assert synced == []

    def test_on_macos_where_the_file_system_has_no_such_thing(self, recorder, synced, monkeypatch):
        def refuse(descriptor, command):
            raise OSError(errno.ENOTSUP, "Operation not supported")

        monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
        monkeypatch.setattr(fcntl, "fcntl", refuse)
        recorder.append(State(state="finished", i=0, t=0.0))
        assert synced == [recorder.bytes]

    def test_when_the_run_changes_state_and_at_the_end(self, recorder, synced):
        recorder.append(State(state="finished", i=0, t=0.0))
        assert synced == [recorder.bytes]
        recorder.close()
        assert synced == [recorder.bytes] * 2


PENDING = """
import sys, time
from pathlib import Path
from moe_watch.sessions.recording.recorder import Recorder
from tests.sessions.kit import HEADER
recorder = Recorder.create(Path(sys.argv[1]), HEADER, force=True)
print("begun", flush=True)
time.sleep(600)
"""


def test_killed_before_the_first_token(path):
    path.write_text("precious")
    process = subprocess.Popen([sys.executable, "-c", PENDING, str(path)], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"begun\n"
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert path.read_text() == "precious"
    assert all(left.name.startswith(".") for left in path.parent.iterdir() if left != path)


ENDLESS = """
import sys
from itertools import count
from pathlib import Path
from moe_watch.sessions.recording.recorder import Recorder
from tests.sessions.kit import HEADER, make_token
recorder = Recorder.create(Path(sys.argv[1]), HEADER)
few = [make_token(i) for i in range(50)]
from msgspec.structs import replace
for i in count():
    recorder.append(replace(few[i % 50], i=i))
"""


def test_killed_while_recording(path):
    process = subprocess.Popen([sys.executable, "-c", ENDLESS, str(path)], cwd=ROOT)
    try:
        wait_until(lambda: path.exists() and path.stat().st_size > 100_000, "a recording of some length")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    data = path.read_bytes()
    session = read_session(path)
    header, *events = session
    assert header == HEADER
    assert [event.i for event in events] == list(range(data.count(b"\n") - 1))
    assert len(events) > 100
    assert bool(session.torn) == (not data.endswith(b"\n"))


LIMITED = """
import json, resource, sys
from pathlib import Path
from moe_watch.sessions.recording.recorder import Recorder
from tests.sessions.kit import HEADER, tokens
path, limit = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    recorder = Recorder.create(path, HEADER)
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
    sys.exit()
for token in tokens(40):
    recorder.append(token)
recorder.close()
print(json.dumps([recorder.problem, recorder.bytes, recorder.writing]))
"""


def record_limited(path, limit):
    """Record 40 tokens where the kernel lets no file grow beyond `limit` bytes."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path), str(limit)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


class TestNoRoom:
    def test_the_file_ends_with_a_whole_line_and_the_problem_names_the_first_token_lost(self, path):
        problem, size, writing = record_limited(path, limit=5000)
        events = list(read_session(path))
        lost = len(events) - 1
        assert 0 < lost < 40
        assert [event.i for event in events if isinstance(event, Token)] == list(range(lost))
        assert problem == f"the file has reached the largest size allowed; nothing is recorded since token {lost}"
        assert size == path.stat().st_size
        assert path.read_bytes().endswith(b"\n")
        assert not writing

    def test_no_file_without_a_header(self, path):
        kind, text = record_limited(path, limit=100)
        assert kind == "UserError"
        assert text.startswith(f"{path}: cannot be written (File too large): ")
        assert not path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")
def test_full_disk(path):
    recorder = Recorder.create(path, HEADER)
    recorder.append(make_token(0))
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, recorder._sink.fileno())  # from here on the kernel answers every write with ENOSPC
    os.close(full)
    recorder.append(make_token(1))
    recorder.append(make_token(2))
    recorder.close()
    assert recorder.problem == "disk full; nothing is recorded since token 1"
    assert list(read_session(path)) == [HEADER, make_token(0)]


def test_file_deleted_underneath(path):
    clock = ManualClock()
    recorder = Recorder.create(path, HEADER, clock=clock)
    recorder.append(make_token(0))
    path.unlink()
    clock.advance(SYNC_SECONDS)
    recorder.append(make_token(1))
    assert recorder.problem == "the file was deleted, with all earlier events; nothing is recorded since token 1"
    assert not recorder.writing
    assert not path.exists()


def test_file_deleted_just_before_the_end(path):
    recorder = Recorder.create(path, HEADER, clock=ManualClock())
    path.unlink()
    recorder.close()
    assert recorder.problem.startswith("the file was deleted")
