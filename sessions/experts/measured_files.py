"""Files with measured experts: profiles and ablations. They are untrusted."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from moe_watch.backends.system.regular_files import open_regular, read_regular
from moe_watch.routing.errors import UserError, system_error

Report = TypeVar("Report", bound=msgspec.Struct)

MAX_BYTES = 1 << 28
"""Size limit of a file. 100 layers of 512 experts take some 10 MB in a profile, and 20 MB in an ablation."""
SNIFFED = 1 << 16
"""First bytes of a file by which its kind is recognized."""
PROFILE_KEYS = b'"calibration_corpus"', b'"activation_counts"'
"""Counts alone are no profile: they are imported."""
BLANKS = b"\xef\xbb\xbf \t\r\n"
ADVICE = "give a profile, an ablation, a recording or an importance matrix"


def kind_of(path: Path) -> Literal["profile", "ablation"] | None:
    """Return the kind of a file; None if it is neither a profile nor an ablation.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with open_regular(path) as file:
            start = file.read(SNIFFED)
    except (OSError, ValueError) as error:
        raise system_error(path, error, failed="cannot be read", advice=ADVICE) from error
    if not start.lstrip(BLANKS).startswith(b"{"):
        return None
    if all(key in start for key in PROFILE_KEYS):
        return "profile"
    return "ablation" if b'"delta_surprisal"' in start else None


def decoded_file(path: Path, kind: type[Report], named: str, *, advice: str) -> Report:
    """Read a JSON file.

    Args:
        path: the file.
        kind: type of its content.
        named: the kind in messages, as `a profile`.
        advice: advice of errors.

    Raises:
        UserError: the file cannot be read, or is not of this kind.
    """
    try:
        content = read_regular(path, MAX_BYTES)
    except (OSError, ValueError) as error:
        raise system_error(path, error, failed="cannot be read", advice=advice) from error
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: not {named} ({reason})", advice=advice) from error
