"""Series of a run whose mask changes: only chunks since the last change are fitted."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np

from moe_watch.routing.events import Change, Chunk, Keyframe, State, StreamItem
from moe_watch.routing.half_life.series import MidSeries
from moe_watch.routing.pressure.instruments import Instruments
from moe_watch.routing.summary import Summary
from tests.sessions.kit import HEADER, make_token

SIZE = HEADER.chunk_size
WARM_UP = 10


def run(chunks: int, changes: dict[int, list[tuple[int, list[int]]]], restart: int | None = None) -> list[StreamItem]:
    """A run of this many tokens of a chunk, with masks that change before these tokens."""
    instruments = Instruments(HEADER)
    found: list[StreamItem] = [HEADER]

    def events() -> Iterator[StreamItem]:
        for i in range(chunks * SIZE):
            if i == restart:
                yield State(state="fresh_context", i=i, t=0.05 * i, why="context")
            if i in changes:
                yield Change(i=i, t=0.05 * i, mask=changes[i])
            yield make_token(i, "generated")

    for event in events():
        found += [event, *instruments.feed(event)]
    return found


def fed(items: list[StreamItem]) -> MidSeries:
    series = MidSeries(HEADER.pressure)
    for item in items:
        series.feed(item)
    return series


def measured(items: list[StreamItem], since: int) -> list[float]:
    chunks = [item for item in items if isinstance(item, Chunk) and not (item.partial or item.warm_up)]
    return [chunk.pressures.mid for chunk in chunks if chunk.first >= since and chunk.pressures is not None]


def test_the_series_has_the_chunks_since_the_last_change() -> None:
    at = (WARM_UP + 8) * SIZE + 1
    items = run(WARM_UP + 20, {at - 5: [(1, [0])], at: [(1, [0, 2])]})
    series = fed(items)
    assert series.judged.masked_at == at
    assert series.mid == measured(items, at)
    assert 5 <= len(series.mid) < len(measured(items, 0))
    fit = series.fit()
    assert fit is not None
    assert fit.first == next(item.index for item in items if isinstance(item, Chunk) and item.first >= at)


def test_the_cut_chunk_is_partial_and_no_chunk_spans_two_masks() -> None:
    at = 3 * SIZE + 2
    chunks = [item for item in run(8, {at: [(1, [0])]}) if isinstance(item, Chunk)]
    assert [chunk.tokens for chunk in chunks if chunk.partial] == [2]
    assert all(chunk.last < at or chunk.first >= at for chunk in chunks)


def test_a_change_between_two_chunks_cuts_nothing() -> None:
    chunks = [item for item in run(8, {3 * SIZE: [(1, [0])]}) if isinstance(item, Chunk)]
    assert len(chunks) == 8
    assert not any(chunk.partial for chunk in chunks)


def test_too_few_chunks_since_the_change_are_said() -> None:
    series = fed(run(WARM_UP + 9, {(WARM_UP + 7) * SIZE: [(1, [0])]}))
    assert series.fit() is None
    assert (
        series.unavailable == "2 measured chunks, and a fit needs at least 5: 3 more since the mask changed at token 68"
    )


def test_a_mask_holds_in_the_next_context_whose_series_is_whole() -> None:
    restart = (WARM_UP + 7) * SIZE
    series = fed(run(2 * WARM_UP + 14, {(WARM_UP + 3) * SIZE: [(1, [0])]}, restart=restart))
    assert [(each.number, each.masked_at) for each in series.contexts] == [(0, (WARM_UP + 3) * SIZE), (1, None)]
    assert len(series.current.mid) == 7


def test_a_keyframe_continues_with_the_mask() -> None:
    """Instruments that begin at a keyframe compute what they would with the change."""
    instruments, again = Instruments(HEADER), Instruments(HEADER)
    items = [item for item in run(12, {13: [(1, [0])], 30: []}) if not isinstance(item, Chunk | Keyframe)]
    before, after = items[: items.index(make_token(20, "generated"))], items[items.index(make_token(20, "generated")) :]
    for item in before:
        instruments.feed(item)
    frame = instruments.keyframe()
    assert frame.mask == [(1, [0])]
    again.feed(msgspec.json.decode(msgspec.json.encode(frame), type=Keyframe))
    assert [instruments.feed(item) for item in after] == [again.feed(item) for item in after]
    assert instruments.keyframe() == again.keyframe()
    assert "mask" not in msgspec.to_builtins(again.keyframe())


def test_entropies_stay_over_all_experts() -> None:
    """Router entropy is over ln E, not over the experts that are left: a mask does not change the tokens' numbers."""
    plain, masked = run(6, {}), run(6, {0: [(1, [0])]})
    entropies = [
        [item.signals.router_entropy for item in items if isinstance(item, Chunk) and item.signals is not None]
        for items in (plain, masked)
    ]
    assert np.array_equal(entropies[0], entropies[1])


def test_the_summary_measures_since_the_change() -> None:
    at = (WARM_UP + 6) * SIZE
    items = run(WARM_UP + 14, {at: [(1, [0])]})
    summary = Summary()
    for item in items:
        summary.feed(item)
    found = summary.result()
    assert found is not None
    [context] = found.pressure.contexts
    assert (context.since_mask, context.measured) == (at, 8)
    assert found.pressure.initial == context.initial == measured(items, at)[0]
