"""Fixtures of the model tests."""

import jaxtyping
import pytest

from model_zoo.recipes.adversarial_set import FOLDER_VARIABLE


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the shape checks of the test run, as a user meets the code: its own errors are then reached."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture(autouse=True)
def own_adversarial_sets(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adversarial sets are not kept in the user's cache."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path_factory.mktemp("sets")))
