"""A file that can take no more, whatever the reason: the run goes on, and so does its recording, in another file."""

from __future__ import annotations

import errno
import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import tracemalloc
from contextlib import closing
from pathlib import Path

import pytest
import zstandard

from moe_watch.routing.events import Chunk, Marker, Token
from moe_watch.sessions.live.source import LiveSource
from moe_watch.sessions.reading.multipart import RunReader
from moe_watch.sessions.reading.reader import read_session
from moe_watch.sessions.recording import pending as gaps
from moe_watch.sessions.recording import sinks
from moe_watch.sessions.recording.pending import LONGEST_WAIT, Gap
from moe_watch.sessions.recording.recorder import FLUSH_SECONDS, SYNC_SECONDS
from moe_watch.sessions.verifying.run_files import verify_runs
from tests.run_specs import run_settings
from tests.sessions.kit import Drained, Stage, files, path_of, replayed, tokens, wait_until

ROOT = Path(__file__).parents[3]
linux = pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux's")


def fill_disk(source):
    """From here on the kernel answers every write to the present file with ENOSPC."""
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, source._run.recording._run.recorder._sink.fileno())
    os.close(full)


def wait_for_failure(source):
    """Wait until it is said that the file takes no more, and that it is tried again."""
    wait_until(lambda: "trying again" in source.recording.problem, "a file that takes no more")
    assert source.recording.mode == "failed"


def joined(first, ending=".moe.jsonl"):
    """The events of a file and its continuations, as docs/session-format.md puts them together."""
    header, *events = read_session(first)
    stem = first.name.removesuffix(ending)
    for number in range(2, 20):
        part = first.with_name(f"{stem}.{number}{ending}")
        if not part.exists():
            break
        its_header, keyframe, *rest = read_session(part)
        assert (its_header.continues.file, its_header.created) == (first.name, header.created)
        assert keyframe.i == its_header.continues.i == sum(isinstance(each, Token) for each in events)
        events += rest
    return [header, *events]


class TestResumesByItself:
    @linux
    def test_full_disk_loses_nothing(self, begin, folder):
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        stage.worker.generate(8)
        drained.wait_for(Token, 10)
        first = path_of(source)
        fill_disk(source)
        stage.worker.generate(7)
        drained.wait_for(Token, 17)
        wait_for_failure(source)
        status = source.recording
        assert (status.mode, status.name) == ("failed", first.name)
        assert status.problem == "disk full; nothing is recorded since token 10, trying again"
        stage.clock.advance(gaps.FIRST_WAIT)
        wait_until(lambda: source.recording.mode == "recording", "another file")
        assert source.recording.problem == ""
        assert source.recording.name == first.name.replace("-1.moe", "-1.2.moe")
        stage.worker.generate(9)
        stage.worker.finish("length")
        shown = drained.wait_for_end()
        source.close()
        assert joined(first) == shown
        assert sum(isinstance(event, Chunk) for event in shown) == 6

    @linux
    def test_twice(self, begin, folder):
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        first = path_of(source)
        for number in (2, 3):
            fill_disk(source)
            stage.worker.generate(5)
            wait_for_failure(source)
            stage.clock.advance(gaps.FIRST_WAIT)
            wait_until(lambda: source.recording.mode == "recording", "another file")
            assert source.recording.name == first.name.replace("-1.moe", f"-1.{number}.moe")
        source.close()
        drained.wait_for_end()
        assert joined(first) == drained.recorded

    @linux
    def test_asked_for_by_hand_it_does_not_wait(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        first = path_of(source)
        fill_disk(source)
        stage.worker.generate(5)
        wait_for_failure(source)
        source.set_recording(True)
        wait_until(lambda: source.recording.mode == "recording", "another file")
        source.close()
        drained.wait_for_end()
        assert joined(first) == drained.recorded

    @linux
    def test_the_end_of_the_run_is_the_last_try(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        first = path_of(source)
        fill_disk(source)
        stage.worker.generate(5)
        drained.wait_for(Token, 7)
        source.close()
        drained.wait_for_end()
        assert (source.recording.mode, source.recording.problem) == ("off", "")
        assert joined(first) == drained.recorded

    def test_a_continuation_can_be_read_alone(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        stage.worker.generate(9)
        drained.wait_for(Token, 11)
        path_of(source).unlink()
        stage.clock.advance(SYNC_SECONDS)
        stage.worker.generate(1)
        wait_for_failure(source)
        assert source.recording.problem.startswith("the file was deleted, with all earlier events; nothing is recorded")
        stage.clock.advance(gaps.FIRST_WAIT)
        wait_until(lambda: source.recording.mode == "recording", "another file")
        stage.worker.generate(12)
        stage.worker.finish("length")
        shown = drained.wait_for_end()
        source.close()
        header, keyframe, *rest = replayed(path_of(source))
        assert header.continues.i == keyframe.i == 11
        assert rest == shown[len(shown) - len(rest) :]
        assert sum(isinstance(event, Chunk) for event in rest) == 4

    def test_parts_are_numbered_on_in_a_folder_that_is_not_the_same_any_more(self, begin, folder):
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        for number in (2, 3):
            shutil.rmtree(folder)
            stage.clock.advance(SYNC_SECONDS)
            stage.worker.generate(1)
            wait_for_failure(source)
            stage.clock.advance(gaps.FIRST_WAIT)
            wait_until(lambda: source.recording.mode == "recording", "another file")
            assert source.recording.name.endswith(f"-1.{number}.moe.jsonl")
            assert files(folder) == [source.recording.name]

    @pytest.mark.parametrize("way", ["moved", "replaced"])
    def test_moved_or_replaced(self, begin, folder, tmp_path, way):
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        first, moved = path_of(source), tmp_path / "moved.moe.jsonl"
        first.rename(moved)
        if way == "replaced":
            first.write_text("somebody else's")
        stage.clock.advance(SYNC_SECONDS)
        stage.worker.generate(3)
        wait_for_failure(source)
        reason = "the file was moved away" if way == "moved" else "another file took its place"
        assert source.recording.problem.startswith(reason)
        source.close()
        drained.wait_for_end()
        _, *before = read_session(moved)
        _, keyframe, *after = read_session(path_of(source))
        assert [drained.recorded[0], *before, *after] == drained.recorded
        assert keyframe.i == 2
        if way == "replaced":
            assert first.read_text() == "somebody else's"

    def test_file_that_could_not_be_begun_is_begun_later_and_whole(self, begin, folder):
        folder.touch()
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        assert source.recording.mode == "failed"
        stage.worker.generate(9)
        drained.wait_for(Token, 11)
        folder.unlink()
        stage.clock.advance(gaps.FIRST_WAIT)
        wait_until(lambda: source.recording.mode == "recording", "a file")
        source.close()
        drained.wait_for_end()
        assert read_session(path_of(source)).header.continues is None
        assert list(read_session(path_of(source))) == drained.recorded

    @linux
    def test_what_cannot_be_kept_is_counted_in_the_file_and_on_the_screen(self, begin, monkeypatch):
        monkeypatch.setattr(gaps, "KEPT_BYTES", 3000)
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        first = path_of(source)
        fill_disk(source)
        stage.worker.generate(30)
        drained.wait_for(Token, 32)
        source.close()
        drained.wait_for_end()
        header, keyframe, dropped, *rest = read_session(path_of(source))
        assert (dropped.state, dropped.i) == ("dropped", keyframe.i)
        assert header.continues.i == keyframe.i > 2
        assert rest == drained.recorded[-len(rest) :]
        assert dropped.count == len(drained.recorded) - len(list(read_session(first))) - len(rest) > 0
        expected = f"{dropped.count} events before token {keyframe.i} are in no file"
        assert source.recording.problem == expected

    def test_no_room_for_the_rest_of_the_run(self, begin, folder):
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        shutil.rmtree(folder)
        folder.touch()
        stage.clock.advance(SYNC_SECONDS)
        stage.worker.generate(1)
        wait_for_failure(source)
        for wait in (2, 4, 8, 16, 30, 30):
            stage.clock.advance(wait)
            source.mark("still running")
        drained.wait_for(Marker, 6)
        source.close()
        assert source.recording.mode == "failed"
        assert source.recording.problem.endswith("nothing is recorded since token 2")
        folder.unlink()


class TestGap:
    def test_waits_twice_as_long_each_time(self):
        gap, now, waits = Gap("why", None, lost=0, now=0.0), 0.0, []
        for _ in range(6):
            wait = next(wait for wait in range(1, 100) if gap.is_due(now + wait))
            waits.append(wait)
            now += wait
            gap.put_off(now)
        assert waits == [2, 4, 8, 16, 30, LONGEST_WAIT]

    def test_gives_back_what_it_was_given(self):
        gap = Gap("why", None, lost=0, now=0.0)
        assert not gap.worth_a_file
        given = list(tokens(5))
        for token in given:
            gap.keep(token, pytest.fail)
        gap.keep(Marker(i=5, t=0.0, note="x"), pytest.fail)
        gap.take_back()
        assert gap.worth_a_file
        assert list(gap.events()) == given


def run_limited(folder, limits, ending=".moe.jsonl"):
    """Runs whose first file may not grow beyond so many bytes; writes whether each one's files hold all of it."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    results = []
    for limit in limits:
        stage = Stage(folder / str(limit))
        output = folder / f"{limit}{ending}"
        source = LiveSource(run_settings(prompt="def", chunk_size=4, output=output), stage.around)
        drained = Drained(source)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        source.start()
        drained.wait_for(Token, 2)
        first = path_of(source)
        for number in range(8):  # what a compressor holds leaves it in several blocks
            stage.worker.generate(5)
            drained.wait_for(Token, 7 + 5 * number)
            stage.clock.advance(FLUSH_SECONDS)
            source.mark("a quarter of a second later")
            drained.wait_for(Marker, number + 1)
        wait_for_failure(source)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        stage.clock.advance(gaps.FIRST_WAIT)
        stage.worker.generate(6)
        source.close()
        drained.wait_for_end()
        whole = joined(first, ending) == drained.recorded
        results.append([whole, source.recording.problem, first.stat().st_size <= limit])
    sys.stdout.write(json.dumps(results))


@pytest.mark.parametrize(
    ("ending", "limits"),
    [(".moe.jsonl", list(range(1331, 9300, 331))), (".moe.jsonl.zst", list(range(900, 2400, 61)))],
    ids=["plain", "compressed"],
)
def test_wherever_the_disk_is_full_nothing_is_lost(tmp_path, ending, limits):
    this = "tests.sessions.recording.test_durability"
    code = f"from {this} import *; run_limited(Path({str(tmp_path)!r}), {limits}, {ending!r})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[True, "", True]] * len(limits)


class TestCompressed:
    def test_whole_and_smaller(self, begin, tmp_path):
        output = tmp_path / "small.moe.jsonl.zst"
        stage, source, drained = begin(output=output)
        drained.wait_for(Token, 2)
        stage.worker.generate(200)
        source.close()
        drained.wait_for_end()
        plain = zstandard.ZstdDecompressor().stream_reader(output.read_bytes()).read()
        unpacked = tmp_path / "unpacked.moe.jsonl"
        unpacked.write_bytes(plain)
        assert list(read_session(unpacked)) == drained.recorded
        assert source.recording.bytes == output.stat().st_size < len(plain) / 2
        assert output.stat().st_mode & 0o777 == 0o600

    def test_lines_leave_the_process_a_quarter_of_a_second_later(self, begin, tmp_path):
        output = tmp_path / "small.moe.jsonl.zst"
        stage, _, drained = begin(output=output)
        drained.wait_for(Token, 2)
        stage.clock.advance(0.25)
        wait_until(lambda: len(unpacked_lines(output)) == len(drained.recorded), "all lines in the file")

    @linux
    def test_full_disk_loses_nothing(self, begin, tmp_path):
        output = tmp_path / "small.moe.jsonl.zst"
        stage, source, drained = begin(output=output)
        drained.wait_for(Token, 2)
        stage.clock.advance(0.25)
        wait_until(lambda: len(unpacked_lines(output)) == len(drained.recorded), "all lines in the file")
        before = len(drained.recorded)
        fill_disk(source)
        stage.worker.generate(3)
        drained.wait_for(Token, 5)
        stage.clock.advance(0.25)
        wait_for_failure(source)
        assert source.recording.problem == "disk full; nothing is recorded since token 2, trying again"
        stage.clock.advance(gaps.FIRST_WAIT)
        wait_until(lambda: source.recording.mode == "recording", "another file")
        stage.worker.generate(9)
        stage.worker.finish("length")
        shown = drained.wait_for_end()
        source.close()
        assert source.recording.problem == ""
        assert joined(output, ".moe.jsonl.zst") == shown
        assert len(unpacked_lines(output)) == before
        with closing(RunReader(output)) as whole:
            assert list(whole) == shown
        assert all(report.fine for report in verify_runs([output]))

    @linux
    def test_full_disk_at_the_end_of_the_run_loses_nothing(self, begin, tmp_path):
        """Nothing was written since the last block: only closing the file finds out."""
        output = tmp_path / "small.moe.jsonl.zst"
        stage, source, drained = begin(output=output)
        drained.wait_for(Token, 2)
        stage.clock.advance(0.25)
        wait_until(lambda: len(unpacked_lines(output)) == len(drained.recorded), "all lines in the file")
        fill_disk(source)
        stage.worker.generate(3)
        drained.wait_for(Token, 5)
        source.close()
        drained.wait_for_end()
        assert source.recording.problem == ""
        assert joined(output, ".moe.jsonl.zst") == drained.recorded

    def test_a_disk_that_does_not_take_what_it_was_given_loses_nothing_and_keeps_nothing_twice(
        self, begin, tmp_path, monkeypatch
    ):
        """Where space is found only when a file is written through (delayed allocation), a block is taken back."""
        output = tmp_path / "small.moe.jsonl.zst"
        stage, source, drained = begin(output=output)
        drained.wait_for(Token, 2)
        refused = []

        def refuse(descriptor):
            refused.append(descriptor)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(sinks, "write_through", refuse)
        stage.clock.advance(SYNC_SECONDS)
        stage.worker.generate(5)
        wait_for_failure(source)
        monkeypatch.undo()
        stage.clock.advance(gaps.FIRST_WAIT)
        wait_until(lambda: source.recording.mode == "recording", "another file")
        source.close()
        drained.wait_for_end()
        assert refused
        assert joined(output, ".moe.jsonl.zst") == drained.recorded


def unpacked_lines(path):
    """The whole lines in a compressed file that may not have ended yet."""
    return zstandard.ZstdDecompressor().decompressobj().decompress(path.read_bytes()).splitlines()


class TestStream:
    def test_goes_to_whoever_reads(self, folder):
        reading, writing = os.pipe()
        stage = Stage(folder, stream=writing)
        source = LiveSource(run_settings(prompt="def", chunk_size=4), stage.around)
        source.start()
        drained = Drained(source)
        drained.wait_for(Token, 2)
        source.close()
        drained.wait_for_end()
        with os.fdopen(reading, "rb") as file:
            assert file.read().count(b"\n") == len(drained.recorded)
        assert not folder.exists()
        assert (source.recording.name, source.recording.path) == ("standard output", "")

    def test_reader_gone_ends_the_run(self, folder):
        reading, writing = os.pipe()
        stage = Stage(folder, stream=writing)
        source = LiveSource(run_settings(prompt="def", chunk_size=4), stage.around)
        source.start()
        drained = Drained(source)
        drained.wait_for(Token, 2)
        os.close(reading)
        stage.worker.generate(1)
        wait_until(lambda: source.ended or source.drain() is None, "the end")
        source.close()
        assert source.recording.problem == "the reader of the output has closed it; nothing is recorded since token 2"


def test_out_of_memory_in_the_run_is_said_and_recorded(begin, monkeypatch):
    stage, source, drained = begin()
    drained.wait_for(Token, 2)

    def no_memory(event):
        raise MemoryError

    monkeypatch.setattr(source._run.stage.run.instruments, "feed", no_memory)
    stage.worker.generate(1)
    drained.wait_for_end()
    source.close()
    *tokens_before, state = read_session(path_of(source))
    assert state.message.startswith("moe-watch itself failed: MemoryError")
    assert sum(isinstance(each, Token) for each in tokens_before) == 2


def test_memory_does_not_grow_with_the_run(begin):
    """What is recorded and shown is let go of: tokens only pass through."""
    stage, _, drained = begin()
    drained.wait_for(Token, 2)

    def generate(number):
        for _ in range(number // 50):
            stage.worker.generate(50)
            drained.wait_for(Token, 50)
            drained.items.clear()
        gc.collect()

    generate(1000)
    tracemalloc.start()
    try:
        generate(500)
        before = tracemalloc.get_traced_memory()[0]
        generate(2000)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 100_000  # the 2,000 tokens alone take some 4 MB
