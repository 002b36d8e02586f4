"""The mark of critical memory pressure: once per rise, and again in each run."""

from __future__ import annotations

import pytest

from moe_watch.routing.events import MemoryPressure, Vitals
from moe_watch.sessions.live.vitals_timer import VITALS_SECONDS, PressureMark, VitalsTimer
from moe_watch.vitals.sampler import VitalsSampler


def reading(level: str | None) -> Vitals:
    if level is None:
        return Vitals(t=0.0, unavailable={"pressure": "the file is gone"})
    return Vitals(t=0.0, pressure=MemoryPressure(level=level, source="PSI some avg10", reason="46 % stalled"))


@pytest.mark.parametrize(
    ("levels", "marks"),
    [
        (["ok", "critical", "critical"], 1),
        (["critical", "warning", "critical", "warning", "critical"], 1),
        (["critical", "ok", "critical"], 2),
        (["critical", None, "critical"], 1),
        (["ok", "warning", None], 0),
    ],
)
def test_critical_pressure_is_marked_once_per_rise(levels, marks):
    mark = PressureMark()
    said = [text for level in levels if (text := mark.feed(reading(level))) is not None]
    assert said == ["memory pressure is critical: 46 % stalled"] * marks


def test_a_run_that_begins_at_critical_pressure_is_marked_too():
    timer = VitalsTimer(VitalsSampler(lambda: 0.0, lambda: None, providers=[]))
    for began in (10.0, 20.0):
        timer.begin(began)
        assert timer.read_due(began) is not None
        assert timer.read_due(began + VITALS_SECONDS / 2) is None
        assert timer.pressure_mark.feed(reading("critical")) is not None
        assert timer.pressure_mark.feed(reading("critical")) is None
