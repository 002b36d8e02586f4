"""What is imported when: a fresh interpreter tells, since this one has everything loaded."""

from __future__ import annotations

import ast
import json
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENGINES = {"mlx", "mlx_lm", "llama_cpp", "transformers", "torch"}
HEAVY = ENGINES | {"numpy", "textual"}
ADAPTERS = ("moe_watch.backends.mlx.", "moe_watch.backends.llama.")
"""Modules that the worker process imports once it knows which engine it runs."""
PACKAGES = ("routing", "vitals", "backends", "sessions", "tui", "commands")


def modules_after(code: str) -> set[str]:
    """Return the modules loaded once `code` ran in a new interpreter, ours in full, others by their top-level name."""
    report = (
        "import json, sys; ours = [name for name in sys.modules if name.startswith('moe_watch.')]\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules}.union(ours))))"
    )
    command = [sys.executable, "-c", f"{code}\n{report}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def modules_of(package: str) -> list[str]:
    """Names of all modules in a package, adapters left out."""
    paths = sorted((ROOT / package).rglob("*.py"))
    names = (".".join(("moe_watch", *path.relative_to(ROOT).with_suffix("").parts)) for path in paths)
    names = (name.removesuffix(".__init__") for name in names)
    return [name for name in names if not name.endswith("__main__") and not name.startswith(ADAPTERS)]


def test_the_probe_sees_what_is_loaded() -> None:
    assert modules_after("import numpy, textual") >= {"numpy", "textual"}


def test_the_launcher_loads_nothing_heavy() -> None:
    loaded = modules_after("import moe_watch")
    assert "moe_watch" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["record", "--help"], ["watch", "--help"], ["bench", "--help"]],
    ids=" ".join,
)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    loaded = modules_after(
        "import moe_watch\n"
        f"try: moe_watch.main({arguments})\n"
        "except SystemExit as left: assert not left.code, left.code\n"
        "else: raise AssertionError('main() returned')"
    )
    assert "moe_watch.commands" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_but_an_adapter_loads_an_engine(package: str) -> None:
    names = modules_of(package)
    assert names
    loaded = modules_after("import " + ", ".join(names))
    assert f"moe_watch.{package}" in loaded
    assert not loaded & ENGINES
    assert package in ("tui", "commands") or "textual" not in loaded


def imported_by(path: pathlib.Path) -> set[str]:
    """Top-level modules that a file imports, inside functions as well."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


def test_an_engine_s_library_is_imported_in_its_adapter_only() -> None:
    engines = {"mlx": {"mlx", "mlx_lm"}, "llama": {"llama_cpp"}}
    seen = set()
    for path in (ROOT / "backends").rglob("*.py"):
        libraries = imported_by(path) & {"mlx", "mlx_lm", "llama_cpp", "transformers"}
        adapter = path.relative_to(ROOT / "backends").parts[0]
        assert libraries <= engines.get(adapter, set()), path
        seen |= libraries
    assert seen == {"mlx", "mlx_lm", "llama_cpp"}


def test_tests_do_not_rest_on_benchmarks() -> None:
    """What both need is in the product or among the tests. Judging fits is still a benchmark's."""
    found = {path.relative_to(ROOT) for path in (ROOT / "tests").rglob("*.py") if "benchmarks" in imported_by(path)}
    assert {str(path) for path in found} <= {"tests/routing/half_life/test_fit.py"}


def test_every_package_is_held_by_the_import_rules_the_types_and_the_wheel() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert found - set(PACKAGES) == {"benchmarks", "moe_watch"}
    assert {path.name for path in (ROOT / "moe_watch").iterdir() if path.is_symlink()} == set(PACKAGES)
    assert tools["importlinter"]["root_packages"] == ["moe_watch", "benchmarks"]
    assert tools["mypy"]["packages"] == ["moe_watch", "benchmarks"]
    assert tools["hatch"]["build"]["targets"]["wheel"]["only-include"] == ["moe_watch"]


def test_every_import_is_by_the_one_name() -> None:
    """A short name would load a second copy of a module, whose errors no `except` of the first one catches."""
    short = re.compile(rf"^\s*[\"']*(?:from ({'|'.join(PACKAGES)})[\w.]* import|import ({'|'.join(PACKAGES)})\b)", re.M)
    sources = [
        path for folder in ("tests", "benchmarks", "models", *PACKAGES) for path in (ROOT / folder).rglob("*.py")
    ]
    assert len(sources) > 500
    found = {str(path.relative_to(ROOT)) for path in sources if short.search(path.read_text(encoding="utf-8"))}
    assert found == set()
