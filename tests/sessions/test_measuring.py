"""A measurement on pocket: what it leaves, that it goes on where it was stopped, and what it refuses."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal

import msgspec
import pytest

from moe_watch.backends.optional_packages import install_command
from moe_watch.backends.run_spec import ForkPlan, RunSpec
from moe_watch.routing.errors import UserError
from moe_watch.routing.events import Fork, State, Token, to_json
from moe_watch.routing.pressure.formulas import WARM_UP_CHUNKS
from moe_watch.routing.stats.timing_noise import Noise
from moe_watch.routing.summary import Summary
from moe_watch.sessions.live.shared_worker import KeptWorker
from moe_watch.sessions.measuring import plots as figures
from moe_watch.sessions.measuring.estimates import analyse
from moe_watch.sessions.measuring.machine_noise import NOISE_FILE, range_in_words, read_noise
from moe_watch.sessions.measuring.output import write_all
from moe_watch.sessions.measuring.plan import PLAN_FILE, Plan, read_plan
from moe_watch.sessions.measuring.recorded_run import NotWholeError, read_run
from moe_watch.sessions.measuring.results import results, to_bytes
from moe_watch.sessions.measuring.runner import measure
from moe_watch.sessions.reading.reader import read_session
from tests.run_specs import run_spec

pytestmark = pytest.mark.model

SPEC = RunSpec(chunk_size=4)
PLAN = Plan(model="pocket", prompts=["def parse(", "class Reader:"], seeds=[3, 4, 5], chunks=6, spec=SPEC)
FILES = [f"{kind}-00{number}.moe.jsonl" for kind in ("late", "run") for number in (1, 2, 3)]


class Watching:
    """Remembers what a measurement told; `on_item` may interfere."""

    def __init__(self, on_item=None) -> None:
        self.loads = 0
        self.had: list[str] = []
        self.made: list[str] = []
        self._on_item = on_item
        self._run = None

    def loading(self, progress):
        self.loads += 1

    def found(self, run):
        self.had.append(run.file)

    def begin(self, run):
        self._run = run

    def item(self, item):
        if self._on_item:
            self._on_item(self._run, item)

    def end(self, run):
        self.made.append(run.file)


def measured(folder, plan=PLAN, watching=None):
    """`results.json` of a measurement."""
    return to_bytes(results(analyse(measure(plan, folder, watching or Watching()))))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An undisturbed measurement: its folder and its results."""
    folder = tmp_path_factory.mktemp("whole") / "out"
    watching = Watching()
    found = measured(folder, watching=watching)
    assert sorted(watching.made) == FILES
    assert watching.loads
    return folder, found


@pytest.fixture
def copy(whole, tmp_path):
    """The measurement's folder, to do something to."""
    return shutil.copytree(whole[0], tmp_path / "out")


def test_every_run_is_a_session_that_replays_to_the_same_numbers(whole):
    folder, found = whole
    runs = json.loads(found)["runs"] + json.loads(found)["late_runs"]
    assert len(runs) == 2 * len(PLAN.seeds)
    for run in runs:
        summary = Summary()
        for event in read_session(folder / run["session"]):
            summary.feed(event)
        shown = [each for each in summary.result().pressure.chunks if not each.warm_up]
        assert [each.mid for each in shown] == run["trajectory"]["mid_pressures"]
        assert [each.index for each in shown] == run["trajectory"]["session_chunks"]
        assert summary.result().ended.why == "length"


def test_results_have_the_keys_of_the_reference(whole):
    found = json.loads(whole[1])
    assert [run["config"]["seed"] for run in found["runs"]] == PLAN.seeds
    assert [run["prompt"] for run in found["runs"]] == ["def parse(", "class Reader:", "def parse("]
    run = found["runs"][0]
    assert {"protocol", "model", "prompt", "config", "trajectory", "analysis", "generated_text"} <= run.keys()
    assert run["config"] == {"chunk_size": 4, "max_chunks": 6, "total_chunks": 16, "total_tokens": 64, "seed": 3}
    assert list(run["analysis"]["decay_shape"]) == [
        "linear_slope",
        "exponential_tau",
        "max_single_drop",
        "max_drop_at_chunk",
    ]
    trajectory = run["trajectory"]
    assert trajectory["chunk_indices"] == [0, 1, 2, 3, 4, 5]
    assert trajectory["session_chunks"][0] == WARM_UP_CHUNKS
    assert {len(values) for values in trajectory.values()} == {6}
    assert sum(found["verdicts"].values()) == 3
    assert not {"created", "t", "time"} & set(json.dumps(found).split('"'))


def test_a_late_twin_has_another_runs_text_before_its_prompt(whole):
    found = json.loads(whole[1])
    for twin, plain, donor in zip(
        found["late_runs"], found["runs"], (*found["runs"][1:], found["runs"][0]), strict=True
    ):
        other, _, prompt = twin["prompt"].rpartition("\n\n")
        assert prompt == plain["prompt"]
        assert donor["generated_text"].startswith(other)
        assert other
        assert twin["prompt_tokens"] > plain["prompt_tokens"]
        assert twin["config"] == plain["config"]
    control = found["control"]
    assert control["trend"]["mean"] == pytest.approx(control["position"]["mean"] + control["age"]["mean"])
    assert control["position"]["interval"] is None


def test_what_is_whole_is_read_and_not_made_again(whole, copy, monkeypatch):
    def load(*_):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(KeptWorker, "__enter__", load)
    watching = Watching()
    assert measured(copy, watching=watching) == whole[1]
    assert sorted(watching.had) == FILES


def test_torn_and_missing_runs_are_made_again_and_nothing_else(whole, copy):
    torn = copy / "run-002.moe.jsonl"
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    (copy / "run-002.2.moe.jsonl").write_text("{}\n")
    (copy / "run-003.moe.jsonl").unlink()
    lines = (copy / "late-001.moe.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "late-001.moe.jsonl").write_bytes(b"".join(lines[:-1]))
    kept = {path: path.read_bytes() for path in (copy / "run-001.moe.jsonl", copy / "late-002.moe.jsonl")}
    watching = Watching()
    assert measured(copy, watching=watching) == whole[1]
    assert watching.made == ["run-002.moe.jsonl", "run-003.moe.jsonl", "late-001.moe.jsonl"]
    assert {path: path.read_bytes() for path in kept} == kept
    assert not (copy / "run-002.2.moe.jsonl").exists()


def test_the_noise_of_each_run_is_kept_beside_it(whole, copy):
    noise = read_noise(copy)
    assert sorted(noise) == FILES
    assert all(0 <= each.others <= 1 and each.load is not None for each in noise.values())
    (copy / "run-002.moe.jsonl").unlink()
    measured(copy)
    remade = read_noise(copy)
    assert {name for name in FILES if remade[name] != noise[name]} == {"run-002.moe.jsonl"}
    (copy / NOISE_FILE).write_text("[]")
    assert read_noise(copy) == {}


def test_noise_in_words_is_a_range_over_runs():
    noises = [Noise(cores=2, load=load, others=others) for load, others in ((0.5, 0.03), (5.25, 0.48))]
    assert range_in_words(noises) == (
        "load 0.50 to 5.25 on 2 cores, other processes used 3 to 48 % of the processors, steal n/a"
    )
    assert range_in_words([]).startswith("n/a")


def test_a_run_of_several_contexts_is_no_measured_run(copy):
    """Its chunks would be one trajectory, which they are not."""
    planned = PLAN.plain_runs()[0]
    path = copy / planned.file
    lines = path.read_bytes().splitlines(keepends=True)
    last = next(n for n in reversed(range(len(lines))) if b'"event":"token"' in lines[n])
    fresh = State(state="fresh_context", i=json.loads(lines[last])["i"], t=1.0, why="context")
    path.write_bytes(b"".join([*lines[:last], to_json(fresh) + b"\n", *lines[last:]]))
    with pytest.raises(NotWholeError, match="it continued in a fresh context"):
        read_run(copy, planned, PLAN)


def test_a_worker_that_dies_is_one_line_and_the_next_attempt_goes_on(tmp_path, monkeypatch):
    plan = msgspec.structs.replace(PLAN, chunks=40, seeds=[3, 4], control=False)
    pids = []
    lend = KeptWorker.lend

    def remember(kept, on_message):
        lent = lend(kept, on_message)
        pids.append(lent.pid)
        return lent

    def kill(run, item):
        if run.number == 2 and isinstance(item, Token) and item.i == 0:
            os.kill(pids[0], signal.SIGKILL)

    monkeypatch.setattr(KeptWorker, "lend", remember)
    with pytest.raises(UserError, match=r"^run-002.moe.jsonl: .*SIGKILL.*: the same command continues from here$"):
        measure(plan, tmp_path, Watching(kill))
    watching = Watching()
    measured(tmp_path, plan, watching)
    assert (watching.had, watching.made) == (["run-001.moe.jsonl"], ["run-002.moe.jsonl"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"chunks": 7}, "chunks"),
        ({"seeds": [3, 4]}, "seeds"),
        ({"spec": run_spec(chunk_size=4, temperature=0.5, top_k=3)}, "temperature, top_k"),
        ({"prompts": ["x"]}, "prompts"),
        ({"control": False}, "control"),
        ({"spec": run_spec(chunk_size=4, forks=ForkPlan(text="a", neutral="b"))}, "forks"),
    ],
)
def test_other_settings_in_the_same_folder_are_refused(copy, change, named):
    with pytest.raises(UserError, match=rf"holds a measurement with other settings \({named}\): repeat its options"):
        measure(msgspec.structs.replace(PLAN, **change), copy, Watching())
    assert read_plan(copy) == PLAN


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "thesis.md").write_text("precious")
    with pytest.raises(UserError, match=r"holds other files \(thesis.md\)"):
        measure(PLAN, tmp_path, Watching())
    assert not (tmp_path / PLAN_FILE).exists()


def test_only_files_of_a_run_are_cleared_for_its_next_attempt(copy):
    (copy / "run-001.moe.jsonl").write_bytes((copy / "run-001.moe.jsonl").read_bytes()[:-200])
    (copy / "run-001.2.moe.jsonl").write_bytes(b"")
    for name in ("run-001.notes.txt", "run-001.moe.jsonl.bak"):
        (copy / name).write_text("precious")
    watching = Watching()
    measured(copy, watching=watching)
    assert watching.made == ["run-001.moe.jsonl"]
    assert not (copy / "run-001.2.moe.jsonl").exists()
    for name in ("run-001.notes.txt", "run-001.moe.jsonl.bak"):
        assert (copy / name).read_text() == "precious"


def test_a_folder_that_cannot_be_one(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: cannot be written .*: choose another place with --out"):
        measure(PLAN, tmp_path / "file", Watching())


def test_a_damaged_plan(copy):
    (copy / PLAN_FILE).write_text("[]")
    with pytest.raises(UserError, match=r"plan.json: no plan of a measurement"):
        measure(PLAN, copy, Watching())


def test_two_measurements_in_one_folder(copy):
    with open(copy / ".lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another measurement is writing there: wait"):
            measure(PLAN, copy, Watching())


def test_runs_of_another_model_are_not_mixed_in(copy):
    path = copy / "run-001.moe.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"quantization":', b'"quantization":"Q4", "was":', 1))
    with pytest.raises(UserError, match=r"begun with another model or engine \(quantization differ\)"):
        measure(PLAN, copy, Watching())


def test_more_than_the_context_holds_is_said_before_anything_is_measured(tmp_path):
    watching = Watching()
    with pytest.raises(
        UserError, match=r"the context of pocket holds 2,048: measure fewer chunks, or add --no-control"
    ):
        measure(msgspec.structs.replace(PLAN, chunks=80, spec=RunSpec()), tmp_path, watching)
    assert not watching.made


def test_report_and_figures(whole, copy):
    findings = analyse(measure(PLAN, copy, Watching()))
    assert write_all(findings, whole[1], copy) == ("" if figures.can_draw() else figures.how_to_draw())
    page = (copy / "report.md").read_text()
    assert "| 1 | 3 |" in page
    assert "by position alone" in page
    assert "top-2, not quantized\n" in page
    assert (copy / "results.json").read_bytes() == whole[1]
    if figures.can_draw():
        drawn = {path.name: path.read_bytes() for path in (copy / "figures").iterdir()}
        names = ("trajectories", "entropy", "control")
        assert sorted(drawn) == sorted(f"{name}.{suffix}" for name in names for suffix in ("png", "svg"))
        assert all(f"figures/{name}" in page for name in drawn if name.endswith(".png"))
        figures.draw(findings, copy / "figures")
        assert {path.name: path.read_bytes() for path in (copy / "figures").iterdir()} == drawn


def test_without_matplotlib_there_is_a_report_that_says_how_to_get_figures(whole, copy, monkeypatch):
    monkeypatch.setattr(figures, "can_draw", lambda: False)
    findings = analyse(measure(PLAN, copy, Watching()))
    assert write_all(findings, whole[1], copy) == figures.how_to_draw()
    assert install_command("report") in (copy / "report.md").read_text()
    assert not (copy / "figures").exists()


def test_without_control_the_report_says_what_cannot_be_told(tmp_path):
    findings = analyse(measure(msgspec.structs.replace(PLAN, control=False, seeds=[3]), tmp_path, Watching()))
    found = results(findings)
    assert (found.control, found.late_runs, found.mean_trajectory.std) == (None, [], None)
    write_all(findings, to_bytes(found), tmp_path)
    assert "position and age of a trend cannot be separated" in (tmp_path / "report.md").read_text()


def test_external_energy(whole, tmp_path):
    forks = ForkPlan(text=" go on", neutral=" x", replicates=2, every=3, first=WARM_UP_CHUNKS)
    spec = run_spec(chunk_size=4, forks=forks)
    plan = msgspec.structs.replace(PLAN, spec=spec, control=False, seeds=PLAN.seeds[:2])
    findings = analyse(measure(plan, tmp_path, Watching()))
    found = results(findings)
    printed = json.loads(to_bytes(found))
    _require_runs_as_undisturbed(printed["runs"], json.loads(whole[1])["runs"])
    energy = printed["external_energy"]
    assert (energy["boundaries"], energy["replicates"]) == (2 * plan.forked_boundaries, [2, 2])
    assert energy["text_minus_neutral"]["clusters"] == energy["boundaries"] == 4
    assert [each["run"] for each in energy["by_boundary"]] == [1, 1, 2, 2]
    _require_means_of_the_recorded_forks(energy["by_boundary"][:2], tmp_path / "run-001.moe.jsonl", plan)
    write_all(findings, to_bytes(found), tmp_path)
    assert "against neutral text" in (tmp_path / "report.md").read_text()


def _require_runs_as_undisturbed(forked, undisturbed):
    assert len(forked) == 2
    for one, other in zip(forked, undisturbed, strict=False):
        assert one["trajectory"] == other["trajectory"]
        assert one["generated_text"] == other["generated_text"]


def _require_means_of_the_recorded_forks(boundaries, path, plan):
    recorded = [each for each in read_session(path) if isinstance(each, Fork)]
    assert len(recorded) == plan.branches
    for boundary in boundaries:
        for arm in ("none", "neutral", "text"):
            mid = [each.pressures.mid for each in recorded if each.i == boundary["i"] and each.arm == arm]
            assert len(mid) == 2
            assert boundary[arm] == pytest.approx(sum(mid) / 2)
