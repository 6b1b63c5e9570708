"""Domain adaptation: what is left out, what is trained, and the group asked of unseen classes, on digits."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmark import datasets
from benchmark.adaptation import METHODS, Protocol, _Target, adapt, count_trainings, protocol_of, splits
from benchmark.errors import RequestError
from model_zoo.registry import load
from results.adaptation import Adaptation, table
from results.groups import Groups
from tests.benchmark.builders import CPU
from tests.benchmark.conftest import Bench

LABELS = (0, 0, 1, 1, 2, 0, 1, 0, 1, 1)
"""4 is alone in its group."""
GROUPS = Groups(("a", "b", "c"), tuple("0123456789"), LABELS, "", "test")


def protocol(*methods: str, shots: int = 5) -> Protocol:
    return Protocol("digits", GROUPS, splits(GROUPS, 1, 0), methods, shots, seed=0, epochs=1)


def test_a_split_leaves_out_one_class_of_each_group_that_has_more() -> None:
    found = splits(GROUPS, 12, 0)
    assert len(set(found)) == 12
    for left_out in found:
        assert sorted(LABELS[c] for c in left_out) == [0, 1]
    assert splits(GROUPS, 12, 0) == found
    assert splits(GROUPS, 20, 3)[:2] != found[:2] or splits(GROUPS, 20, 4)[:2] != found[:2]


@pytest.mark.parametrize("count", [0, 21, -1])
def test_more_splits_than_there_are_are_refused(count: int) -> None:
    with pytest.raises(RequestError, match="--splits must be from 1 to 20"):
        splits(GROUPS, count, 0)


def test_a_target_of_one_group_is_refused() -> None:
    """Its group could not be missed, and no layer be trained on it."""
    one = dataclasses.replace(GROUPS, labels=(0, 0, 0, 0, 0, 0, 0, 0, 1, 2))
    with pytest.raises(RequestError, match="groups test: two groups must have two classes or more"):
        splits(one, 1, 0)


def test_grouped_models_know_the_groups_of_the_classes_that_are_left() -> None:
    one = protocol(*METHODS)
    trainings = one.trainings((0, 9))
    assert trainings["grouped"].dataset == "digits:without=0,9"
    assert dict(trainings["grouped"].settings)["groups"] == "0,4,6/1,2,5,7/3"  # of 1..8: groups 0,1,1,2,0,1,0,1
    assert dict(trainings["clustering grouped"].settings)["warm_start"] == trainings["robust"]
    assert count_trainings(one) == 5
    assert count_trainings(protocol("clustering")) == 2, "the robust model it starts from"
    assert ":" not in trainings["robust"].key


def test_all_models_of_an_experiment_have_one_architecture() -> None:
    trainings = dataclasses.replace(protocol(*METHODS), architecture="resnet18").trainings((0, 9))
    assert {dict(one.settings)["architecture"] for one in trainings.values()} == {"resnet18"}


def test_the_target_is_the_test_images_of_unseen_classes_and_the_source_the_others() -> None:
    test, train = datasets.load("digits"), datasets.load("digits", None, "train")
    target = _Target.of(test, train, protocol("standard"), (3, 5))
    unseen = [i for i, label in enumerate(test.y.tolist()) if label in (3, 5)]
    assert torch.equal(target.x, test.x[unseen])
    assert target.groups.tolist() == [LABELS[label] for label in test.y[unseen].tolist()]
    assert len(target.few) == 10
    assert sorted(target.groups_of_few.tolist()) == [0] * 5 + [1] * 5
    same = datasets.load("digits:without=3,5")
    assert torch.equal(target.source.x, same.x)
    assert torch.equal(target.source.y, same.y)
    assert target.group_of_output.tolist() == [0, 0, 1, 2, 1, 0, 1, 1]


def test_too_many_shots_are_refused() -> None:
    test, train = datasets.load("digits"), datasets.load("digits", None, "train")
    with pytest.raises(RequestError, match="--shots 5000: class 3 has"):
        _Target.of(test, train, protocol("standard", shots=5000), (3, 5))


def test_the_linear_layer_is_scikit_learns_on_standardised_pixels() -> None:
    from sklearn.linear_model import LogisticRegression

    test, train = datasets.load("digits"), datasets.load("digits", None, "train")
    target = _Target.of(test, train, protocol("standard", shots=20), (3, 5))
    few, x = target.few.flatten(1).numpy(), target.x.flatten(1).numpy()
    std = few.std(axis=0)
    std[std == 0] = 1.0
    layer = LogisticRegression(max_iter=2000).fit((few - few.mean(axis=0)) / std, target.groups_of_few)
    expected = layer.predict((x - few.mean(axis=0)) / std) == target.groups
    right = target.by_linear_layer(nn.Flatten())
    assert np.mean(np.array(right) == expected) > 0.98
    assert np.mean(right) > 0.9, "3 and 5 are told apart from 20 images each"


def test_models_are_trained_once_and_asked_for_groups(tmp_path: Path) -> None:
    one = protocol("standard", "clustering")
    ticks: list[int] = []
    found = adapt(one, tmp_path, None, CPU, lambda: ticks.append(1))
    assert len(ticks) == 3
    (left_out,) = one.splits
    assert [model.method for model in found.models] == ["standard", "clustering"]
    test = datasets.load("digits")
    learned = [c for c in range(10) if c not in left_out]
    for model, training in zip(found.models, one.trainings(left_out).values(), strict=True):
        loaded = load(str(training.weights(tmp_path)), CPU)
        assert loaded.card is not None
        assert loaded.card.sha256 == model.weights_sha256
        unseen = torch.tensor([label in left_out for label in test.y.tolist()])
        with torch.no_grad():
            predicted = loaded.model(test.x[unseen]).argmax(dim=1).tolist()
        expected = [LABELS[learned[p]] == LABELS[t] for p, t in zip(predicted, test.y[unseen].tolist(), strict=True)]
        assert model.zero_shot == "".join("1" if right else "0" for right in expected)
        groups = [GROUPS.names[LABELS[t]] for t in test.y[unseen].tolist()]
        assert set(model.zero_shot_by_group) == set(groups)
        for group, share in model.zero_shot_by_group.items():
            own = [right for right, other in zip(expected, groups, strict=True) if other == group]
            assert share == pytest.approx(sum(own) / len(own))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert adapt(one, tmp_path, None, CPU, lambda: None) == found
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == before
    (robust,) = (tmp_path / "trained").glob("pgd-at-*.json")
    robust.unlink()
    with pytest.raises(RequestError, match=r"clustr-at-.* began from .*pgd-at-.*, which is gone"):
        adapt(one, tmp_path, None, CPU, lambda: None)


def test_models_of_other_images_are_not_taken_for_those_of_these(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = protocol("standard")
    adapt(one, tmp_path, None, CPU, lambda: None)
    images = datasets.DATASETS["digits"]
    monkeypatch.setitem(
        datasets.DATASETS, "digits", lambda root, split: (1 - images(root, split)[0], images(root, split)[1])
    )
    with pytest.raises(
        RequestError, match=r"was trained on other images of digits:without=\S+ than these; give another"
    ):
        adapt(one, tmp_path, None, CPU, lambda: None)


def test_bench_analyze_adapt_trains_asks_and_writes(bench: Bench, tmp_path: Path) -> None:
    groups = tmp_path / "groups.yaml"
    groups.write_text("groups:\n  low: [0, 1, 2, 3, 4]\n  high: [5, 6, 7, 8, 9]\n")
    command = ["analyze", "adapt", "--dataset", "digits", "--groups", groups, "--splits", "1", "--method", "standard"]
    done = bench(*command, "--epochs", "1", "--out", tmp_path / "a")
    assert done.code == 0, done.err
    found = Adaptation.model_validate_json((tmp_path / "a/adaptation.json").read_text())
    assert table(found) in done.out
    assert (tmp_path / "a/adaptation.md").read_text() == table(found) + "\n"
    assert "epoch 1 of 1" in done.err
    again = bench(*command, "--epochs", "1", "--out", tmp_path / "a")
    assert (again.code, again.out) == (0, done.out)
    assert "epoch" not in again.err
    other = bench(*command, "--epochs", "2", "--out", tmp_path / "a")
    assert (other.code, other.err) == (
        2,
        f"error: --out {tmp_path / 'a'} holds another analysis; choose another folder (it differs in epochs)\n",
    )


def test_cifar100_leaves_out_a_class_of_every_superclass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its labels, and images small enough for a test; the archive itself is torchvision's to check."""

    class Cifar100:
        def __init__(self, root: Path, train: bool, download: bool) -> None:
            labels = np.arange(700 if train else 300) % 100
            shade = np.random.default_rng(train).normal(labels[:, None, None, None] * 2, 10, (len(labels), 8, 8, 3))
            self.data, self.targets = shade.clip(0, 255).astype(np.uint8), labels.tolist()

    monkeypatch.setattr("torchvision.datasets.CIFAR100", Cifar100)
    one = protocol_of(
        "cifar100", tmp_path, groups=None, count=2, methods=["standard", "grouped"], shots=2, seed=0, epochs=1
    )
    assert len(one.groups.names) == 20
    for left_out in one.splits:
        assert sorted(one.groups.labels[c] for c in left_out) == list(range(20))
        assert str(dict(one.trainings(left_out)["grouped"].settings)["groups"]).count(",") == 60, "20 groups of 4"
    alone = dataclasses.replace(one, splits=one.splits[:1], methods=("standard",))
    found = adapt(alone, tmp_path / "out", tmp_path, CPU, lambda: None)
    assert found.largest == pytest.approx(dict.fromkeys(found.largest, 1 / 20))
    assert len(found.models[0].zero_shot) == len(found.models[0].fine_tuned) == 60


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--dataset", "digits"], "data set digits has no groups of classes here"),
        (
            ["--dataset", "fashion-mnist:validation"],
            "--dataset must be a whole data set that has training and test images, one of fashion-mnist, ",
        ),
        (
            ["--dataset", "digits:without=a"],
            "--dataset must be a whole data set that has training and test images, one of fashion-mnist, ",
        ),
        (
            ["--dataset", "npz:a"],
            "--dataset must be a whole data set that has training and test images, one of fashion-mnist, ",
        ),
        (["--method", "foo"], "unknown method 'foo'; known: standard, robust, grouped, clustering"),
        (["--shots", "0"], "--shots must be at least 1, got 0"),
        (["--seed", "-1"], "--seed must be from 0 to 2147483647, got -1"),
        (["--seed", str(2**70)], "--seed must be from 0 to 2147483647, got 1180591620717411303424"),
        (["--epochs", "-1"], "--epochs must be at least 0, got -1"),
        (["--architecture", "../vgg"], "unknown architecture '../vgg'; known: lipschitz-mlp, small-resnet"),
    ],
)
def test_a_wrong_request_is_one_line(bench: Bench, arguments: list[str], said: str) -> None:
    done = bench("analyze", "adapt", *arguments)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert done.err.startswith(f"error: {said}")
    assert not done.created
