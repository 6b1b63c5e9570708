"""Every recipe trains on a few hundred digits; interrupted trainings resume to the same weights."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from model_zoo.adapter import LogitsModel
from model_zoo.architectures import build
from model_zoo.errors import ModelError
from model_zoo.kmeans import KMeansClassifier
from model_zoo.learned_map import LearnedMapClassifier
from model_zoo.magnet import MagnetClassifier
from model_zoo.recipes.check import check_settings
from model_zoo.recipes.data import TrainingData, hold_out
from model_zoo.recipes.loop import LossLog, Progress, TrainingRun
from model_zoo.recipes.registry import RECIPES, settings_from
from model_zoo.recipes.supervised import accuracy
from model_zoo.recipes.warm_start import foreign_start
from model_zoo.registry import load
from model_zoo.weights import read_card, save_model
from tests.model_zoo.builders import CARD, digits_data

CPU = torch.device("cpu")
SUPERVISED: dict[str, object] = {"epochs": 4, "batch_size": 32, "learning_rate": 0.1}
GROUPS = "0,2,4,6,8/1,3,5,7,9"
CLUSTR_AT: dict[str, object] = {"epochs": 1, "batch_size": 32, "steps": 2, "eps": 0.05, "step_size": 0.03}
MAGNET: dict[str, object] = {"epochs": 1, "batch_clusters": 6, "samples_per_cluster": 6}
SMALL: dict[str, dict[str, object]] = {
    "kmeans": {"clusters": 40, "iterations": 20},
    "nearest-neighbor": {},
    "prototype-margin": {"prototypes": 4, "epochs": 2, "batch_size": 32},
    "kmeans-adv": {"clusters": 40, "iterations": 10, "beta": 2, "attacked": 100, "attack_iterations": 2},
    "nominal": SUPERVISED,
    "nominal-kmeans-head": MAGNET,
    "pgd-at": SUPERVISED | {"steps": 2, "eps": 0.05, "step_size": 0.03},
    "pgd-at-grouped": SUPERVISED | {"steps": 2, "eps": 0.05, "step_size": 0.03, "groups": GROUPS, "weight": 0.01},
    "clustr": MAGNET,
    "clustr-qtrades": MAGNET | {"weight": 1.0},
    "clustr-1lip": MAGNET | {"epochs": 3, "width": 32, "features": 16},
    "free-at": SUPERVISED | {"replays": 2, "eps": 0.05},
    "trades": SUPERVISED | {"steps": 2, "eps": 0.05, "step_size": 0.03, "beta": 1.0},
    "qtrades": SUPERVISED | {"eps": 0.05, "step_size": 0.03, "weight": 1.0},
    "magnet": MAGNET | {"epochs": 4},
    "clustr-adv": MAGNET | {"weight": 1.0, "steps": 2, "step_size": 0.02},
    "clustr-fuzzy": MAGNET,
    "clustr-learned-map": MAGNET | {"weight": 1.0},
    "clustr-triplet": MAGNET,
    "clustr-at": CLUSTR_AT,
    "clustr-grouped": CLUSTR_AT | {"groups": GROUPS, "weight": 0.01},
    **{
        f"clustr-{name}": MAGNET | {"weight": 1.0}
        for name in (
            "qtrades-mse",
            "ce-qtrades",
            "ce-qtrades-mse",
            "e-qtrades",
            "e-qtrades-mse",
            "trades-1",
            "trades-2",
        )
    },
}


def training_run(folder: Path | None, progress: Progress = lambda steps, _: steps, identity: str = "") -> TrainingRun:
    return TrainingRun(seed=0, device=CPU, folder=folder, identity=identity, progress=progress)


def small(recipe: str, **changes: object) -> Any:
    return dataclasses.replace(RECIPES[recipe].settings(), **(SMALL[recipe] | changes))


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return digits_data()


@pytest.fixture(scope="module")
def nominal_file(data: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A trained network to start from, as a weight file."""
    path = tmp_path_factory.mktemp("nominal") / "nominal.safetensors"
    model = RECIPES["nominal"].train(data, small("nominal"), training_run(None))
    save_model(path, model, CARD | {"architecture": "small-resnet", "num_classes": 10})
    return str(path)


def train(recipe: str, data: TrainingData, nominal_file: str, run: TrainingRun, **changes: object) -> nn.Module:
    settings = small(recipe, **changes)
    if hasattr(settings, "warm_start") and recipe != "magnet":
        settings = dataclasses.replace(settings, warm_start=nominal_file)
    if hasattr(settings, "surrogate"):
        settings = dataclasses.replace(settings, surrogate=nominal_file)
    return RECIPES[recipe].train(data, settings, run)


LOGITS = ("nominal", "pgd-at", "pgd-at-grouped", "free-at", "trades", "qtrades")
KINDS: dict[str, type[nn.Module]] = {
    recipe: KMeansClassifier if recipe.startswith("kmeans") else LogitsModel if recipe in LOGITS else MagnetClassifier
    for recipe in RECIPES
} | {
    "clustr-learned-map": LearnedMapClassifier,
    "nearest-neighbor": KMeansClassifier,
    "prototype-margin": KMeansClassifier,
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_learns_digits_better_than_chance(recipe: str, data: TrainingData, nominal_file: str) -> None:
    """Chance is 10 %; a tenth of 80 held-out digits plus four standard deviations is 23 %."""
    model = train(recipe, data, nominal_file, training_run(None))
    assert type(model) is KINDS[recipe]
    assert not any(part.training for part in model.modules())
    logits = model(data.x_val)
    assert logits.shape == (80, 10)
    assert bool(torch.isfinite(logits).all())
    correct = float((logits.argmax(dim=1) == data.y_val).double().mean())
    assert correct > 0.3
    assert accuracy(model, data.x_val, data.y_val, batch_size=7) == pytest.approx(correct)


@pytest.mark.parametrize(
    "recipe",
    [
        "kmeans",
        "kmeans-adv",
        "prototype-margin",
        "nominal",
        "pgd-at",
        "free-at",
        "trades",
        "qtrades",
        "magnet",
        "clustr",
        "clustr-qtrades",
        "clustr-adv",
        "clustr-1lip",
        "clustr-learned-map",
        "clustr-triplet",
    ],
)
def test_a_training_is_determined_by_its_seed(recipe: str, data: TrainingData, nominal_file: str) -> None:
    brief = {} if recipe.startswith("kmeans") else {"epochs": 1}
    torch.manual_seed(1)
    first = train(recipe, data, nominal_file, training_run(None), **brief)
    torch.manual_seed(2)
    assert_same_weights(train(recipe, data, nominal_file, training_run(None), **brief), first)
    other = dataclasses.replace(training_run(None), seed=1)
    changed = train(recipe, data, nominal_file, other, **brief).state_dict()
    assert any(not torch.equal(value, changed[key]) for key, value in first.state_dict().items())


def test_without_a_model_to_start_from_nominal_is_trained_first(data: TrainingData) -> None:
    stages = []

    def watch(steps: Iterable[Any], description: str) -> Iterable[Any]:
        stages.append(description)
        return steps

    model = RECIPES["clustr"].train(data, small("clustr"), training_run(None, watch))
    assert isinstance(model, MagnetClassifier)
    assert stages == [f"nominal {epoch}/15" for epoch in range(1, 16)] + ["clustr 1/1"]


@pytest.mark.parametrize(
    ("recipe", "nearest", "expected"), [("clustr", 3, 3), ("clustr", 0, None), ("nominal-kmeans-head", 3, 3)]
)
def test_d_is_taken_from_the_settings(
    recipe: str, nearest: int, expected: int | None, data: TrainingData, nominal_file: str
) -> None:
    model = train(recipe, data, nominal_file, training_run(None), nearest=nearest, clusters_per_class=3)
    assert isinstance(model, MagnetClassifier)
    assert model.nearest == expected
    assert model.labels.tolist() == [c for c in range(10) for _ in range(3)]


@pytest.mark.parametrize("recipe", ["nominal-kmeans-head", "clustr"])
def test_a_start_keeps_the_normalisation_it_was_trained_with(recipe: str, data: TrainingData, tmp_path: Path) -> None:
    path = tmp_path / "start.safetensors"
    torch.manual_seed(0)
    start = LogitsModel(build("small-resnet", 1, 10), [0.9], [0.2])
    save_model(path, start, CARD | {"architecture": "small-resnet", "num_classes": 10})
    model = RECIPES[recipe].train(data, small(recipe, warm_start=str(path)), training_run(None))
    assert isinstance(model, MagnetClassifier)
    state = model.state_dict()
    assert state["backbone.normalise.mean"].item() == pytest.approx(0.9)
    assert state["backbone.normalise.std"].item() == pytest.approx(0.2)
    if recipe == "nominal-kmeans-head":
        with torch.no_grad():
            torch.testing.assert_close(model.features(data.x_val), start.features(data.x_val), rtol=1e-4, atol=1e-5)


def test_fine_tuning_leaves_the_file_it_started_from_alone(data: TrainingData, nominal_file: str) -> None:
    before = Path(nominal_file).read_bytes()
    train("clustr", data, nominal_file, training_run(None))
    assert Path(nominal_file).read_bytes() == before


def assert_same_weights(a: nn.Module, b: nn.Module) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs)
    for key, value in ours.items():
        assert torch.equal(value, theirs[key]), key


class Killed(Exception):
    pass


def killing(stage: str, harm: Callable[[], None] | None = None) -> Progress:
    """Do harm, or be killed, after two steps of the stage's second epoch."""

    def progress(steps: Iterable[Any], description: str) -> Iterable[Any]:
        for i, step in enumerate(steps):
            if description == f"{stage} 2/2" and i == 2:
                if harm is None:
                    raise Killed
                harm()
            yield step

    return progress


@pytest.mark.parametrize(
    "recipe",
    ["nominal", "pgd-at", "free-at", "clustr", "clustr-qtrades", "clustr-1lip", "clustr-learned-map", "clustr-triplet"],
)
def test_a_killed_training_ends_with_the_weights_of_an_uninterrupted_one(
    recipe: str, data: TrainingData, nominal_file: str, tmp_path: Path
) -> None:
    uninterrupted = train(recipe, data, nominal_file, training_run(None), epochs=2)
    with pytest.raises(Killed):
        train(recipe, data, nominal_file, training_run(tmp_path, killing(recipe)), epochs=2)
    stages = []

    def watch(steps: Iterable[Any], description: str) -> Iterable[Any]:
        stages.append(description)
        return steps

    resumed = train(recipe, data, nominal_file, training_run(tmp_path, watch), epochs=2)
    assert stages == [f"{recipe} 2/2"]
    assert_same_weights(resumed, uninterrupted)
    x = data.x_val
    assert torch.equal(resumed(x), uninterrupted(x))
    if isinstance(resumed, MagnetClassifier):
        assert isinstance(uninterrupted, MagnetClassifier)
        assert resumed.variance == uninterrupted.variance


def test_a_checkpoint_of_other_settings_is_refused(data: TrainingData, nominal_file: str, tmp_path: Path) -> None:
    train("nominal", data, nominal_file, training_run(tmp_path, identity="these"), epochs=1)
    with pytest.raises(ValueError, match="belongs to a training with other settings; remove it"):
        train("nominal", data, nominal_file, training_run(tmp_path, identity="others"), epochs=1)


def spoil(data: TrainingData) -> None:
    data.x.fill_(float("nan"))


def test_a_nan_loss_is_named_and_the_last_good_checkpoint_stays(data: TrainingData, tmp_path: Path) -> None:
    """Images turn NaN in the second epoch; the run is repaired and ends as if nothing had happened."""
    fragile = dataclasses.replace(data, x=data.x.clone())
    run = training_run(tmp_path, killing("nominal", lambda: spoil(fragile)))
    with pytest.raises(FloatingPointError, match="the training loss became nan at step 12"):
        RECIPES["nominal"].train(fragile, small("nominal", epochs=2), run)
    resumed = RECIPES["nominal"].train(data, small("nominal", epochs=2), training_run(tmp_path))
    assert_same_weights(resumed, RECIPES["nominal"].train(data, small("nominal", epochs=2), training_run(None)))


def test_a_nan_magnet_loss_is_named(data: TrainingData, nominal_file: str) -> None:
    fragile = dataclasses.replace(data, x=data.x.clone())
    run = training_run(None, killing("clustr", lambda: spoil(fragile)))
    with pytest.raises(FloatingPointError, match="the Magnet loss became nan at step 10"):
        train("clustr", fragile, nominal_file, run, epochs=2)


def test_a_nan_extra_term_is_named(data: TrainingData, nominal_file: str) -> None:
    with pytest.raises(FloatingPointError, match="the extra term became nan at step 0"):
        train("clustr-qtrades", data, nominal_file, training_run(None), weight=float("nan"))


def test_too_few_images_for_a_batch_are_refused(data: TrainingData, nominal_file: str) -> None:
    with pytest.raises(ValueError, match="has 320 training images, fewer than one batch of 12 clusters x 40 samples"):
        train("clustr", data, nominal_file, training_run(None), batch_clusters=12, samples_per_cluster=40)


def test_more_clusters_than_images_are_refused(data: TrainingData) -> None:
    with pytest.raises(ValueError, match="clusters must be at most the 320 training images, got 321"):
        RECIPES["kmeans"].train(data, small("kmeans", clusters=321), training_run(None))


def test_a_start_that_is_no_network_is_refused(data: TrainingData, tmp_path: Path) -> None:
    path = tmp_path / "kmeans.safetensors"
    model = RECIPES["kmeans"].train(data, small("kmeans"), training_run(None))
    save_model(path, model, CARD | {"num_classes": 10})
    with pytest.raises(ValueError, match="warm_start must be a network with logits"):
        RECIPES["clustr"].train(data, small("clustr", warm_start=str(path)), training_run(None))


def test_a_start_of_other_classes_is_refused(data: TrainingData, nominal_file: str) -> None:
    kept = data.y < 5
    five = dataclasses.replace(data, num_classes=5, x=data.x[kept], y=data.y[kept])
    with pytest.raises(ValueError, match="has 10 classes, data set digits 5"):
        RECIPES["clustr"].train(five, small("clustr", warm_start=nominal_file), training_run(None))


def test_kmeans_labels_a_cluster_by_its_members_and_scales_by_their_spread(data: TrainingData) -> None:
    model = RECIPES["kmeans"].train(data, small("kmeans"), training_run(None))
    assert isinstance(model, KMeansClassifier)
    x = data.x.flatten(1).double()
    squared = torch.cdist(x, model.centroids.double()).square()
    nearest = squared.argmin(dim=1)
    for cluster in range(40):
        counts = torch.bincount(data.y[nearest == cluster], minlength=10)
        assert int(counts[model.labels[cluster]]) == int(counts.max())
    assert model.variance == pytest.approx(float(squared.amin(dim=1).sum()) / 319, rel=1e-5)


def test_settings_are_read_from_assignments() -> None:
    settings = settings_from(RECIPES["pgd-at"], ["epochs=3", "eps=4/255", "learning_rate=0.5", "architecture=mine"])
    assert dataclasses.asdict(settings) == {
        "architecture": "mine",
        "epochs": 3,
        "batch_size": 128,
        "learning_rate": 0.5,
        "weight_decay": 5e-4,
        "eps": 4 / 255,
        "step_size": 2 / 255,
        "steps": 10,
    }
    assert settings_from(RECIPES["clustr"], ["epochs=6/2"]).epochs == 3


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("speed=3", "recipe nominal: cannot set 'speed=3'; accepted: architecture=..., epochs=..., batch_size=..."),
        ("epochs", "recipe nominal: cannot set 'epochs'"),
        ("epochs=many", "recipe nominal: epochs must be a whole number of at least 1, got 'many'"),
        ("epochs=3/0", "recipe nominal: epochs must be a whole number of at least 1, got '3/0'"),
        ("epochs=2.5", "recipe nominal: epochs must be a whole number of at least 1, got '2.5'"),
        ("epochs=5/2", "recipe nominal: epochs must be a whole number of at least 1, got '5/2'"),
        ("epochs=-1", "recipe nominal: epochs must be a whole number of at least 1, got '-1'"),
        ("learning_rate=fast", "recipe nominal: learning_rate must be a number or fraction of at least 0, got 'fast'"),
        ("learning_rate=nan", "recipe nominal: learning_rate "),
        ("learning_rate=inf", "recipe nominal: learning_rate "),
        ("batch_size=0", "recipe nominal: batch_size "),
    ],
)
def test_an_assignment_that_cannot_be_is_refused_in_one_line(assignment: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        settings_from(RECIPES["nominal"], [assignment])
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_summarised_by_the_first_line_of_its_file(recipe: str) -> None:
    entry = RECIPES[recipe]
    assert entry.name == recipe
    assert entry.summary
    assert not entry.summary.endswith(".")
    assert f"`{recipe}`" not in entry.summary


COLOURS = 4
TWO_STEPS: Progress = lambda steps, _: list(steps)[:2]  # noqa: E731 - a protocol of two arguments
BRIEF: dict[str, object] = {
    "epochs": 1,
    "batch_size": 16,
    "batch_clusters": 4,
    "samples_per_cluster": 4,
    "steps": 1,
    "replays": 2,
    "clusters": 8,
    "prototypes": 2,
    "width": 16,
    "features": 8,
    "groups": "0,2/1,3",
}


def brief(recipe: str, **changes: object) -> Any:
    settings = RECIPES[recipe].settings()
    known = {field.name for field in dataclasses.fields(settings)}
    return dataclasses.replace(settings, **{k: v for k, v in (BRIEF | changes).items() if k in known})


@pytest.fixture(scope="module")
def colours() -> TrainingData:
    """Eighty noisy images (3, 32, 32), a class a brightness."""
    y = torch.arange(80) % COLOURS
    x = 0.5 * torch.rand(80, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return hold_out("npz:colours", "0" * 64, COLOURS, x + 0.12 * y[:, None, None, None], y)


def start_of(architecture: str, data: TrainingData, path: Path, **changes: object) -> str:
    """The file of a network with random weights that fits the data."""
    torch.manual_seed(0)
    shape = tuple(data.x.shape[1:])
    model = LogitsModel(build(architecture, shape[0], data.num_classes, shape[1:]), data.mean, data.std)
    fitting = {"architecture": architecture, "input_shape": shape, "num_classes": data.num_classes}
    save_model(path, model, CARD | fitting | {"dataset": data.name, "data_sha256": data.sha256} | changes)
    return str(path)


@pytest.fixture(scope="module")
def coloured_start(colours: TrainingData, tmp_path_factory: pytest.TempPathFactory) -> str:
    return start_of("small-resnet", colours, tmp_path_factory.mktemp("start") / "colours.safetensors")


class InBfloat16(TrainingRun):
    """A run as on an accelerator: passes under bfloat16 autocast."""

    def autocast(self) -> AbstractContextManager[object]:
        return torch.autocast("cpu", dtype=torch.bfloat16)


@dataclasses.dataclass(frozen=True)
class Watched:
    """A short training: the terms of its losses, and of its first step the parameters that a gradient reached."""

    losses: list[dict[str, float]]
    reached: list[bool]
    model: nn.Module


def watched(recipe: str, data: TrainingData, start: str, run: TrainingRun) -> Watched:
    losses: list[dict[str, float]] = []
    reached: list[list[bool]] = []

    def noting(log: LossLog, terms: Mapping[str, Tensor]) -> None:
        losses.append({name: float(value.detach()) for name, value in terms.items()})

    def gradients(optimiser: torch.optim.Optimizer, *_: object) -> None:
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        assert all(bool(p.grad.isfinite().all()) for p in parameters if p.grad is not None)
        reached.append([p.grad is not None and bool(p.grad.any()) for p in parameters])

    hook = register_optimizer_step_pre_hook(gradients)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LossLog, "add", noting)
        try:
            settings = brief(recipe, warm_start="" if recipe == "magnet" else start, surrogate=start)
            model = RECIPES[recipe].train(data, settings, run)
        finally:
            hook.remove()
    return Watched(losses, reached[0] if reached else [], model)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_takes_coloured_images_and_passes_in_bfloat16(
    recipe: str, colours: TrainingData, coloured_start: str
) -> None:
    """As on an accelerator: the losses of the first step are those of float32, and the gradients reach as far."""
    plain = watched(recipe, colours, coloured_start, TrainingRun(0, CPU, None, "", TWO_STEPS))
    cheap = watched(recipe, colours, coloured_start, InBfloat16(0, CPU, None, "", TWO_STEPS))
    assert bool(torch.isfinite(cheap.model(colours.x_val)).all())
    assert len(cheap.losses) == len(plain.losses)
    assert all(math.isfinite(value) for terms in cheap.losses for value in terms.values())
    assert cheap.reached == plain.reached
    if plain.losses:
        assert any(plain.reached)
        assert cheap.losses[0] == pytest.approx(plain.losses[0], rel=0.1, abs=0.02)


@pytest.mark.parametrize("recipe", ["nominal", "clustr-qtrades"])
def test_recipes_take_resnet18(recipe: str, tmp_path: Path) -> None:
    data = digits_data(100)
    changes: dict[str, object] = {"architecture": "resnet18"}
    if recipe == "clustr-qtrades":
        changes["warm_start"] = start_of("resnet18", data, tmp_path / "resnet18.safetensors")
    run = TrainingRun(0, CPU, None, "", lambda steps, _: list(steps)[:1])
    model = RECIPES[recipe].train(data, brief(recipe, **changes), run)
    assert model.features(data.x_val).shape == (20, 512)  # type: ignore[operator]
    assert bool(torch.isfinite(model(data.x_val)).all())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input_shape": (3, 28, 28)}, r"takes images of shape \(3, 28, 28\), data set npz:colours has \(3, 32, 32\)"),
        ({"architecture": "resnet18"}, "is no small-resnet, which the settings ask for; set architecture=resnet18"),
    ],
)
def test_a_start_that_does_not_fit_is_refused(
    changes: dict[str, object], message: str, colours: TrainingData, tmp_path: Path
) -> None:
    card = dict(changes)
    start = start_of(str(card.pop("architecture", "small-resnet")), colours, tmp_path / "start.safetensors", **card)
    with pytest.raises(ValueError, match=message):
        RECIPES["clustr"].train(colours, brief("clustr", warm_start=start), training_run(None))


def test_a_start_from_other_images_is_told(colours: TrainingData, tmp_path: Path) -> None:
    def told(**changes: object) -> str | None:
        card = read_card(Path(start_of("small-resnet", colours, tmp_path / "start.safetensors", **changes)))
        return foreign_start("mine", card, colours)

    assert told() is None
    assert told(dataset="cifar10") == "the warm start mine was trained on cifar10, not on npz:colours"
    assert told(data_sha256="1" * 64) == "the warm start mine was trained on another version of npz:colours"
    assert foreign_start("a.b:c", None, colours) == "the warm start a.b:c has no card that says what it was trained on"


def test_features_that_are_not_finite_are_told(colours: TrainingData, tmp_path: Path) -> None:
    start = load(start_of("small-resnet", colours, tmp_path / "start.safetensors"), fold=False).model
    with torch.no_grad():
        start.network.stem[0].weight.fill_(float("inf"))  # type: ignore[index, union-attr]
    save_model(tmp_path / "inf.safetensors", start, read_card(tmp_path / "start.safetensors").model_dump())
    with pytest.raises(FloatingPointError, match="clustr, epoch 1 of 1: features of training images are not finite"):
        RECIPES["clustr"].train(
            colours, brief("clustr", warm_start=str(tmp_path / "inf.safetensors")), training_run(None)
        )


@pytest.mark.parametrize(
    ("recipe", "changes", "message"),
    [
        (
            "nominal",
            {"architecture": "vgg"},
            "unknown architecture 'vgg'; known: ",
        ),
        ("clustr", {"clusters_per_class": 30}, "clusters_per_class=30, but class 0 of data set npz:colours has 16 "),
        ("clustr-1lip", {"clusters_per_class": 17}, "clusters_per_class=17, but class 0 "),
        ("magnet", {"nearest": 9}, r"nearest must be at most 8, the number of clusters \(0: all\), got 9"),
    ],
)
def test_settings_that_do_not_fit_the_data_are_known_before_a_training(
    recipe: str, changes: dict[str, object], message: str, colours: TrainingData
) -> None:
    with pytest.raises(ValueError, match=message):
        check_settings(brief(recipe, **changes), colours)


@pytest.mark.parametrize("recipe", RECIPES)
def test_settings_that_fit_the_data_pass_and_use_no_random_number(recipe: str, colours: TrainingData) -> None:
    before = torch.get_rng_state()
    check_settings(brief(recipe), colours)
    assert torch.equal(torch.get_rng_state(), before)


def test_nearest_neighbor_keeps_its_training_images_and_predicts_them_right(data: TrainingData) -> None:
    run = training_run(None)
    model = RECIPES["nearest-neighbor"].train(data, small("nearest-neighbor"), run)
    assert isinstance(model, KMeansClassifier)
    assert torch.equal(model.centroids, data.x.flatten(1))
    assert torch.equal(model.labels, data.y)
    assert accuracy(model, data.x, data.y) == 1.0
    assert run.notes == []


def test_nearest_neighbor_of_the_first_images_tells_of_classes_without_one(data: TrainingData) -> None:
    run, settings = training_run(None), settings_from(RECIPES["nearest-neighbor"], ["images=7"])
    model = RECIPES["nearest-neighbor"].train(data, settings, run)
    assert isinstance(model, KMeansClassifier)
    assert torch.equal(model.centroids, data.x[:7].flatten(1))
    absent = sorted(set(range(10)) - set(data.y[:7].tolist()))
    assert run.notes == [f"no image of class {', '.join(map(str, absent))}: all its samples are misclassified"]
    with pytest.raises(ValueError, match=f"images must be at most the {len(data.x)} training images, got 100000"):
        train("nearest-neighbor", data, "", run, images=100000)
