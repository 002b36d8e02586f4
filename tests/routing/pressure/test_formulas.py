from __future__ import annotations

from math import tanh

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe_watch.routing.events import Signals
from moe_watch.routing.pressure.formulas import (
    EXTERNAL,
    TOY,
    crossing,
    mid_floor,
    next_residual,
    pause_reason,
    pressures,
    reachability,
    reference_signals,
)

CALM = Signals(
    router_entropy=0.6,
    router_margin=0.2,
    top_margin=0.5,
    transition_prob=0.4,
    proximity_meso=0.3,
    proximity_macro=0.2,
    slow_confidence=0.8,
    coherence=0.1,
    delta_coherence=0.05,
)


def test_the_formulas_by_hand():
    found = pressures(CALM, residual=0.5)
    fast = 0.5 * (-0.6 / 2) + 0.3 * tanh(0.2) + 0.2 * tanh(0.05)
    mid = 0.4 * tanh(0.5) + 0.3 * tanh(0.4) + 0.2 * tanh(1 / 1.3) + 0.1 * tanh(0.05)
    slow = 0.8 * 0.3 * tanh(1 / 1.2)
    assert (found.fast, found.mid, found.slow) == pytest.approx((fast, mid, slow))
    assert (found.w_fast, found.w_mid, found.w_slow) == pytest.approx((0.2, 0.75, 0.24))
    assert found.net == pytest.approx(0.2 * fast + 0.75 * mid + 0.24 * slow)


def test_published_toy_values():
    """ChronoMoE's toy: P_mid at margin 0 is 0.64030, P_slow 0.108104."""
    signals = reference_signals(TOY, 0.0, 0.0, 0.0, 0.0)
    found = pressures(signals, 0.0, mid_margin=0.0)
    assert found.mid == pytest.approx(0.64030, abs=5e-6)
    assert found.slow == pytest.approx(0.108104, abs=5e-7)


def test_published_external_value():
    """ChronoMoE's adapter for external models has a constant P_mid of 0.25519 but for coherence."""
    signals = reference_signals(EXTERNAL, 1.3, 0.2, 0.0, 0.0)
    assert pressures(signals, 0.0).mid == pytest.approx(0.25519, abs=5e-6)
    assert pressures(signals, 0.0).slow == pytest.approx(0.5 * 0.3 * tanh(1 / 1.5)), "all its clocks are 0.5"


def test_the_reference_cannot_reach_its_own_half_life():
    reach = reachability("chronomoe-v1", 0.25519)
    assert reach.floor == pytest.approx(0.179, abs=5e-4)
    assert reach.half == pytest.approx(0.1276, abs=5e-5)
    assert not reach.reachable


def test_a_start_that_only_the_toy_model_gives_is_judged_by_its_floor():
    """0.33566 + 0.1·th(ΔR) at ΔR = 0; the adapter's highest start is 0.25519 + 0.1·th(1) = 0.33135."""
    toy = reachability("chronomoe-v1", 0.64030)
    assert toy.floor == pytest.approx(0.33566, abs=5e-6)
    assert not toy.reachable
    assert reachability("chronomoe-v1", 0.3313).floor == pytest.approx(0.179, abs=5e-4)
    assert reachability("chronomoe-v1", 0.3314).floor == toy.floor


def test_measured_pressure_can_reach_half():
    assert reachability("measured-v1", 0.5).reachable
    assert mid_floor("measured-v1") == pytest.approx(0.2 * tanh(0.5) - 0.1 * tanh(1))


UNIT = st.floats(0, 1)


@given(UNIT, UNIT, UNIT, UNIT, UNIT, UNIT, UNIT, st.floats(-1, 1), UNIT)
def test_published_bounds_hold_for_every_measurable_signal(h, m, t, tr, me, ma, sc, dr, r):
    signals = Signals(
        router_entropy=h,
        router_margin=m,
        top_margin=t,
        transition_prob=tr,
        proximity_meso=me,
        proximity_macro=ma,
        slow_confidence=sc,
        coherence=0.5,
        delta_coherence=dr,
    )
    found = pressures(signals, r)
    assert found.w_fast == 0.2
    assert found.fast >= -0.4024
    assert found.mid >= mid_floor("measured-v1") - 1e-12
    assert pause_reason(found) != "fast_instability"


def test_residual_grows_while_going_on_and_halves_on_a_pause():
    found = pressures(CALM, 0.0)
    assert next_residual(0.2, found, None) == pytest.approx(0.7 * 0.2 + 0.3 * found.mid)
    assert next_residual(0.2, found, "multistep_chunk_complete") == 0.1
    negative = msgspec.structs.replace(found, net=-0.1)
    assert pause_reason(negative) == "negative_pressure"
    assert next_residual(0.2, negative, "negative_pressure") == 0.0


def test_what_stands_at_its_limit_goes_on():
    at_limit = msgspec.structs.replace(pressures(CALM, 0.0), fast=-0.7, net=0.0)
    assert pause_reason(at_limit) is None
    assert next_residual(0.2, at_limit, "multistep_chunk_complete") == 0.1
    below = msgspec.structs.replace(at_limit, fast=-0.7001, net=-0.1)
    assert pause_reason(below) == "fast_instability", "the reference asks about it first"


def test_p_fast_loses_its_weight_where_entropy_is_in_nats_and_high():
    """w_fast = clip(min(0.2, 1 − H/2), 0, 0.2)."""
    entropies = (1.6, 1.9, 2.0, 4.8)
    found = [pressures(reference_signals(EXTERNAL, h, 0.0, 0.0, 0.0), 0.0).w_fast for h in entropies]
    assert found == pytest.approx([0.2, 0.05, 0.0, 0.0])


def test_multistep_pauses_at_every_chunk():
    assert pause_reason(pressures(CALM, 0.0), multistep=True) == "multistep_chunk_complete"


def test_crossing_is_the_first_at_or_below_half_of_the_first():
    assert crossing([0.5, 0.3, 0.25, 0.1]) == 2
    assert crossing([0.5, 0.26]) is None
    assert crossing([]) is None
