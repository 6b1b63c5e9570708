"""What recipes train on: the split, and the augmentation by brute force."""

import pytest
import torch
from torch import Tensor

from model_zoo.recipes.data import augment, hold_out
from tests.model_zoo.builders import digits_data


def numbered(n: int) -> Tensor:
    """Images (n, 1, 1, 1) that hold their own index."""
    return torch.arange(n, dtype=torch.float32).reshape(n, 1, 1, 1)


@pytest.mark.parametrize(("n", "held"), [(10, 2), (104, 20), (25_000, 5000), (30_000, 5000)])
def test_the_last_images_are_held_out(n: int, held: int) -> None:
    data = hold_out("numbers", "0", 2, numbered(n), torch.arange(n) % 2)
    assert data.x.flatten().tolist() == list(range(n - held))
    assert data.x_val.flatten().tolist() == list(range(n - held, n))
    assert torch.equal(data.y, torch.arange(n - held) % 2)
    assert torch.equal(data.y_val, torch.arange(n - held, n) % 2)


def test_images_that_come_class_by_class_are_shuffled_first() -> None:
    """Else the held-out ones were all of the last class."""
    y = torch.arange(100) // 10
    data = hold_out("numbers", "0", 10, numbered(100), y)
    assert sorted(torch.cat([data.x, data.x_val]).flatten().tolist()) == list(range(100))
    assert torch.equal(data.y, data.x.flatten().long() // 10)
    assert torch.equal(data.y_val, data.x_val.flatten().long() // 10)
    assert len(data.y_val.unique()) > 5
    again = hold_out("numbers", "0", 10, numbered(100), y)
    assert torch.equal(again.x, data.x)


def test_classes_without_a_training_image_are_named() -> None:
    """Class 2 is in the held-out images only, class 4 nowhere."""
    y = torch.tensor([0, 1, 3, 0, 1, 3, 0, 1, 3, 2])
    with pytest.raises(ValueError, match="data set numbers: no training image of class 2, 4"):
        hold_out("numbers", "0", 5, numbered(10), y)


def test_many_absent_classes_are_counted() -> None:
    y = torch.tensor([0, 1] * 5 + [10**17] * 10)
    with pytest.raises(ValueError, match=r"of class 2, 3, .* 11 \.\.\. \(99999999999999998 classes\)$"):
        hold_out("numbers", "0", 10**17 + 1, numbered(20), y)


@pytest.mark.parametrize("n", [1, 4])
def test_images_too_few_to_hold_one_out_are_refused(n: int) -> None:
    with pytest.raises(ValueError, match=f"data set few has {n} images; at least 5 are needed"):
        hold_out("few", "0", 2, numbered(n), torch.arange(n) % 2)


def test_a_single_class_is_refused() -> None:
    with pytest.raises(ValueError, match="data set same has a single class"):
        hold_out("same", "0", 1, numbered(10), torch.zeros(10, dtype=torch.int64))


def test_a_device_holds_all_of_the_data() -> None:
    data = hold_out("numbers", "0", 2, numbered(10), torch.arange(10) % 2)
    assert data.on(torch.device("cpu")) is data
    moved = data.on(torch.device("meta"))
    assert {moved.x.device, moved.y.device, moved.x_val.device, moved.y_val.device} == {torch.device("meta")}
    assert (moved.name, moved.num_classes, moved.x.shape) == (data.name, data.num_classes, data.x.shape)


def test_mean_and_std_are_those_of_the_training_pixels_per_channel() -> None:
    x = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1, 2, 3]).reshape(3, 1, 1)
    data = hold_out("colours", "0", 2, x, torch.arange(20) % 2)
    pixels = x[:16].double().transpose(0, 1).flatten(1)
    assert data.mean == pytest.approx(pixels.mean(dim=1).tolist(), rel=1e-5)
    assert data.std == pytest.approx(pixels.std(dim=1).tolist(), rel=1e-5)


def test_a_constant_channel_has_a_positive_std() -> None:
    data = hold_out("black", "0", 2, torch.zeros(10, 1, 2, 2), torch.arange(10) % 2)
    assert data.std[0] > 0


def coloured(n: int, size: int) -> Tensor:
    """Images of three channels without symmetry and without a zero pixel."""
    return 0.1 + torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """The image (c, h, w) moved, zeros moving in."""
    reach = max(abs(down), abs(right))
    padded = torch.nn.functional.pad(image, (reach,) * 4)
    h, w = image.shape[1:]
    return padded[:, reach - down : reach - down + h, reach - right : reach - right + w]


def found(image: Tensor, result: Tensor, largest: int, mirrored: bool) -> list[tuple[int, int, bool]]:
    """Every (down, right, mirrored) that explains the result."""
    sources = [(image, False), (image.flip(2), True)] if mirrored else [(image, False)]
    return [
        (down, right, flip)
        for source, flip in sources
        for down in range(-largest, largest + 1)
        for right in range(-largest, largest + 1)
        if torch.equal(shifted(source, down, right), result)
    ]


@pytest.mark.parametrize(
    ("dataset", "size", "largest", "mirrored"),
    [("mnist", 7, 2, False), ("fashion-mnist", 7, 2, True), ("cifar10", 9, 4, True), ("cifar10-q75", 9, 4, True)],
)
def test_every_augmented_image_is_a_shift_or_a_mirrored_shift(
    dataset: str, size: int, largest: int, mirrored: bool
) -> None:
    x = coloured(100, size)
    results = augment(x, dataset, torch.Generator().manual_seed(0))
    assert results.shape == x.shape
    explained = [found(image, result, largest, mirrored) for image, result in zip(x, results, strict=True)]
    assert all(len(options) == 1 for options in explained)
    moves = [options[0] for options in explained]
    for axis in (0, 1):
        assert {move[axis] for move in moves} >= {-largest, 0, largest}
    assert {move[2] for move in moves} == ({True, False} if mirrored else {False})


@pytest.mark.parametrize("dataset", ["svhn", "digits", "npz:mine"])
def test_svhn_and_unknown_data_sets_are_left_alone(dataset: str) -> None:
    x = coloured(5, 6)
    assert torch.equal(augment(x, dataset, torch.Generator().manual_seed(0)), x)


def test_augmentation_is_determined_by_the_generator() -> None:
    x = coloured(20, 8)
    first, again, other = (augment(x, "cifar10", torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_digits_of_these_tests_hold_every_class() -> None:
    data = digits_data()
    assert (len(data.x), len(data.x_val)) == (320, 80)
    assert set(data.y.tolist()) == set(range(10))
