"""The observation cost is kept for a model and an engine, and every later header of theirs carries it."""

from __future__ import annotations

import msgspec
import pytest

from moe_watch.backends.protocol import Ready
from moe_watch.routing.events import Cost, Header, Sampling
from moe_watch.routing.stats.timing_noise import Noise
from moe_watch.sessions.live.cost import keep_cost, known_cost
from moe_watch.sessions.live.source import LiveSource
from moe_watch.sessions.reading.reader import read_session
from tests.run_specs import run_settings
from tests.sessions import kit
from tests.sessions.kit import Drained, ScriptedWorker, Stage

MODEL = msgspec.structs.replace(kit.MODEL, fingerprint="ab12")
BACKEND = msgspec.structs.replace(kit.BACKEND, threads=3)
COST = Cost(tap_off=100.0, tap_on=98.0, ratio=0.98, interval=(0.97, 0.99))
NOISE = Noise(cores=2, load=1.0, others=0.02, steal=0.0)


@pytest.fixture(autouse=True)
def folder(monkeypatch, tmp_path):
    place = tmp_path / "cache" / "cost"
    monkeypatch.setattr("moe_watch.sessions.live.cost.cost_directory", lambda: place)
    return place


def test_nothing_is_known_at_first(folder):
    assert known_cost(MODEL, BACKEND) is None
    assert not folder.exists()


def test_a_cost_is_found_again_and_replaced(folder):
    keep_cost(MODEL, BACKEND, COST, NOISE)
    assert known_cost(MODEL, BACKEND) == COST
    later = msgspec.structs.replace(COST, tap_on=99.0, ratio=0.99, interval=(0.98, 1.0))
    keep_cost(MODEL, BACKEND, later, NOISE)
    assert known_cost(MODEL, BACKEND) == later
    (file,) = folder.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_copy_under_another_name_is_the_same_model():
    keep_cost(MODEL, BACKEND, COST, NOISE)
    assert known_cost(msgspec.structs.replace(MODEL, name="copy"), BACKEND) == COST


@pytest.mark.parametrize("change", ["fingerprint", "name", "version", "device", "threads", "tap"])
def test_another_model_or_engine_has_a_cost_of_its_own(change):
    model, backend = MODEL, BACKEND
    if change == "fingerprint":
        model = msgspec.structs.replace(model, fingerprint="cd34")
    else:
        backend = msgspec.structs.replace(backend, **{change: 4 if change == "threads" else "other"})
    keep_cost(MODEL, BACKEND, COST, NOISE)
    assert known_cost(model, backend) is None
    other = msgspec.structs.replace(COST, ratio=0.5, interval=(0.49, 0.51))
    keep_cost(model, backend, other, NOISE)
    assert (known_cost(MODEL, BACKEND), known_cost(model, backend)) == (COST, other)


def test_a_model_that_cannot_be_told_from_others_has_none(folder):
    nameless = msgspec.structs.replace(MODEL, fingerprint=None)
    keep_cost(nameless, BACKEND, COST, NOISE)
    assert known_cost(nameless, BACKEND) is None
    assert not folder.exists()


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff\x00",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"measured":[],"cost":{"event":"cost","tap_off":1,"tap_on":1,"ratio":1}}',
    ],
)
def test_garbage_is_as_nothing(folder, garbage):
    keep_cost(MODEL, BACKEND, COST, NOISE)
    (file,) = folder.iterdir()
    file.write_bytes(garbage)
    assert known_cost(MODEL, BACKEND) is None
    keep_cost(MODEL, BACKEND, COST, NOISE)
    assert known_cost(MODEL, BACKEND) == COST


@pytest.mark.parametrize("number", [0.0, -1.0])
def test_numbers_that_no_cost_can_have_are_garbage(number):
    for field in ("tap_off", "tap_on", "ratio"):
        keep_cost(MODEL, BACKEND, msgspec.structs.replace(COST, **{field: number}), NOISE)
        assert known_cost(MODEL, BACKEND) is None, field


@pytest.mark.parametrize(
    ("change", "noise"),
    [
        ({"ratio": 1.59, "interval": (1.44, 1.77)}, NOISE),
        ({"interval": None}, NOISE),
        ({"interval": (0.6, 1.2)}, NOISE),
        ({}, msgspec.structs.replace(NOISE, others=0.6)),
    ],
    ids=["faster-with-the-tap", "no-interval", "wide-interval", "busy-machine"],
)
def test_a_kept_cost_that_is_too_noisy_is_not_shown(change, noise):
    keep_cost(MODEL, BACKEND, msgspec.structs.replace(COST, **change), noise)
    assert known_cost(MODEL, BACKEND) is None


def test_a_cost_kept_without_its_noise_is_not_shown(folder):
    """Earlier versions kept every measurement, three rounds beside another job included."""
    keep_cost(MODEL, BACKEND, COST, NOISE)
    (file,) = folder.iterdir()
    kept = msgspec.json.decode(file.read_bytes())
    del kept["noise"]
    file.write_bytes(msgspec.json.encode(kept))
    assert known_cost(MODEL, BACKEND) is None


def test_a_folder_in_the_place_of_a_file_is_garbage(folder):
    keep_cost(MODEL, BACKEND, COST, NOISE)
    (file,) = folder.iterdir()
    file.unlink()
    file.mkdir()
    assert known_cost(MODEL, BACKEND) is None
    with pytest.raises(OSError, match="directory"):
        keep_cost(MODEL, BACKEND, COST, NOISE)
    assert [path.name for path in folder.iterdir()] == [file.name]


def header() -> Header:
    ready = Ready(model=MODEL, backend=BACKEND, template=None, capture=[])
    return run_settings().header("a", Sampling(seed=1), ready, kit.NOW)


def test_the_header_carries_it():
    assert header().cost is None
    keep_cost(MODEL, BACKEND, COST, NOISE)
    assert header().cost == COST


class Measured(ScriptedWorker):
    """Has a model whose cost can be known."""

    ready = Ready(model=MODEL, backend=BACKEND, template="chat", capture=kit.CAPTURE)


def test_a_run_and_its_recording_carry_it(tmp_path):
    keep_cost(MODEL, BACKEND, COST, NOISE)
    stage = Stage(tmp_path / "sessions", Measured)
    source = LiveSource(run_settings(prompt="def", chunk_size=4), stage.around)
    drained = Drained(source)
    source.start()
    (head,) = drained.wait_for(Header)
    stage.worker.generate(5)
    stage.worker.finish("length")
    drained.wait_for_end()
    (path,) = (tmp_path / "sessions").iterdir()
    source.close()
    assert head.cost == COST
    assert next(iter(read_session(path))).cost == COST
