from __future__ import annotations

import dataclasses
import stat

import pytest

from moe_watch.backends.protocol import (
    EngineOptions,
    Failed,
    Load,
    MemoryCounters,
    Pause,
    Perturb,
    Ready,
    Resume,
    SetRate,
    Start,
    Stop,
)
from moe_watch.backends.run_spec import InjectionSchedule
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import (
    Chunk,
    Header,
    Keyframe,
    Marker,
    MemoryPressure,
    ModelMemory,
    Perturbation,
    Progress,
    Refused,
    RunWarning,
    Sampling,
    State,
    Token,
    Unknown,
    Vitals,
)
from moe_watch.routing.summary import Summary
from moe_watch.sessions.live.source import LiveSource
from moe_watch.sessions.live.vitals_timer import VITALS_SECONDS
from moe_watch.sessions.reading.index import LineIndex
from moe_watch.sessions.reading.reader import read_session
from moe_watch.sessions.reading.store import open_whole
from tests.run_specs import run_settings, run_start
from tests.sessions.kit import (
    BACKEND,
    CAPTURE,
    MODEL,
    Drained,
    ScriptedWorker,
    Stage,
    files,
    path_of,
    replayed,
)


class TestARun:
    def test_begins_with_a_header_that_says_what_runs(self, begin):
        stage, _, drained = begin(temperature=0.5, top_k=40, stop="never")
        (header,) = drained.wait_for(Header)
        assert (header.created, header.prompt, header.template) == ("2026-11-20T09:00:00Z", "def", "chat")
        assert header.sampling == Sampling(temperature=0.5, top_k=40, seed=7, stop="never")
        assert (header.model, header.backend, header.capture) == (MODEL, BACKEND, CAPTURE)
        assert header.host.memory > 0
        assert header.moe_watch
        assert stage.worker.commands[1] == run_start("def", header.sampling, chunk_size=4)

    def test_tells_the_worker_what_was_asked_for(self, begin):
        stage, _, drained = begin(
            model="x",
            backend="mlx",
            options=EngineOptions(threads=3),
            raw=True,
            tokens=9,
            rate=5.0,
            seed=1,
            perturb="go",
            perturb_every=2,
        )
        (header,) = drained.wait_for(Header)
        load, start = stage.worker.commands
        assert load == Load(model="x", backend="mlx", options=EngineOptions(threads=3))
        assert (start.spec.raw, start.spec.tokens, start.spec.rate) == (True, 9, 5.0)
        assert start.spec.injections == InjectionSchedule(text="go", every=2)
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
        assert stage.worker.commands[1].spec.prompt == "a\ufffd"
        assert stage.worker.commands[2].text == "b\ufffd"
        with pytest.raises(UserError, match="'a\\\\udcff' is not valid UTF-8"):
            LiveSource(run_settings(model="a\udcff")).start()


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

    def test_a_refused_command_is_noted_where_it_was_asked_and_is_no_mark(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        stage.worker.refuse("nothing was injected: the text is empty")
        (refused,) = drained.wait_for(Refused)
        assert (refused.i, refused.command, refused.why) == (2, "inject", "nothing was injected: the text is empty")
        source.mark("nothing was injected: the text is empty")
        drained.wait_for(Marker)
        stage.worker.finish("length")
        shown = drained.wait_for_end()
        source.close()
        summary = Summary()
        for item in shown:
            summary.feed(item)
        assert summary.result().marks == 1
        index = LineIndex(open_whole(path_of(source)))
        index.extend()
        assert [mark.i for mark in index.marks] == [2]

    def test_abilities(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Header)
        always = {"perturb", "prompt", "rate", "record", "mark", "turn", "mask"}
        assert source.abilities == always | {"pause", "tap", "multistep"}
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
    def test_at_each_interval_with_the_time_of_the_run(self, begin):
        stage, _, drained = begin()
        drained.wait_for(Vitals)
        for number in (1, 2, 3):
            stage.clock.advance(VITALS_SECONDS)
            assert drained.wait_for(Vitals, number + 1)[-1].t == number * VITALS_SECONDS

    def test_go_on_after_the_end_on_the_screen_but_not_in_the_file(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Vitals)
        stage.worker.finish("length")
        drained.wait_for_end()
        for number in (1, 2):
            stage.clock.advance(VITALS_SECONDS)
            assert drained.wait_for(Vitals, number + 1)[-1].t == number * VITALS_SECONDS
        assert source.ended
        source.close()
        assert [event.t for event in read_session(path_of(source)) if isinstance(event, Vitals)] == [0.0]

    def test_are_recorded_again_when_the_run_goes_on(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Vitals)
        stage.worker.finish("length")
        drained.wait_for_end()
        source.perturb("more")
        drained.wait_for(Perturbation)
        stage.worker.state("resumed", why="perturbation")
        drained.wait_for_state("resumed")
        stage.clock.advance(VITALS_SECONDS)
        drained.wait_for(Vitals, 2)
        stage.worker.finish("length")
        drained.wait_for_end()
        source.close()
        assert [event.t for event in read_session(path_of(source)) if isinstance(event, Vitals)] == [
            0.0,
            VITALS_SECONDS,
        ]

    def test_stop_with_the_model(self, begin):
        stage, source, drained = begin()
        drained.wait_for(Vitals)
        stage.worker.die("gone")
        drained.wait_for_end()
        stage.clock.advance(10 * VITALS_SECONDS)
        source.restart()
        drained.wait_for(Header, 2)
        assert len(drained.wait_for(Vitals, 2)) == 2


class Levels:
    """Provider of these pressure levels, one per reading; the last one stays."""

    fields = ("pressure",)

    def __init__(self, *levels):
        self._levels = list(levels)

    def read(self):
        level = self._levels.pop(0) if len(self._levels) > 1 else self._levels[0]
        reason = "" if level == "ok" else f"because of {level}"
        return {"pressure": MemoryPressure(level=level, source="PSI", reason=reason)}


class TestMemory:
    def test_critical_pressure_is_marked_once_per_rise(self, begin, tmp_path):
        levels = ["ok", "critical", "critical", "warning", "critical", "ok", "critical"]
        stage = Stage(tmp_path / "data")
        stage.around = dataclasses.replace(stage.around, providers=[Levels(*levels)])
        source = LiveSource(run_settings(prompt="def", chunk_size=4), stage.around)
        drained = Drained(source)
        source.start()
        drained.wait_for(Vitals)
        for number in range(2, len(levels) + 1):
            stage.clock.advance(VITALS_SECONDS)
            drained.wait_for(Vitals, number)
        stage.worker.finish("length")
        drained.wait_for_end()
        source.close()
        warnings = [event for event in read_session(path_of(source)) if isinstance(event, RunWarning)]
        assert [event.text for event in warnings] == ["memory pressure is critical: because of critical"] * 2
        assert [event.t for event in warnings] == [VITALS_SECONDS, 6 * VITALS_SECONDS]

    def test_the_workers_counters_are_part_of_the_next_reading_and_no_event(self, begin):
        stage, source, drained = begin()
        assert drained.wait_for(Vitals)[-1].model_memory is None
        memory = ModelMemory(active=5, peak=7, cache=2)
        stage.worker.say(MemoryCounters(memory=memory))
        stage.worker.generate(1)
        drained.wait_for(Token, 3)
        stage.clock.advance(VITALS_SECONDS)
        assert drained.wait_for(Vitals, 2)[-1].model_memory == memory
        stage.worker.finish("length")
        drained.wait_for_end()
        source.close()
        read = list(read_session(path_of(source)))
        assert [event.model_memory for event in read if isinstance(event, Vitals)] == [None, memory]
        assert not any(isinstance(event, Unknown | MemoryCounters) for event in read)


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
        drained.wait_for(Refused)
        drained.wait_for_end()
        assert source.ended

    def test_new_prompt_ends_the_old_run(self, begin, folder):
        stage, source, drained = begin()
        drained.wait_for(Token, 2)
        stage.worker.generate(5)
        source.prompt("class")
        _, second = drained.wait_for(Header, 2)
        assert second.prompt == "class"
        assert stage.worker.commands[2].spec.prompt == "class"
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
        class Slow(ScriptedWorker):
            """Takes its time with what it is asked for after the first run."""

            slow = True

            def send(self, command):
                if self.slow and self._i and isinstance(command, Start | Perturb):
                    self.commands.append(command)
                else:
                    super().send(command)

        stage, source, drained = begin(Slow)
        drained.wait_for(Header)
        stage.worker.finish("eos")
        drained.wait_for_end()
        source.perturb("more")
        source.prompt("class")
        source.mark("asked for both")
        drained.wait_for(Marker)
        assert stage.worker.commands[-1].spec.prompt == "class"
        stage.worker.generate(1)
        stage.worker.finish("user")
        drained.wait_for(Header, 2)
        at = drained.recorded.index(drained.of(Header)[1])
        assert [token.i for token in drained.recorded[:at] if isinstance(token, Token)] == [0, 1, 2]
        stage.worker.slow = False
        stage.worker.send(stage.worker.commands[-1])

    def test_every_prompt_asked_for_at_once_has_its_own_run(self, begin, folder):
        class Held(ScriptedWorker):
            """Ends a run for the next one only when it is told to."""

            def send(self, command):
                if isinstance(command, Start) and self._running:
                    self.commands.append(command)
                else:
                    super().send(command)

        stage, source, drained = begin(Held)
        drained.wait_for(Token, 2)
        for prompt in ("class", "import"):
            source.prompt(prompt)
        source.mark("both asked for")
        drained.wait_for(Marker)
        for command in stage.worker.commands[2:]:
            stage.worker.finish("user")
            stage.worker.send(command)
        drained.wait_for(Token, 6)
        assert [header.prompt for header in drained.of(Header)] == ["def", "class", "import"]
        source.close()
        assert [read_session(folder / name).header.prompt for name in files(folder)] == ["def", "class", "import"]

    def test_seed_is_drawn_for_every_run_unless_it_is_given(self, begin):
        for given, seeds in ((None, [7, 8]), (3, [3, 3])):
            _, source, drained = begin(seed=given)
            drained.wait_for(Header)
            source.prompt("again")
            assert [header.sampling.seed for header in drained.wait_for(Header, 2)] == seeds
