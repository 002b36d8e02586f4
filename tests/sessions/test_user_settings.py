"""The user's settings file: defaults, values, and one clear line for each mistake."""

from __future__ import annotations

import pytest

from moe_watch.routing.errors import UserError
from moe_watch.sessions.user_settings import UserSettings, read_user_settings


def test_without_a_file_all_settings_have_their_defaults(tmp_path):
    assert read_user_settings(tmp_path / "settings.toml") == UserSettings()


def test_values_are_read(tmp_path):
    file = tmp_path / "settings.toml"
    file.write_text('[models]\nfolders = ["~/models", "/data"]\n[memory]\ncritical_stall = 0.3\n')
    found = read_user_settings(file)
    assert found.models.folders == ["~/models", "/data"]
    assert (found.memory.warning_stall, found.memory.critical_stall) == (0.10, 0.3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[models\n", r"settings\.toml: "),
        ("[model]\nfolders = []\n", "unknown field `model`"),
        ("[memory]\nwarning_stall = 40\n", r"settings\.toml: \[memory\] warning_stall is 40, outside 0 to 1"),
        ('[memory]\ncritical_stall = "much"\n', r"Expected `float`, got `str` - at `\$\.memory\.critical_stall`"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path, content, reason):
    file = tmp_path / "settings.toml"
    file.write_text(content)
    with pytest.raises(UserError, match=reason):
        read_user_settings(file)


def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_user_settings(tmp_path)
