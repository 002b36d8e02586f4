from __future__ import annotations

import msgspec

from moe_watch.commands.recordings.summary_text import context_lines, summary_lines
from moe_watch.routing.results import ContextResult, CrossingResult
from moe_watch.routing.summary import Summary


def summary_of(events):
    summary = Summary()
    for event in events:
        summary.feed(event)
    return summary.result()


def lines_of(events):
    return summary_lines(summary_of(events))


def test_the_golden_session_in_words(golden_events):
    lines = lines_of(golden_events)
    assert lines[0] == "golden · llama.cpp · 2 layers × 4 experts, top-2 · seed 7"
    assert lines[1] == "6 tokens generated, 2 of prompt, 1 injected"
    assert lines[2].startswith("router entropy 0.6492 · ")
    assert lines[5].split() == ["1", "0.6150", "0.9796", "3", "(33.3", "%", "of", "12)", "0", "of", "4"]
    assert "n/a, 7 more chunks of warm-up needed" in lines[-2]
    assert lines[-1] == "ended: all requested tokens were generated"


def test_what_was_not_recorded_is_said_to_be_absent(golden_events):
    text = "\n".join(lines_of(golden_events[:3]))
    assert "router entropy n/a · router margin n/a · churn n/a" in text
    assert "0 of 4" not in text
    assert "the recording stops before the end of the run" in text


def test_nothing_at_all():
    assert summary_lines(None) == ["nothing was recorded"]


def test_usage_of_prefill_where_nothing_was_decoded_is_called_that(golden_events):
    lines = lines_of(golden_events[:3])
    at = lines.index("usage of prefill, as there is no decode token")
    assert lines[at + 1].startswith("layer ")
    assert lines[at + 2].split()[1:4] == ["n/a", "0.7500", "1"], "experts 0, 1, 2 and 1 once more"
    assert lines[at + 2].endswith("(50.0 % of 4)  1 of 4")


def test_one_measured_chunk_is_no_plural():
    contexts = [
        ContextResult(
            context=number,
            first_chunk=0,
            measured=number + 1,
            initial=None,
            crossing=CrossingResult(chunk=None),
            since_mask=None,
            verdict="stable",
            half_life=None,
            p_sequential=1.0,
            words="stable",
            fit_unavailable=None,
        )
        for number in range(2)
    ]
    assert context_lines(contexts) == [
        "  context 0: 1 measured chunk, stable",
        "  context 1: 2 measured chunks, stable",
    ]


def test_one_stop_is_no_plural(golden_events):
    summary = summary_of(golden_events)
    for number, words in ((1, "stopped 1 time"), (2, "stopped 2 times")):
        assert f"the model would have {words}" in summary_lines(msgspec.structs.replace(summary, would_stop=number))
