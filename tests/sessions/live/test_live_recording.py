from __future__ import annotations

import pytest

from moe_watch.backends.protocol import Load, Start
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Chunk, Header, Marker, State, Token
from moe_watch.sessions.live.source import LiveSource
from moe_watch.sessions.reading.reader import read_session
from tests.run_specs import run_settings
from tests.sessions.kit import (
    ScriptedWorker,
    Stage,
    files,
    path_of,
    replayed,
)


class TestRecording:
    def test_off_from_the_beginning(self, begin, folder):
        _, source, drained = begin(record=False)
        drained.wait_for(Token, 2)
        assert source.recording.mode == "off"
        assert not folder.exists()

    def test_off_and_on_makes_a_second_file_that_goes_on_with_the_same_numbers(self, begin, folder):
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        stage.worker.generate(9)
        source.set_recording(False)
        source.mark("off")
        drained.wait_for(Marker)
        assert source.recording.mode == "off"
        stage.worker.generate(9)
        drained.wait_for(Token, 20)
        source.set_recording(True)
        source.mark("on")
        drained.wait_for(Marker, 2)
        assert source.recording.mode == "recording"
        stage.worker.generate(30)
        stage.worker.finish("length")
        shown = drained.wait_for_end()
        source.close()
        first, second = (folder / name for name in files(folder))
        header, keyframe, *rest = replayed(second)
        assert header == shown[0]
        assert keyframe.i == 20
        assert keyframe.open_chunk is not None
        assert rest == shown[shown.index(drained.of(Marker)[1]) :]
        assert sum(isinstance(event, Chunk) for event in rest) == 8
        assert list(read_session(first)) == shown[: shown.index(drained.of(Marker)[0])]

    def test_on_while_it_is_on_changes_nothing(self, begin, folder):
        _, source, drained = begin()
        drained.wait_for(Header)
        source.set_recording(True)
        source.mark("still")
        drained.wait_for(Marker)
        assert len(files(folder)) == 1

    def test_output_by_name_and_numbers_after_it(self, begin, tmp_path):
        output = tmp_path / "mine.moe.jsonl"
        _, source, drained = begin(output=output)
        drained.wait_for(Header)
        assert path_of(source) == output
        source.prompt("again")
        drained.wait_for(Header, 2)
        assert path_of(source) == tmp_path / "mine-2.moe.jsonl"

    def test_output_that_exists_is_refused_before_anything_is_loaded(self, folder, tmp_path):
        output = tmp_path / "mine.moe.jsonl"
        output.write_text("precious")
        stage = Stage(folder)
        source = LiveSource(run_settings(output=output), stage.around)
        with pytest.raises(UserError, match="exists already"):
            source.start()
        assert stage.workers == []
        assert output.read_text() == "precious"
        source.close()
        assert source.ended

    def test_output_that_exists_is_replaced_by_force(self, begin, tmp_path):
        output = tmp_path / "mine.moe.jsonl"
        output.write_text("precious")
        _, source, drained = begin(output=output, force=True)
        drained.wait_for(Token, 2)
        source.close()
        drained.of(Token)
        assert list(read_session(output)) == drained.recorded

    @pytest.mark.parametrize(
        ("name", "reason"),
        [("x" * 300, "File name too long"), ("a\0b", "null"), ("file/x.moe.jsonl", "Not a directory")],
        ids=["long", "nul", "below a file"],
    )
    @pytest.mark.parametrize("force", [False, True])
    def test_output_that_cannot_exist_is_refused_before_anything_is_loaded(self, folder, tmp_path, name, reason, force):
        (tmp_path / "file").touch()
        stage = Stage(folder)
        source = LiveSource(run_settings(output=tmp_path / name, force=force), stage.around)
        with pytest.raises(UserError, match=f"cannot be written \\(.*{reason}.*choose another place") as refusal:
            source.start()
        assert len(str(refusal.value).splitlines()) == 1
        assert stage.workers == []

    def test_output_that_cannot_be_written_ends_the_run_before_it_begins(self, begin, tmp_path):
        class Obstructing(ScriptedWorker):
            def send(self, command):
                if isinstance(command, Load):
                    (tmp_path / "file").touch()
                super().send(command)

        _, source, drained = begin(Obstructing, output=tmp_path / "file" / "x.moe.jsonl")
        drained.wait_for_end()
        assert "cannot be written (Not a directory)" in str(source.fatal_error)
        assert drained.of(Header) == []
        assert drained.of(State)[0].state == "error"

    def test_without_a_place_of_its_own_a_run_that_must_be_recorded_does_not_begin(self, begin, folder):
        folder.touch()
        stage, source, drained = begin(required=True)
        drained.wait_for_end()
        assert "cannot be written (Not a directory)" in str(source.fatal_error)
        assert drained.of(Header) == []
        assert not any(isinstance(command, Start) for command in stage.worker.commands)

    def test_run_after_the_first_one_goes_on_unrecorded_in_any_case(self, begin, folder):
        _, source, drained = begin(required=True)
        drained.wait_for(Token, 2)
        path_of(source).unlink()
        folder.rmdir()
        folder.touch()
        source.prompt("again")
        drained.wait_for(Token, 4)
        assert source.recording.mode == "failed"
        folder.unlink()

    def test_without_a_place_of_its_own_the_run_goes_on_unrecorded(self, begin, folder):
        folder.touch()
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        assert source.recording.mode == "failed"
        assert "cannot be written" in source.recording.problem
        stage.worker.generate(4)
        drained.wait_for(Chunk)
        folder.unlink()
        source.set_recording(True)
        source.mark("again")
        drained.wait_for(Marker)
        assert source.recording.mode == "recording"
        assert list(read_session(path_of(source))) == drained.recorded

    def test_file_deleted_underneath_is_said_and_the_run_goes_on(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        path_of(source).unlink()
        stage.clock.advance(2.0)
        stage.worker.generate(8)
        drained.wait_for(Token, 10)
        assert source.recording.mode == "failed"
        assert "the file was deleted" in source.recording.problem
        source.set_recording(True)
        source.mark("again")
        drained.wait_for(Marker)
        assert source.recording.mode == "recording"
