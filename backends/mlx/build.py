"""Build of the installed MLX: its device, and the compilation of its kernels."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import mlx.core as mx

from moe_watch.backends.engine_build import EngineBuild
from moe_watch.backends.mlx.loading import first_use


def engine_build() -> EngineBuild:
    """Return the facts about this build."""
    note = first_use()
    return EngineBuild(
        version=f"mlx {version('mlx')}, mlx-lm {version('mlx-lm')}",
        devices=[_device()],
        tap="the router modules of the model",
        notes=[] if note is None else [note],
    )


def _device() -> str:
    name = _facts().get("device_name", "unnamed")
    if mx.default_device() == mx.Device(mx.cpu):
        return f"CPU ({name})"
    return f"{'Metal' if mx.metal.is_available() else 'CUDA'} ({name})"


def _facts() -> dict[str, Any]:
    """Return MLX's description of the default device; older versions have it for Metal only."""
    if hasattr(mx, "device_info"):
        return dict(mx.device_info())
    return dict(mx.metal.device_info()) if mx.metal.is_available() else {}
