"""Output of a pruning: complete or absent."""

from __future__ import annotations

import pathlib
import resource
import signal
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from moe_watch.backends.pruning.pruner import prunable_location, prune_model, read_prunable_model
from moe_watch.routing.errors import UserError
from tests.backends.pruning.pruned_files import prune, some_kept, step

NAMES = ["pruned.gguf", "pruned"]
"""Output in either format."""


class Disk(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def small_files() -> Iterator[None]:
    """The system refuses files of more than 1 MB, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_write_leaves_nothing_behind(tmp_path: pathlib.Path, name: str, small_files: None) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        prune("pocket", tmp_path / name, keep=6)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_an_interruption_leaves_nothing_behind(tmp_path: pathlib.Path, name: str) -> None:
    model = read_prunable_model(prunable_location("pocket", tmp_path / name))
    seen: list[list[pathlib.Path]] = []

    def interrupt(_: int) -> None:
        seen.append(list(tmp_path.iterdir()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune_model(model, some_kept(model, 6), step(6), tmp_path / name, interrupt)
    assert len(seen[0]) == 1
    assert seen[0][0].name != name
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_path_that_appears_meanwhile_is_not_replaced(tmp_path: pathlib.Path, name: str) -> None:
    model = read_prunable_model(prunable_location("pocket", tmp_path / name))

    def write_mine(_: int) -> None:
        (tmp_path / name).write_text("mine")

    with pytest.raises(UserError, match="exists already"):
        prune_model(
            model,
            some_kept(model, 6),
            step(6),
            tmp_path / name,
            write_mine,
        )
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_too_little_space_is_refused_before(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Disk(100_000_000, 90_000_000, 10_000_000))
    with pytest.raises(UserError, match=r"needs 0\.018 GB, and 0\.010 GB are free"):
        prune("pocket", tmp_path / "pruned.gguf", keep=6)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_path_is_refused(tmp_path: pathlib.Path) -> None:
    (tmp_path / "pruned.gguf").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="exists already"):
        prune("pocket", tmp_path / "pruned.gguf", keep=6)


def test_a_missing_folder_is_refused(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        prune("pocket", tmp_path / "missing" / "pruned.gguf", keep=6)
