"""Adversarial sets against their attack written out for a linear surrogate, and against what is kept on disk."""

import dataclasses
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from attacks.losses import cross_entropy, margin
from attacks.randomness import sample_generators
from attacks.transfer import CRAFTINGS
from model_zoo.recipes.adversarial_set import FOLDER_VARIABLE, AdversarialSet, adversarial_images
from model_zoo.recipes.data import TrainingData
from tests.model_zoo.builders import Array, digits_data

CPU = torch.device("cpu")
WANTED = AdversarialSet(
    surrogate="5" * 64,
    data_sha256="0" * 64,
    n=270,  # more than one part
    attack="i-fgsm",
    labels="true",
    eps=0.1,
    step_size=0.03,
    iterations=4,
    seed=0,
)


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return digits_data()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "sets"
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder))
    return folder


class Linear(nn.Module):
    """Softmax regression on pixels; counts its passes."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(10, 64, generator=generator), requires_grad=False)
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        assert x.dtype == torch.float32
        return x.flatten(1) @ self.weight.T


def made(wanted: AdversarialSet, surrogate: nn.Module, data: TrainingData) -> Tensor:
    return adversarial_images(wanted, surrogate, data, CPU, lambda steps, _: steps)


def by_hand(wanted: AdversarialSet, surrogate: Linear, data: TrainingData) -> Array:
    """The attack's update in float64: signs of W^T (softmax - onehot), or of the best wrong row minus the true one."""
    weight = surrogate.weight.double().numpy()
    out = []
    for sample in range(wanted.n):
        image = data.x[sample].double().flatten().numpy()
        left = int(data.y[sample]) if wanted.labels == "true" else int((weight @ image).argmax())
        z = image.copy()
        if wanted.attack != "i-fgsm":
            (generator,) = sample_generators(wanted.seed, torch.tensor([sample]), f"transfer/{wanted.attack}")
            noise = generator.uniform(-wanted.eps, wanted.eps, (1, 8, 8)).astype(np.float32)
            z = np.clip(z + noise.flatten(), 0, 1)
        for _ in range(wanted.iterations):
            logits = weight @ z
            if wanted.attack == "cw":
                wrong = np.where(np.arange(10) == left, -np.inf, logits).argmax()
                gradient = weight[wrong] - weight[left]
            else:
                exponentials = np.exp(logits - logits.max())
                gradient = weight.T @ (exponentials / exponentials.sum() - np.eye(10)[left])
            z = np.clip(z + wanted.step_size * np.sign(gradient), image - wanted.eps, image + wanted.eps)
            z = np.clip(z, 0, 1)
        out.append(z)
    return np.array(out)


@pytest.mark.parametrize("attack", CRAFTINGS)
@pytest.mark.parametrize("labels", ["true", "predicted"])
def test_images_are_the_attacks_written_out(attack: str, labels: str, data: TrainingData, kept: Path) -> None:
    wanted, surrogate = dataclasses.replace(WANTED, attack=attack, labels=labels), Linear()
    images = made(wanted, surrogate, data)
    assert (images.shape, images.dtype) == ((270, 1, 8, 8), torch.float32)
    differs = np.abs(images.flatten(1).numpy() - by_hand(wanted, surrogate, data)) > 1e-5
    assert differs.mean() < 1e-3  # the sign of a slope that is all but zero may round otherwise
    x, y = data.x[:270], data.y[:270]
    assert float((images.double() - x.double()).abs().max()) <= wanted.eps + 1e-7
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    left = y if labels == "true" else surrogate(x).argmax(dim=1)
    loss = margin if attack == "cw" else cross_entropy
    assert bool((loss(surrogate(images), left) > loss(surrogate(x), left)).float().mean() > 0.99)


def test_a_set_is_made_once_and_kept(data: TrainingData, kept: Path) -> None:
    surrogate, shown = Linear(), []

    def watch(steps: Iterable[Any], description: str) -> Iterable[Any]:
        shown.append(description)
        return steps

    first = adversarial_images(WANTED, surrogate, data, CPU, watch)
    passes = surrogate.passes
    assert passes == 2 * WANTED.iterations  # two parts
    second = adversarial_images(WANTED, surrogate, data, CPU, watch)
    assert torch.equal(first, second)
    assert surrogate.passes == passes
    assert shown == ["i-fgsm, eps 0.1"]
    assert [path.name for path in kept.iterdir()] == [f"{WANTED.key}.safetensors"]


def test_every_field_names_another_set() -> None:
    changes: dict[str, Any] = {
        "surrogate": "6" * 64,
        "data_sha256": "1" * 64,
        "n": 271,
        "attack": "pgd",
        "labels": "predicted",
        "eps": 0.2,
        "step_size": 0.04,
        "iterations": 5,
        "seed": 1,
    }
    assert set(changes) == {field.name for field in dataclasses.fields(AdversarialSet)}
    keys = {dataclasses.replace(WANTED, **{name: value}).key for name, value in changes.items()}
    assert len(keys | {WANTED.key}) == len(changes) + 1


def test_images_depend_neither_on_other_samples_nor_on_random_state(data: TrainingData, kept: Path) -> None:
    wanted = dataclasses.replace(WANTED, attack="pgd")
    torch.manual_seed(0)
    many = made(wanted, Linear(), data)
    torch.manual_seed(1)
    few = made(dataclasses.replace(wanted, n=3), Linear(), data)
    torch.testing.assert_close(few, many[:3])
    other = made(dataclasses.replace(wanted, seed=1), Linear(), data)
    assert not torch.equal(other, many)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    payload = bytearray(path.read_bytes())
    payload[-5] ^= 1
    path.write_bytes(payload)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (cut, ""),
        (flip, "its content does not have the checksum it was written with"),
        (lambda path: path.write_bytes(b""), ""),
        (lambda path: os.replace(path.with_name("other.safetensors"), path), "it holds another set"),
    ],
)
def test_a_damaged_file_is_named_and_made_again(
    harm: Any, told: str, data: TrainingData, kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = made(WANTED, Linear(), data).clone()
    path = kept / f"{WANTED.key}.safetensors"
    good = path.read_bytes()
    another = dataclasses.replace(WANTED, seed=1)
    made(another, Linear(), data)
    (kept / f"{another.key}.safetensors").rename(kept / "other.safetensors")
    harm(path)
    with caplog.at_level(logging.WARNING):
        assert torch.equal(made(WANTED, Linear(), data), first)
    (record,) = caplog.records
    assert record.message.startswith(f"adversarial set {path} is damaged ({told}")
    assert record.message.endswith("it is made again")
    assert "\n" not in record.message
    assert path.read_bytes() == good


def test_a_kill_leaves_no_set_behind(data: TrainingData, kept: Path) -> None:
    def killed(steps: Iterable[Any], description: str) -> Iterable[Any]:
        yield next(iter(steps))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        adversarial_images(WANTED, Linear(), data, CPU, killed)
    assert list(kept.iterdir()) == []


def test_a_folder_that_cannot_be_written_to_is_refused(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "file" / "sets"))
    surrogate = Linear()
    with pytest.raises(ValueError, match=f"cannot be kept: .*; name another folder in {FOLDER_VARIABLE}"):
        made(WANTED, surrogate, data)
    assert surrogate.passes == 0
