"""Traces that only count selections: SGLang's dumps and llama.cpp's importance matrices."""

from __future__ import annotations

import json
import os
import pickle
import re
import sys
import zipfile

import numpy as np
import pytest

import moe_watch
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Keyframe, State, Token
from moe_watch.sessions.export.exporter import ExportPlan, export_session
from moe_watch.sessions.imports.importer import import_trace, read_trace
from moe_watch.sessions.imports.traces import ImportOptions
from moe_watch.sessions.replaying.source import ReplaySource
from moe_watch.tui.app import MoeWatchApp
from tests.sessions.kit import replayed
from tests.tui.conftest import AtOnce, press, running, settle, shown, toasts
from tests.tui.scripted import ManualClock

TWO = ImportOptions(experts_per_token=2)
STEPS, LAYERS, EXPERTS = 4, 3, 6


def made_counts():
    """Selections [steps, layers, experts] of two experts per token, none in layer 0: a dense one."""
    rng = np.random.default_rng(2)
    counts = np.zeros((STEPS, LAYERS, EXPERTS), np.int64)
    for step in range(STEPS):
        for layer in range(1, LAYERS):
            for _ in range(25):
                counts[step, layer, rng.choice(EXPERTS, 2, replace=False)] += 1
    return counts


@pytest.fixture
def imported(tmp_path):
    def run(path, options=TWO, **named):
        return moe_watch.open(import_trace(path, options, folder=tmp_path / "sessions", **named).path)

    return run


@pytest.fixture
def dump(tmp_path):
    path = tmp_path / "dump.npz"
    np.savez(path, logical_count=made_counts())
    return path


def refused(run, message, *arguments, **named):
    with pytest.raises(UserError, match=message):
        run(*arguments, **named)


# -- SGLang


def test_counts_become_a_session_without_tokens(imported, dump):
    session = imported(dump)
    assert len(session) == 0
    assert session.header.backend.name == "SGLang"
    assert session.header.capture == ["counts"]
    assert session.layers.tolist() == [1, 2]
    np.testing.assert_array_equal(session.counts("prefill"), made_counts().sum(0)[1:])
    np.testing.assert_allclose(session.usage("prefill").sum(-1), 1)
    assert np.isnan(session.usage("decode")).all()
    assert any("does not separate prefill and decode" in warning for warning in session.header.warnings)
    assert any("no tokens" in warning for warning in session.header.warnings)


def test_a_phase_is_taken_from_who_knows_it(imported, dump):
    session = imported(dump, ImportOptions(experts_per_token=2, phase="decode"))
    np.testing.assert_array_equal(session.counts("decode"), made_counts().sum(0)[1:])
    assert not session.counts("prefill").any()
    assert not any("prefill and decode" in warning for warning in session.header.warnings)


def test_its_file_holds_a_state_and_no_made_up_tokens(imported, dump):
    items = replayed(imported(dump).path)
    frame = [item for item in items if isinstance(item, Keyframe)][-1]
    assert frame.i == 100
    assert frame.rows_prefill == [100, 100]
    assert frame.chunks == 0
    assert not any(isinstance(item, Token) for item in items)
    assert isinstance(items[-1], State)
    assert items[-1].why == "imported"


def summed(tmp_path):
    """A dump without steps."""
    path = tmp_path / "summed.npz"
    np.savez(path, logical_count=made_counts().sum(0))
    return path


@pytest.mark.parametrize("size", [(120, 40), (200, 60)], ids=["120x40", "200x60"])
async def test_the_dashboard_shows_what_was_counted_and_says_what_is_not_there(imported, tmp_path, size):
    counts = made_counts().sum(0)[1:]
    counts = np.where(np.arange(EXPERTS) == 4, 0, counts)
    counts += counts.sum(-1, keepdims=True) % 2 * (np.arange(EXPERTS) == 0)
    path = tmp_path / "dead.npz"
    np.savez(path, logical_count=counts)
    session = imported(path)
    async with running(replayed(session.path), size=size) as (app, _, _):
        board = app.dashboard
        assert (app.view.status, app.view.why) == ("finished", "imported")
        assert app.view.tokens == 0
        experts, entropy = shown(board.experts), shown(board.entropy)
        assert f"EXPERTS  usage, imported, {counts.sum():,} selections" in experts
        np.testing.assert_allclose(board.experts.content.shares, session.usage("prefill"))
        hottest = session.usage("prefill").max()
        assert f"{100 * hottest:.1f} % of" in experts
        assert "ENTROPY  of usage, no order in time" in entropy
        assert "router entropy n/a: counts, no tokens" in entropy
        assert "dead 2 of 12" in entropy
        portions = counts / counts.sum(-1, keepdims=True)
        spread = -(portions * np.log(np.where(portions, portions, 1))).sum(-1)
        assert f"mean {(spread / np.log(EXPERTS)).mean():.2f}" in entropy
        assert re.search(rf"effective( experts)? {np.exp(spread).mean():.1f} of {EXPERTS}", entropy)
        for each in spread / np.log(EXPERTS):
            assert f" {each:.2f}" in entropy
        for panel in (board.stream, board.pressure):
            assert "n/a: this recording has counts, no tokens" in shown(panel)
        assert "n/a: an import has no readings" in shown(board.vitals)
        assert f"finished: imported, counts of {counts.sum(-1).max() // 2} tokens" in shown(board.query_one("#banner"))


async def test_a_replay_shows_each_step(imported, dump):
    clock = ManualClock()
    source = ReplaySource(imported(dump).path, clock)
    source.pause()
    app = MoeWatchApp(source, clock=clock, fps=None, executor=AtOnce())
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await settle(app, pilot)
        assert "no token yet" in shown(app.dashboard.experts)
        for tokens, total in zip((25, 50, 75, 100), made_counts().cumsum(0)[:, 1:], strict=True):
            await press(app, pilot, "full_stop")
            np.testing.assert_array_equal(app.view.window.usage.counts, total)
            assert shown(app.dashboard.timeline).strip().endswith(f"token {tokens} of 100")
            assert "no times" in shown(app.dashboard.timeline)
            assert f"imported, {total.sum():,} selections" in shown(app.dashboard.experts)
        assert "ENTROPY  of usage so far" in shown(app.dashboard.entropy)
        await press(app, pilot, "5")
        await settle(app, pilot)
        np.testing.assert_array_equal(app.view.window.usage.counts, made_counts()[:2, 1:].sum(0))


async def test_counts_without_steps_cannot_be_moved_about_in(imported, tmp_path):
    clock = ManualClock()
    app = MoeWatchApp(ReplaySource(imported(summed(tmp_path)).path, clock), clock=clock, fps=None, executor=AtOnce())
    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        await settle(app, pilot)
        said = len(toasts(app))
        await press(app, pilot, "comma", "slash")
        assert toasts(app)[said:] == [
            "token back: imported counts have no order in time",
            "find…: imported counts have no order in time",
        ]


def test_counts_are_exported(imported, dump, tmp_path):
    found = export_session(imported(dump).path, ExportPlan("json", tmp_path / "out"))
    assert found.rows == {"events": 1, "usage": 2 * EXPERTS}
    rows = json.loads((tmp_path / "out/usage.json").read_text())
    assert [row["selections"] for row in rows] == made_counts().sum(0)[1:].ravel().tolist()
    assert {row["rows"] for row in rows} == {100}


def test_every_form_of_a_dump_gives_the_same(imported, dump, tmp_path):
    counts = made_counts()
    (tmp_path / "dump.json").write_text(json.dumps({"rank": 0, "logical_count": counts.tolist()}))
    np.save(tmp_path / "dump.npy", counts)
    np.save(tmp_path / "summed.npy", counts.sum(0))
    expected = imported(dump).counts("prefill")
    np.testing.assert_array_equal(imported(tmp_path / "dump.json").counts("prefill"), expected)
    for name in ("dump.npy", "summed.npy"):
        np.testing.assert_array_equal(imported(tmp_path / name, form="sglang").counts("prefill"), expected)


def test_copies_of_experts_on_gpus_are_told_apart_by_the_dumps_map(imported, tmp_path):
    places = [[0, 1, 2, 3, 0], [3, 2, 1, 0, 3]]
    passes = [
        {"global_physical_count": [[1, 2, 3, 4, 10], [5, 0, 1, 2, 10]]},
        {"global_physical_count": [[1] * 5, [1] * 5]},
    ]
    path = tmp_path / "dump.json"
    path.write_text(json.dumps({"records": passes, "last_physical_to_logical_map": places}))
    found = imported(path, ImportOptions(experts_per_token=1)).counts("prefill")
    assert found.tolist() == [[13, 3, 4, 5], [3, 2, 1, 17]]


def test_a_file_of_pytorch_is_loaded_safely(imported, tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "dump.pt"
    torch.save(
        {"rank": 0, "logical_count": torch.tensor(made_counts()), "average_utilization_rate_over_window": None}, path
    )
    np.testing.assert_array_equal(imported(path).counts("prefill"), made_counts().sum(0)[1:])


class Program:
    """Object that makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


def test_a_file_of_pytorch_that_is_a_program_is_not_run(imported, tmp_path):
    pickled = pickle.dumps(Program(tmp_path / "ran"))
    pickle.loads(pickled)  # it would run
    (tmp_path / "ran").rmdir()
    (tmp_path / "dump.pt").write_bytes(pickled)
    with zipfile.ZipFile(tmp_path / "zipped.pt", "w") as archive:
        archive.writestr("zipped/data.pkl", pickled)
        archive.writestr("zipped/version", "3")
    for name in ("dump.pt", "zipped.pt"):
        refused(imported, "not installed|does not load it safely", tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_without_pytorch_it_is_said_how_to_go_on(imported, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "dump.pt").write_bytes(b"PK\x03\x04")
    refused(
        imported, r"not installed: where PyTorch is installed, run: python -c .*weights_only=True", tmp_path / "dump.pt"
    )


def test_arrays_of_python_objects_are_refused(imported, tmp_path):
    np.savez(tmp_path / "objects.npz", logical_count=np.array([Program(tmp_path / "ran")], object))
    refused(imported, "not an array of numbers", tmp_path / "objects.npz")
    assert not (tmp_path / "ran").exists()
    (tmp_path / "cut.npz").write_bytes((tmp_path / "objects.npz").read_bytes()[:-30])
    refused(imported, "damaged .npz file", tmp_path / "cut.npz")


def test_what_counts_do_not_tell_is_never_guessed(imported, dump, tmp_path):
    refused(imported, "do not state the experts per token: use --experts-per-token N", dump, ImportOptions())
    refused(imported, "layer 1 are not a multiple of 3: check", dump, ImportOptions(experts_per_token=3))
    refused(imported, "6 experts, not 8: leave out --experts", dump, ImportOptions(experts=8, experts_per_token=2))
    session = imported(dump, ImportOptions(experts_per_token=2, layers=[4, 7, 9], model="mine"))
    assert session.layers.tolist() == [7, 9]
    assert session.header.model.name == "mine"


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ([[0, 0]], "all counts are 0"),
        ([[-1, 3]], "not counts of selections"),
        ([[0.5, 1.5]], "not counts of selections"),
        ([[1e300, 2]], "not counts of selections"),
        ([[2]], "2 of 1 experts"),
        ([1, 2], "not counts of selections"),
        ([[1, 1], [2]], "rows of different lengths"),
        ("few", r"Expected `array`, got `str` - at `\$.logical_count`"),
        (None, "neither logical_count nor records"),
    ],
)
def test_bad_counts_are_refused_in_a_line(imported, tmp_path, counts, message):
    path = tmp_path / "dump.json"
    path.write_text(json.dumps({"logical_count": counts}))
    refused(imported, message, path)


def test_a_damaged_byte_is_harmless_or_refused_in_a_line(dump, tmp_path):
    np.save(tmp_path / "dump.npy", made_counts().astype(np.uint8))
    (tmp_path / "dump.json").write_text(json.dumps({"logical_count": made_counts()[:1].tolist()}))
    refusals = []
    for path in (dump, tmp_path / "dump.npy", tmp_path / "dump.json"):
        content, damaged = path.read_bytes(), tmp_path / f"damaged{path.suffix}"
        for at in range(len(content)):
            damaged.write_bytes(content[:at] + bytes([content[at] ^ 0x41]) + content[at + 1 :])
            try:
                read_trace(damaged, TWO, "sglang")
            except UserError as error:
                refusals.append(str(error))
    assert len(refusals) > 100
    assert not any("\n" in refusal for refusal in refusals)


# -- llama.cpp


@pytest.fixture
def imatrix(tmp_path):
    """Writes an importance matrix as `llama-imatrix` does: sums and counts of every tensor that was multiplied."""
    gguf = pytest.importorskip("gguf")

    def write(counts, tokens, *, kind="imatrix"):
        path = tmp_path / "imatrix.gguf"
        writer = gguf.GGUFWriter(path, arch="", endianess=gguf.GGUFEndian.LITTLE)
        writer.add_type(kind)
        writer.add_uint32("imatrix.chunk_count", 2)
        writer.add_uint32("imatrix.chunk_size", 32)
        for layer, row in enumerate(counts):
            names = {f"blk.{layer}.attn_q.weight": [tokens]}
            if any(row):
                names |= {f"blk.{layer}.ffn_{part}_exps.weight": row for part in ("down", "gate", "up")}
            for name, column in names.items():
                values = np.array(column, np.float32)[:, None]
                writer.add_tensor(f"{name}.in_sum2", np.ones((len(values), 4), np.float32))
                writer.add_tensor(f"{name}.counts", values)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write


@pytest.mark.parametrize(
    ("kind", "steps", "chosen"),
    [
        (np.float16, [[60_000, 60_000], [60_000, 60_000]], 1),  # their sum is beyond the largest float16
        (np.float16, [[1025, 1024, 1024, 1024], [1024, 1025, 1024, 1024]], 2),  # 2,049 is no float16
        (np.float32, [[2**23 + 1, 2**23, 2**23, 2**23], [2**23, 2**23 + 1, 2**23, 2**23]], 2),
    ],
)
def test_counts_in_narrow_types_are_summed_without_rounding(imported, tmp_path, kind, steps, chosen):
    path = tmp_path / "dump.npz"
    np.savez(path, logical_count=np.array(steps, kind)[:, None])
    counts = imported(path, ImportOptions(experts_per_token=chosen)).counts("prefill")
    assert counts.tolist() == [[sum(expert) for expert in zip(*steps, strict=True)]]


def test_an_importance_matrix_becomes_a_session(imported, imatrix):
    counts = made_counts().sum(0)
    session = imported(imatrix(counts.tolist(), 100), ImportOptions(model="mixtral"))
    assert session.header.backend.name == "llama.cpp"
    assert session.header.model.experts_per_token == 2  # selections per use of attention
    assert session.layers.tolist() == [1, 2]
    np.testing.assert_array_equal(session.counts("prefill"), counts[1:])
    assert not session.counts("decode").any()


def test_an_importance_matrix_that_does_not_tell_is_asked_about(imported, imatrix):
    counts = made_counts().sum(0).tolist()
    refused(
        imported,
        "does not state the experts per token: use --experts-per-token N",
        imatrix(counts, 99),
        ImportOptions(),
    )
    assert imported(imatrix(counts, 99)).header.model.experts_per_token == 2


def test_other_gguf_files_are_refused(imported, imatrix, tmp_path):
    refused(imported, "not an importance matrix", imatrix([[1, 1]], 1, kind="model"))
    refused(imported, "no counts of experts", imatrix([[0, 0]], 5), ImportOptions())
    refused(imported, "looks like imatrix, not vllm", imatrix([[1, 1]], 1), form="vllm")
    (tmp_path / "cut.gguf").write_bytes(imatrix(made_counts().sum(0).tolist(), 100).read_bytes()[:200])
    refused(imported, "truncated", tmp_path / "cut.gguf")
