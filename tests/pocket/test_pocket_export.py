"""The export is a pure function of its input, and what ships is what the export in this tree writes."""

from __future__ import annotations

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_exporting_the_shipped_model_gives_the_same_bytes(pocket_folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Rounding what is rounded changes nothing, so the shipped folder is a fixed point of the export."""
    script = str(ROOT / "models" / "pocket" / "export.py")
    command = [sys.executable, script, "--trained", str(pocket_folder), "--output", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    names = {path.name for path in pocket_folder.iterdir()}
    assert {path.name for path in tmp_path.iterdir()} == names
    assert len(names) == len(done.stdout.splitlines())
    for name in names - {"provenance.json"}:  # which notes down the float32 file that was rounded
        assert (tmp_path / name).read_bytes() == (pocket_folder / name).read_bytes(), name
