"""The commands on dense models, with the real engines on tiny models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moe_watch.backends.model_files import catalog
from moe_watch.commands.app import run
from moe_watch.routing.events import Chunk, Perturbation, Token
from moe_watch.sessions.reading.reader import read_session
from tests.backends import tiny

pytestmark = pytest.mark.model

REASON = "a dense model has no router, and so no pressure"
ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(bool(catalog.missing_packages(entry)), reason=f"no {name} here"))
    for name, entry in catalog.ENGINES.items()
]


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """The folders of these tests."""
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A dense model for each engine, and an MoE model with the same tokenizer."""
    folder = tmp_path_factory.mktemp("models")
    tiny.write_model(folder / "dense", tiny.DENSE)
    tiny.write_model(folder / "mixtral")
    if not catalog.missing_packages(catalog.ENGINES["llama.cpp"]):
        from tests.backends import llama_files

        llama_files.write_gguf(folder / "dense.gguf", tiny.DENSE)
    return folder


def model_of(models: Path, engine: str) -> str:
    return str(models / ("dense" if engine == "mlx" else "dense.gguf"))


def recorded(model: str, output: str, *options: str) -> None:
    assert run(["record", model, "--output", output, "--prompt", "Hello", "--tokens", "60", *options]) == 0


def complaint(capsys, *command: str) -> str:
    capsys.readouterr()
    assert run(list(command)) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said.strip().removeprefix("moe-watch: ")


@pytest.mark.parametrize("engine", ENGINES)
class TestRecording:
    def test_a_run_is_recorded_and_replayed_alike(self, models, engine, capsys):
        assert run(["record", model_of(models, engine), "--prompt", "Hello", "--tokens", "60", "--seed", "3",
                    "--perturb", " go", "--every", "1", "-o", "a.moe.jsonl", "--json"]) == 0  # fmt: skip
        live = json.loads(capsys.readouterr().out)
        assert run(["replay", "a.moe.jsonl", "--headless", "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == live
        assert (live["layers"], live["experts"], live["experts_per_token"]) == ([], 0, 0)
        assert live["surprisal"] > 0
        assert live["pressure"]["fit_unavailable"] == REASON
        assert live["router_entropy"] is live["churn"] is None
        header, *events = read_session(Path("a.moe.jsonl"))
        assert (header.model.layers, header.model.gate, header.capture) == ([], "none", ["logprob"])
        assert (header.model.expert_bytes, header.model.non_expert_bytes) == (None, header.model.bytes)
        assert (header.schema, header.schema_minor) == (1, 4)
        tokens = [event for event in events if isinstance(event, Token)]
        assert len(tokens) == sum(live["tokens"].values())
        assert all(not token.experts and token.entropy is None for token in tokens)
        generated = [token for token in tokens if token.phase == "decode"]
        assert all(None not in (token.logprob, token.top_margin, token.choice_gap) for token in generated)
        chunks = [event for event in events if isinstance(event, Chunk)]
        assert [chunk.tokens for chunk in chunks] == [20, 20, 20]
        assert all(chunk.signals is chunk.pressures is None for chunk in chunks)
        assert sum(isinstance(event, Perturbation) for event in events) == live["perturbations"] > 0

    def test_the_summary_is_short(self, models, engine, capsys):
        recorded(model_of(models, engine), "a.moe.jsonl")
        said = capsys.readouterr().out
        assert "dense, no MoE layers" in said
        assert f"pressure n/a: {REASON}" in said
        assert "router entropy" not in said

    def test_files_are_fine_and_can_be_salvaged(self, models, engine, capsys):
        recorded(model_of(models, engine), "a.moe.jsonl")
        whole = Path("a.moe.jsonl").read_bytes()
        assert run(["verify", "a.moe.jsonl"]) == 0
        Path("torn.moe.jsonl").write_bytes(whole[: len(whole) * 2 // 3])
        assert run(["verify", "torn.moe.jsonl", "--salvage", "saved.moe.jsonl"]) == 0
        assert run(["replay", "saved.moe.jsonl", "--headless"]) == 0
        assert REASON in capsys.readouterr().out

    def test_a_measurement_is_refused_before_the_model_is_loaded(self, models, engine, capsys, monkeypatch):
        monkeypatch.setattr("moe_watch.sessions.live.shared_worker.KeptWorker.__enter__", None)
        model = model_of(models, engine)
        said = complaint(capsys, "measure", model, "--out", "out")
        assert said == f"{model}: {REASON}: record it with `moe-watch record`"
        assert not Path("out").exists()

    def test_a_benchmark_measures_text_and_events_and_stores_no_cost(self, models, engine, capsys, monkeypatch):
        kept = []
        monkeypatch.setattr("moe_watch.sessions.live.cost.keep_cost", lambda *args: kept.append(args))
        assert run(["bench", model_of(models, engine), "--rounds", "6", "--tokens", "20", "--json"]) == 0
        shown = capsys.readouterr()
        found = json.loads(shown.out)
        said = "a dense model has no tap: its rows with and without one both measure text and events alone"
        assert (found["cost"], found["cost_unavailable"]) == (None, said)
        assert said in shown.err
        assert {row["name"] for row in found["rows"]} >= {"bare", "tap on", "tap + recording + dashboard"}
        assert all(row["tokens_per_second"] > 0 for row in found["rows"])
        assert kept == []


def test_a_fit_is_refused_in_one_line(models, capsys):
    recorded(str(models / "dense"), "a.moe.jsonl")
    assert complaint(capsys, "fit", "a.moe.jsonl") == f"a.moe.jsonl: {REASON}: give a session of an MoE model"


def test_teacher_forcing_in_both_directions_and_the_comparison(models, capsys):
    """A dense run gives its tokens to an MoE model, and the other way round; compare shows what both have."""
    recorded(str(models / "dense"), "dense.moe.jsonl", "--seed", "1")
    assert run(["record", str(models / "mixtral"), "--teacher", "dense.moe.jsonl", "-o", "moe.moe.jsonl"]) == 0
    assert run(["record", str(models / "dense"), "--teacher", "moe.moe.jsonl", "-o", "back.moe.jsonl"]) == 0
    capsys.readouterr()
    assert run(["compare", "dense.moe.jsonl", "moe.moe.jsonl", "back.moe.jsonl", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    tokens = sum(found["sources"][0]["runs"][0]["tokens"].values())
    to_moe, back = (pair["agreement"] for pair in found["pairs"])
    assert (to_moe["tokens"], to_moe["ended"]) == (back["tokens"], back["ended"]) == (tokens, None)
    assert to_moe["surprisal"]["first"] != to_moe["surprisal"]["second"]
    assert back["surprisal"]["first"] == pytest.approx(back["surprisal"]["second"], abs=1e-4), "the same model"
    assert to_moe["unavailable"] == "the first model is dense: no MoE layers to compare"
    assert [source["pressure"] for source in found["sources"]] == [None, "measured-v2", None]
    assert all(source["tokens_per_second"] > 0 for source in found["sources"])
    assert run(["compare", "dense.moe.jsonl", "moe.moe.jsonl"]) == 0
    text = capsys.readouterr().out
    assert "tokens: " in text
    assert "surprisal of these tokens: " in text
    reason = "dense.moe.jsonl is of a dense model: no MoE layers, so no routing and no pressure"
    assert f"half-life, trend, usage and routing: n/a: {reason}" in text
    assert "router entropy" in text, "the MoE run has one"
    assert run(["compare", "dense.moe.jsonl", "back.moe.jsonl"]) == 0
    text = capsys.readouterr().out
    assert "router entropy" not in text
    assert "verdict" not in text
    assert "tokens/s" in text


def test_sessions_show_the_shape(models, capsys):
    recorded(str(models / "dense"), "library/a.moe.jsonl")
    capsys.readouterr()
    assert run(["sessions", "--folder", "library", "show", "a"]) == 0
    said = capsys.readouterr().out
    assert "routers    dense, no MoE layers" in said
    assert f"half-life  {REASON}" in said
    assert run(["sessions", "--folder", "library", "--json"]) == 0
    (session,) = json.loads(capsys.readouterr().out)["sessions"]
    assert (session["layers"], session["experts"], session["experts_per_token"]) == ([], 0, 0)


def test_exports(models, capsys):
    recorded(str(models / "dense"), "a.moe.jsonl")
    assert run(["export", "a.moe.jsonl", "--to", "csv", "-o", "tables"]) == 0
    assert {path.name for path in Path("tables").glob("*.csv")} == {
        "tokens.csv",
        "chunks.csv",
        "vitals.csv",
        "events.csv",
    }
    for form in ("layer-expert", "layer-expert-count", "coli-usage"):
        assert "is dense: it has no routing to write" in complaint(capsys, "export", "a.moe.jsonl", "--to", form)
    refused = complaint(capsys, "export", "a.moe.jsonl", "--to", "csv", "--table", "routing")
    assert refused == "a.moe.jsonl: dense is dense: there is no table routing: use --table tokens"


def test_a_model_that_claims_experts_is_never_recorded_as_dense(models, tmp_path, capsys):
    config = json.loads((models / "mixtral" / "config.json").read_text())
    del config["num_local_experts"]
    folder = tmp_path / "hidden"
    folder.mkdir()
    for file in (models / "mixtral").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "config.json").write_text(json.dumps(config))
    said = complaint(capsys, "record", str(folder), "--tokens", "5", "-o", "a.moe.jsonl")
    assert "its routing cannot be observed reliably" in said
    assert not Path("a.moe.jsonl").exists()
