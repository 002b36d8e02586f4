"""Ablation with a scripted worker: planted damage, choice of experts, resuming, and refused input."""

from __future__ import annotations

import base64
import json

import msgspec
import numpy as np
import pytest

from moe_watch.commands.experts.ablation_wording import (
    controls_text,
    interval_text,
    kl_verdict,
    p_text,
    significance,
    stability,
    verdict,
)
from moe_watch.routing.errors import UserError
from moe_watch.sessions.experts.ablation import measure, plan_of
from moe_watch.sessions.experts.ablation_file import damage_table, read_ablation, to_bytes
from moe_watch.sessions.experts.ablation_records import AblationRecords, partial_file
from moe_watch.sessions.experts.ablation_report import ablation_report
from moe_watch.sessions.experts.given_tokens import corpus_tokens
from moe_watch.sessions.results.ablation import RankingDifference
from tests.sessions.experts.scripted_scoring import MODEL, UNUSED, ScriptedScoring, Silence, planted

WINDOW = 120
TEXT = "".join(chr(97 + (7 * at * at + at) % 26) for at in range(500))
EVALUATIONS = 5 * 12
"""Windows × experts."""


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT)
    return path


def ablate(worker, corpus, path=None, watcher=None, *, window=WINDOW, most=4096, **choice):
    """Measure, and return the bytes of the result; records are kept in `path`, as the command keeps them."""
    tokens = corpus_tokens(worker, corpus, window, most)
    plan = plan_of(worker.ready, tokens, choice.get("layers"), choice.get("experts"), saliency=True)
    with AblationRecords(plan, [len(each) for each in tokens.blocks], path) as records:
        chosen = measure(worker, plan, tokens, records, watcher or Silence())
        found = ablation_report(plan, tokens, records, chosen)
        records.discard()
    return to_bytes(found)


def report_of(content, tmp_path):
    path = tmp_path / "result.json"
    path.write_bytes(content)
    return read_ablation(path)


def test_planted_damage_is_found(corpus, tmp_path):
    worker, watcher = ScriptedScoring(), Silence()
    found = report_of(ablate(worker, corpus, watcher=watcher), tmp_path)
    assert [(each.layer, each.expert) for each in found.experts] == [(layer, e) for layer in (1, 3) for e in range(6)]
    for each in found.experts:
        low, high = each.interval
        truth = planted(each.layer, each.expert)
        assert low - 0.002 <= truth <= high + 0.002
        assert each.delta_surprisal == pytest.approx(truth, abs=0.01)
        assert (each.p_corrected <= 0.05) == (truth > 0)
        assert each.p <= each.p_corrected
    unused = found.experts[-1]
    assert (unused.layer, unused.expert) == UNUSED
    assert (unused.tokens, unused.delta_surprisal, unused.interval, unused.kl, unused.p) == (0, 0.0, (0.0, 0.0), 0.0, 1)
    assert unused.saliency is None
    assert len(watcher.seen) == 1 + 5 + EVALUATIONS
    assert watcher.seen[0] == ("planned", EVALUATIONS, 0)


def test_tokens_before_the_first_prediction_do_not_count(corpus, tmp_path):
    found = report_of(ablate(ScriptedScoring(), corpus), tmp_path)
    windows = [120, 120, 120, 120, 25]  # 500 characters, and the token that begins a text before each 119
    assert (found.corpus.windows, found.tokens) == (5, sum(windows) - 5)


def test_the_whole_model_is_evaluated_once_per_window(corpus):
    worker = ScriptedScoring()
    ablate(worker, corpus)
    assert [len(command.masks) for command in worker.commands] == [12] * 5
    assert {(command.window, command.usage, command.saliency) for command in worker.commands} == {(WINDOW, True, True)}


def test_rankings_are_judged_within_layers(corpus, tmp_path):
    found = report_of(ablate(ScriptedScoring(), corpus), tmp_path)
    rho = {name: each.delta_surprisal for name, each in found.rank_correlations.items()}
    assert rho["saliency"].within_layers == pytest.approx(1.0, abs=0.03)
    assert rho["count"].within_layers < 0
    assert rho["saliency"].pooled < rho["saliency"].within_layers
    assert found.differences[0].better == "saliency"
    assert verdict(found).startswith("Saliency predicts the damage best")
    assert found.split_half.delta_surprisal.within_layers > 0.9
    assert "11 of 12 experts change the surprisal" in significance(found)
    assert "no token selects 1" in significance(found)


def test_controls_are_paired(corpus, tmp_path):
    found = report_of(ablate(ScriptedScoring(), corpus), tmp_path)
    controls = found.controls
    assert (controls.layer, controls.expert) == (1, 5)
    assert (controls.least_used.layer, controls.least_used.expert) == UNUSED
    assert controls.least_used.difference == pytest.approx(found.experts[5].delta_surprisal)
    assert controls.same_layer.layer == 1
    low, high = controls.same_layer.difference_interval
    assert low < controls.same_layer.difference < high
    assert len(controls_text(found)) == 2


def test_some_experts_of_some_layers(corpus, tmp_path):
    worker = ScriptedScoring()
    found = report_of(ablate(worker, corpus, layers=[3], experts=3), tmp_path)
    assert [each.layer for each in found.experts] == [3, 3, 3]
    chosen = [each.expert for each in found.experts]
    assert [expert // 2 for expert in chosen] == [0, 1, 2]  # the scripted counts fall with the number
    masked = [command for command in worker.commands if command.masks]
    assert [len(command.masks) for command in worker.commands] == [1, 0, 0, 0, 0, 0, 3, 3, 3, 3, 3]
    assert worker.commands[0].ids == masked[1].ids[:2]
    assert found.rank_correlations["count"].delta_surprisal.pooled is not None


@pytest.mark.parametrize("experts", [None, 3])
def test_an_interrupted_measurement_is_resumed_to_the_same_bytes(corpus, tmp_path, experts):
    path = tmp_path / "out.json.partial"
    whole = ablate(ScriptedScoring(), corpus, experts=experts)
    attempts = 0
    while True:
        attempts += 1
        watcher = Silence()
        try:
            found = ablate(ScriptedScoring(stop_after=9), corpus, path, watcher, experts=experts)
            break
        except KeyboardInterrupt:
            assert path.exists()
            if attempts % 2:  # a killed process leaves a torn line
                with path.open("ab") as file:
                    file.write(b'{"type":"masked","wind')
    assert attempts > 3
    assert found == whole
    assert not path.exists()


def test_no_evaluation_is_repeated(corpus, tmp_path):
    path = tmp_path / "out.json.partial"
    first, second = ScriptedScoring(stop_after=20), ScriptedScoring()
    with pytest.raises(KeyboardInterrupt):
        ablate(first, corpus, path)
    watcher = Silence()
    ablate(second, corpus, path, watcher)
    assert watcher.seen[0] == ("planned", EVALUATIONS, 18)  # 20 answers, 2 of them whole
    assert sum(len(command.masks) for command in second.commands) == EVALUATIONS - 18


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"window": 110}, "tokens; window"),
        ({"most": 400}, "tokens"),
        ({"layers": [1]}, "layers"),
        ({"experts": 2}, "experts"),
        ({"model": msgspec.structs.replace(MODEL, fingerprint="f" * 64)}, "model fingerprint"),
        ({"model": msgspec.structs.replace(MODEL, experts_per_token=3)}, "model experts_per_token"),
    ],
    ids=["window", "tokens", "layers", "experts", "weights", "another-k"],
)
def test_another_measurement_is_not_resumed(corpus, tmp_path, changes, named):
    path = tmp_path / "out.json.partial"
    with pytest.raises(KeyboardInterrupt):
        ablate(ScriptedScoring(stop_after=20), corpus, path)
    before = path.read_bytes()
    worker = ScriptedScoring(model=changes.pop("model", MODEL))
    with pytest.raises(UserError) as error:
        ablate(worker, corpus, path, **changes)
    assert f"begun with other settings ({named})" in str(error.value)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before
    assert worker.commands == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [b"{}\n", *lines],
        lambda lines: [b"\xff\xfe\n"],
        lambda lines: [*lines, lines[0]],
        lambda lines: [lines[0], b'{"type":"masked","window":99,"layer":1,"expert":0,"delta":"","divergence":""}\n'],
        lambda lines: [lines[0], b'{"type":"masked","window":0,"layer":2,"expert":0,"delta":"","divergence":""}\n'],
        lambda lines: [lines[0], b'{"type":"masked","window":0,"layer":1,"expert":0,"delta":"AAAA","divergence":""}\n'],
        lambda lines: [b"[" * 100_000 + b"\n"],
    ],
    ids=["first", "bytes", "two-plans", "window", "layer", "length", "nested"],
)
def test_a_damaged_file_is_refused_and_kept(corpus, tmp_path, damage):
    path = tmp_path / "out.json.partial"
    with pytest.raises(KeyboardInterrupt):
        ablate(ScriptedScoring(stop_after=20), corpus, path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(damage(lines)))
    before = path.read_bytes()
    with pytest.raises(UserError, match="not the windows of an ablation: delete it to start over"):
        ablate(ScriptedScoring(), corpus, path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda usage: usage.update(weights=[[1.0]]),
        lambda usage: usage.update(norms=None),
        lambda usage: usage["norms"][0].pop(),
        lambda usage: usage.update(rows=[]),
        lambda usage: usage["counts"][0].__setitem__(0, -1),
        lambda usage: usage["entropy"].append(0.5),
    ],
    ids=["weights", "no-norms", "norms", "rows", "negative", "entropy"],
)
def test_usage_of_another_shape_is_refused(corpus, tmp_path, change):
    path = tmp_path / "out.json.partial"
    with pytest.raises(KeyboardInterrupt):
        ablate(ScriptedScoring(stop_after=20), corpus, path)
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    whole = next(line for line in lines if line["type"] == "whole")
    whole["usage"].setdefault("entropy", None)
    whole["usage"]["entropy"] = whole["usage"]["entropy"] or [0.5] * len(whole["usage"]["rows"])
    change(whole["usage"])
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="not the windows of an ablation"):
        ablate(ScriptedScoring(), corpus, path)


def test_numbers_that_are_none_are_refused(corpus, tmp_path):
    path = tmp_path / "out.json.partial"
    with pytest.raises(KeyboardInterrupt):
        ablate(ScriptedScoring(stop_after=20), corpus, path)
    lines = [json.loads(line) for line in path.read_bytes().splitlines()]
    masked = next(line for line in lines if line.get("delta"))
    nothing = np.full(len(base64.b64decode(masked["delta"])) // 8, np.nan)
    masked["delta"] = base64.b64encode(nothing.tobytes()).decode()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match="not the windows of an ablation"):
        ablate(ScriptedScoring(), corpus, path)


def test_a_failure_before_the_first_evaluation_leaves_no_file(corpus, tmp_path):
    path = tmp_path / "out.json.partial"
    with pytest.raises(KeyboardInterrupt):
        ablate(ScriptedScoring(stop_after=0), corpus, path)
    assert not path.exists()
    with pytest.raises(KeyboardInterrupt):
        ablate(ScriptedScoring(stop_after=1), corpus, path)
    assert path.exists()


def test_two_processes_do_not_write_one_file(corpus, tmp_path):
    path = tmp_path / "out.json.partial"
    worker = ScriptedScoring()
    tokens = corpus_tokens(worker, corpus, WINDOW, 4096)
    plan = plan_of(worker.ready, tokens, None, None, saliency=True)
    sizes = [len(each) for each in tokens.blocks]
    with (
        AblationRecords(plan, sizes, path),
        pytest.raises(UserError, match="another ablation is writing it"),
        AblationRecords(plan, sizes, path),
    ):
        pass


def test_a_link_or_a_folder_is_not_written_to(corpus, tmp_path):
    target = tmp_path / "elsewhere"
    target.write_text("kept")
    path = tmp_path / "out.json.partial"
    path.symlink_to(target)
    with pytest.raises(UserError, match="cannot be written"):
        ablate(ScriptedScoring(), corpus, path)
    assert target.read_text() == "kept"
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        ablate(ScriptedScoring(), corpus, path)


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"layers": [2]}, "scripted has no MoE layer 2: MoE layers: 1 to 3"),
        ({"experts": 7}, "--experts is 7, and a layer of scripted has 6: use 1 to 6, or all"),
        ({"window": 400, "most": 400}, "400 tokens in 1 window of at most 400"),
        ({"window": 40, "most": 80}, "80 tokens in 2 windows of at most 40"),
    ],
    ids=["layer", "experts", "one-window", "few-blocks"],
)
def test_impossible_choices_are_refused_before_an_evaluation(corpus, choice, said):
    worker = ScriptedScoring()
    with pytest.raises(UserError) as error:
        ablate(worker, corpus, **choice)
    assert said in str(error.value)
    assert worker.commands == []


def test_a_model_that_must_keep_all_experts_is_refused(corpus):
    worker = ScriptedScoring(model=msgspec.structs.replace(MODEL, experts_per_token=6))
    with pytest.raises(UserError, match="layer 1 would keep 5 of 6 experts, and selects 6 per token"):
        ablate(worker, corpus)


def test_a_window_beyond_the_trained_length_is_refused(corpus):
    worker = ScriptedScoring(model=msgspec.structs.replace(MODEL, trained_length=64))
    with pytest.raises(UserError, match="--window is 120, and scripted was trained on 64 tokens"):
        ablate(worker, corpus)


def test_a_dense_model_is_refused(corpus):
    dense = msgspec.structs.replace(MODEL, layers=[], experts=0, experts_per_token=0, gate="none")
    with pytest.raises(UserError, match="scripted: a dense model has no experts to switch off: give a Mixture"):
        ablate(ScriptedScoring(model=dense), corpus)


def test_the_file_is_read_and_faults_are_named(corpus, tmp_path):
    content = ablate(ScriptedScoring(), corpus)
    found = report_of(content, tmp_path)
    assert damage_table(found)[0, 5] == found.experts[5].delta_surprisal
    for change, said in (
        (lambda value: value.update(experts=[]), "no expert was measured"),
        (lambda value: value["experts"].append(value["experts"][0]), "layer 1, expert 0 is there twice"),
        (lambda value: value["experts"][0].update(layer=9), "layer 9, expert 0 is not in the model"),
        (lambda value: value["experts"][0].update(tokens=-1), "impossible number"),
        (lambda value: value.pop("whole"), "missing required field `whole`"),
        (lambda value: value["experts"][0].update(kl="x"), "Expected `float`"),
    ):
        value = json.loads(content)
        change(value)
        with pytest.raises(UserError) as error:
            report_of(json.dumps(value).encode(), tmp_path)
        assert said in str(error.value)
    for bad in (b"", b"[]", b"\xff", b"[" * 100_000, b'{"tokens": 1'):
        with pytest.raises(UserError, match="not an ablation"):
            report_of(bad, tmp_path)
    with pytest.raises(UserError, match="cannot be read"):
        read_ablation(tmp_path)


def test_the_verdict_says_if_rankings_do_not_differ(corpus, tmp_path):
    found = report_of(ablate(ScriptedScoring(), corpus), tmp_path)
    unclear = [
        RankingDifference(
            better=each.better, worse=each.worse, within_layers=each.within_layers, interval=(-0.1, each.within_layers)
        )
        for each in found.differences
    ]
    said = verdict(msgspec.structs.replace(found, differences=unclear))
    assert said.startswith("The rankings do not differ from each other: ρ within layers is saliency 1.00")
    assert kl_verdict(found).startswith("With KL, saliency has the largest ρ within layers: 1.00 [")
    assert kl_verdict(msgspec.structs.replace(found, rank_correlations={})) == ""
    one = {"count": found.rank_correlations["count"]}
    assert "Too few rankings" in verdict(msgspec.structs.replace(found, rank_correlations=one, differences=[]))
    said = verdict(found)
    assert said.startswith("Saliency predicts the damage best, but not clearly better than saliency mass: ρ within")
    assert said.endswith("; count −0.57 and weight mass −0.57.")


def test_words():
    assert interval_text((-0.123, 0.5)) == "[−0.12, 0.50]"
    assert interval_text(None) == "n/a"
    assert (p_text(0.0004), p_text(0.04)) == ("<0.001", "0.040")
    assert partial_file(__import__("pathlib").Path("a/b.json")).name == "b.json.partial"


def test_noise_is_said_to_be_noise(corpus, tmp_path):
    found = report_of(ablate(ScriptedScoring(), corpus), tmp_path)
    half = msgspec.structs.replace(found.split_half.delta_surprisal, within_layers=0.2)
    noisy = msgspec.structs.replace(found, split_half=msgspec.structs.replace(found.split_half, delta_surprisal=half))
    assert "mostly noise" in stability(noisy)
    assert "noise" not in stability(found)
