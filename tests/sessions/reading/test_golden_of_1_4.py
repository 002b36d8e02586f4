"""Golden file of schema 1.4 with everything that it added: masks, another k, a pruned model."""

from __future__ import annotations

import csv
import json
import pathlib

import pytest

from moe_watch.commands.app import run
from moe_watch.routing.contexts import ContextNumbers
from moe_watch.routing.events import Change, Chunk, Keyframe, Token, from_json, to_json
from moe_watch.routing.half_life.series import MidSeries
from moe_watch.routing.router.masks import ExpertMask
from moe_watch.routing.router.present_mask import PresentMask, keyframe_mask
from moe_watch.routing.summary import Summary
from moe_watch.sessions.reading.reader import read_session
from moe_watch.sessions.reading.versions import PUBLISHED
from moe_watch.sessions.replaying.source import ReplaySource
from moe_watch.sessions.source import Jump
from moe_watch.sessions.verifying.file import verify
from moe_watch.sessions.verifying.salvage import salvage
from tests.sessions.kit import ManualClock, replayed
from tests.sessions.reading.test_golden_of_1_3 import lines_of, paths_in

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "golden-1.4-fields.moe.jsonl"
[ADDED] = [each.fields for each in PUBLISHED if (each.major, each.minor) == (1, 4)]
FIRST = ExpertMask.of([(1, 0)])
SECOND = ExpertMask.of([(1, 0), (4, 2), (4, 3)])
"""The masks of the file: from token 0, and from token 12 on; from token 29 on all experts are on."""


def mask_at(i: int) -> ExpertMask:
    return ExpertMask() if i >= 29 else SECOND if i >= 12 else FIRST


def test_every_field_that_1_4_added_is_in_it() -> None:
    lines = [json.loads(line) for line in lines_of(GOLDEN)]
    assert {key for line in lines for key in paths_in(line, line["event"])} >= ADDED


def test_every_line_survives_reading_and_writing() -> None:
    for line in lines_of(GOLDEN):
        assert to_json(from_json(line)) + b"\n" == line


def test_it_has_no_fault() -> None:
    assert verify(GOLDEN).findings == []


def test_a_replay_shows_every_event() -> None:
    recorded = [event for event in read_session(GOLDEN) if not isinstance(event, Keyframe)]
    assert [item for item in replayed(GOLDEN) if not isinstance(item, Keyframe)] == recorded


def test_a_change_of_the_mask_ends_the_chunk() -> None:
    chunks = [event for event in read_session(GOLDEN) if isinstance(event, Chunk)]
    assert [(chunk.first, chunk.last, chunk.partial) for chunk in chunks] == [
        *[(2, 5, False), (6, 9, False), (10, 11, True)],
        *[(12, 15, False), (16, 19, False), (20, 21, True)],
        *[(24, 27, False), (28, 28, True), (29, 32, False), (33, 36, False), (37, 39, True)],
    ]


def test_tokens_and_keyframes_agree_with_the_masks() -> None:
    present = PresentMask()
    for event in read_session(GOLDEN):
        if isinstance(event, Keyframe):
            assert keyframe_mask(event) == present.mask == SECOND
        present = present.after(event)
        if isinstance(event, Token):
            assert present.mask == mask_at(event.i)
            for at, layer in enumerate((1, 2, 4)):
                assert not present.mask.masked(layer).intersection(event.experts[2 * at : 2 * at + 2])


@pytest.mark.parametrize("i", [0, 1, 11, 12, 13, 17, 18, 22, 28, 29, 30, 39])
def test_a_seek_has_the_mask_of_its_token(i: int) -> None:
    source = ReplaySource(GOLDEN, ManualClock(), speed=0)
    source.start()
    source.pause()
    source.seek(Jump("token", i))
    present, tokens = PresentMask(), [-1]
    for _ in range(100):
        for item in source.drain():
            present = present.after(item)
            tokens += [item.i] if isinstance(item, Token) else []
    assert tokens[-1] == i - 1
    assert present.mask == mask_at(i)


def test_the_summary_names_the_masks_and_counts_dead_experts_apart() -> None:
    summary = Summary()
    for event in read_session(GOLDEN):
        summary.feed(event)
    found = summary.result()
    assert found is not None
    assert [(each.i, each.mask) for each in found.masks] == [(0, FIRST.rows), (12, SECOND.rows), (29, [])]
    assert found.own_experts_per_token == 3
    assert found.expert_ids is not None
    assert found.expert_ids[0] == [0, 2, 3, 5, 7]
    prefill = found.usage.prefill
    for at, off in enumerate(({0}, set(), {2, 3})):
        unused = {expert for expert, count in enumerate(prefill.counts[at]) if not count}
        assert (prefill.dead[at], prefill.switched_off[at]) == (len(unused - off), len(unused & off))
    assert prefill.switched_off[0] == 1


def test_fits_begin_with_the_last_change_of_the_mask() -> None:
    series = MidSeries("measured-v2")
    for event in read_session(GOLDEN):
        series.feed(event)
    assert [(each.number, each.masked_at) for each in series.contexts] == [(0, 12), (1, 29)]
    assert "since the mask changed at token 29" in series.unavailable


def test_its_tables(tmp_path: pathlib.Path) -> None:
    assert run(["export", str(GOLDEN), "--to", "csv", "--output", str(tmp_path / "tables")]) == 0
    with (tmp_path / "tables" / "events.csv").open(newline="") as table:
        rows = [(int(row["i"]), row["what"], row["text"]) for row in csv.DictReader(table) if row["event"] == "change"]
    assert rows == [
        *[(0, "mask", "1:0"), (0, "experts_per_token", "2"), (12, "mask", "1:0,4:2,4:3"), (29, "mask", "none")],
    ]


def test_a_lost_token_does_not_lose_the_mask(tmp_path: pathlib.Path) -> None:
    lines = lines_of(GOLDEN)
    at = next(at for at, line in enumerate(lines) if b'"i":14,' in line)
    damaged, copy = tmp_path / "damaged.moe.jsonl", tmp_path / "copy.moe.jsonl"
    damaged.write_bytes(b"".join([*lines[:at], b"garbage\n", *lines[at + 1 :]]))
    assert salvage(damaged, copy).missing_tokens == 1
    changes = [event for event in read_session(copy) if isinstance(event, Change)]
    assert [change.i for change in changes] == [0, 12, 29]
    assert not {"masks", "keyframes", "chunks"} & {finding.check for finding in verify(copy).findings}


def test_contexts_are_counted() -> None:
    numbers = ContextNumbers()
    for event in read_session(GOLDEN):
        numbers.feed(event)
    assert numbers.current == 1


class TestFaults:
    """Each fault of a mask is found by its check."""

    def checks(self, tmp_path: pathlib.Path, lines: list[bytes]) -> list[tuple[str, str]]:
        path = tmp_path / "fault.moe.jsonl"
        path.write_bytes(b"".join(lines))
        return [(finding.check, finding.text) for finding in verify(path).findings]

    def test_a_token_selects_a_masked_expert(self, tmp_path: pathlib.Path) -> None:
        lines = lines_of(GOLDEN)
        at = next(at for at, line in enumerate(lines) if b'"mask":[[1,[0]],[4,[2,3]]]}' in line)
        lines[at] = lines[at].replace(b"[4,[2,3]]", b"[4,[0,1]]")
        found = dict(self.checks(tmp_path, lines))
        assert "of layer 4, which is switched off" in found["masks"]

    def test_a_keyframe_with_another_mask(self, tmp_path: pathlib.Path) -> None:
        lines = lines_of(GOLDEN)
        at = next(at for at, line in enumerate(lines) if line.startswith(b'{"event":"keyframe"'))
        lines[at] = lines[at].replace(b'"mask":[[1,[0]],[4,[2,3]]]', b'"mask":[[1,[0]]]')
        found = dict(self.checks(tmp_path, lines))
        assert (
            found["masks"] == "the keyframe after 18 tokens has the experts 1:0 off, the events before it 1:0,4:2,4:3"
        )
        assert "keyframes" in found

    def test_a_lost_change(self, tmp_path: pathlib.Path) -> None:
        lines = [line for line in lines_of(GOLDEN) if b'"change","i":12' not in line]
        found = dict(self.checks(tmp_path, lines))
        assert {"masks", "chunks", "keyframes"} <= found.keys()

    def test_a_change_in_the_wrong_place(self, tmp_path: pathlib.Path) -> None:
        lines = lines_of(GOLDEN)
        early = [line.replace(b'"change","i":29', b'"change","i":27') for line in lines]
        assert ("masks", "a mask from token 27 on is recorded after token 28") in self.checks(tmp_path, early)
        late = [line.replace(b'"change","i":29', b'"change","i":33') for line in lines]
        assert ("masks", "a mask from token 33 on is recorded before token 29") in self.checks(tmp_path, late)

    def test_another_number_of_experts_per_token(self, tmp_path: pathlib.Path) -> None:
        lines = [line.replace(b'"experts_per_token":2}\n', b'"experts_per_token":4}\n') for line in lines_of(GOLDEN)]
        assert ("experts per token", "4 experts per token are named, but the header has 2") in self.checks(
            tmp_path, lines
        )

    def test_a_mask_that_leaves_too_few(self, tmp_path: pathlib.Path) -> None:
        lines = [line.replace(b"[4,[2,3]]", b"[4,[0,1,2,3]]") for line in lines_of(GOLDEN)]
        assert ("masks", "a mask leaves 1 experts of layer 4, which selects 2") in self.checks(tmp_path, lines)

    def test_a_layer_that_does_not_exist(self, tmp_path: pathlib.Path) -> None:
        lines = [line.replace(b"[4,[2,3]]", b"[5,[2,3]]") for line in lines_of(GOLDEN)]
        [text] = [text for check, text in self.checks(tmp_path, lines) if check == "unreadable lines"]
        assert "a mask of layer 5, which is no MoE layer" in text
