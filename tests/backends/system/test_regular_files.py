"""Files of a user or a model folder: files that are not regular, or have no end, are refused at once."""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import socket
from collections.abc import Callable, Iterator

import pytest

from moe_watch.backends.model_files import catalog, hub_gguf, preflight
from moe_watch.backends.system.regular_files import open_regular, read_regular
from moe_watch.commands.app import run
from moe_watch.routing.errors import UserError
from tests.processes import LONG

MODEL_FILES = [
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "additional_chat_templates/rag.jinja",
]


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """Fail where something waits for a writer that never comes."""

    def fail(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(int(LONG))
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def make_fifo(path: pathlib.Path) -> None:
    os.mkfifo(path)


def make_endless(path: pathlib.Path) -> None:
    path.symlink_to("/dev/zero")


def make_socket(path: pathlib.Path) -> None:
    before = pathlib.Path.cwd()
    os.chdir(path.parent)  # a socket's address is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


KINDS = [
    pytest.param(make_fifo, "a FIFO", id="fifo"),
    pytest.param(make_endless, "a device", id="endless"),
    pytest.param(make_socket, "a socket", id="socket"),
]
Make = Callable[[pathlib.Path], None]


@pytest.mark.parametrize(("make", "kind"), KINDS)
def test_what_is_no_regular_file_is_refused_with_its_kind(tmp_path: pathlib.Path, make: Make, kind: str) -> None:
    path = tmp_path / "file"
    make(path)
    for read in (open_regular, read_regular):
        with pytest.raises(OSError, match=f"{kind}, not a regular file"):
            read(path)


def test_a_regular_file_is_read_through_links_up_to_its_limit(tmp_path: pathlib.Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_bytes(b"12345")
    link.symlink_to(path)
    assert read_regular(link, 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_regular(link, 4)
    with open_regular(link) as file:
        assert file.read() == b"12345"
    for wrong, kind in ((tmp_path, IsADirectoryError), (tmp_path / "none", FileNotFoundError)):
        with pytest.raises(kind):
            open_regular(wrong)


@pytest.mark.parametrize(("make", "kind"), KINDS)
@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_models_folder_holds_regular_files(
    mixtral_folder: pathlib.Path, tmp_path: pathlib.Path, name: str, make: Make, kind: str
) -> None:
    folder = shutil.copytree(mixtral_folder, tmp_path / "model")
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    make(path)
    with pytest.raises(UserError, match=r"not a regular file") as refused:
        preflight.preflight(catalog.locate(str(folder)))
    assert str(path) in str(refused.value)


def test_a_text_without_end_is_refused(mixtral_folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Files with a hole in place of content take no room on the disk, and all memory when they are read."""
    folder = shutil.copytree(mixtral_folder, tmp_path / "model")
    for name in ("tokenizer_config.json", "config.json"):
        with open(folder / name, "r+b") as file:
            file.truncate(1 << 40)
        with pytest.raises(UserError, match=rf"{name}.*larger than 1[0,]+ bytes"):
            preflight.preflight(catalog.locate(str(folder)))


@pytest.mark.parametrize(("make", "kind"), KINDS)
@pytest.mark.parametrize("name", ["m.gguf", "model"])
def test_a_gguf_file_is_a_regular_one(tmp_path: pathlib.Path, name: str, make: Make, kind: str) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(UserError, match=f"{name} is not a regular file"):
        catalog.locate(str(path))


@pytest.mark.parametrize(("make", "kind"), KINDS)
def test_a_cache_of_models_may_hold_anything(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, make: Make, kind: str
) -> None:
    monkeypatch.setenv("LLAMA_CACHE", str(tmp_path))
    refs = tmp_path / "models--o--m" / "refs"
    refs.mkdir(parents=True)
    make(refs / "main")
    assert hub_gguf.cached(hub_gguf.GgufName("o/m", None)) is None


@pytest.mark.parametrize(("make", "kind"), KINDS)
@pytest.mark.parametrize(
    "command",
    [
        ["replay", "--headless", "FILE"],
        ["verify", "FILE"],
        ["fit", "FILE"],
        ["export", "FILE", "--to", "csv", "--output", "out"],
        ["record", "FILE"],
        ["record", "pocket", "--teacher", "FILE"],
        ["bench", "FILE"],
        ["compare", "FILE", "FILE"],
        ["measure", "pocket", "--out", "FOLDER"],
    ],
    ids=lambda each: " ".join(each[:2]),
)
def test_a_command_says_what_it_was_given(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    command: list[str], make: Make, kind: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    make(tmp_path / "made")
    make(tmp_path / "folder" / "plan.json")
    given = {"FILE": "./made", "FOLDER": "folder"}
    assert run([given.get(each, each) for each in command]) == 2
    captured = capsys.readouterr()
    assert "not a regular file" in (captured.err + captured.out)
    assert "Traceback" not in captured.err
