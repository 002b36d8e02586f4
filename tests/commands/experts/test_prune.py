"""`moe-watch prune` from the command line."""

from __future__ import annotations

import json
import pathlib
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from moe_watch.backends.llama.engine import LlamaEngine
from moe_watch.backends.llama.loading import load_model
from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions
from moe_watch.backends.pruning.pruner import prunable_location, read_prunable_model
from moe_watch.commands.app import run
from tests.backends import llama_files, tiny
from tests.backends.conftest import load_folder
from tests.backends.pruning.pruned_files import mask_of, prune
from tests.backends.pruning.test_mlx_families import scored
from tests.truth.llama_comparison import ignore, run_pieces
from tests.truth.mlx_comparison import Array

Complaint = Callable[..., str]
LAYERS, EXPERTS = 6, 8
COUNTS = np.random.default_rng(1).permutation(LAYERS * EXPERTS).reshape(LAYERS, EXPERTS) + 1
COUNTS[0, 5] = COUNTS[1, 2] = 0
IDS = [0, *np.random.default_rng(2).integers(2, 2048, 40).tolist()]


def fingerprint(name: str = "x.gguf") -> str:
    return read_prunable_model(prunable_location("pocket", pathlib.Path(name))).fingerprint


def profile(path: pathlib.Path, **changed: Any) -> str:
    """Write a profile of pocket; counts differ within a layer, two experts are never routed."""

    def by_layer(table: Array) -> dict[str, list[Any]]:
        return {str(layer): row for layer, row in enumerate(table.tolist())}

    tokens = int(COUNTS.sum())
    found = {
        "model": "pocket",
        "calibration_corpus": "corpus.jsonl",
        "calibration_examples": 1,
        "calibration_tokens": tokens,
        "num_hidden_layers": LAYERS,
        "num_experts": EXPERTS,
        "num_experts_per_tok": 1,
        "activation_counts": by_layer(COUNTS),
        "metric_version": "v1.activation_count",
        "weight_mass": by_layer(COUNTS[:, ::-1] / 2.0),
        "saliency": {
            str(layer): [None if count == 0 else float(1000 - count) for count in row]
            for layer, row in enumerate(COUNTS.tolist())
        },
        "rows": {str(layer): int(row.sum()) for layer, row in enumerate(COUNTS)},
        "fingerprint": fingerprint(),
    }
    path.write_text(json.dumps(found | changed))
    return str(path)


def ablation(path: pathlib.Path, experts: int = EXPERTS) -> str:
    """Write an ablation of pocket's first experts, as `ablate` prints it; the damage is the number of selections."""
    correlation = dict.fromkeys(("pooled", "pooled_interval", "within_layers", "within_layers_interval"))
    stability = {"pooled": None, "within_layers": None}
    measured = [
        {
            **{"layer": layer, "expert": expert, "tokens": int(COUNTS[layer, expert])},
            **{"delta_surprisal": float(COUNTS[layer, expert]) / 100, "interval": None, "kl": 0.1, "kl_interval": None},
            **{"p": 1.0, "p_corrected": 1.0, "weight_mass": 1.0, "saliency": None, "saliency_mass": None},
        }
        for layer in range(LAYERS)
        for expert in range(experts)
    ]
    found = {
        **{"tokens": 1000, "model": "pocket", "fingerprint": fingerprint(), "quantization": None, "backend": "mlx"},
        **{"layers": list(range(LAYERS)), "experts_per_layer": EXPERTS, "experts_per_token": 2},
        "corpus": {"kind": "corpus", "name": "c", "sha256": "0", "windows": 1},
        **{"window": 512, "block": 20, "draws": 1000, "experts": measured},
        "rank_correlations": {"count": {"delta_surprisal": correlation, "kl": correlation}},
        "differences": [],
        "split_half": {"delta_surprisal": stability, "kl": stability},
        "controls": {"layer": 0, "expert": 0, "least_used": None, "same_layer": None},
        "whole": {"mean_surprisal": 1.0, "interval": None},
    }
    path.write_text(json.dumps(found))
    return str(path)


def pruned(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert run(["prune", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.fixture
def complaint(capsys: pytest.CaptureFixture[str]) -> Complaint:
    def of(*arguments: str) -> str:
        assert run(["prune", *arguments]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        (line,) = shown.err.splitlines()
        return line

    return of


def lowest(values: Array, number: int) -> list[list[int]]:
    return [sorted(np.argsort(row, kind="stable")[:number].tolist()) for row in values]


def test_a_dry_run_says_what_leaves_and_writes_nothing(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["pocket", str(tmp_path / "out.gguf"), "--keep", "5", "--by", "count"]
    found = pruned(capsys, *arguments, "--from", profile(tmp_path / "profile.json"), "--dry-run")
    assert list(found)[:3] == ["keep", "by", "layers"]
    assert list(found["layers"][0])[:5] == ["layer", "kept", "dropped", "count_lost", "weight_lost"]
    assert [each["dropped"] for each in found["layers"]] == lowest(COUNTS, 3)
    for layer, row, mass in zip(found["layers"], COUNTS, COUNTS[:, ::-1], strict=True):
        assert sorted(layer["kept"] + layer["dropped"]) == list(range(EXPERTS))
        assert layer["count_lost"] == pytest.approx(row[layer["dropped"]].sum() / row.sum())
        assert layer["weight_lost"] == pytest.approx(mass[layer["dropped"]].sum() / mass.sum())
    assert [each["never_routed"] for each in found["layers"]] == [[5], [2], [], [], [], []]
    assert (found["output"], found["seed"]) == (None, None)
    assert not (tmp_path / "out.gguf").exists()
    assert run(["prune", *arguments, "--from", str(tmp_path / "profile.json"), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    [heading] = [line for line in lines if line.startswith("LAYER")]
    first = lines[lines.index(heading) + 1]
    assert "LEAVE, NEVER ROUTED" in heading
    assert first[heading.index("LEAVE, NEVER") :].startswith("5 ")


@pytest.mark.parametrize(
    ("by", "values"),
    [
        ("count", COUNTS),
        ("weight", COUNTS[:, ::-1]),
        ("saliency", np.where(COUNTS == 0, -np.inf, 1000 - COUNTS)),
    ],
)
def test_each_ranking_of_a_profile(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], by: str, values: Array
) -> None:
    path = profile(tmp_path / "profile.json")
    found = pruned(capsys, "pocket", str(tmp_path / "o.gguf"), "--keep", "6", "--by", by, "--from", path, "--dry-run")
    assert [each["dropped"] for each in found["layers"]] == lowest(values, 2)


def test_a_measured_damage(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], complaint: Complaint) -> None:
    path = ablation(tmp_path / "ablation.json")
    arguments = ["pocket", str(tmp_path / "o.gguf"), "--keep", "6", "--by"]
    found = pruned(capsys, *arguments, "damage", "--from", path, "--dry-run")
    assert [each["dropped"] for each in found["layers"]] == lowest(COUNTS, 2)
    partial = ablation(tmp_path / "partial.json", experts=3)
    for by in ("damage", "count"):  # counts of experts that were not measured are not 0
        assert "3 of 8 experts in layer 0" in complaint(*arguments, by, "--from", partial)


def test_random_is_by_seed(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["pocket", str(tmp_path / "o.gguf"), "--keep", "4", "--by", "random", "--dry-run"]
    first, again, other = (pruned(capsys, *arguments, "--seed", seed) for seed in ("1", "1", "2"))
    assert first == again
    assert [each["kept"] for each in first["layers"]] != [each["kept"] for each in other["layers"]]
    with_usage = pruned(capsys, *arguments, "--seed", "1", "--from", profile(tmp_path / "profile.json"))
    assert [each["kept"] for each in with_usage["layers"]] == [each["kept"] for each in first["layers"]]
    assert with_usage["count_lost"] > 0


def test_shares_that_are_not_known_have_a_reason(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dash alone says nothing: counts without weights, a random draw without any usage, and all known."""
    whole, counts = profile(tmp_path / "profile.json"), profile(tmp_path / "counts.json", weight_mass=None)
    arguments = ["prune", "pocket", str(tmp_path / "o.gguf"), "--keep", "6", "--dry-run", "--by"]

    def reason(*more: str) -> list[str]:
        assert run([*arguments, *more]) == 0
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("–")]

    assert reason("random") == ["–: not known without the usage of the experts: give a file of it with --from"]
    [line] = reason("count", "--from", counts)
    assert line.endswith("has no router weights")
    assert reason("count", "--from", whole) == []
    assert reason("random", "--from", whole) == []


def test_a_recording_is_a_ranking(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = tmp_path / "run.moe.jsonl"
    assert run(["record", "pocket", "--backend", "llama.cpp", "--tokens", "30", "--output", str(recording)]) == 0
    counts = np.zeros((LAYERS, EXPERTS), np.int64)
    for line in recording.read_text().splitlines():
        if (event := json.loads(line)).get("event") == "token":
            for place, expert in enumerate(event["experts"]):
                if expert is not None:  # a row that was not computed
                    counts[place // 2, expert] += 1
    capsys.readouterr()
    arguments = ["pocket", str(tmp_path / "o.gguf"), "--keep", "6", "--by", "count", "--from", str(recording)]
    found = pruned(capsys, *arguments, "--dry-run")
    for layer, row in zip(found["layers"], counts, strict=True):
        assert row[layer["dropped"]].max() <= row[layer["kept"]].min()
        assert layer["count_lost"] == pytest.approx(row[layer["dropped"]].sum() / row.sum())


# -- proof on pocket


def test_pocket_as_gguf_equals_the_masked_one(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.gguf"
    found = pruned(
        capsys, "pocket", str(path), "--keep", "6", "--by", "count", "--from", profile(tmp_path / "profile.json")
    )
    assert found["bytes_after"] == path.stat().st_size
    kept = {each["layer"]: each["kept"] for each in found["layers"]}

    def outputs(model: str, *, masked: bool) -> tuple[Array, list[list[int]]]:
        location = catalog.locate(model, "llama.cpp")
        loaded = load_model(location, options=EngineOptions(threads=1, kv_type="f32"), progress=ignore)
        engine = LlamaEngine(loaded)
        try:
            if masked:
                engine.mask(mask_of(kept, EXPERTS))
            seen = run_pieces(engine, loaded, [[token] for token in IDS])
            return seen.output_logits, engine.model.expert_ids or []
        finally:
            engine.close()

    (logits, numbers), (expected, _), (unmasked, _) = (
        outputs(str(path), masked=False),
        outputs("pocket", masked=True),
        outputs("pocket", masked=False),
    )
    assert numbers == list(kept.values())
    assert np.abs(logits - expected).max() < 1e-4
    assert np.abs(unmasked - expected).max() > 0.1


def test_pocket_as_a_folder_equals_the_masked_one(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out"
    of_folder = profile(tmp_path / "profile.json", fingerprint=fingerprint("x"))
    found = pruned(capsys, "pocket", str(path), "--keep", "6", "--by", "saliency", "--from", of_folder)
    kept = {each["layer"]: each["kept"] for each in found["layers"]}
    logits, _ = scored(load_folder(path), IDS)
    expected, _ = scored(load_folder(catalog.POCKET_FOLDER), IDS, mask_of(kept, EXPERTS))
    assert np.abs(logits - expected).max() < 1e-4


def test_a_pruned_model_is_listed_as_such(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    for name in ("p.gguf", "p"):
        prune("pocket", folder / name, keep=6)
    assert run(["models", str(folder), "--json"]) == 0
    listed = {each["path"]: each["whole_experts"] for each in json.loads(capsys.readouterr().out)["models"]}
    assert listed[str(folder / "p.gguf")] == listed[str(folder / "p")] == EXPERTS
    assert run(["check", "--quick", str(folder / "p.gguf")]) in (0, 1)
    assert "pruned, 8 experts before" in " ".join(capsys.readouterr().out.split())


# -- bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep", "1", "--by", "random"], "--keep is 1: pocket has 8 experts and selects 2 per token: keep 2 to 7"),
        (["--keep", "8", "--by", "random"], "keep 2 to 7"),
        (["--keep", "6", "--by", "count"], "--by count needs --from: give a profile, a recording, "),
        (["--keep", "6", "--by", "count", "--seed", "1"], "--seed with --by count: it is for --by random: omit it"),
        (["--keep", "6", "--by", "random", "--seed", "-1"], "--seed is -1"),
    ],
)
def test_options_that_cannot_be_used(
    tmp_path: pathlib.Path, complaint: Complaint, arguments: list[str], message: str
) -> None:
    assert message in complaint("pocket", str(tmp_path / "o.gguf"), *arguments)
    assert list(tmp_path.iterdir()) == []


RANDOM = ["--keep", "3", "--by", "random"]


def test_outputs_that_cannot_be_written(tmp_path: pathlib.Path, complaint: Complaint) -> None:
    whole = str(llama_files.write_gguf(tmp_path / "whole.gguf"))
    folder = str(tiny.write_model(tmp_path / "folder"))
    assert "exists already" in complaint(whole, whole, *RANDOM)
    assert "no such folder" in complaint(whole, str(tmp_path / "a" / "b.gguf"), *RANDOM)
    assert "does not end in .gguf" in complaint(whole, str(tmp_path / "b"), *RANDOM)
    assert "Hugging Face layout" in complaint(folder, str(tmp_path / "b.gguf"), *RANDOM)


def test_models_that_cannot_be_pruned(tmp_path: pathlib.Path, complaint: Complaint) -> None:
    dense = str(llama_files.write_gguf(tmp_path / "dense.gguf", tiny.DENSE))
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(llama_files.write_gguf(tmp_path / "whole.gguf").read_bytes()[:-3000])
    out = str(tmp_path / "o.gguf")
    assert "is a dense model" in complaint(dense, out, *RANDOM)
    assert "truncated" in complaint(str(damaged), out, *RANDOM)
    assert "no such file or folder" in complaint(str(tmp_path / "nothing.gguf"), out, *RANDOM)
    assert "is not on this machine: run `hf download a/b` first" in complaint("a/b", str(tmp_path / "o"), *RANDOM)
    assert not (tmp_path / "o.gguf").exists()


def test_groups_keep_equal_numbers(tmp_path: pathlib.Path, complaint: Complaint) -> None:
    config = tiny.GLM4 | {"n_routed_experts": 16, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 5}
    whole = str(tiny.write_model(tmp_path / "whole", config))
    line = complaint(whole, str(tmp_path / "o"), "--keep", "8", "--by", "random")
    assert "4 groups of 4 experts and selects 5 of 2 groups" in line
    assert line.endswith("keep 12")


def test_rankings_that_cannot_be_used(tmp_path: pathlib.Path, complaint: Complaint) -> None:
    def line(by: str, path: str) -> str:
        return complaint("pocket", str(tmp_path / "o.gguf"), "--keep", "6", "--by", by, "--from", path)

    without = profile(tmp_path / "without.json", saliency=None)
    assert "has no saliency of the experts: give a profile made with" in line("saliency", without)
    assert "has no damage of the experts: give an ablation" in line("damage", without)
    other = profile(tmp_path / "other.json", model="another", fingerprint="0")
    assert "is of another, another model than pocket" in line("count", other)
    fewer = {str(layer): [1] * EXPERTS for layer in range(LAYERS - 1)}
    nothing = {"weight_mass": None, "saliency": None, "rows": None, "calibration_tokens": EXPERTS}
    small = profile(tmp_path / "small.json", activation_counts=fewer, **nothing)
    assert "5 layers × 8 experts: pocket has 6 × 8" in line("count", small)
    (tmp_path / "bad.json").write_text("{")
    assert "bad.json" in line("count", str(tmp_path / "bad.json"))
    assert "nowhere.json" in line("count", str(tmp_path / "nowhere.json"))


def test_another_form_of_the_same_weights(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = profile(tmp_path / "other.json", model="pocket-Q8_0", fingerprint="0")
    arguments = ["pocket", str(tmp_path / "o.gguf"), "--keep", "6", "--by", "count", "--from", other, "--dry-run"]
    found = pruned(capsys, *arguments, "--same-weights")
    assert "another file of the model (pocket-Q8_0)" in found["warnings"][0]


def test_a_ranking_of_another_pruning_is_refused(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], complaint: Complaint
) -> None:
    path, recording = tmp_path / "p.gguf", tmp_path / "run.moe.jsonl"
    prune("pocket", path, {layer: [0, 1, 2, 3, 4, 5] for layer in range(LAYERS)})
    assert run(["record", str(path), "--tokens", "10", "--output", str(recording)]) == 0
    path.unlink()
    prune("pocket", path, {layer: [2, 3, 4, 5, 6, 7] for layer in range(LAYERS)})
    capsys.readouterr()
    line = complaint(str(path), str(tmp_path / "o.gguf"), "--keep", "4", "--by", "count", "--from", str(recording))
    assert "keeps other experts of the whole model" in line


def test_equal_experts_are_said(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    even = {str(layer): [1] * EXPERTS for layer in range(LAYERS)}
    nothing = {"weight_mass": None, "saliency": None, "rows": None, "calibration_tokens": EXPERTS}
    path = profile(tmp_path / "even.json", activation_counts=even, **nothing)
    arguments = ["pocket", str(tmp_path / "o.gguf"), "--keep", "6", "--by", "count"]
    found = pruned(capsys, *arguments, "--from", path, "--dry-run")
    assert [each["dropped"] for each in found["layers"]] == [[6, 7]] * LAYERS
    assert any(each.startswith("equal values in layer 0, 1, 2") for each in found["warnings"])


ENDED = """
import importlib, os, sys
module = importlib.import_module("moe_watch.commands.experts.prune")
module.show_amount = lambda *_: os.kill(os.getpid(), int(sys.argv[1]))
from moe_watch.commands.app import run
sys.exit(run(["prune", "pocket", sys.argv[2], "--keep", "6", "--by", "random"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("name", ["pruned.gguf", "pruned"])
def test_a_process_that_is_ended_leaves_nothing_behind(tmp_path: pathlib.Path, number: int, name: str) -> None:
    command = [sys.executable, "-c", ENDED, str(int(number)), str(tmp_path / name)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == -number
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == []
