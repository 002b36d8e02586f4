"""Settings of the user, from one optional TOML file. A command's options take precedence over them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import platformdirs

from moe_watch.routing.errors import UserError, system_error
from moe_watch.vitals.thresholds import MemoryThresholds

LONGEST_FILE = 1_000_000
"""Bytes."""


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Table `[models]`."""

    folders: list[str] = []
    """Further folders to search for models; `~` is the home directory."""


class UserSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    models: ModelSettings = ModelSettings()
    memory: MemoryThresholds = MemoryThresholds()
    """Table `[memory]`."""


def settings_file() -> Path:
    """Return the path of the settings file, in the platform's configuration directory. It may not exist."""
    return platformdirs.user_config_path("moe-watch", appauthor=False) / "settings.toml"


def read_user_settings(path: Path | None = None) -> UserSettings:
    """Read the settings; defaults without a file.

    Raises:
        UserError: the file cannot be read, or has an unknown key, a value of another type, or one outside its range.
    """
    file = settings_file() if path is None else path
    try:
        with file.open("rb") as opened:
            content = opened.read(LONGEST_FILE)
    except FileNotFoundError:
        return UserSettings()
    except OSError as error:
        raise system_error(file, error, failed="cannot be read", advice="check the file, or remove it") from error
    try:
        settings = msgspec.toml.decode(content, type=UserSettings)
    except msgspec.DecodeError as error:
        raise UserError(f"{file}: {error}", advice="correct the file, or remove it") from error
    if mistake := settings.memory.mistake():
        raise UserError(f"{file}: [memory] {mistake}", advice="correct the file, or remove it")
    return settings
