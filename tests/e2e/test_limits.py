"""Few open files allowed: work with what there is, or say so in one line."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from moe_watch.backends.model_files import catalog
from moe_watch.backends.system.open_files import clamped_limits

ROOT = Path(__file__).parents[2]


def run_with(soft: int, hard: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command that may have this many files open."""
    limits = f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))"
    code = f"import sys; {limits}; from moe_watch import main; main({[*arguments]!r})"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("arguments", [["--version"], ["record", "pocket"], ["fit", "x"]], ids=lambda each: each[0])
@pytest.mark.parametrize("allowed", [6, 8, 12, 31])
def test_too_few_open_files_are_one_line(allowed: int, arguments: list[str]) -> None:
    done = run_with(allowed, allowed, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"moe-watch: only {allowed} open files are allowed, 32 are needed: run `ulimit -n 1024` before\n"
    )


def test_a_limit_that_may_be_raised_is() -> None:
    assert run_with(8, 4096, "--version").returncode == 0


@pytest.mark.model
@pytest.mark.parametrize(
    "engine", [name for name, entry in catalog.ENGINES.items() if not catalog.missing_packages(entry)]
)
def test_a_model_runs_with_fewer_files_than_its_library_asks_for(engine: str, tmp_path: Path) -> None:
    """mlx-lm asks for 4,096, and a system may allow 1,024 at most."""
    output = str(tmp_path / "run.moe.jsonl")
    done = run_with(64, 64, "record", "pocket", "--backend", engine, "--tokens", "5", "--output", output)
    assert done.returncode == 0, done.stderr


def test_a_library_gets_what_is_allowed() -> None:
    code = (
        "import resource; from moe_watch.backends.system.open_files import clamped_limits\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (50, 100))\n"
        "with clamped_limits(): resource.setrlimit(resource.RLIMIT_NOFILE, (2048, 4096))\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "(100, 100)\n"
    original = resource.setrlimit
    with clamped_limits():
        assert resource.setrlimit is not original
    assert resource.setrlimit is original
