"""Bounds of each pressure mode over all models."""

from __future__ import annotations

import numpy as np
import pytest

from moe_watch.routing.events import Chunk
from moe_watch.routing.pressure.bounds import mode_bounds
from moe_watch.routing.pressure.formulas import MODES
from moe_watch.routing.pressure.instruments import Instruments
from tests.routing.pressure.test_instruments import make_run, tokens_of


def test_bounds_are_those_of_the_formulas():
    measured, reference = mode_bounds("measured-v1", 8), mode_bounds("chronomoe-v1", 8)
    assert measured.mid == pytest.approx((0.2 * np.tanh(0.5) - 0.1 * np.tanh(1), np.tanh(1)))
    assert measured.fast == pytest.approx(-0.25 - 0.2 * np.tanh(1))
    assert reference.mid == pytest.approx((0.25519 - 0.1 * np.tanh(1), 0.25519 + 0.1 * np.tanh(1)), abs=1e-5)
    assert reference.fast == pytest.approx(-0.25 * np.log(8) - 0.2 * np.tanh(1))


@pytest.mark.parametrize("experts", [2, 8, 9, 64, 512])
def test_fast_instability_needs_nine_experts_and_the_reference_mode(experts):
    assert "fast_instability" not in mode_bounds("measured-v1", experts).pauses
    assert ("fast_instability" in mode_bounds("chronomoe-v1", experts).pauses) == (experts >= 9)


@pytest.mark.parametrize("mode", MODES)
def test_no_chunk_lies_beyond_the_bounds_of_its_mode(mode):
    header, lines = make_run(204)
    instruments, bounds = Instruments(header, mode), mode_bounds(mode, header.model.experts)
    derived = [event for token in tokens_of(lines) for event in instruments.feed(token)]
    pressures = [event.pressures for event in derived if isinstance(event, Chunk) and event.pressures]
    assert len(pressures) > 30
    for found in pressures:
        assert bounds.mid[0] <= found.mid <= bounds.mid[1]
        assert found.fast >= bounds.fast
        assert found.net >= bounds.net
