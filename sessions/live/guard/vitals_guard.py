"""Pauses on heat and memory pressure: the options `--cool-down` and `--pause-on critical`."""

from __future__ import annotations

from dataclasses import dataclass

from moe_watch.backends.protocol import Pause, Resume
from moe_watch.routing.events import PauseConditions, State, Temperature, Vitals
from moe_watch.vitals.heat.processor_sensors import hottest

HYSTERESIS = 5.0
"""Degrees below the limit at which a paused run resumes, and at which a limit can be passed once more."""
LEAST_PAUSE = 10.0
"""Shortest pause in seconds. A sensor on the die falls by 20 °C within a second of idling, the cooler does not."""
CALM_SECONDS = 30.0
"""Seconds without memory pressure before a run that no user watches resumes."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Message for the user: part of the present pause, or else a warning of the run."""

    text: str
    paused: bool = False


Action = Pause | Resume | Notice


class VitalsGuard:
    """Decisions on pausing one run, from its vitals and states in order. No clock: time is that of the events.

    A pause of the user or at a chunk is never ended. If the user resumes a run that was paused here, the cause is
    ignored until it has passed and risen once more.

    Args:
        control: limits; a guard without any only warns about sensors beyond their limits.
        attended: a user can resume the run. Otherwise a pause on memory pressure ends by itself.
    """

    def __init__(self, control: PauseConditions, *, attended: bool = True) -> None:
        self._control = control
        self._attended = attended
        self._paused: str | None = None
        """Cause of the present pause."""
        self._since = 0.0
        self._asked = False
        """A command was sent whose effect is not known yet."""
        self._sensor = ""
        """Sensor that caused the pause."""
        self._lost = False
        self._calm_since: float | None = None
        self._overridden: set[str] = set()
        """Causes that the user resumed against."""
        self._beyond: set[str] = set()
        """Sensors beyond their limits."""

    def follow(self, state: State) -> None:
        """Process a state of the run."""
        if state.state == "paused":
            self._paused, self._since, self._asked = state.why, state.t, False
            self._lost, self._calm_since = False, None
        elif state.state == "resumed":
            if self._paused in ("temperature", "memory") and state.why == "user":
                self._overridden.add(self._paused)
            self._paused, self._asked = None, False

    def feed(self, vitals: Vitals) -> list[Action]:
        """Return the commands and messages that a reading leads to."""
        actions: list[Action] = [Notice(text) for text in self._warnings(vitals)]
        heat = self._feed_heat(vitals)
        memory = self._feed_memory(vitals)
        decision = heat or memory
        if isinstance(decision, Pause | Resume):
            if self._asked:
                return actions
            self._asked = True
        return [*actions, decision] if decision is not None else actions

    # Heat

    def _feed_heat(self, vitals: Vitals) -> Action | None:
        limit = self._control.cool_down
        if limit is None:
            return None
        sensor = hottest(vitals)
        if sensor is None:
            return self._without_sensor(vitals)
        if sensor.celsius <= limit - HYSTERESIS:
            self._overridden.discard("temperature")
        if self._paused is None:
            self._lost = False
            if sensor.celsius > limit and "temperature" not in self._overridden:
                self._sensor = sensor.sensor
                return Pause(why="temperature", message=self._heat_message(sensor, limit))
            return None
        if self._paused != "temperature":
            return None
        if all(each.sensor != self._sensor for each in vitals.temperatures):
            return self._without_sensor(vitals)
        self._lost = False
        if sensor.celsius <= limit - HYSTERESIS and vitals.t - self._since >= LEAST_PAUSE:
            return Resume(why="temperature", message=f"cooled down: {sensor.sensor} {sensor.celsius:.0f} °C")
        return None

    def _heat_message(self, sensor: Temperature, limit: float) -> str:
        reading = f"{sensor.sensor} {sensor.celsius:.4g} °C, above {limit:g}"
        return f"paused to cool down: {reading}, resumes at {limit - HYSTERESIS:g}"

    def _without_sensor(self, vitals: Vitals) -> Notice | None:
        """Return a message, once, that the temperature is unknown. A paused run stays paused."""
        if self._lost or self._paused not in (None, "temperature"):
            return None
        self._lost = True
        sensors = vitals.unavailable
        why = sensors.get(self._sensor) or sensors.get("temperatures") or "the sensor is gone"
        if self._paused is None:
            return Notice(f"--cool-down has no effect: no CPU or GPU temperature can be read ({why})")
        return Notice(f"paused to cool down, and {self._sensor} cannot be read any more ({why}): resume by hand", True)

    def _warnings(self, vitals: Vitals) -> list[str]:
        """Return a text for each sensor that passes its limit with this reading."""
        found = []
        for each in vitals.temperatures:
            if each.high is None:
                continue
            if each.celsius >= each.high and each.sensor not in self._beyond:
                self._beyond.add(each.sensor)
                found.append(f"{each.sensor} is at {each.celsius:.0f} °C, its limit is {each.high:.0f}")
            elif each.celsius <= each.high - HYSTERESIS:
                self._beyond.discard(each.sensor)
        return found

    # Memory

    def _feed_memory(self, vitals: Vitals) -> Action | None:
        if self._control.pause_on is None or vitals.pressure is None:
            return None
        pressure = vitals.pressure
        if pressure.level == "ok":
            self._overridden.discard("memory")
        if self._paused is None:
            if pressure.level == "critical" and "memory" not in self._overridden:
                then = "" if self._attended else ", resumes when the pressure has passed"
                why = pressure.reason or pressure.source
                return Pause(why="memory", message=f"paused, memory pressure is critical: {why}{then}")
            return None
        if self._paused != "memory" or self._attended:
            return None
        if pressure.level != "ok":
            self._calm_since = None
            return None
        if self._calm_since is None:
            self._calm_since = vitals.t
        if vitals.t - self._calm_since >= CALM_SECONDS:
            return Resume(why="memory", message="memory pressure has passed")
        return None
