"""Cache of observation costs, per model and engine on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import math
from pathlib import Path
from typing import TypeAlias

import msgspec
import platformdirs

from moe_watch.backends.system.regular_files import read_regular
from moe_watch.routing.events import BackendInfo, Cost, ModelInfo
from moe_watch.routing.stats.timing_noise import Noise, doubt
from moe_watch.sessions.paths import replace_file

_Identity: TypeAlias = list[str | int | None]


class _Kept(msgspec.Struct, frozen=True):
    """Cache file."""

    measured: _Identity
    """Model and engine, as `_identity` returns them."""
    cost: Cost
    noise: Noise
    """Noise of the machine during the measurement. Earlier versions stored none and accepted every measurement."""


def cost_directory() -> Path:
    """Return the folder in the platform's cache directory. It need not exist."""
    return platformdirs.user_cache_path("moe-watch", appauthor=False) / "cost"


def known_cost(model: ModelInfo, backend: BackendInfo) -> Cost | None:
    """Return the last measured observation cost of a model and engine on this machine; None if it is not known."""
    if model.fingerprint is None:
        return None
    identity = _identity(model, backend)
    with contextlib.suppress(OSError, ValueError):  # also for a damaged file: it can be measured again
        kept = msgspec.json.decode(read_regular(_path(identity)), type=_Kept)
        if kept.measured == identity and _is_sound(kept):
            return kept.cost
    return None


def keep_cost(model: ModelInfo, backend: BackendInfo, cost: Cost, noise: Noise) -> None:
    """Store a measurement in place of an earlier one. A model without a fingerprint is not stored: it has no key.

    Raises:
        OSError: the file cannot be written.
    """
    if model.fingerprint is None:
        return
    identity = _identity(model, backend)
    replace_file(_path(identity), msgspec.json.encode(_Kept(identity, cost, noise)))


def _identity(model: ModelInfo, backend: BackendInfo) -> _Identity:
    """Return everything that a cost depends on, except the machine."""
    settings = [f"{name}={value}" for name, value in sorted(backend.settings.items())]
    return [model.fingerprint, backend.name, backend.version, backend.device, backend.threads, backend.tap, *settings]


def _path(identity: _Identity) -> Path:
    return cost_directory() / f"{hashlib.sha256(msgspec.json.encode(identity)).hexdigest()[:32]}.json"


def _is_sound(kept: _Kept) -> bool:
    cost = kept.cost
    numbers = (cost.tap_off, cost.tap_on, cost.ratio, *(cost.interval or ()))
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        return False
    return doubt(cost.ratio, cost.interval, kept.noise) is None
