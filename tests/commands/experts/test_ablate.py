"""`moe-watch ablate` on pocket: result, screen, file, interruption, and refused input."""

from __future__ import annotations

import json

import msgspec
import numpy as np
import pytest
from rich.cells import cell_len

from moe_watch.backends.model_files import catalog
from moe_watch.backends.protocol import EngineOptions, Load
from moe_watch.backends.scoring_messages import Score
from moe_watch.commands.app import run
from moe_watch.commands.experts.ablation_text import MOST_ROWS, report_lines
from moe_watch.sessions.experts.ablation_file import read_ablation
from moe_watch.sessions.experts.stored_importance import stored_importance
from moe_watch.sessions.live.shared_worker import KeptWorker
from moe_watch.sessions.paths import importance_directory
from moe_watch.sessions.results.ablation import AblationReport
from tests.backends import tiny
from tests.commands.test_bad_input import complaint

ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(bool(catalog.missing_packages(entry)), reason=f"no {name} here"))
    for name, entry in catalog.ENGINES.items()
]
CODE = "def read(path):\n    with open(path) as file:\n        return [line.split() for line in file]\n\n\n" * 12
SMALL = ("--window", "128", "--tokens", "450")


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text(json.dumps({"text": CODE}) + "\n" + json.dumps({"text": CODE[200:]}) + "\n")
    return path


def result(capsys, *arguments) -> AblationReport:
    assert run(["ablate", "pocket", "--json", *map(str, arguments)]) == 0
    return msgspec.json.decode(capsys.readouterr().out, type=AblationReport)


@pytest.mark.parametrize("engine", ENGINES)
def test_damage_equals_masked_minus_whole_surprisal(capsys, corpus, tmp_path, engine):
    """The numbers are recomputed from single evaluations, each of them in one command."""
    output = tmp_path / "out.json"
    options = ("--backend", engine, "--corpus", corpus, "--layers", "0,5", "--experts", "3", *SMALL, "-o", output)
    found = result(capsys, *options)
    assert read_ablation(output) == found
    assert not output.with_name("out.json.partial").exists()
    assert read_ablation(importance_directory(found.fingerprint) / "ablation.json") == found
    assert [each.layer for each in found.experts] == [0] * 3 + [5] * 3
    assert all((each.saliency is None) == (each.tokens == 0) for each in found.experts)
    assert sum(each.tokens > 0 for each in found.experts) > 3
    assert max(found.experts, key=lambda each: each.delta_surprisal).layer == 0
    first = found.experts[0]
    with KeptWorker(Load(model="pocket", backend=engine, options=EngineOptions()), lambda _: None) as worker:
        assert stored_importance(worker.ready.model).known == ["damage"]
        answer = worker.tokenize([CODE, CODE[200:]])
        windows, left = [], 450
        for ids in answer.ids:
            front = [] if answer.begin is None else [answer.begin]
            rest = ids[len(front) :]
            step = 128 - len(front)
            windows += [front + rest[at : at + step] for at in range(0, len(rest), step)]
        delta, count = [], 0
        for ids in windows:
            piece, left = ids[:left], left - len(ids[:left])
            if len(piece) < 2:
                break
            whole, masked = worker.score(Score(ids=piece, window=128, masks=[[(first.layer, [first.expert])]]))
            (used,) = worker.score(Score(ids=piece, window=128, usage=True))
            count += used.usage.counts[0][first.expert]
            whole_each = np.frombuffer(whole.surprisal)
            delta += [0.0] * len(whole_each) if masked.unused else list(np.frombuffer(masked.surprisal) - whole_each)
    assert found.tokens == len(delta)
    assert first.delta_surprisal == pytest.approx(np.mean(delta), abs=1e-6)
    assert first.tokens == count


@pytest.mark.skipif(bool(catalog.missing_packages(catalog.ENGINES["llama.cpp"])), reason="no llama.cpp here")
class TestOnLlama:
    BACKEND = ("--backend", "llama.cpp")

    def test_tokens_of_a_session(self, capsys, tmp_path):
        session = tmp_path / "run.moe.jsonl"
        recorded = ["record", "pocket", *self.BACKEND, "--tokens", "420", "--stop", "never", "--seed", "1", "-o"]
        assert run([*recorded, str(session)]) == 0
        capsys.readouterr()
        found = result(capsys, *self.BACKEND, "--teacher", session, "--layers", "0", "--experts", "2", *SMALL)
        assert (found.corpus.kind, found.corpus.name) == ("session", str(session))
        assert 400 < found.tokens < 450

    def test_a_session_of_another_tokenizer(self, capsys, golden_path):
        said = complaint(capsys, "ablate", "pocket", *self.BACKEND, "--teacher", str(golden_path))
        assert "the teacher session has the text" in said
        assert "give a session of a model with the same tokenizer" in said

    def test_the_screen(self, capsys, corpus):
        assert run(["ablate", "pocket", *self.BACKEND, "--corpus", str(corpus), "--layers", "0", *SMALL]) == 0
        captured = capsys.readouterr()
        assert all(cell_len(line) <= 80 for line in captured.out.splitlines())
        rows = [line.split() for line in captured.out.splitlines()[3:11]]
        damage = [float(row[2].replace("−", "-")) for row in rows]
        assert {row[0] for row in rows} == {f"0:{expert}" for expert in range(8)}
        assert damage == sorted(damage, reverse=True)
        for said in ("RANKING", "saliency mass", "experts change the surprisal", "Control: 0:", "with all experts on"):
            assert said in captured.out
        assert "evaluations with one expert off: about" in captured.err
        assert "s per expert and 1,000 tokens" in captured.err
        assert captured.err.splitlines()[-1] == "the dashboard shows this ablation from now on"

    def test_an_interrupted_measurement_is_resumed(self, capsys, corpus, tmp_path, monkeypatch):
        options = ("--corpus", str(corpus), "--layers", "0", "--experts", "3", *SMALL)
        whole, output = tmp_path / "whole.json", tmp_path / "out.json"
        result(capsys, *self.BACKEND, *options, "-o", whole)
        original, answers = KeptWorker.score, []

        def interrupted(self, command):
            for answer in original(self, command):
                answers.append(answer)
                if len(answers) == 9:
                    raise KeyboardInterrupt
                yield answer

        monkeypatch.setattr(KeptWorker, "score", interrupted)
        command = ["ablate", "pocket", *self.BACKEND, *options, "-o", str(output)]
        assert run(command) == 130
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        assert f"evaluations in {output}.partial; resume: same command" in captured.err.replace("\n", " ")
        assert not output.exists()
        monkeypatch.setattr(KeptWorker, "score", original)
        assert "begun with other settings (window" in complaint(capsys, *command, "--window", "100").replace(
            "tokens; ", ""
        )
        assert run(command) == 0
        assert "resumed: " in capsys.readouterr().err
        assert output.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "ablate needs tokens to evaluate: give --teacher SESSION or --corpus FILE"),
        (["--teacher", "x", "--corpus", "y"], "--teacher and --corpus both given"),
        (["--corpus", "x", "--layers", "one"], "--layers is 'one': give indices of MoE layers"),
        (["--corpus", "x", "--layers", ""], "--layers is ''"),
        (["--corpus", "x", "--experts", "0"], "--experts is '0': use all, or the number"),
        (["--corpus", "x", "--experts", "most"], "--experts is 'most'"),
        (["--corpus", "x", "--window", "20"], "--window is 20: use at least 21 tokens"),
        (["--corpus", "x", "--tokens", "0"], "--tokens is 0: use at least 1"),
        (["--corpus", "."], ". is a folder: give a file"),
        (["--corpus", "x", "-o", "."], "--output names no file"),
    ],
)
def test_bad_options(capsys, arguments, said):
    assert said in complaint(capsys, "ablate", "pocket", *arguments)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "the corpus has no text"),
        ("\n\n", "the corpus has no text"),
        ("not json\n", "line 1: not JSON"),
        ('{"text": "short"}\n', "an ablation needs 2 windows and 20 blocks of 20 tokens: give a longer text"),
    ],
    ids=["empty", "blank", "text", "short"],
)
def test_bad_corpora(capsys, tmp_path, content, said):
    path = tmp_path / "corpus.jsonl"
    path.write_text(content)
    assert said in complaint(capsys, "ablate", "pocket", "--corpus", str(path))


def test_an_existing_file_is_kept(capsys, corpus, tmp_path):
    output = tmp_path / "out.json"
    output.write_text("kept")
    assert "exists already" in complaint(capsys, "ablate", "pocket", "--corpus", str(corpus), "-o", str(output))
    assert output.read_text() == "kept"


def test_a_dense_model_is_refused(capsys, corpus, tmp_path):
    tiny.write_model(tmp_path / "dense", tiny.DENSE)
    said = complaint(capsys, "ablate", str(tmp_path / "dense"), "--corpus", str(corpus))
    assert "a dense model has no experts to switch off" in said


def test_of_many_experts_the_extremes_are_shown(corpus):
    from tests.sessions.experts.test_ablation import ScriptedScoring, ablate

    report = msgspec.json.decode(ablate(ScriptedScoring(), _text(corpus)), type=AblationReport)
    many = [
        msgspec.structs.replace(report.experts[0], expert=at, delta_surprisal=at / 1000) for at in range(MOST_ROWS + 9)
    ]
    lines = list(report_lines(msgspec.structs.replace(report, experts=many)))
    rows = [line for line in lines if line.startswith(("1:", "…"))]
    assert len(rows) == MOST_ROWS + 1
    assert rows[MOST_ROWS // 2].startswith("… 9 more")


def _text(corpus):
    path = corpus.with_suffix(".txt")
    path.write_text(CODE[:500])
    return path
