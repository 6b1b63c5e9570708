"""`kmeans-adv` against its steps written out with scikit-learn, on digits and a linear surrogate."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from sklearn.cluster import KMeans

from attacks.threat import Threat
from attacks.transfer import transfer
from model_zoo.adapter import LogitsModel
from model_zoo.architectures import build
from model_zoo.errors import ModelError
from model_zoo.kmeans import KMeansClassifier
from model_zoo.recipes import kmeans
from model_zoo.recipes.adversarial_set import FOLDER_VARIABLE
from model_zoo.recipes.data import TrainingData, hold_out
from model_zoo.recipes.kmeans_adv import Settings, mixture, thinned, train
from model_zoo.recipes.loop import Progress, TrainingRun
from model_zoo.recipes.registry import RECIPES, settings_from
from model_zoo.registry import load
from model_zoo.weights import save_model
from tests.model_zoo.builders import CARD, brute_squared_distances, digits_data, images

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return digits_data()


def surrogate_file(folder: Path, data: TrainingData, **card: object) -> str:
    """A network of two linear layers that knows the digits somewhat, as a weight file."""
    torch.manual_seed(0)
    shape = tuple(data.x.shape[1:])
    model = LogitsModel(build("lipschitz-mlp", shape[0], data.num_classes, shape[1:]), data.mean, data.std).train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(30):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(data.x), data.y).backward()
        optimiser.step()
    about = {"architecture": "lipschitz-mlp", "input_shape": shape, "num_classes": data.num_classes}
    known = {"dataset": data.name, "data_sha256": data.sha256, "clean_accuracy": 0.875}
    path = folder / "surrogate.safetensors"
    save_model(path, model.eval(), CARD | about | known | card)
    return str(path)


@pytest.fixture(scope="module")
def surrogate(data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> str:
    return surrogate_file(tmp_path_factory.mktemp("surrogate"), data)


def small(surrogate: str, **changes: Any) -> Settings:
    brief = Settings(clusters=30, iterations=8, beta=2, attack_iterations=3, attacked=100, surrogate=surrogate)
    return dataclasses.replace(brief, **changes)


def training_run(folder: Path | None = None, progress: Progress = lambda steps, _: steps, seed: int = 0) -> TrainingRun:
    return TrainingRun(seed=seed, device=CPU, folder=folder, identity="", progress=progress)


def written_out(
    data: TrainingData, settings: Settings, clean: int, adversarial: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Centroids and labels after the last step; adversarial images by the attack that evaluations use."""
    centroids: Any = "k-means++"
    for b in range(1, settings.beta + 1):
        eps = settings.eps * b / settings.beta if settings.incremental else settings.eps
        x_adv = transfer(
            load(settings.surrogate).model,
            data.x[: settings.attacked],
            data.y[: settings.attacked],
            Threat("linf", eps),
            seed=0,
            sample_ids=torch.arange(settings.attacked),
            surrogate=load(settings.surrogate).model,
            steps=settings.attack_iterations,
            attack=settings.attack,
        ).x_adv
        x = np.concatenate([data.x[:clean].flatten(1).numpy(), x_adv[:adversarial].flatten(1).numpy()])
        y = np.concatenate([data.y[:clean].numpy(), data.y[:adversarial].numpy()])
        init = centroids if settings.carried else "k-means++"
        fitted = KMeans(settings.clusters, init=init, n_init=1, max_iter=settings.iterations, random_state=0).fit(x)
        centroids = fitted.cluster_centers_
    labels = [np.bincount(y[fitted.labels_ == cluster], minlength=10).argmax() for cluster in range(settings.clusters)]
    return centroids, np.array(labels)


@pytest.mark.parametrize(
    ("changes", "clean", "adversarial"),
    [
        ({}, 100, 100),
        ({"carried": False, "attack": "cw"}, 100, 100),
        ({"incremental": False, "attack": "pgd"}, 100, 100),
        ({"eta": 2 / 3}, 50, 100),
        ({"eta": 1.0}, 0, 100),
        ({"eta": 0.2}, 320, 80),
    ],
)
def test_two_steps_are_scikit_learns_written_out(
    changes: dict[str, Any], clean: int, adversarial: int, data: TrainingData, surrogate: str
) -> None:
    settings = small(surrogate, **changes)
    model = train(data, settings, training_run())
    centroids, labels = written_out(data, settings, clean, adversarial)
    assert torch.equal(model.centroids, model.centroids.half().float())
    np.testing.assert_allclose(model.centroids.numpy(), centroids, rtol=2**-11, atol=1e-5)
    assert model.labels.tolist() == labels.tolist()


def test_without_adversarial_images_the_first_step_is_kmeans_and_asks_no_surrogate(data: TrainingData) -> None:
    settings = small("no-such-model", eta=0.0, beta=1)
    plain = kmeans.train(data, kmeans.Settings(clusters=30, iterations=8), training_run())
    model = train(data, settings, training_run())
    assert torch.equal(model.centroids, plain.centroids.half().float())
    assert torch.equal(model.labels, plain.labels)
    assert model.variance == plain.variance


def test_carried_fresh_incremental_and_full_strength_differ(data: TrainingData, surrogate: str) -> None:
    found = [
        train(data, small(surrogate, iterations=2, carried=carried, incremental=incremental), training_run()).centroids
        for carried in (True, False)
        for incremental in (True, False)
    ]
    assert torch.equal(found[2], found[3])  # without carrying, the last step alone counts: full strength in both
    assert all(not torch.equal(found[i], found[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


@pytest.mark.parametrize(("attack", "sets"), [("i-fgsm", 1), ("pgd", 2)])
def test_another_seed_makes_another_set_only_where_the_attack_is_random(
    attack: str, sets: int, data: TrainingData, surrogate: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    for seed in (0, 1):
        train(data, small(surrogate, beta=1, iterations=1, attack=attack), training_run(seed=seed))
    assert len(list(tmp_path.iterdir())) == sets


@pytest.mark.parametrize("eta", [0.0, 0.1, 0.25, 1 / 3, 0.5, 2 / 3, 0.9, 1.0])
@pytest.mark.parametrize("imbalance", [1.0, 0.1])
def test_the_share_of_adversarial_images_is_eta_and_one_of_the_pools_is_used_up(
    eta: float, imbalance: float, data: TrainingData
) -> None:
    clean, adversarial = mixture(data, Settings(eta=eta, attacked=100, imbalance=imbalance))
    total = len(clean) + len(adversarial)
    assert abs(len(adversarial) - eta * total) <= 1
    kept = thinned(data.y, 10, imbalance)
    assert len(clean) == int(kept.sum()) or len(adversarial) == int(kept[:100].sum())
    assert bool(kept[clean].all())
    assert bool(kept[adversarial].all())
    assert not len(adversarial) or int(adversarial.max()) < 100


def test_shares_fall_geometrically_over_the_classes() -> None:
    y = torch.arange(3000) % 3
    kept = thinned(y, 3, 0.01)
    assert torch.bincount(y[kept]).tolist() == [1000, 100, 10]
    assert torch.bincount(y[:300][kept[:300]]).tolist() == [100, 10, 1]
    assert bool(thinned(y, 3, 1.0).all())
    assert torch.bincount(y[thinned(y, 3, 1e-9)]).tolist() == [1000, 1, 1]


class Killed(Exception):
    pass


def test_a_killed_training_ends_with_the_centroids_of_an_uninterrupted_one(
    data: TrainingData, surrogate: str, tmp_path: Path
) -> None:
    settings = small(surrogate, beta=3, eps=0.3)
    shown: list[str] = []

    def killed(steps: Iterable[Any], description: str) -> Iterable[Any]:
        shown.append(description)
        if len(shown) == 3:
            raise Killed
        return steps

    with pytest.raises(Killed):
        train(data, settings, training_run(tmp_path, killed))
    assert shown == [f"i-fgsm, eps {eps}" for eps in ("0.1", "0.2", "0.3")]
    with safe_open(tmp_path / "kmeans-adv.checkpoint.safetensors", framework="pt") as file:
        assert file.get_tensor("module/centroids").shape == (30, 64)
    shown.clear()

    def watch(steps: Iterable[Any], description: str) -> Iterable[Any]:
        shown.append(description)
        return steps

    resumed_run, whole_run = training_run(tmp_path, watch), training_run()
    resumed, whole = train(data, settings, resumed_run), train(data, settings, whole_run)
    assert shown == ["i-fgsm, eps 0.3"]
    assert torch.equal(resumed.centroids, whole.centroids)
    assert torch.equal(resumed.labels, whole.labels)
    assert resumed.variance == whole.variance
    assert resumed_run.notes == whole_run.notes
    again = train(data, settings, training_run(tmp_path, lambda steps, _: pytest.fail("a finished step ran again")))
    assert torch.equal(again.centroids, whole.centroids)
    assert again.variance == whole.variance


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"clusters": 201}, "clusters must be at most the 200 training images, got 201"),
        ({"eta": 1.5}, r"eta must be in \[0, 1\], got 1.5"),
        ({"eps": 0.0}, r"eps must be in \(0, 1\], got 0"),
        ({"eps": 8.0}, r"eps must be in \(0, 1\], got 8"),
        ({"imbalance": 0.0}, r"imbalance must be in \(0, 1\], got 0"),
        ({"beta": 0}, "beta must be at least 1, got 0"),
        ({"attack": "fgsm"}, "attack must be one of i-fgsm, pgd, cw, got 'fgsm'"),
        ({"labels": "mine"}, "labels must be one of auto, true, predicted, got 'mine'"),
    ],
)
def test_settings_that_cannot_be_are_one_line(
    changes: dict[str, Any], told: str, data: TrainingData, surrogate: str
) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        train(data, small(surrogate, **changes), training_run())
    assert "\n" not in str(caught.value)


def test_an_unknown_surrogate_is_refused(data: TrainingData) -> None:
    with pytest.raises(ModelError, match="unknown model 'nominall'; did you mean nominal"):
        train(data, small("nominall"), training_run())


def test_a_surrogate_of_other_images_or_classes_is_refused(data: TrainingData, surrogate: str) -> None:
    with pytest.raises(
        ValueError, match=r"surrogate 'nominal' takes images of shape \(1, 28, 28\), data set digits has"
    ):
        train(data, small("nominal"), training_run())
    kept = data.y < 5
    five = dataclasses.replace(data, num_classes=5, x=data.x[kept], y=data.y[kept])
    with pytest.raises(ValueError, match=r"surrogate .* has 10 classes, data set digits 5"):
        train(five, small(surrogate), training_run())


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("beta=0", "beta must be a whole number of at least 1"),
        ("clusters=0", "clusters must be a whole number of at least 1"),
        ("carried=yes", "carried must be 0 or 1, got 'yes'"),
        ("eta=-1", "eta must be a number or fraction of at least 0"),
    ],
)
def test_assignments_that_cannot_be_are_refused(assignment: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        settings_from(RECIPES["kmeans-adv"], [assignment])


def test_carried_and_incremental_are_switches() -> None:
    read = settings_from(RECIPES["kmeans-adv"], ["carried=0", "incremental=1", "eta=2/3"])
    assert (read.carried, read.incremental, read.eta) == (False, True, 2 / 3)


def test_the_card_is_told_of_the_surrogate_and_which_class_it_left(
    data: TrainingData, surrogate: str, tmp_path: Path
) -> None:
    identity = load(surrogate).sha256[:12]
    start = "adversarial images are i-fgsm's on the surrogate "
    run = training_run()
    train(data, small(surrogate), run)
    known = f"(trained on digits, clean accuracy 87.50 %, identity {identity})"
    assert run.notes[0] == f"{start}{surrogate} {known}, away from the true class"
    foreign = surrogate_file(tmp_path, data, dataset="mnist", clean_accuracy=None)
    for labels, left in (("auto", "the surrogate's prediction"), ("true", "the true class")):
        run = training_run()
        train(data, small(foreign, labels=labels), run)
        known = f"(trained on mnist, clean accuracy unknown, identity {identity})"
        assert run.notes[0] == f"{start}{foreign} {known}, away from {left}"


def with_copies() -> TrainingData:
    """Twelve distinct images of three classes, the third never a majority, each seen four times."""
    distinct = images(12, seed=4)
    y = torch.where(torch.arange(48) < 36, torch.arange(48) % 12 % 2, 2)
    return hold_out("copies", "2" * 64, 3, distinct.repeat(5, 1, 1, 1), torch.cat([y, y[:12]]))


@pytest.mark.parametrize("recipe", ["kmeans", "kmeans-adv"])
def test_an_empty_cluster_wins_no_image_and_an_absent_class_is_told(recipe: str) -> None:
    data = with_copies()
    assert data.y.bincount().tolist() == [18, 18, 12]
    settings: Any = kmeans.Settings(clusters=20)
    if recipe == "kmeans-adv":
        settings = Settings(clusters=20, eta=0.0, beta=2)
    run = training_run()
    model = RECIPES[recipe].train(data, settings, run)
    assert isinstance(model, KMeansClassifier)
    assert run.notes == [
        "8 of 20 clusters had no member at the end and are left out",
        "no cluster stands for class 2: all its samples are misclassified",
    ]
    assert len(model.centroids) == 12
    assert set(model.labels.tolist()) == {0, 1}
    x = images(30, seed=9)
    nearest = brute_squared_distances(x, model.centroids).argmin(axis=1)
    assert model(x).argmax(dim=1).tolist() == model.labels.numpy()[nearest].tolist()
