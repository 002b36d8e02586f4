from __future__ import annotations

import pytest

from moe_watch.routing.events import Change, Chunk, Keyframe, Perturbation, Pressures
from moe_watch.tui.state.pressure.trajectory import PressureTrack


def chunk(index, mid, *, warm_up=False, partial=False):
    pressures = (
        None if mid is None else Pressures(fast=-0.1, mid=mid, slow=0.1, net=0.2, w_fast=0.2, w_mid=0.5, w_slow=0.1)
    )
    return Chunk(
        index=index, first=20 * index, last=20 * index + 19, tokens=20,
        warm_up=warm_up, partial=partial, pressures=pressures,
    )  # fmt: skip


def track(*chunks):
    found = PressureTrack("measured-v1")
    for each in chunks:
        found.add(each)
    return found


def keyframe(complete, *, partial=0):
    return Keyframe(
        i=20 * (complete + partial), chunks=complete + partial, complete_chunks=complete,
        rows_prefill=[], rows_decode=[], counts_prefill=[], counts_decode=[], average_rows=[], average_meso=[],
        average_macro=[], phases=[], coherence=None, residual=0.0, last_experts=[],
    )  # fmt: skip


def begun_at(frame, *chunks):
    found = PressureTrack("measured-v1")
    found.begin_at(frame)
    for each in chunks:
        found.add(each)
    return found


def perturb(found, i):
    found.inject(Perturbation(i=i, t=1.0, text="x", ids=[1], form="raw", source="key"), "go on", found.next_chunk)


def test_the_warm_up_is_counted_and_is_never_the_start():
    found = track(*(chunk(at, 0.9, warm_up=True) for at in range(4)))
    assert found.warm_up_missing == 6
    assert found.start.initial is None
    assert found.start.half is None


def test_the_start_is_the_first_measured_chunk():
    found = track(chunk(0, 0.9, warm_up=True), chunk(1, 0.7, partial=True), chunk(2, 0.5), chunk(3, 0.4))
    assert found.start.initial == 0.5
    assert found.start.half == 0.25


@pytest.mark.parametrize(("mids", "crossing"), [((0.5, 0.3, 0.25, 0.1), 12), ((0.5, 0.26), None)])
def test_the_first_chunk_at_or_below_half_is_the_crossing(mids, crossing):
    assert track(*(chunk(10 + at, mid) for at, mid in enumerate(mids))).start.crossing == crossing


def test_delta_is_after_minus_before_the_last_injection():
    found = track(chunk(0, 0.5), chunk(1, 0.52))
    perturb(found, 40)
    assert found.injections.points[-1].chunk == 2
    assert found.delta is None
    found.add(chunk(2, 0.40, partial=True))
    assert found.delta is None
    found.add(chunk(3, 0.49))
    assert found.delta == pytest.approx(-0.03)
    found.add(chunk(4, 0.9))
    assert found.delta == pytest.approx(-0.03)


def test_delta_is_absent_where_it_cannot_be_had():
    first = track()
    perturb(first, 5)
    first.add(chunk(0, 0.5))
    assert first.delta is None
    unmeasured = track(chunk(0, None))
    perturb(unmeasured, 20)
    unmeasured.add(chunk(1, 0.5))
    assert unmeasured.delta is None


def test_recording_that_begins_after_the_start_knows_neither_start_nor_crossing():
    found = begun_at(keyframe(11), chunk(11, 0.5), chunk(12, 0.1))
    assert found.start.initial is found.start.half is found.start.crossing is None
    assert found.start.problem == "the recording begins after it"
    assert found.warm_up_missing == 0


def test_recording_that_begins_with_the_first_measured_chunk_knows_the_start():
    found = begun_at(keyframe(10), chunk(10, 0.5), chunk(11, 0.1))
    assert (found.start.initial, found.start.crossing, found.start.problem) == (0.5, 11, "")
    assert track(chunk(10, 0.5), chunk(11, 0.1)).start.problem == ""


def test_recording_that_begins_in_the_warm_up_counts_what_was_before():
    found = begun_at(keyframe(3, partial=2), chunk(5, 0.9, warm_up=True), chunk(6, 0.8, warm_up=True, partial=True))
    assert found.warm_up_missing == 6
    assert found.start.initial is None
    assert found.start.problem == ""


def test_injection_before_the_first_chunk_of_a_recording_is_at_its_place_in_the_run():
    found = begun_at(keyframe(11))
    perturb(found, 220)
    assert found.injections.points[-1].chunk == 11


def test_a_recording_that_is_entered_in_its_middle_knows_the_chunks_before():
    found = track(*(chunk(at, 0.9, warm_up=True) for at in range(10)), chunk(10, 0.5), chunk(11, 0.4))
    found.begin_at(keyframe(12))
    found.add(chunk(12, 0.2))
    assert (found.start.initial, found.start.problem, found.start.crossing) == (0.5, "", 12)
    assert found.series.positions == [10, 11, 12]
    assert found.series.mid == [0.5, 0.4, 0.2]
    assert found.complete == 13


def test_a_recording_of_the_middle_of_a_run_that_is_entered_later_still_does_not_know_the_start():
    found = track(chunk(30, 0.5), chunk(31, 0.1))
    assert found.start.initial is not None
    found.begin_at(keyframe(32))
    found.add(chunk(32, 0.3))
    assert (found.start.initial, found.start.crossing, found.complete) == (None, None, 33)
    assert found.unavailable == "the recording begins at chunk 30, after the first measured one"


def test_chunks_before_a_jump_are_missed_where_they_were_not_recorded():
    found = PressureTrack("chronomoe-v1")
    found.begin_at(keyframe(50), recorded=False)
    for at in range(50, 60):
        found.add(chunk(at, 0.5))
    assert found.entered_at == 1000
    assert found.unavailable == "no P₀: computed from token 1,000 on, after a seek"
    early = PressureTrack("chronomoe-v1")
    early.begin_at(keyframe(3), recorded=False)
    early.add(chunk(3, 0.5, warm_up=True))
    assert (early.entered_at, early.unavailable) == (60, early.series.unavailable)


def test_another_mask_begins_the_measurement_again():
    found = track(chunk(0, 0.9, warm_up=True), chunk(1, 0.8), chunk(2, 0.7))
    perturb(found, 60)
    found.add(chunk(3, 0.3))
    assert (found.start.initial, found.start.crossing, found.series.mid) == (0.8, 3, [0.8, 0.7, 0.3])
    assert found.delta == pytest.approx(0.3 - 0.7)
    found.change_mask(Change(i=80, t=1.0, mask=[(1, [0])]), found.next_chunk)
    assert found.start.initial is None
    assert (found.series.mid, found.series.current.masked_at) == ([], 80)
    assert found.last_injection is None
    assert found.delta is None
    found.add(chunk(4, 0.6))
    assert (found.start.initial, found.series.mid) == (0.6, [0.6])


def test_a_mask_from_the_beginning_changes_nothing():
    found = track()
    found.change_mask(Change(i=0, t=0.0, mask=[(1, [0])]), found.next_chunk)
    found.add(chunk(0, 0.5))
    assert (found.start.initial, found.series.mid, found.series.current.masked_at) == (0.5, [0.5], None)


def test_a_mask_in_a_recording_without_the_start_gives_it_one():
    found = begun_at(keyframe(14), chunk(14, 0.5))
    assert "after the first measured one" in found.series.unavailable
    assert found.start.problem
    found.change_mask(Change(i=300, t=1.0, mask=[(1, [0])]), found.next_chunk)
    for at in range(15, 22):
        found.add(chunk(at, 0.5))
    assert found.series.unavailable == ""
    assert found.start.initial == 0.5
