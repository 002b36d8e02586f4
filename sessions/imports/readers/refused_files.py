"""Detection of files that are refused, so that the message can give the reason."""

from __future__ import annotations

from moe_watch.sessions.imports.document import Document

GZIP, ZSTD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"


def is_session(document: Document) -> bool:
    """Return whether a file is a session of moe-watch."""
    return document.kind in ("json", "json lines") and document.first.get("event") == "session"


def is_pressure_series(document: Document) -> bool:
    """Return whether a file is a measurement of ChronoMoE, or has its layout."""
    if document.kind != "json" or document.mapping is None:
        return False
    trajectory = document.mapping.get("trajectory")
    return isinstance(trajectory, dict) and "mid_pressures" in trajectory


def is_packed(document: Document) -> bool:
    """Return whether a file is compressed, or Parquet."""
    return document.kind == "bytes" and document.data.startswith((GZIP, ZSTD, PARQUET))
