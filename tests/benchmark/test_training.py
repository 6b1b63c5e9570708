"""`bench train`: any data set, any network; what cannot work is told in one line before any work."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from attacks.hardware import has_bfloat16
from benchmark.datasets import DATASETS, load
from benchmark.training import _groups
from model_zoo.recipes import pgd_at_grouped
from model_zoo.recipes.data import hold_out
from model_zoo.registry import load as load_model
from model_zoo.weights import ModelCard, read_card
from tests.benchmark.conftest import Bench, Finished

Images = NDArray[np.uint8]
ONE_EPOCH = ["--set", "epochs=1"]
BATCH = ["--set", "batch_size=20"]
NEIGHBOURS = [*ONE_EPOCH, "--set", "batch_clusters=4", "--set", "samples_per_cluster=4"]


def pixels(
    n: int, classes: int = 2, shape: tuple[int, ...] = (8, 8), seed: int = 0
) -> tuple[Images, NDArray[np.int64]]:
    """Noise, brighter from class to class, and its labels in turn."""
    labels = np.arange(n) % classes
    noise = np.random.default_rng(seed).integers(0, 100, (n, *shape), dtype=np.uint8)
    return noise + (labels * (150 // classes)).astype(np.uint8).reshape(-1, *[1] * len(shape)), labels


def archive(path: Path, n: int = 40, **how: Any) -> str:
    """An npz file of such images; its name as a data set."""
    images, labels = pixels(n, **how)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, images=images, labels=labels)
    return f"npz:{path}"


def trained(
    bench: Bench, recipe: str, dataset: str, *more: str | Path, out: str = "w.safetensors"
) -> tuple[Finished, ModelCard]:
    done = bench("train", recipe, "--dataset", dataset, "--out", out, *more)
    assert done.code == 0, done.err
    return done, read_card(Path(out))


def test_resnet18_is_trained_on_cifar10_q75_from_the_data_root(bench: Bench, tmp_path: Path) -> None:
    archive(tmp_path / "root/cifar10-q75/train.npz", 40, shape=(8, 8, 3))
    archive(tmp_path / "root/cifar10-q75/test.npz", 10, shape=(8, 8, 3), seed=1)
    root = ["--data-root", str(tmp_path / "root")]
    done, card = trained(
        bench, "nominal", "cifar10-q75", *root, "--set", "architecture=resnet18", *ONE_EPOCH, "--set", "batch_size=32"
    )
    assert (card.dataset, card.architecture, card.clean_samples) == ("cifar10-q75", "resnet18", 10)
    assert (card.input_shape, card.num_classes, card.notes) == ((3, 8, 8), 2, ())
    assert done.created == ["w.json", "w.safetensors"]
    test = load("cifar10-q75", tmp_path / "root")
    correct = load_model("w.safetensors").model(test.x).argmax(dim=1) == test.y
    assert float(correct.double().mean()) == card.clean_accuracy


def test_cifar10_q75_says_which_file_is_missing(bench: Bench, tmp_path: Path) -> None:
    """The test images too, before any work: they are needed at the end."""
    root = tmp_path / "root"
    for missing in ("train.npz", "test.npz"):
        told = bench("train", "nominal", "--dataset", "cifar10-q75", "--data-root", root).refused()
        assert told.startswith(f"data set cifar10-q75: no file {root / 'cifar10-q75' / missing}; ")
        assert "--data-root" in told
        archive(root / "cifar10-q75/train.npz", 40, shape=(32, 32, 3))
    archive(root / "cifar10-q75/test.npz", 40, shape=(28, 28, 3))
    told = bench("train", "nominal", "--dataset", "cifar10-q75", "--data-root", root).refused()
    assert "(3, 32, 32) and 2 classes, test images (3, 28, 28) and 2" in told


def test_cifar10_q75_has_a_name_of_its_own(bench: Bench) -> None:
    assert "cifar10-q75" in DATASETS
    assert "cifar10-q75" in bench("list", "datasets").out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nominal", "--set", "speed=3"], "recipe nominal: cannot set 'speed=3'; accepted: architecture=..., epochs="),
        (["pgd-at", "--set", "architecture=resnet-18"], "unknown architecture 'resnet-18'; known: lipschitz-mlp, "),
        (["clustr", "--set", "architecture=vgg", "--set", "warm_start=nominal"], "unknown architecture 'vgg'; known: "),
        (["clustr", "--set", "warm_start=nominall"], "did you mean nominal"),
    ],
)
def test_a_wrong_name_is_told_before_the_data_are_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, arguments: list[str], told: str
) -> None:
    monkeypatch.setitem(DATASETS, "digits", lambda root, split: pytest.fail("the data were read"))
    assert told in bench("train", *arguments, "--dataset", "digits").refused()


@pytest.mark.parametrize("out", ["folder.safetensors", "file/w.safetensors"])
def test_a_place_that_cannot_be_written_to_is_refused(bench: Bench, workdir: Path, out: str) -> None:
    (workdir / "folder.safetensors").mkdir()
    (workdir / "file").touch()
    assert "cannot be written" in bench("train", "kmeans", "--dataset", "digits", "--out", out).refused()


@pytest.mark.parametrize(
    ("recipe", "how", "settings", "told"),
    [
        ("clustr", {"n": 40}, ["batch_clusters=4", "samples_per_cluster=9"], "fewer than one batch of 4 clusters x 9"),
        (
            "clustr",
            {"n": 12},
            ["clusters_per_class=6"],
            "clusters_per_class=6, but class 0 of data set npz:mine.npz has ",
        ),
        ("magnet", {"n": 40}, ["nearest=5"], "nearest must be at most 4, the number of clusters"),
        ("nominal", {"n": 4}, [], "data set npz:mine.npz has 4 images; at least 5 are needed"),
        ("nominal", {"n": 9, "classes": 9}, [], "data set npz:mine.npz: no training image of class 6"),
        ("nominal", {"n": 9, "classes": 1}, [], "data set npz:mine.npz has a single class"),
        ("kmeans", {"n": 40}, [], "clusters must be at most the 32 training images, got 856"),
        ("clustr-1lip", {"n": 40}, ["architecture=small-resnet"], "architecture must be lipschitz-mlp"),
    ],
)
def test_data_that_are_too_few_are_told_before_any_work(
    bench: Bench, tmp_path: Path, recipe: str, how: dict[str, Any], settings: list[str], told: str
) -> None:
    name = archive(tmp_path / "mine.npz", **how)
    assert told in bench("train", recipe, "--dataset", name, *[f"--set={s}" for s in settings]).refused()


GOOD_IMAGES, GOOD_LABELS = pixels(20)


@pytest.mark.parametrize(
    ("images", "labels", "told"),
    [
        (
            np.where(GOOD_IMAGES > 90, np.nan, 0.5),
            GOOD_LABELS,
            "images must lie in [0, 1] (or be uint8), got nan..nan",
        ),
        (GOOD_IMAGES.astype(np.float32), GOOD_LABELS, "images must lie in [0, 1] (or be uint8), got 0.."),
        (GOOD_IMAGES.astype(np.int64), GOOD_LABELS, "images must be uint8 or float, got int64"),
        (GOOD_IMAGES.astype(complex), GOOD_LABELS, "images must be uint8 or float, got complex128"),
        (GOOD_IMAGES[:, 0], GOOD_LABELS, "images must have 3 or 4 dimensions, got shape (20, 8)"),
        (GOOD_IMAGES[:, :0], GOOD_LABELS, "images have no pixels, their shape is (20, 0, 8)"),
        (GOOD_IMAGES, GOOD_LABELS - 1, "labels must be non-negative integers"),
        (GOOD_IMAGES, GOOD_LABELS / 2, "labels must be non-negative integers"),
        (GOOD_IMAGES, GOOD_LABELS[:-1], "20 images and 19 labels"),
        (GOOD_IMAGES, GOOD_LABELS + 10**12, "labels must be below 100000, got 1000000000001"),
        (
            GOOD_IMAGES,
            np.uint64(2**64 - 1) - GOOD_LABELS.astype(np.uint64),
            "labels must be below 100000, got 18446744",
        ),
        (
            GOOD_IMAGES,
            GOOD_LABELS * 50_000,
            "no training image of class 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 ... (49999 classes)",
        ),
    ],
)
def test_damaged_arrays_are_told_in_one_line(
    bench: Bench, tmp_path: Path, images: NDArray[Any], labels: NDArray[Any], told: str
) -> None:
    np.savez(tmp_path / "mine.npz", images=images, labels=labels)
    message = bench("train", "nominal", "--dataset", f"npz:{tmp_path / 'mine.npz'}").refused()
    assert message.startswith("data set npz:mine.npz")
    assert told in message


@pytest.mark.parametrize(
    ("recipe", "settings"),
    [("nominal", BATCH), ("magnet", NEIGHBOURS), ("clustr-1lip", [*NEIGHBOURS, "--set", "width=8"])],
)
def test_a_training_that_diverges_is_one_line(bench: Bench, tmp_path: Path, recipe: str, settings: list[str]) -> None:
    name = archive(tmp_path / "mine.npz", 100)
    arguments = [*settings, "--set", "epochs=3", "--set", "learning_rate=1e30", "--out", "w.safetensors"]
    done = bench("train", recipe, "--dataset", name, *arguments)
    assert (done.code, done.out) == (1, "")
    last = done.err.splitlines()[-1]
    assert last.startswith(f"training stopped: {recipe}, epoch ")
    assert "the last good checkpoint is kept" in last
    assert "Traceback" not in done.err
    assert "w.safetensors" not in done.created


def test_a_warm_start_from_other_data_is_on_the_card(bench: Bench, tmp_path: Path) -> None:
    mine, other = archive(tmp_path / "mine.npz"), archive(tmp_path / "other.npz", seed=1)
    start = tmp_path / "start.safetensors"
    assert bench("train", "nominal", "--dataset", other, "--out", start, *ONE_EPOCH, *BATCH).code == 0
    warm = ["--set", f"warm_start={start}"]
    _, card = trained(bench, "nominal-kmeans-head", mine, *warm)
    assert card.notes == (f"the warm start {start} was trained on npz:other.npz, not on npz:mine.npz",)
    assert json.loads(Path("w.json").read_text())["notes"] == list(card.notes)
    assert trained(bench, "nominal-kmeans-head", other, *warm, out="same.safetensors")[1].notes == ()
    three = archive(tmp_path / "three.npz", classes=3)
    assert (
        "has 2 classes, data set npz:three.npz 3"
        in bench("train", "clustr", "--dataset", three, *NEIGHBOURS, *warm).refused()
    )
    large = archive(tmp_path / "large.npz", shape=(9, 9))
    assert (
        "takes images of shape (1, 8, 8), data set npz:large.npz has (1, 9, 9)"
        in bench("train", "clustr", "--dataset", large, *NEIGHBOURS, *warm).refused()
    )
    assert (
        "is no resnet18, which the settings ask for; set architecture=small-resnet"
        in bench("train", "clustr", "--dataset", mine, *NEIGHBOURS, *warm, "--set", "architecture=resnet18").refused()
    )


def test_a_file_with_the_images_of_a_named_set_does_not_go_on_with_its_training(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The named set is augmented, the file is not. Nor does a machine that computes in other numbers."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    for split in ("train", "test"):
        archive(tmp_path / f"cifar10-q75/{split}.npz", 40, shape=(8, 8, 3))
    settings = [*ONE_EPOCH, *BATCH, "--out", "w.safetensors"]
    named = ["--dataset", "cifar10-q75", "--data-root", tmp_path]
    with monkeypatch.context() as context:
        context.setattr("benchmark.training.save_model", killed)
        assert bench("train", "nominal", *named, *settings).code == 130
    file = f"npz:{tmp_path / 'cifar10-q75/train.npz'}"
    assert (
        "belongs to a training with other settings" in bench("train", "nominal", "--dataset", file, *settings).refused()
    )
    with monkeypatch.context() as context:
        context.setattr("benchmark.training.has_bfloat16", lambda device: not has_bfloat16(device))
        assert "with other settings" in bench("train", "nominal", *named, *settings).refused()
    resumed = bench("train", "nominal", *named, *settings)
    assert resumed.code == 0
    assert "resumed after epoch 1" in resumed.err


def test_kmeans_adv_takes_a_surrogate_by_file_and_tells_of_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("CLUSTRBENCH_ADVERSARIAL_SETS", str(tmp_path / "sets"))
    mine, other = archive(tmp_path / "mine.npz"), archive(tmp_path / "other.npz", seed=1)
    for name, dataset in (("first", mine), ("second", other)):
        surrogate = ["--out", tmp_path / f"{name}.safetensors", *ONE_EPOCH, *BATCH]
        assert bench("train", "nominal", "--dataset", dataset, *surrogate).code == 0
    first, second = (f"--set=surrogate={tmp_path / name}.safetensors" for name in ("first", "second"))
    few = ["--set=clusters=8", "--set=beta=2"]
    with monkeypatch.context() as context:
        context.setattr("benchmark.training.save_model", killed)
        out = ["--out", "w.safetensors"]
        assert bench("train", "kmeans-adv", "--dataset", mine, *few, first, *out).code == 130
    refused = bench("train", "kmeans-adv", "--dataset", mine, *few, second, *out)
    assert "belongs to a training with other settings" in refused.refused()
    done, card = trained(bench, "kmeans-adv", mine, *few, first)
    assert "resumed after epoch 2" in done.err
    assert len(list((tmp_path / "sets").iterdir())) == 2
    assert card.kind == "kmeans"
    (note,) = card.notes
    assert note.startswith(
        f"adversarial images are i-fgsm's on the surrogate {tmp_path}/first.safetensors (trained on "
    )
    assert note.endswith("away from the true class")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["surrogate=nominall"], "surrogate: unknown model 'nominall'; did you mean nominal"),
        (["surrogate=nominal"], "surrogate 'nominal' takes images of shape (1, 28, 28), data set npz:mine.npz has"),
        (["clusters=999"], "clusters must be at most the 64 training images, got 999"),
        (["attack=fgsm"], "attack must be one of i-fgsm, pgd, cw, got 'fgsm'"),
        (["eta=2"], "eta must be in [0, 1], got 2"),
        (["beta=0"], "beta must be a whole number of at least 1, got '0'"),
    ],
)
def test_kmeans_adv_refuses_what_cannot_be_in_one_line(
    bench: Bench, tmp_path: Path, settings: list[str], told: str
) -> None:
    arguments = [f"--set={setting}" for setting in ("clusters=8", *settings)]
    assert told in bench("train", "kmeans-adv", "--dataset", archive(tmp_path / "mine.npz"), *arguments).refused()


def test_grouped_recipes_take_groups_by_setting_or_say_that_none_ship(bench: Bench, tmp_path: Path) -> None:
    dataset = archive(tmp_path / "a.npz", 40, classes=3)
    refused = bench("train", "pgd-at-grouped", "--dataset", dataset, *ONE_EPOCH)
    assert (refused.code, refused.out) == (2, "")
    hint = "give them by --set groups=0,2,3/1,4"
    assert refused.err == f"error: recipe pgd-at-grouped: no groups of classes ship for data set npz:a.npz; {hint}\n"
    wrong = bench("train", "pgd-at-grouped", "--dataset", dataset, "--set", "groups=0,1/3")
    assert (wrong.code, wrong.err) == (
        2,
        "error: recipe pgd-at-grouped: groups: '3' is no class from 0 to 2 in '0,1/3'\n",
    )
    _, card = trained(bench, "pgd-at-grouped", dataset, *ONE_EPOCH, *BATCH, "--set", "groups=0,2/1")
    assert (card.settings["groups"], card.settings["weight"]) == ("0,2/1", pgd_at_grouped.Settings().weight)
    _, card = trained(
        bench,
        "clustr-grouped",
        dataset,
        *ONE_EPOCH,
        *BATCH,
        "--set",
        "groups=0/1,2",
        "--set",
        "warm_start=w.safetensors",
        out="started.safetensors",
    )
    assert (card.settings["groups"], card.clusters) == ("0/1,2", 6)


@pytest.mark.parametrize(
    ("name", "classes", "expected"),
    [("fashion-mnist", 10, "0,2,3,4,6/1,8/5,7,9"), ("fashion-mnist:without=1,6,7", 7, "0,1,2,3/4,6/5")],
)
def test_the_groups_of_a_known_data_set_are_those_of_the_classes_that_are_left(
    name: str, classes: int, expected: str
) -> None:
    images, labels = pixels(10 * classes, classes)
    data = hold_out(name, "0" * 64, classes, torch.from_numpy(images / 255.0)[:, None], torch.from_numpy(labels))
    assert _groups("pgd-at-grouped", data) == expected


def test_what_the_card_tells_is_told_at_the_end_too(bench: Bench, tmp_path: Path) -> None:
    images = np.repeat(np.random.default_rng(0).integers(0, 255, (3, 8, 8), dtype=np.uint8), 20, axis=0)
    order = np.random.default_rng(1).permutation(60)
    np.savez(tmp_path / "copies.npz", images=images[order], labels=np.repeat([0, 1, 2], 20)[order])
    done, card = trained(bench, "kmeans", f"npz:{tmp_path / 'copies.npz'}", "--set", "clusters=10")
    (note,) = card.notes
    assert note.startswith("7 of 10 clusters had no member")
    assert f"note: {note}\n" in done.out
    assert "Warning" not in done.err


def test_weights_of_another_training_are_not_trained_over(bench: Bench, tmp_path: Path) -> None:
    done, _ = trained(bench, "nominal", "digits:without=3,5", *ONE_EPOCH)
    assert done.out.splitlines()[-1] == "evaluate it: bench run --model w.safetensors --dataset digits:without=3,5"
    before = Path("w.safetensors").read_bytes()
    command = ["train", "nominal", "--dataset", "digits", *ONE_EPOCH, "--out", "w.safetensors"]
    other = bench(*command)
    held = "bench train nominal --dataset digits:without=3,5 --seed 0 --set epochs=1"
    assert other.err == f"error: --out w.safetensors holds another training ({held}); choose another --out\n"
    for one in (["--seed", "1"], ["--set", "epochs=2"]):
        changed = bench(
            "train", "nominal", "--dataset", "digits:without=3,5", *ONE_EPOCH, *one, "--out", "w.safetensors"
        )
        assert "holds another training" in changed.refused()
    assert Path("w.safetensors").read_bytes() == before
    trained(bench, "nominal", "digits:without=5,3", *ONE_EPOCH)
    Path("w.json").unlink()
    assert "w.safetensors exists and is no training of nominal" in bench(*command).refused()
    Path("w.training").mkdir()  # what a kill between the weights and their card leaves
    assert bench(*command).code == 0
