"""Model settings that mlx-lm ignores: found, added to the loaded model where possible, and reported."""
