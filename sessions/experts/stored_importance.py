"""Profiles and ablations in the data directory: the last one of each model, which the dashboard shows."""

from __future__ import annotations

from pathlib import Path

from moe_watch.routing.errors import UserError
from moe_watch.routing.header import ModelInfo
from moe_watch.sessions.experts import ablation_file, profile_file
from moe_watch.sessions.experts.importance import Importance, importance_of, read_importance
from moe_watch.sessions.paths import importance_directory, replace_file
from moe_watch.sessions.results.ablation import AblationReport
from moe_watch.sessions.results.profile import ExpertProfile

MOST_STORED = 32
"""Files of one model in the data directory that are read, the newest ones."""


def keep_importance(measured: ExpertProfile | AblationReport) -> bool:
    """Store a result in place of the model's earlier one of its kind; returns whether it was stored.

    A model without a fingerprint has no place. A profile without saliency has nothing that the dashboard shows, and
    would replace one that has.

    Raises:
        OSError: the file cannot be written.
    """
    if not measured.fingerprint:
        return False
    folder = importance_directory(measured.fingerprint)
    if isinstance(measured, AblationReport):
        replace_file(folder / "ablation.json", ablation_file.to_bytes(measured))
    elif measured.saliency is not None:
        replace_file(folder / "profile.json", profile_file.to_bytes(measured))
    else:
        return False
    return True


def stored_importance(model: ModelInfo) -> Importance:
    """Return the importance from the model's files in the data directory; files that cannot be used are left out."""
    found = []
    for path in _stored_files(model):
        try:
            file = read_importance(path)
            importance_of([(path.name, file)], model)
        except UserError:
            continue
        found.append((path.name, file))
    return importance_of(found, model)


def _stored_files(model: ModelInfo) -> list[Path]:
    """Return the files of a model in the data directory, the newest last; none for a model without a fingerprint."""
    if not model.fingerprint:
        return []
    try:
        found = [(path.stat().st_mtime, path) for path in importance_directory(model.fingerprint).glob("*.json")]
    except OSError:
        return []
    return [path for _, path in sorted(found)][-MOST_STORED:]
