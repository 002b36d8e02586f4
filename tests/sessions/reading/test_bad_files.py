"""Files that are not what they should be: read, or refused in one line, by everything that reads sessions."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from moe_watch.commands.app import run
from moe_watch.routing.errors import UserError
from moe_watch.sessions.reading import index
from moe_watch.sessions.reading.reader import read_session
from moe_watch.sessions.reading.store import FileStore
from moe_watch.sessions.replaying.source import ReplaySource
from moe_watch.sessions.verifying.file import verify
from moe_watch.sessions.verifying.salvage import salvage
from tests.sessions.damage import FIXTURES, LARGE, SMALL
from tests.sessions.kit import ManualClock, replayed, wait_until

MEMORY = 1 << 30
"""Bytes that the program may ask the system for while it reads a file, libraries included."""
ROOT = Path(__file__).parents[3]


def refusal(read, *arguments):
    """Read a file; return the one line that refuses it, empty if none does."""
    said = ""
    try:
        read(*arguments)
    except UserError as error:
        said = str(error)
    assert "\n" not in said
    assert len(said) < 600 + len(str(arguments[:1]))
    return said


def read_all(path):
    with contextlib.closing(read_session(path)) as reader:
        for _ in reader:
            pass


def play(path):
    """Replay to the end, as a screen would."""
    source = ReplaySource(path, ManualClock(), speed=0)
    try:
        source.start()
        while not source.ended:
            source.drain()
    finally:
        source.close()
    if source.fatal_error is not None:
        raise source.fatal_error


@pytest.fixture(params=SMALL)
def name(request):
    return request.param


def test_the_fixtures_are_what_is_said_of_them(name):
    make, _ = SMALL[name]
    assert (FIXTURES / name).read_bytes() == make()
    assert {path.name for path in FIXTURES.iterdir()} == SMALL.keys()


@pytest.mark.parametrize("read", [read_all, play], ids=["reader", "replay"])
def test_is_read_or_refused(name, read):
    said = refusal(read, FIXTURES / name)
    expected = SMALL[name][1]
    assert expected in said
    assert bool(said) == bool(expected)


def test_is_judged(name, tmp_path):
    """A file with a header is judged line by line; what has none is refused as by any reader."""
    said, expected = refusal(verify, FIXTURES / name), SMALL[name][1]
    if said:
        assert expected in said
        assert "the file is damaged" not in said
        return
    found = verify(FIXTURES / name)
    assert found.fine is False
    checks = {each.check: each for each in found.findings}
    assert ("unreadable lines" in checks) == bool(expected)
    if expected:
        assert expected.partition(": ")[2] in checks["unreadable lines"].text or "Infinity" in expected


def test_is_salvaged(name, tmp_path):
    """The copy of what has a header can be read by anyone."""
    copy = tmp_path / "copy.moe.jsonl"
    if refusal(salvage, FIXTURES / name, copy):
        assert not copy.exists()
        return
    assert refusal(read_all, copy) == ""
    assert refusal(play, copy) == ""
    assert not {"unreadable lines", "torn end", "repeated tokens"} & {each.check for each in verify(copy).findings}


def test_commands_say_it_in_one_line(name, capsys):
    status = run(["replay", "--headless", str(FIXTURES / name)])
    captured = capsys.readouterr()
    assert status == (2 if SMALL[name][1] else 0)
    assert captured.err.count("\n") <= 1
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("command", [["replay", "--headless"], ["verify"]], ids=["replay", "verify"])
def test_large_ones_take_bounded_memory(name, command, tmp_path):
    make, expected = LARGE[name]
    path = tmp_path / "large.moe.jsonl"
    make(path)
    done = subprocess.run(
        [sys.executable, "-m", "moe_watch", *command, str(path)],
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path), "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY)),
        check=False,
    )
    said = done.stdout + done.stderr
    assert done.returncode in (1, 2), said
    assert expected.rpartition(": ")[2] in said
    assert "Traceback" not in said
    assert "MemoryError" not in said


class TestMemoryOfAnIndex:
    """An index holds what a screen draws at once, however much of it a file has."""

    @pytest.fixture
    def path(self, tmp_path, golden_path):
        path = tmp_path / "many.moe.jsonl"
        header = golden_path.read_bytes().splitlines(keepends=True)[0]
        path.write_bytes(header + b'{"event":"marker","i":0,"t":0.0,"note":"here"}\n' * 500)
        return path

    def index_of(self, path):
        found = index.LineIndex(FileStore(path))
        found.extend()
        return found

    def test_so_many_marks_are_kept(self, path, monkeypatch):
        monkeypatch.setattr(index, "MOST_LANDMARKS", 100)
        found = self.index_of(path)
        assert (len(found.marks), found.lines) == (100, 501)

    def test_of_so_many_bytes(self, path, monkeypatch):
        monkeypatch.setattr(index, "MOST_LANDMARK_BYTES", 47 * 50)
        assert 49 <= len(self.index_of(path).marks) <= 51

    def test_the_end_of_nothing_but_empty_lines_is_found_one_line_at_a_time(self, path):
        with path.open("ab") as file:
            file.write(b"\n" * (1 << 22))
        tracemalloc.start()
        try:
            assert index.read_tail(FileStore(path)).last is None
            assert tracemalloc.get_traced_memory()[1] < 5 * (1 << 22)
        finally:
            tracemalloc.stop()

    def test_lines_too_short_to_hold_anything_are_not_looked_at_for_ever(self, path, monkeypatch):
        monkeypatch.setattr(index, "MANY_LINES", 1000)
        monkeypatch.setattr(index, "BLOCK", 1 << 14)
        with path.open("ab") as file:
            file.write(b"{}\n" * 1_000_000)
        assert self.index_of(path).lines < 50_000


class TestWhatIsNoFile:
    def test_a_folder(self, tmp_path):
        for read in (read_all, play, verify):
            assert "a folder, not a session file" in refusal(read, tmp_path)

    def test_a_fifo_without_a_writer_does_not_wait_for_one(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        for read in (read_all, play, verify):
            assert "not a regular file" in refusal(read, tmp_path / "pipe")

    @pytest.mark.parametrize("device", ["/dev/zero", "/dev/null"])
    def test_a_device(self, device):
        for read in (read_all, play, verify):
            assert "not a regular file" in refusal(read, Path(device))

    def test_a_link_that_leads_to_itself(self, tmp_path):
        (tmp_path / "loop").symlink_to("loop")
        for read in (read_all, play, verify):
            assert "symbolic links" in refusal(read, tmp_path / "loop")

    def test_a_link_that_leads_nowhere(self, tmp_path):
        (tmp_path / "link").symlink_to("nowhere")
        assert "no such file" in refusal(verify, tmp_path / "link")

    @pytest.mark.parametrize("name", ["a\0b", "x" * 5000, "\ud800"], ids=["NUL", "long", "surrogate"])
    def test_a_name_that_no_file_can_have(self, name):
        for read in (read_all, play, verify):
            assert refusal(read, Path(name))

    def test_a_file_that_may_not_be_read(self, tmp_path, golden_path):
        path = tmp_path / "private.moe.jsonl"
        path.write_bytes(golden_path.read_bytes())
        path.chmod(0)
        with unprivileged():
            for read in (read_all, play, verify):
                assert "Permission denied" in refusal(read, path)


@contextlib.contextmanager
def unprivileged():
    """Run as a user without root's permissions."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


class TestWhatChangesWhileItIsRead:
    def test_a_growing_file_is_read_as_it_was_when_it_was_opened(self, tmp_path, golden_path):
        lines = golden_path.read_bytes().splitlines(keepends=True)
        path = tmp_path / "growing.moe.jsonl"
        path.write_bytes(b"".join(lines[:8]))
        events = iter(read_session(path))
        first = [next(events) for _ in range(3)]
        with path.open("ab") as file:
            file.write(b"".join(lines[8:]))
        assert len(first) + len(list(events)) == 8

    def test_a_growing_file_is_followed(self, tmp_path, golden_path):
        lines = golden_path.read_bytes().splitlines(keepends=True)
        path = tmp_path / "growing.moe.jsonl"
        path.write_bytes(b"".join(lines[:8]))
        source = ReplaySource(path, ManualClock(), speed=0, follow=True)
        source.start()
        items = []

        def grow():
            with path.open("ab") as file:
                for line in lines[8:]:
                    file.write(line[:10])
                    file.flush()
                    file.write(line[10:])
                    file.flush()

        writer = threading.Thread(target=grow)
        writer.start()
        wait_until(lambda: items.extend(source.drain()) or source.ended, "the end of the run")
        writer.join()
        source.close()
        assert source.fatal_error is None
        assert items == replayed(golden_path)

    def test_a_file_that_is_cut_off_is_refused(self, tmp_path, golden_path):
        path = tmp_path / "shrinking.moe.jsonl"
        path.write_bytes(golden_path.read_bytes() * 1)
        with path.open("ab") as file:
            file.write(b'{"event":"marker","i":9,"t":1.0,"note":"' + b"x" * (1 << 20) + b'"}\n')
        reader = read_session(path)
        next(iter(reader))
        os.truncate(path, 100)
        assert "truncated while it was read" in refusal(lambda: list(reader))


@pytest.mark.parametrize("command", [["verify"], ["replay", "--headless"], ["fit"]])
def test_a_compressed_file_cut_in_its_first_block_is_truncated_and_not_empty(command, golden_path, tmp_path, capsys):
    packed = zstandard.compress(golden_path.read_bytes())
    path = tmp_path / "cut.moe.jsonl.zst"
    path.write_bytes(packed[: len(packed) // 2])
    assert run([*command, str(path)]) != 0
    said = "".join(capsys.readouterr())
    assert "cut.moe.jsonl.zst: truncated inside its first compressed block: nothing can be read" in said
    assert "empty" not in said


def test_the_readable_part_of_a_compressed_file_is_read(golden_path, tmp_path):
    packer = zstandard.ZstdCompressor().compressobj()
    blocks = [
        packer.compress(line) + packer.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
        for line in golden_path.read_bytes().splitlines(keepends=True)
    ]
    path = tmp_path / "cut.moe.jsonl.zst"
    path.write_bytes(b"".join(blocks[:5]) + blocks[5][:-3])
    with contextlib.closing(read_session(path)) as reader:
        assert len(list(reader)) == 5, "the header and the events of the whole blocks"
