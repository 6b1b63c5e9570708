"""`prototype-margin` against its formula written out, and against the exact radii it bounds."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from attacks.centroid_bounds import Centroids, radius_bounds
from attacks.exact_radius import exact_radius
from attacks.threat import Norm, Threat
from model_zoo.errors import ModelError
from model_zoo.kmeans import KMeansClassifier
from model_zoo.recipes.data import TrainingData
from model_zoo.recipes.loop import LossLog, Progress, TrainingRun
from model_zoo.recipes.prototype_margin import Margins, Settings, train, validation
from model_zoo.recipes.registry import RECIPES, settings_from
from model_zoo.weights import card_path, load_model, save_model
from tests.model_zoo.builders import CARD, digits_data, images, tiny_kmeans

CPU = torch.device("cpu")
CHECKPOINT = "prototype-margin.checkpoint.safetensors"
LABELS = torch.arange(3).repeat_interleave(4)
ALL = 12
"""At least as many as there are prototypes: none is left out."""


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return digits_data()


def small(**changes: Any) -> Settings:
    brief = Settings(prototypes=5, epochs=3, batch_size=32, learning_rate=0.01, margin=0.1, eps=0.05, iterations=10)
    return dataclasses.replace(brief, **changes)


def training_run(folder: Path | None = None, progress: Progress = lambda steps, _: steps, seed: int = 0) -> TrainingRun:
    return TrainingRun(seed=seed, device=CPU, folder=folder, identity="", progress=progress)


def problem(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images (10, 64) near prototypes of their class, their classes, and prototypes (12, 64)."""
    prototypes = images(ALL, seed=seed).flatten(1)
    y = torch.arange(10) % 3
    noise = images(10, seed=seed + 100).flatten(1) - 0.5
    return (prototypes[4 * y + torch.arange(10) % 4] + 0.7 * noise).clamp(0, 1), y, prototypes


def written_out(x: Tensor, y: Tensor, prototypes: Tensor, norm: str) -> list[float]:
    """r(x) of the file's head, in loops and by differences."""
    radii = []
    for image, label in zip(x.double(), y.tolist(), strict=True):
        over_rivals = []
        for j in range(ALL):
            if LABELS[j] == label:
                continue
            over_own = []
            for i in range(ALL):
                if LABELS[i] != label:
                    continue
                own, rival = prototypes[i].double(), prototypes[j].double()
                gap = own - rival
                dual = gap.abs().sum() if norm == "linf" else gap.square().sum().sqrt()
                lead = (image - rival).square().sum() - (image - own).square().sum()
                over_own.append(float(lead / (2 * dual)))
            over_rivals.append(max(over_own))
        radii.append(min(over_rivals))
    return radii


def radii_of(margins: Margins, x: Tensor, y: Tensor, prototypes: Tensor) -> Tensor:
    return margins.radii(x, prototypes, *margins.worst_pairs(x, y, prototypes, margins.dual_lengths(prototypes)))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_radii_are_the_formula_written_out(norm: Norm) -> None:
    x, y, prototypes = problem(seed=0)
    found = radii_of(Margins(3, norm, ALL, ALL), x, y, prototypes)
    assert found.tolist() == pytest.approx(written_out(x, y, prototypes, norm), abs=1e-5)
    centroids, nothing = Centroids(prototypes.double(), LABELS), torch.zeros(ALL, dtype=torch.float64)
    distances = centroids.squared_distances(x.double())
    bounds = [radius_bounds(centroids, norm, row, int(c), nothing).min() for row, c in zip(distances, y, strict=True)]
    assert found.tolist() == pytest.approx(torch.stack(bounds).tolist(), abs=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_gradient_is_that_of_the_formula_by_differences(norm: str) -> None:
    x, y, prototypes = problem(seed=1)
    margins = Margins(3, norm, ALL, ALL)
    moved = prototypes.clone().requires_grad_()
    (0.2 - radii_of(margins, x, y, moved)).clamp_min(0).mean().backward()
    assert moved.grad is not None

    def loss(shifted: Tensor) -> float:
        return sum(max(0.0, 0.2 - radius) for radius in written_out(x, y, shifted, norm)) / len(x)

    step = 1e-6
    for k, pixel in ((0, 0), (3, 20), (5, 63), (11, 7)):
        shift = torch.zeros(ALL, 64, dtype=torch.float64)
        shift[k, pixel] = step
        slope = (loss(prototypes.double() + shift) - loss(prototypes.double() - shift)) / (2 * step)
        assert float(moved.grad[k, pixel]) == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_radii_are_lower_bounds_of_the_exact_ones(norm: Norm) -> None:
    x, y, prototypes = problem(seed=0)
    x, y = x[:6], y[:6]
    model, square = KMeansClassifier(prototypes, LABELS, 3), x.reshape(-1, 1, 8, 8)
    exact = exact_radius(model, square, y, Threat(norm, 0.05), seed=0, sample_ids=torch.arange(len(x))).radii
    assert exact is not None
    assert bool((exact > 0).any())
    for own in (1, 3, ALL):
        found = radii_of(Margins(3, norm, own, ALL), x, y, prototypes)
        assert bool((found.double() <= exact + 1e-5).all())
        assert bool((found > 0).any())
        assert torch.equal(found > 0, model(square).argmax(dim=1) == y)


def test_fewer_own_prototypes_lower_the_radii_and_fewer_rivals_raise_them() -> None:
    x, y, prototypes = problem(seed=2)
    whole = radii_of(Margins(3, "linf", ALL, ALL), x, y, prototypes)
    assert bool((radii_of(Margins(3, "linf", 1, ALL), x, y, prototypes) <= whole + 1e-6).all())
    assert bool((radii_of(Margins(3, "linf", ALL, 1), x, y, prototypes) >= whole - 1e-6).all())


@pytest.mark.parametrize(("norm", "margin", "eps"), [("linf", 0.2, 0.12), ("l2", 0.8, 0.5)])
def test_training_raises_the_proven_share(norm: str, margin: float, eps: float) -> None:
    """Most of all on the training images: few digits are there to learn from."""
    data = digits_data(600)
    settings = small(norm=norm, margin=margin, eps=eps, epochs=15, learning_rate=0.02)

    def shares(settings: Settings) -> tuple[float, float]:
        prototypes = train(data, settings, training_run()).centroids
        on_training_images = dataclasses.replace(data, x_val=data.x, y_val=data.y)
        reached = (validation(images, settings, prototypes) for images in (on_training_images, data))
        trained, held_out = (figures["proven"] for figures in reached)
        return trained, held_out

    start = shares(dataclasses.replace(settings, epochs=1, learning_rate=1e-9))
    end = shares(settings)
    assert end[0] > start[0] + 0.05
    assert end[1] > start[1]


def test_prototypes_stay_in_the_box_and_are_float16_numbers_in_order_of_classes(data: TrainingData) -> None:
    run = training_run()
    model = train(data, small(learning_rate=0.3), run)
    assert isinstance(model, KMeansClassifier)
    assert model.labels.tolist() == [c for c in range(10) for _ in range(5)]
    assert 0 <= float(model.centroids.min()) < float(model.centroids.max()) <= 1
    assert torch.equal(model.centroids.half().float(), model.centroids)
    share = validation(data, small(), model.centroids)["proven"]
    assert run.notes[0] == (
        f"the closed form proves {100 * share:.1f} % of 80 validation images at linf 0.05; the exact share is higher"
    )


class Killed(Exception):
    pass


def test_a_killed_training_ends_with_the_weights_of_an_uninterrupted_one(data: TrainingData, tmp_path: Path) -> None:
    shown: list[str] = []

    def killed(steps: Iterable[Any], description: str) -> Iterable[Any]:
        shown.append(description)
        for step, batch in enumerate(steps):
            if len(shown) == 3 and step == 2:
                raise Killed
            yield batch

    with pytest.raises(Killed):
        train(data, small(), training_run(tmp_path, killed))
    assert shown == [f"prototype-margin {epoch}/3" for epoch in (1, 2, 3)]
    with safe_open(tmp_path / CHECKPOINT, framework="pt") as file:
        history = json.loads(file.metadata()["history"])
    assert [set(figures) for figures in history] == [{"training loss", "validation", "proven", "seconds"}] * 2
    shown.clear()

    def watch(steps: Iterable[Any], description: str) -> Iterable[Any]:
        shown.append(description)
        return steps

    resumed_run, whole_run = training_run(tmp_path, watch), training_run()
    resumed, whole = train(data, small(), resumed_run), train(data, small(), whole_run)
    assert shown == ["prototype-margin 3/3"]
    assert torch.equal(resumed.centroids, whole.centroids)
    assert resumed.variance == whole.variance
    assert resumed_run.notes == whole_run.notes
    other = train(data, small(), training_run(seed=1))
    assert not torch.equal(other.centroids, whole.centroids)


def test_a_loss_that_is_not_finite_ends_the_training(data: TrainingData, monkeypatch: pytest.MonkeyPatch) -> None:
    add = LossLog.add
    monkeypatch.setattr(LossLog, "add", lambda log, terms: add(log, {k: v * torch.nan for k, v in terms.items()}))
    told = "prototype-margin, epoch 1 of 3: the training loss became nan at step 0"
    with pytest.raises(FloatingPointError, match=told):
        train(data, small(), training_run())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"margin": 0.0}, "margin must be positive, got 0"),
        ({"eps": -0.1}, "eps must be positive, got -0.1"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive, got nan"),
        ({"norm": "l1"}, "norm must be one of linf, l2, got 'l1'"),
        ({"prototypes": 0}, "prototypes must be at least 1, got 0"),
        ({"own": 0}, "own must be at least 1, got 0"),
        ({"prototypes": 60}, r"prototypes=60, but class \d of data set digits has \d\d training images"),
    ],
)
def test_settings_that_cannot_be_are_one_line(changes: dict[str, Any], told: str, data: TrainingData) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        train(data, small(**changes), training_run())
    assert "\n" not in str(caught.value)


def test_assignments_that_cannot_be_are_refused() -> None:
    with pytest.raises(ModelError, match="prototypes must be a whole number of at least 1"):
        settings_from(RECIPES["prototype-margin"], ["prototypes=0"])


def test_prototypes_are_stored_in_float16_and_come_back_with_bit_equal_logits(
    data: TrainingData, tmp_path: Path
) -> None:
    model, path = train(data, small(epochs=1), training_run()), tmp_path / "mine.safetensors"
    written = save_model(path, model, CARD | {"num_classes": 10})
    with safe_open(path, framework="pt") as file:
        assert file.get_tensor("centroids").dtype == torch.float16
    assert path.stat().st_size < 50 * 64 * 2 + 50 * 8 + 300
    loaded, card = load_model(path, CPU)
    assert isinstance(loaded, KMeansClassifier)
    assert loaded.centroids.dtype == torch.float32
    assert torch.equal(loaded.centroids, model.centroids)
    assert torch.equal(loaded(data.x_val), model(data.x_val))
    assert card == written


def test_centroids_that_float16_does_not_hold_are_stored_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    for changed in (tiny_kmeans(), KMeansClassifier(torch.tensor([[1e5], [0.5]]), torch.tensor([0, 1]), 2)):
        save_model(path, changed, CARD)
        with safe_open(path, framework="pt") as file:
            assert file.get_tensor("centroids").dtype == torch.float32
        loaded, _ = load_model(path, CPU)
        assert torch.equal(loaded.state_dict()["centroids"], changed.centroids)


def test_a_float32_file_of_numbers_that_float16_holds_still_loads(tmp_path: Path) -> None:
    """Files written before there was a compact one are of this kind."""
    model, path = tiny_kmeans(), tmp_path / "mine.safetensors"
    rounded = KMeansClassifier(model.centroids.half().float(), model.labels, 3, model.variance)
    card = json.loads(save_model(path, rounded, CARD).model_dump_json())
    compact = path.stat().st_size
    payload = save(rounded.state_dict())
    path.write_bytes(payload)
    card_path(path).write_text(json.dumps(card | {"sha256": hashlib.sha256(payload).hexdigest()}))
    assert len(payload) - compact == pytest.approx(7 * 64 * 2, abs=16)
    loaded, _ = load_model(path, CPU)
    assert torch.equal(loaded(images(9)), rounded(images(9)))
