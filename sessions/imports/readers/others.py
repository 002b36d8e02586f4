"""Files that are recognised only to say why they are not imported."""

from __future__ import annotations

from moe_watch.sessions.imports.document import Document

GZIP, ZSTD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"


def is_session(document: Document) -> bool:
    """Return whether a file is a session of moe-watch."""
    records = document.records if document.kind in ("json", "json lines") else []
    return bool(records) and isinstance(records[0], dict) and records[0].get("event") == "session"


def is_pressure_series(document: Document) -> bool:
    """Return whether a file is a measurement of ChronoMoE, or in its form."""
    if document.kind != "json" or not isinstance(document.value, dict):
        return False
    trajectory = document.value.get("trajectory")
    return isinstance(trajectory, dict) and "mid_pressures" in trajectory


def is_packed(document: Document) -> bool:
    """Return whether a file is compressed, or Parquet."""
    return document.kind == "bytes" and document.data.startswith((GZIP, ZSTD, PARQUET))
