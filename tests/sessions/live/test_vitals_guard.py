"""Pauses on heat and memory pressure, with scripted readings: known answers."""

from __future__ import annotations

import pytest

from moe_watch.backends.protocol import Pause, Resume
from moe_watch.routing.events import Header, MemoryPressure, PauseConditions, RunWarning, State, Temperature, Vitals
from moe_watch.sessions.live.guard.vitals_guard import CALM_SECONDS, LEAST_PAUSE, Notice, VitalsGuard
from moe_watch.sessions.live.source import LiveSource
from moe_watch.sessions.reading.reader import read_session
from moe_watch.vitals.provider import UnavailableError
from tests.processes import wait_until
from tests.run_specs import run_settings
from tests.sessions.kit import Drained, Stage, path_of, replayed

COOL = PauseConditions(cool_down=85.0)
CRITICAL = PauseConditions(pause_on="critical")


class Run:
    """A run that follows its guard, with one reading every half second."""

    def __init__(self, control, **options):
        self.guard = VitalsGuard(control, **options)
        self.t = 0.0
        self.obeys = True
        self.states = []

    def read(
        self, *celsius, level=None, unavailable=None, sensors=("coretemp Package id 0", "k10temp Tctl"), high=None
    ):
        self.t += 0.5
        found = [
            Temperature(sensor=name, celsius=each, high=high)
            for name, each in zip(sensors, celsius, strict=False)
            if each is not None
        ]
        pressure = level and MemoryPressure(level=level, source="PSI some avg10", reason=f"it is {level}")
        vitals = Vitals(t=self.t, temperatures=found, pressure=pressure, unavailable=unavailable or {})
        actions = self.guard.feed(vitals)
        for each in actions:
            if self.obeys and isinstance(each, Pause | Resume):
                self.state("paused" if isinstance(each, Pause) else "resumed", each.why)
        return actions

    def hold(self, seconds, *celsius, **reading):
        return [each for _ in range(round(2 * seconds)) for each in self.read(*celsius, **reading)]

    def state(self, state, why="user"):
        self.states.append((state, why))
        self.guard.follow(State(state=state, i=0, t=self.t, why=why))


class TestHeat:
    def test_pauses_above_the_limit_and_resumes_below_it(self):
        run = Run(COOL)
        assert run.read(84.9, 60) == run.read(85.0, 60) == []
        assert run.read(91.2, 60) == [
            Pause(
                why="temperature",
                message="paused to cool down: coretemp Package id 0 91.2 °C, above 85, resumes at 80",
            )
        ]
        assert run.hold(30, 80.1, 60) == []
        assert run.read(80.0, 60) == [Resume(why="temperature", message="cooled down: coretemp Package id 0 80 °C")]
        assert run.states == [("paused", "temperature"), ("resumed", "temperature")]

    def test_a_pause_has_a_least_length(self):
        run = Run(COOL)
        run.read(90)
        assert run.hold(LEAST_PAUSE - 0.5, 60) == []
        assert [type(each) for each in run.read(60)] == [Resume]

    def test_every_rise_pauses(self):
        run = Run(COOL)
        for _ in range(3):
            run.read(90)
            run.hold(LEAST_PAUSE, 70)
        assert [why for state, why in run.states if state == "paused"] == ["temperature"] * 3

    def test_all_processors_must_have_cooled_down(self):
        run = Run(COOL)
        run.read(90, 60)
        assert run.hold(20, 70, 82) == []
        assert len(run.read(70, 80)) == 1

    def test_drives_and_batteries_do_not_count(self):
        run = Run(COOL)
        assert run.read(95, 95, 50, sensors=("nvme Composite", "BAT0", "k10temp Tctl")) == []

    def test_the_users_resume_holds_until_the_next_rise(self):
        run = Run(COOL)
        run.read(90)
        run.state("resumed")
        assert run.hold(60, 92) == run.read(81) == run.read(95) == []
        run.read(79)
        assert [type(each) for each in run.read(86)] == [Pause]

    def test_the_users_pause_is_never_ended(self):
        run = Run(COOL)
        run.state("paused")
        assert run.hold(20, 95) == run.hold(20, 60) == []

    def test_the_users_pause_during_a_cool_down_is_never_ended(self):
        run = Run(COOL)
        run.read(95)
        run.state("paused")
        assert run.hold(30, 60) == []

    def test_a_pause_at_a_chunk_is_not_ended_and_heat_counts_after_it(self):
        run = Run(COOL)
        run.state("paused", "chunk")
        assert run.hold(20, 95) == run.hold(20, 60) == []
        run.state("resumed")
        assert [type(each) for each in run.read(95)] == [Pause]

    def test_one_command_until_its_effect_is_known(self):
        run = Run(COOL)
        run.obeys = False
        assert len(run.hold(20, 95)) == 1
        run.state("paused", "temperature")
        assert len(run.hold(20, 60)) == 1

    def test_a_sensor_that_vanishes_during_the_pause_does_not_resume(self):
        run = Run(COOL)
        run.read(90, 70)
        gone = {"coretemp Package id 0": "the sensor reports no number"}
        assert run.hold(60, None, 50, unavailable=gone) == [
            Notice(
                "paused to cool down, and coretemp Package id 0 cannot be read any more "
                "(the sensor reports no number): resume by hand",
                paused=True,
            )
        ]
        assert run.states == [("paused", "temperature")]
        assert [type(each) for each in run.read(70, 50)] == [Resume]

    def test_all_sensors_vanish_during_the_run(self):
        run = Run(COOL)
        run.read(70)
        (notice,) = run.hold(60, unavailable={"temperatures": "GPU is lost"})
        assert notice == Notice("--cool-down has no effect: no CPU or GPU temperature can be read (GPU is lost)")
        assert [type(each) for each in run.read(90)] == [Pause]

    def test_without_the_option_heat_pauses_nothing(self):
        assert Run(PauseConditions()).hold(20, 104) == []


class TestWarnings:
    def test_once_per_rise_beyond_the_sensors_limit(self):
        run = Run(PauseConditions())
        assert run.read(99.9, high=100.0) == []
        text = "coretemp Package id 0 is at 101 °C, its limit is 100"
        assert run.read(101, high=100.0) == [Notice(text)]
        assert run.hold(5, 101, high=100.0) == run.read(96, high=100.0) == run.read(101, high=100.0) == []
        run.read(95, high=100.0)
        assert run.read(101, high=100.0) == [Notice(text)]


class TestMemory:
    def test_pauses_at_critical_and_waits_for_the_user(self):
        run = Run(CRITICAL)
        assert run.read(level="ok") == run.read(level="warning") == []
        assert run.read(level="critical") == [
            Pause(why="memory", message="paused, memory pressure is critical: it is critical")
        ]
        assert run.hold(300, level="ok") == []

    def test_the_users_resume_holds_until_the_pressure_has_passed(self):
        run = Run(CRITICAL)
        run.read(level="critical")
        run.state("resumed")
        assert run.hold(10, level="critical") == run.read(level="warning") == run.read(level="critical") == []
        run.read(level="ok")
        assert len(run.read(level="critical")) == 1

    def test_without_a_user_it_resumes_when_the_pressure_has_passed_for_a_while(self):
        run = Run(CRITICAL, attended=False)
        (pause,) = run.read(level="critical")
        assert pause.message.endswith(", resumes when the pressure has passed")
        assert run.hold(10, level="warning") == run.hold(10, level="ok") == run.hold(5, level="warning") == []
        assert run.hold(CALM_SECONDS, level="ok") == []
        assert run.read(level="ok") == [Resume(why="memory", message="memory pressure has passed")]

    def test_heat_and_pressure_together(self):
        run = Run(PauseConditions(cool_down=85.0, pause_on="critical"))
        run.hold(1, 95, level="critical")
        run.hold(LEAST_PAUSE, 60, level="critical")
        assert run.states == [("paused", "temperature"), ("resumed", "temperature"), ("paused", "memory")]
        assert run.hold(60, 60, level="ok") == []

    def test_without_the_option(self):
        assert Run(PauseConditions()).read(level="critical") == []


class Scripted:
    """Provider of one temperature, which a test sets."""

    fields = ("temperatures",)

    def __init__(self):
        self.celsius = 60.0

    def read(self):
        if self.celsius is None:
            raise UnavailableError("unplugged")
        return {"temperatures": [Temperature(sensor="k10temp Tctl", celsius=self.celsius, high=95.0)]}


class FollowingStage(Stage):
    """Surroundings with one scripted provider."""

    def __init__(self, folder):
        super().__init__(folder)
        self.provider = Scripted()
        object.__setattr__(self.around, "providers", [self.provider])


@pytest.fixture
def cooled(folder):
    stage = FollowingStage(folder)
    source = LiveSource(run_settings(prompt="def", chunk_size=4, control=COOL), stage.around)
    source.start()
    yield stage, source, Drained(source)
    source.close()


def later(stage, drained, celsius, state):
    stage.provider.celsius = celsius
    before = len(drained.of(State))

    def came():
        stage.clock.advance(1.0)
        return len(drained.of(State)) > before

    wait_until(came, state)
    found = drained.of(State)[-1]
    assert found.state == state
    return found


class TestLiveRun:
    def test_pause_and_resume_are_sent_recorded_and_replayed(self, cooled):
        stage, source, drained = cooled
        (header,) = drained.wait_for(Header)
        assert header.control == COOL
        paused = later(stage, drained, 96.0, "paused")
        assert (paused.why, source.pace.paused) == ("temperature", True)
        assert paused.message == "paused to cool down: k10temp Tctl 96 °C, above 85, resumes at 80"
        resumed = later(stage, drained, 70.0, "resumed")
        assert (resumed.why, source.pace.paused) == ("temperature", False)
        assert [each.text for each in drained.of(RunWarning)] == ["k10temp Tctl is at 96 °C, its limit is 95"]
        source.close()
        recorded = [each for each in read_session(path_of(source)) if isinstance(each, State)]
        assert [(each.state, each.why) for each in recorded] == [
            ("paused", "temperature"),
            ("resumed", "temperature"),
            ("finished", "user"),
        ]
        assert [each for each in replayed(path_of(source)) if isinstance(each, State)] == recorded

    def test_a_sensor_that_vanishes_leaves_the_run_paused(self, cooled):
        stage, source, drained = cooled
        drained.wait_for(Header)
        later(stage, drained, 90.0, "paused")
        lost = later(stage, drained, None, "paused")
        assert "k10temp Tctl cannot be read any more (unplugged): resume by hand" in lost.message
        assert source.pace.paused
        source.resume()
        assert drained.wait_for_state("resumed").why == "user"
