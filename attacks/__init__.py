"""Threat models and attacks; knows nothing of the runner, the models or the records."""
