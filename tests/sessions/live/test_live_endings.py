from __future__ import annotations

import msgspec
import pytest

from moe_watch.backends.protocol import Failed, Perturb, Start, Stop
from moe_watch.routing.events import Chunk, Header, Marker, Refused, State, Token
from moe_watch.sessions.live.run import STOP_SECONDS
from moe_watch.sessions.live.source import LiveSource
from moe_watch.sessions.reading.reader import read_session
from tests.run_specs import run_settings
from tests.sessions.kit import (
    Hesitating,
    Picky,
    ScriptedWorker,
    Stage,
    files,
    make_token,
    path_of,
    replayed,
)


class TestFailure:
    def test_worker_dies(self, begin, folder):
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        stage.worker.generate(6)
        stage.worker.die("the model's process was killed by the system (SIGKILL): out of memory?")
        shown = drained.wait_for_end()
        state = shown[-2]
        assert (state.state, state.i) == ("error", 8)
        assert "SIGKILL" in state.message
        assert isinstance(shown[-1], Chunk)
        assert shown[-1].partial
        assert source.fatal_error is None
        assert source.worker_log == ["last words"]
        assert source.abilities == {"restart"}
        assert source.recording.mode == "off"
        assert replayed(path_of(source)) == shown

    def test_restart_after_death(self, begin, folder):
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        stage.worker.die("gone")
        drained.wait_for_end()
        source.restart()
        drained.wait_for(Header, 2)
        drained.wait_for(Token, 4)
        assert stage.workers[0].closed
        assert len(stage.workers) == 2
        assert len(files(folder)) == 2
        assert source.recording.mode == "recording"
        assert "pause" in source.abilities

    def test_restart_does_nothing_to_a_healthy_run(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Header)
        source.restart()
        source.mark("still here")
        drained.wait_for(Marker)
        assert len(stage.workers) == 1

    def test_model_cannot_be_loaded(self, begin, folder):
        class Unloadable(ScriptedWorker):
            ready = Failed(message="no such model: give a folder")

        _, source, drained = begin(Unloadable)
        drained.wait_for_end()
        (state,) = drained.of(State)
        assert (state.state, state.i, state.t) == ("error", 0, 0.0)
        assert str(source.fatal_error) == "no such model: give a folder"
        assert source.abilities == {"restart"}
        assert not folder.exists()

    def test_restart_takes_the_prompt_that_was_given_last(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        source.prompt("class")
        drained.wait_for(Token, 4)
        stage.worker.die("gone")
        drained.wait_for_end()
        source.restart()
        assert [header.prompt for header in drained.wait_for(Header, 3)] == ["def", "class", "class"]

    def test_restart_takes_a_prompt_that_the_worker_died_before(self, begin):
        class Dying(ScriptedWorker):
            def send(self, command):
                if isinstance(command, Start) and self._running:
                    self.die("gone")
                else:
                    super().send(command)

        _, source, drained = begin(Dying)
        drained.wait_for(Token, 2)
        source.prompt("class")
        drained.wait_for_state("error")
        source.restart()
        assert [header.prompt for header in drained.wait_for(Header, 2)] == ["def", "class"]

    def test_prompt_that_the_model_cannot_take_leaves_no_file(self, begin, tmp_path):
        output = tmp_path / "mine.moe.jsonl"
        _, source, drained = begin(Picky, prompt="too long", output=output)
        drained.wait_for_end()
        assert str(source.fatal_error) == "the prompt has 2,000 tokens"
        assert not output.exists()
        assert "prompt" in source.abilities
        source.prompt("def")
        drained.wait_for(Token, 2)
        assert source.fatal_error is None
        assert path_of(source) == output

    @pytest.mark.parametrize("worker", [Picky, Hesitating], ids=["refused", "ended before the first token"])
    def test_run_that_never_begins_replaces_nothing(self, begin, tmp_path, worker):
        output = tmp_path / "mine.moe.jsonl"
        output.write_text("precious")
        _, source, drained = begin(worker, prompt="too long", output=output, force=True)
        drained.wait_for(Header)
        source.close()
        drained.wait_for_end()
        assert output.read_text() == "precious"
        assert [path.name for path in tmp_path.iterdir()] == [output.name]
        assert (source.recording.mode, source.recording.path) == ("off", "")

    def test_own_file_is_not_replaced_by_a_later_run(self, begin, tmp_path):
        output = tmp_path / "mine.moe.jsonl"
        output.write_text("old")
        _, source, drained = begin(Picky, output=output, force=True)
        drained.wait_for(Token, 2)
        for prompt in ("too long", "abc"):
            source.prompt(prompt)
        drained.wait_for(Token, 4)
        source.close()
        assert path_of(source) == tmp_path / "mine-2.moe.jsonl"
        assert [read_session(path).header.prompt for path in (output, path_of(source))] == ["def", "abc"]

    def test_run_that_never_begins_takes_no_other_runs_file_with_it(self, begin, folder):
        stage, source, drained = begin(Picky)
        drained.wait_for(Token, 2)
        source.set_recording(False)
        stage.worker.finish("eos")
        drained.wait_for_end()
        source.prompt("too long")
        drained.wait_for_state("error")
        drained.wait_for_end()
        assert (source.recording.mode, files(folder)) == ("off", [source.recording.name])
        assert len(list(read_session(path_of(source)))) > 2

    def test_a_prompt_that_the_model_cannot_take_leaves_the_run_alone(self, begin, folder):
        stage, source, drained = begin(Picky)
        drained.wait_for(Token, 2)
        source.prompt("too long")
        (refused,) = drained.wait_for(Refused)
        assert (refused.command, refused.why) == ("start", "the prompt has 2,000 tokens")
        stage.worker.generate(3)
        drained.wait_for(Token, 5)
        assert len(drained.of(Header)) == 1
        source.prompt("abc")
        drained.wait_for(Token, 7)
        assert [header.prompt for header in drained.of(Header)] == ["def", "abc"]
        assert len(files(folder)) == 2

    def test_after_the_end_a_prompt_that_the_model_cannot_take_leaves_no_run(self, begin, folder):
        stage, source, drained = begin(Picky)
        drained.wait_for(Token, 2)
        first = path_of(source)
        stage.worker.finish("eos")
        drained.wait_for_end()
        source.prompt("too long")
        assert drained.wait_for_state("error").message == "the prompt has 2,000 tokens"
        drained.wait_for_end()
        assert source.abilities == {"prompt", "rate"}
        assert source.fatal_error is None
        assert files(folder) == [first.name]
        assert (source.recording.mode, path_of(source)) == ("off", first)
        source.perturb("nowhere")
        source.mark("nowhere")
        source.set_recording(True)
        source.prompt("abc")
        drained.wait_for(Token, 4)
        assert drained.of(Marker) == []
        assert not any(isinstance(command, Perturb) for command in stage.worker.commands)
        assert len(files(folder)) == 2
        assert {"perturb", "mark", "record", "pause"} <= source.abilities

    def test_fault_of_ours_ends_the_run_visibly(self, begin):
        stage, _, drained = begin()
        drained.wait_for(Token, 2)
        stage.worker.say(msgspec.structs.replace(make_token(2), experts=[1]))
        drained.wait_for_end()
        assert drained.of(State)[-1].message.startswith("moe-watch itself failed: ValueError: cannot reshape")


class TestClose:
    def test_waits_for_the_end_of_the_run_and_records_it(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        stage.worker.generate(3)
        source.close()
        events = list(read_session(path_of(source)))
        state = next(event for event in events if isinstance(event, State))
        assert (state.state, state.why, state.i) == ("finished", "user", 5)
        assert stage.worker.closed
        drained.of(State)
        assert events == drained.recorded
        assert source.ended
        assert source.recording.mode == "off"
        assert source.recording.path

    def test_twice(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Header)
        source.close()
        source.close()
        assert stage.worker.commands.count(Stop()) == 1

    def test_without_start(self, folder):
        source = LiveSource(run_settings(), Stage(folder).around)
        source.close()
        assert source.ended
        assert source.drain() == []

    def test_worker_that_does_not_answer_is_not_waited_for_for_ever(self, begin):
        class Deaf(ScriptedWorker):
            confirms_stop = False

            def send(self, command):
                super().send(command)
                if isinstance(command, Stop):
                    stage.clock.advance(STOP_SECONDS)

        stage, source, drained = begin(Deaf)
        drained.wait_for(Token, 2)
        source.close()
        assert stage.worker.closed
        *_, state = [event for event in read_session(path_of(source)) if isinstance(event, State)]
        assert (state.state, state.why, state.i) == ("finished", "user", 2)

    def test_worker_that_dies_while_being_stopped(self, begin):
        class Dying(ScriptedWorker):
            confirms_stop = False

            def send(self, command):
                super().send(command)
                if isinstance(command, Stop):
                    self.die("crashed (SIGSEGV)")

        stage, source, drained = begin(Dying)
        drained.wait_for(Token, 2)
        source.close()
        *_, state = [event for event in read_session(path_of(source)) if isinstance(event, State)]
        assert (state.state, state.message) == ("error", "crashed (SIGSEGV)")
        assert stage.worker.closed

    def test_after_a_finished_run_nothing_is_added(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Header)
        stage.worker.finish("length")
        shown = drained.wait_for_end()
        source.close()
        assert Stop() not in stage.worker.commands
        assert list(read_session(path_of(source))) == shown
