"""Sessions as tables for other programs: Parquet, CSV, JSON, NPZ."""
