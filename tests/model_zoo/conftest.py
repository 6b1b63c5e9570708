"""Fixtures of the model tests."""

import jaxtyping
import pytest


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the shape checks of the test run, as a user meets the code: its own errors are then reached."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
