"""Router decisions per token and layer: gates, router entropy, router margin, agreement between runs."""
