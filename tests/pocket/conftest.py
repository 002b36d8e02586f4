from __future__ import annotations

import json
import pathlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

POCKET = pathlib.Path(__file__).resolve().parents[2] / "backends" / "pocket"


@pytest.fixture(scope="session")
def pocket_folder() -> pathlib.Path:
    return POCKET


@pytest.fixture(scope="session")
def pocket_config() -> dict[str, Any]:
    config: dict[str, Any] = json.loads((POCKET / "config.json").read_text(encoding="utf-8"))
    return config


@pytest.fixture(scope="session")
def pocket_weights() -> dict[str, npt.NDArray[np.float16]]:
    return load_file(POCKET / "model.safetensors")


@pytest.fixture(scope="session")
def golden() -> dict[str, npt.NDArray[Any]]:
    """What `transformers` computed on a prompt and its greedy continuation; models/pocket/golden.py wrote it."""
    path = pathlib.Path(__file__).with_name("golden_transformers.npz")
    assert path.stat().st_size < 100_000
    return dict(np.load(path))
