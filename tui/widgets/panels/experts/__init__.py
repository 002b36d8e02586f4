"""Expert heatmap."""
