"""Ways to carry out units: the same signature, the same records."""
