"""Whole screens as pictures. To look at one: render the SVG in headless Chromium with fonts-firacode."""

from __future__ import annotations

import os

import msgspec
import numpy as np
import pytest
import textual

from moe_watch.routing.events import Chunk, Marker, Perturbation, Progress, Vitals, to_json
from moe_watch.sessions import paths
from moe_watch.sessions.imports.importer import import_trace
from moe_watch.sessions.imports.traces import ImportOptions
from moe_watch.sessions.source import PaceStatus, RecordingStatus, Timeline
from tests.dense_runs import as_dense
from tests.sessions.kit import replayed
from tests.tui.conftest import make_app
from tests.tui.events import (
    MadeUpRun,
    at_boundary,
    decay,
    falling_at_24,
    forks,
    header,
    large_head,
    main_run,
    masked_run,
    short_of_memory,
    tap_off,
    with_mid,
)
from tests.tui.screens.importance_files import DAMAGE, SALIENCY, ablation, profile
from tests.tui.scripted import LIVE, REPLAY, REPLAYING, SEEKABLE

BASELINE = "8.2.8"
"""The Textual that the pictures were made with; another one draws other pictures of the same screens."""
NARROW, WIDE, LARGE = (80, 24), (120, 40), (200, 60)
SIZES = pytest.mark.parametrize("size", [NARROW, WIDE, LARGE], ids=["80x24", "120x40", "200x60"])

LOADING = [Progress(stage="loading", done=12_400_000, total=28_900_000, unit="bytes", note="model.safetensors")]
NO_SENSORS = Vitals(
    t=1.0,
    memory_total=16_000_000_000,
    memory_used=9_000_000_000,
    process_memory=91_000_000,
    unavailable={
        "worker_memory": "the worker has not said which process it is",
        "swap_used": "no swap on this machine",
        "pressure": "the kernel has no pressure stall information",
        "temperatures": "no sensors in /sys/class/thermal",
        "throttling": "not told to a container",
    },
)


@pytest.fixture
def snap(snap_compare, request):
    """Compare a screen with its picture; pictures are made and compared with one version of Textual only."""
    if textual.__version__ != BASELINE:
        if request.config.option.update_snapshots:
            pytest.exit(f"snapshots are made with Textual {BASELINE}, not {textual.__version__}")
        pytest.skip(f"the pictures are Textual {BASELINE}'s")

    def check(items=None, *, size=NARROW, press=(), then=(), workers=False, **options):
        app = make_app(items, **options)

        async def before(pilot):
            await pilot.pause()
            app.tick()
            for keys in (press, then):
                await pilot.pause()
                await pilot.press(*keys)
                for _ in range(2 * workers):  # the list is read, then the session under its cursor
                    await app.workers.wait_for_complete()
                    await pilot.pause()
            app.tick()
            await pilot.pause()

        assert snap_compare(app, run_before=before, terminal_size=size)

    return check


@pytest.fixture
def sessions_folder(tmp_path, monkeypatch):
    """The folder for recordings, with each kind of file that can be in it."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = paths.sessions_directory()
    folder.mkdir(parents=True)
    names = ("pocket-20261120-3", "pocket-20261120-2", "mixtral-8x7b-instruct-20261119-1", "notes")
    for age, name in enumerate(names):
        path = folder / f"{name}.moe.jsonl"
        number = 260 - 60 * age
        path.write_bytes(b"".join(to_json(item) + b"\n" for item in _recorded(number)))
        if age == 2:
            path.write_bytes(path.read_bytes()[:-40])
        elif age == 3:
            path.write_bytes(b"no session at all\n")
        os.utime(path, (1_800_000_000 - age, 1_800_000_000 - age))
    return folder


def _recorded(number):
    made_up = MadeUpRun()
    return [*made_up.prompt(), *made_up.generate(number), *made_up.state("finished", why="length")]


def run(tokens=150):
    made_up = MadeUpRun()
    return made_up, [*made_up.prompt(), *made_up.generate(tokens)]


def ended(state, **fields):
    made_up, items = run()
    return [*items, *made_up.state(state, **fields)]


@SIZES
def test_main(snap, size):
    snap(size=size)


@pytest.mark.parametrize("theme", ["moe-watch-light", "ansi-dark"])
def test_main_in_other_colours(snap, theme):
    snap(size=WIDE, theme=theme)


def test_main_without_colours(snap, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    snap()


@pytest.mark.parametrize("key", ["2", "3", "4", "5"], ids=["experts", "entropy", "pressure", "vitals"])
def test_tab(snap, key):
    snap(press=[key])


@SIZES
def test_short_of_memory(snap, size):
    snap(short_of_memory(main_run()), size=size, press=["5"] if size == NARROW else [])


def test_all_vitals(snap):
    snap(short_of_memory(main_run()), size=WIDE, press=["5", "z"])


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["80x24", "120x40"])
def test_loading(snap, size):
    snap(LOADING, size=size)


def test_waiting_for_the_first_token(snap):
    snap([header()])


def test_prefill(snap):
    snap([header(), Progress(stage="prefill", done=120, total=300, unit="tokens")])


def test_paused(snap):
    snap(run()[1], pace=PaceStatus("rate", 30.0, True))


@pytest.mark.parametrize("why", ["eos", "context"])
def test_finished(snap, why):
    snap(ended("finished", why=why))


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["80x24", "120x40"])
def test_failed(snap, size):
    message = "the worker was killed by the system (signal 9): out of memory?"
    snap(ended("error", message=message), size=size, abilities={"restart"})


def test_not_recording(snap):
    snap(run()[1], recording=RecordingStatus("off"))


def test_recording_failed(snap):
    problem = RecordingStatus("failed", "x.moe.jsonl", "/data/x.moe.jsonl", 0, "disk full since token 120")
    snap(run()[1], recording=problem)


def test_replay(snap):
    snap(run()[1], abilities=REPLAY, origin=REPLAYING, pace=PaceStatus("speed", 2.0, False))


@SIZES
def test_timeline(snap, size):
    made_up = MadeUpRun()
    items = [*made_up.prompt(), *made_up.generate(150), *made_up.inject(), *made_up.generate(60)]
    mark = Marker(i=320, t=6.0, note="x")
    there = Timeline(
        first=0, tokens=700, seconds=83.0, position=made_up.i, time=9.3, chunks=33,
        marks=[mark], perturbations=[item for item in items if isinstance(item, Perturbation)],
    )  # fmt: skip
    snap(items, size=size, abilities=SEEKABLE, origin=REPLAYING, pace=PaceStatus("speed", 2.0, True), timeline=there)


def test_after_a_jump(snap):
    made_up = MadeUpRun()
    before = [*made_up.prompt(), *made_up.generate(320), *made_up.inject(), *made_up.generate(700)]
    frame = made_up._instruments.keyframe()
    landmarks = [item for item in before if isinstance(item, Chunk | Perturbation | Vitals)]
    items = [made_up.header, *landmarks, frame, *made_up.generate(260)]
    snap(items, size=WIDE, press=["p"], abilities=SEEKABLE, origin=REPLAYING)


@SIZES
def test_finding(snap, size):
    snap(main_run(330), size=size, press=["slash", *"chunk"], abilities=SEEKABLE, origin=REPLAYING)


@SIZES
def test_imported_counts(snap, size, tmp_path):
    counts = np.random.default_rng(5).multinomial(600, [0.2, 0.2, 0.15, 0.15, 0.1, 0.1, 0.1, 0.0], 6)
    np.savez(tmp_path / "dump.npz", logical_count=counts)
    imported = import_trace(tmp_path / "dump.npz", ImportOptions(experts_per_token=2, model="mixtral"), folder=tmp_path)
    snap(replayed(imported.path), size=size, abilities=(), ended=True, origin=REPLAYING)


@pytest.mark.parametrize("size", [NARROW, WIDE], ids=["80x24", "120x40"])
def test_dense_model(snap, size):
    snap(as_dense(main_run(260)), size=size)


@pytest.mark.parametrize("key", ["2", "3", "4"], ids=["experts", "entropy", "pressure"])
def test_tab_of_a_dense_model(snap, key):
    snap(as_dense(main_run(260)), press=[key])


@SIZES
def test_sessions(snap, size, sessions_folder):
    snap(run()[1], size=size, press=["S"], workers=True)


def test_deleting_a_session(snap, sessions_folder):
    snap(run()[1], press=["S", "down"], then=["d"], workers=True)


def test_a_recording_with_a_gap(snap):
    status = RecordingStatus(
        "recording", "x.2.moe.jsonl", "/data/x.2.moe.jsonl", 900, "1,200 events before token 80 are in no file"
    )
    snap(run()[1], recording=status)


def test_sensors_missing(snap):
    snap([*run()[1], NO_SENSORS], press=["5"])


def test_simulated(snap):
    snap(run()[1], simulated=True)


def test_warm_up(snap):
    snap(main_run(95), press=["4"])


def test_pressure_lines(snap):
    snap(press=["4", "f"])


@SIZES
def test_tap_off(snap, size):
    snap(tap_off(observed=250)[1], size=size)


def test_tap_off_in_the_entropy_panel(snap):
    snap(tap_off(observed=250)[1], press=["3"])


@SIZES
def test_chunk_complete(snap, size):
    snap(at_boundary(260)[1], size=size)


@SIZES
def test_half_life(snap, size):
    snap(decay(), size=size, press=["4"])


def test_cliff(snap):
    snap(with_mid(main_run(900, 700), falling_at_24), press=["4"])


@SIZES
def test_fitted_curves(snap, size):
    snap(decay(), size=size, press=["4", "t"])


def test_fitted_curves_of_the_reference_mode(snap):
    snap(decay(), press=["4", "p", "t"])


@SIZES
def test_external_energy(snap, size):
    snap([*main_run(), *forks()], size=size, press=["4"])


def test_half_life_in_the_colours_of_the_terminal(snap):
    snap(decay(), press=["4"], theme="ansi-dark")


def test_reference_pressure(snap):
    snap(press=["4", "p"])


def test_coloured_by_entropy_and_queued(snap):
    snap(press=["v", "g"])


def test_cursor_in_the_heatmap(snap):
    snap(press=["2", "tab", "right", "down", "down"])


def test_maximised(snap):
    snap(size=WIDE, press=["2", "z"])


def test_beyond_the_trained_length(snap):
    head = header()
    snap(main_run(120, head=header(model=msgspec.structs.replace(head.model, trained_length=96))), size=(100, 30))


@SIZES
def test_experts_off(snap, size):
    snap(masked_run()[1], size=size, press=["2", "down", "right"])


@pytest.mark.parametrize("theme", ["moe-watch-light", "ansi-dark"])
def test_experts_off_in_other_colours(snap, theme):
    snap(masked_run()[1], size=WIDE, theme=theme, press=["2", "down", *["up"] * 9])


def test_experts_off_without_colours(snap, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    snap(masked_run()[1], press=["2"])


@SIZES
def test_experts_off_in_a_large_model(snap, size):
    mask = [(0, [7]), (5, [9]), *((layer, [20, 21]) for layer in range(10, 30))]
    snap(masked_run(mask, head=large_head(48, 64, 6), before=20, after=6)[1], size=size, press=["2"])


def test_switching_a_layer_off_is_refused(snap):
    snap(masked_run()[1], press=["2", "tab", "down", *["left"] * 9], then=["down", "up", "x"])


@pytest.mark.parametrize("presses", [2, 3], ids=["saliency", "damage"])
def test_heatmap_from_files(snap, presses):
    files = profile({**SALIENCY, 2: [None] * 7 + [1.0]}), ablation(DAMAGE)
    snap(size=WIDE, importance=files, press=["h"] * presses)


def test_original_numbers(snap):
    ids = [[layer, 10 + layer, *range(20, 80, 10)] for layer in range(6)]
    pruned = header(model=msgspec.structs.replace(header().model, expert_ids=ids))
    snap(main_run(60, head=pruned), press=["number_sign", "2", "tab", "down"])


@SIZES
def test_which_experts_matter(snap, size):
    snap(masked_run()[1], size=size, importance=[profile(SALIENCY), ablation(DAMAGE)], press=["E"], then=["down", "r"])


def test_help(snap):
    snap(size=WIDE, press=["question_mark"])


def test_help_to_its_end(snap):
    snap(press=["question_mark", "end"])


def test_say(snap):
    snap(run()[1], press=["G", *"And"])


@SIZES
def test_say_several_lines_at_once(snap, size):
    snap(run()[1], size=size, press=["G", *"And", "ctrl+l", "enter", *"then?", "ctrl+b", "ctrl+t"])


def test_prompt(snap):
    snap(run()[1], press=["N", *"def", "enter"])


def test_palette(snap):
    snap(run()[1], press=["ctrl+p"], abilities=LIVE)


def test_refusal(snap):
    snap(run()[1], press=["g"], abilities=REPLAY, origin=REPLAYING)


def test_too_small(snap):
    snap(size=(50, 12))
