"""Export of sessions as tables (Parquet, CSV, JSON, NPZ) and as traces of other programs."""
