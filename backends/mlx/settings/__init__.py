"""Model settings that mlx-lm ignores: found, added to the loaded model if possible, and reported."""
