from __future__ import annotations

import json

import pytest

from routing.events import Progress
from routing.summary import Summary


def summarise(events):
    summary = Summary()
    for event in events:
        summary.feed(event)
    return summary.result()


def test_golden_summary_by_hand(golden_events):
    found = summarise(golden_events)
    assert found["tokens"] == {"prompt": 2, "injected": 1, "generated": 6}
    assert found["layers"] == [1, 2]
    assert found["usage"]["prefill"]["rows"] == [3, 2]
    assert found["usage"]["prefill"]["counts"] == [[1, 3, 1, 1], [1, 0, 1, 2]]
    assert found["usage"]["decode"]["rows"] == [6, 6]
    assert [sum(row) for row in found["usage"]["decode"]["counts"]] == [12, 12]
    entropies = [3000, 9000, 6000, 5500, 4700, 8700], [2500, 7000, 9500, 8800, 9900, 3300]
    assert found["router_entropy"]["per_layer"] == pytest.approx([sum(row) / 6 * 1e-4 for row in entropies])
    assert found["router_entropy"]["mean"] == pytest.approx(sum(map(sum, entropies)) / 12 * 1e-4)
    assert found["surprisal"] == pytest.approx((0.25 + 1.5 + 0.75 + 0.05 + 0.4 + 2.5) / 6)
    assert [chunk["tokens"] for chunk in found["pressure"]["chunks"]] == [[2, 3], [5, 6], [7, 8]]
    assert found["perturbations"] == found["marks"] == 1
    assert found["ended"] == {"state": "finished", "why": "length"}


def test_crossing_is_absent_while_everything_is_warm_up(golden_events):
    assert summarise(golden_events)["pressure"]["crossing"] == {"chunk": None}
    assert summarise(golden_events)["pressure"]["initial"] is None


def test_nothing_decoded_is_null_and_never_zero(golden_events):
    found = summarise(golden_events[:3])
    assert found["router_entropy"] is None
    assert found["usage"]["decode"]["shares"] == [[None] * 4] * 2
    assert found["usage"]["decode"]["dead"] == [None, None]
    assert found["churn"] is None


def test_a_summary_is_json_and_ignores_progress(golden_events):
    found = summarise([*golden_events, Progress(stage="loading")])
    assert json.loads(json.dumps(found)) == found == summarise(golden_events)


def test_a_new_header_begins_a_new_run(golden_events):
    assert summarise([*golden_events, *golden_events]) == summarise(golden_events)


def test_no_events_no_summary():
    assert Summary().result() == {}
