from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from backends.protocol import Failed, Load, Pause, Perturb, Ready, Resume, SetRate, Start, Stop
from routing.errors import UserError
from routing.events import Chunk, Header, Keyframe, Marker, Perturbation, Progress, Sampling, State, Token, Vitals
from sessions.live import LiveSource
from sessions.live_run import STOP_SECONDS, VITALS_SECONDS
from sessions.reader import read_session
from sessions.replay import ReplaySource
from sessions.run_settings import RunSettings
from tests.sessions.kit import BACKEND, CAPTURE, MODEL, Drained, ManualClock, ScriptedWorker, Stage, make_token


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def begin(folder):
    """Starts a live run on a scripted worker, and closes it in the end."""
    sources = []

    def begin_run(worker=ScriptedWorker, **settings):
        stage = Stage(folder, worker)
        source = LiveSource(RunSettings(**({"prompt": "def", "chunk_size": 4} | settings)), stage.around)
        sources.append(source)
        source.start()
        return stage, source, Drained(source)

    yield begin_run
    for source in sources:
        source.close()


def replayed(path):
    source = ReplaySource(path, ManualClock(), speed=0)
    source.start()
    items = []
    while not source.ended:
        items += source.drain()
    assert source.warnings == []
    assert source.fatal_error is None
    return items


def path_of(source):
    return Path(source.recording.path)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


class TestARun:
    def test_begins_with_a_header_that_says_what_runs(self, begin):
        stage, _, drained = begin(temperature=0.5, top_k=40, stop="never")
        (header,) = drained.wait_for(Header)
        assert (header.created, header.prompt, header.template) == ("2026-11-20T09:00:00Z", "def", "chat")
        assert header.sampling == Sampling(temperature=0.5, top_k=40, seed=7, stop="never")
        assert (header.model, header.backend, header.capture) == (MODEL, BACKEND, CAPTURE)
        assert header.host.memory > 0
        assert header.moe_watch
        assert stage.worker.commands[1] == Start(prompt="def", sampling=header.sampling, chunk_size=4)

    def test_tells_the_worker_what_was_asked_for(self, begin):
        stage, _, drained = begin(
            model="x", backend="mlx", threads=3, raw=True, tokens=9, rate=5.0, seed=1, perturb="go", perturb_every=2
        )
        (header,) = drained.wait_for(Header)
        load, start = stage.worker.commands
        assert load == Load(model="x", backend="mlx", threads=3)
        assert (start.raw, start.tokens, start.rate) == (True, 9, 5.0)
        assert (start.perturb, start.perturb_every) == ("go", 2)
        assert header.template is None
        assert header.sampling.seed == 1

    def test_loading_is_shown_and_not_recorded(self, begin):
        _, source, drained = begin()
        drained.wait_for(Token, 2)
        assert isinstance(drained.items[0], Progress)
        source.close()
        assert not any(isinstance(event, Progress) for event in read_session(path_of(source)))

    def test_file_holds_what_was_shown_in_the_same_order(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        stage.worker.generate(9)
        source.perturb(" go on")
        source.mark("here")
        drained.wait_for(Marker)
        stage.worker.generate(1100)
        stage.worker.finish("length")
        shown = drained.wait_for_end()
        source.close()
        assert {type(item) for item in shown} == {Header, Vitals, Token, Chunk, Perturbation, Marker, Keyframe, State}
        assert list(read_session(path_of(source))) == shown

    def test_replay_gives_what_live_gave_number_for_number(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        stage.worker.generate(7)
        source.perturb(" go on")
        drained.wait_for(Perturbation)
        stage.worker.generate(1200)
        stage.worker.finish("length")
        shown = drained.wait_for_end()
        source.close()
        chunks = [item for item in shown if isinstance(item, Chunk)]
        assert len(chunks) > 300
        assert chunks[1].partial
        assert all(chunk.pressures is not None for chunk in chunks[1:])
        assert replayed(path_of(source)) == shown

    def test_recording_is_private_and_named_after_model_and_day(self, begin, folder):
        _, source, drained = begin()
        drained.wait_for(Header)
        assert source.recording.mode == "recording"
        assert source.recording.name == "made-up-model-20261120-1.moe.jsonl"
        assert files(folder) == [source.recording.name]
        assert stat.S_IMODE(path_of(source).stat().st_mode) == 0o600
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700

    def test_half_surrogates_that_a_command_line_can_hold(self, begin):
        stage, source, drained = begin(prompt="a\udcff")
        (header,) = drained.wait_for(Header)
        source.mark("\ud800")
        source.perturb("b\udcff")
        (marker,) = drained.wait_for(Marker)
        drained.wait_for(Perturbation)
        assert (header.prompt, marker.note) == ("a\ufffd", "\ufffd")
        assert stage.worker.commands[1].prompt == "a\ufffd"
        assert stage.worker.commands[2].text == "b\ufffd"
        with pytest.raises(UserError, match="'a\\\\udcff' is not valid UTF-8"):
            LiveSource(RunSettings(model="a\udcff")).start()


class TestControl:
    def test_pause_and_resume(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Header)
        source.pause()
        drained.wait_for_state("paused")
        assert source.pace.paused
        assert not source.ended
        source.resume()
        drained.wait_for_state("resumed")
        assert not source.pace.paused
        assert stage.worker.commands[2:] == [Pause(), Resume()]

    def test_rate(self, begin):
        stage, source, drained = begin(rate=30.0)
        drained.wait_for(Header)
        assert (source.pace.kind, source.pace.value) == ("rate", 30.0)
        source.set_pace(-1)
        source.mark("after")
        drained.wait_for(Marker)
        assert source.pace.value == 0.0
        assert stage.worker.commands[-1] == SetRate(0.0)

    def test_perturb(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Header)
        source.perturb("go", form="turn", at_once=True)
        (event,) = drained.wait_for(Perturbation)
        assert event.form == "turn"
        assert stage.worker.commands[-1] == Perturb(text="go", form="turn", at_once=True)

    def test_command_that_was_refused_is_marked_where_it_was_asked(self, begin):
        stage, _, drained = begin()
        drained.wait_for(Token, 2)
        stage.worker.refuse("nothing was injected: the text is empty")
        (marker,) = drained.wait_for(Marker)
        assert (marker.i, marker.note) == (2, "nothing was injected: the text is empty")

    def test_abilities(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Header)
        always = {"perturb", "prompt", "rate", "record", "mark", "turn"}
        assert source.abilities == always | {"pause"}
        stage.worker.finish("eos")
        drained.wait_for_end()
        assert source.abilities == always

    def test_no_turns_without_a_chat_template(self, begin):
        class Plain(ScriptedWorker):
            ready = Ready(model=MODEL, backend=BACKEND, template=None, capture=CAPTURE, warnings=["odd model"])

        _, source, drained = begin(Plain)
        (header,) = drained.wait_for(Header)
        assert header.template is None
        assert "turn" not in source.abilities
        assert source.warnings == ["odd model"]

    def test_nothing_can_be_done_while_loading(self, begin):
        class Slow(ScriptedWorker):
            ready = Failed(message="still at it", fatal=False)

        _, source, drained = begin(Slow)
        drained.wait_for(Progress)
        assert source.abilities == frozenset()
        assert not source.ended
        source.mark("too early")
        source.perturb("too early")
        source.prompt("too early")
        source.set_recording(True)
        source.close()
        assert drained.of(Header) == []
        assert source.ended


class TestVitals:
    def test_once_a_second_with_the_time_of_the_run(self, begin):
        stage, _, drained = begin()
        drained.wait_for(Vitals)
        for second in (1, 2, 3):
            stage.clock.advance(VITALS_SECONDS)
            assert drained.wait_for(Vitals, second + 1)[-1].t == second
        stage.worker.finish("length")
        drained.wait_for_end()
        stage.clock.advance(10 * VITALS_SECONDS)
        stage.worker.refuse("a message that comes after")
        drained.wait_for(Marker)
        assert len(drained.of(Vitals)) == 4


class TestGoingOn:
    def test_finished_run_goes_on_when_text_comes(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Header)
        stage.worker.finish("eos")
        drained.wait_for_end()
        source.perturb("more")
        drained.wait_for(Perturbation)
        assert not source.ended
        stage.worker.state("resumed", why="perturbation")
        stage.worker.generate(4)
        stage.worker.finish("length")
        drained.wait_for(Chunk)
        drained.wait_for_end()
        source.close()
        assert list(read_session(path_of(source))) == drained.recorded
        assert [each.state for each in drained.of(State)] == ["finished", "resumed", "finished"]

    def test_finished_run_stays_finished_if_the_text_is_refused(self, begin):
        class Refusing(ScriptedWorker):
            def perturb(self, command):
                self.refuse("nothing was injected")

        stage, source, drained = begin(Refusing)
        drained.wait_for(Header)
        stage.worker.finish("eos")
        drained.wait_for_end()
        source.perturb("more")
        drained.wait_for(Marker)
        drained.wait_for_end()
        assert source.ended

    def test_new_prompt_waits_for_the_old_run_to_end(self, begin, folder):
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        stage.worker.generate(5)
        source.prompt("class")
        _, second = drained.wait_for(Header, 2)
        assert second.prompt == "class"
        assert stage.worker.commands[2] == Stop()
        assert stage.worker.commands[3].prompt == "class"
        drained.wait_for(Token, 9)
        stage.worker.finish("length")
        drained.wait_for_end()
        source.close()
        assert len(files(folder)) == 2
        at = drained.recorded.index(second)
        first_file, second_file = (list(read_session(folder / name)) for name in files(folder))
        assert first_file == drained.recorded[:at]
        assert second_file == drained.recorded[at:]
        assert [event.why for event in first_file if isinstance(event, State)] == ["user"]
        assert [token.i for token in second_file if isinstance(token, Token)] == [0, 1]

    def test_new_prompt_after_the_end(self, begin, folder):
        stage, source, drained = begin()
        drained.wait_for(Header)
        stage.worker.finish("eos")
        drained.wait_for_end()
        source.prompt("class")
        drained.wait_for(Header, 2)
        assert Stop() not in stage.worker.commands
        assert len(files(folder)) == 2

    def test_new_prompt_while_a_finished_run_is_asked_to_go_on(self, begin):
        class Silent(ScriptedWorker):
            def perturb(self, command):
                pass

        stage, source, drained = begin(Silent)
        drained.wait_for(Header)
        stage.worker.finish("eos")
        drained.wait_for_end()
        source.perturb("more")
        source.prompt("class")
        source.mark("asked for both")
        drained.wait_for(Marker)
        assert stage.worker.commands[-1] == Stop()
        stage.worker.generate(1)
        stage.worker.finish("user")
        drained.wait_for(Header, 2)
        at = drained.recorded.index(drained.of(Header)[1])
        assert [token.i for token in drained.recorded[:at] if isinstance(token, Token)] == [0, 1, 2]

    def test_seed_is_drawn_for_every_run_unless_it_is_given(self, begin):
        for given, seeds in ((None, [7, 8]), (3, [3, 3])):
            _, source, drained = begin(seed=given)
            drained.wait_for(Header)
            source.prompt("again")
            assert [header.sampling.seed for header in drained.wait_for(Header, 2)] == seeds


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
        source = LiveSource(RunSettings(output=output), stage.around)
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

    def test_output_that_cannot_be_written_ends_the_run_before_it_begins(self, begin, tmp_path):
        (tmp_path / "file").touch()
        _, source, drained = begin(output=tmp_path / "file" / "x.moe.jsonl")
        drained.wait_for_end()
        assert "cannot be written (Not a directory)" in str(source.fatal_error)
        assert drained.of(Header) == []
        assert drained.of(State)[0].state == "error"

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
        assert [type(event) for event in read_session(path_of(source))] == [Header, Keyframe, Marker]

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

    def test_prompt_that_the_model_cannot_take_leaves_no_file(self, begin, tmp_path):
        class Picky(ScriptedWorker):
            def send(self, command):
                if isinstance(command, Start) and len(command.prompt) > 3:
                    self.state("error", message="the prompt has 2,000 tokens")
                else:
                    super().send(command)

        output = tmp_path / "mine.moe.jsonl"
        _, source, drained = begin(Picky, prompt="too long", output=output)
        drained.wait_for_end()
        assert str(source.fatal_error) == "the prompt has 2,000 tokens"
        assert not output.exists()
        assert "prompt" in source.abilities
        source.prompt("def")
        drained.wait_for(Token, 2)
        assert source.fatal_error is None

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
        source = LiveSource(RunSettings(), Stage(folder).around)
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
