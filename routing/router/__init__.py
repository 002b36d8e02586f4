"""Router decisions per token and layer: gates, entropy, margin, agreement between runs."""
