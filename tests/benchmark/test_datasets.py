"""Data sets against their official checksums and hand-made arrays; every kind of damage told in one line."""

import gzip
import hashlib
import re
import struct
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from benchmark.datasets import EMBEDDED, Dataset, from_arrays, left_out, load
from benchmark.errors import RequestError
from benchmark.image_files import Split, read_idx
from model_zoo.recipes.data import hold_out


def _refused(name: str, root: Path | None = None) -> str:
    with pytest.raises(RequestError) as caught:
        load(name, root)
    message = str(caught.value)
    assert "\n" not in message
    return message


def _images(n: int = 4, *shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (n, *(shape or (6, 5))), dtype=np.uint8)


def _labels(n: int = 4) -> NDArray[np.int64]:
    return np.arange(n) % 2


def test_the_embedded_files_are_the_official_ones() -> None:
    """Debian took name and time out of the official files' gzip headers; put back, the checksums are torchvision's."""
    from torchvision.datasets import FashionMNIST

    official = dict(FashionMNIST.resources)
    made = struct.pack("<I", 1504176627)
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        payload = (EMBEDDED / "fashion-mnist" / f"{name}.gz").read_bytes()
        header = b"\x1f\x8b\x08\x08" + made + b"\x00\x03" + name.encode() + b"\x00"
        assert hashlib.md5(header + payload[10:]).hexdigest() == official[f"{name}.gz"]


def test_fashion_mnist_is_its_ten_thousand_test_images_without_any_download() -> None:
    data = load("fashion-mnist", Path("/nonexistent"))
    assert data.x.shape == (10_000, 1, 28, 28)
    assert data.x.dtype == torch.float32
    assert (float(data.x.min()), float(data.x.max())) == (0.0, 1.0)
    assert data.y.bincount().tolist() == [1000] * 10
    assert data.num_classes == len(data.class_names) == 10
    raw = gzip.decompress((EMBEDDED / "fashion-mnist" / "t10k-images-idx3-ubyte.gz").read_bytes())
    pixels = np.frombuffer(raw[16:], np.uint8).reshape(10_000, 28, 28)
    assert np.array_equal((data.x[:, 0] * 255).round().byte().numpy(), pixels)
    labels = gzip.decompress((EMBEDDED / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
    assert data.y.tolist() == list(labels)


def test_digits_are_split_into_test_and_training_images_without_overlap() -> None:
    bunch = load_digits()
    test, train = load("digits"), load("digits", split="train")
    assert (len(test.x), len(train.x)) == (500, 1297)
    assert torch.cat([train.y, test.y]).tolist() == bunch.target.tolist()
    assert torch.equal(torch.cat([train.x, test.x])[:, 0], torch.from_numpy(bunch.images / 16).float())
    assert test.sha256 != train.sha256


def test_the_validation_images_are_those_that_recipes_hold_out() -> None:
    train = load("digits", None, "train")
    held = hold_out("digits", train.sha256, 10, train.x, train.y)
    found = load("digits:validation")
    assert torch.equal(found.x, held.x_val)
    assert torch.equal(found.y, held.y_val)
    assert found.name == "digits:validation"
    assert "known are digits:validation and digits:without=CLASS,CLASS..., not both at once" in _refused("digits:train")
    assert "expected class numbers, as in without=6,8, and nothing after them" in _refused(
        "digits:without=3:validation"
    )
    with pytest.raises(RequestError, match="to attack and not to train on"):
        load("digits:validation", None, "train")


def test_validation_images_of_a_file_sorted_by_class_are_held_out_too(tmp_path: Path) -> None:
    """Recipes shuffle such a file before they split it: its last images are mostly trained on."""
    folder = tmp_path / "cifar10-q75"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (100, 4, 4, 3), dtype=np.uint8)
    np.savez(folder / "train.npz", images=images, labels=np.arange(100) // 10)
    train = load("cifar10-q75", tmp_path, "train")
    held = hold_out("cifar10-q75", train.sha256, 10, train.x, train.y)
    found = load("cifar10-q75:validation", tmp_path)
    assert torch.equal(found.x, held.x_val)
    assert torch.equal(found.y, held.y_val)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_data_set_without_some_classes_numbers_the_others_anew(split: Split) -> None:
    whole, part = load("digits", None, split), load("digits:without=7,3", None, split)
    kept = [place for place, label in enumerate(whole.y.tolist()) if label not in (3, 7)]
    assert torch.equal(part.x, whole.x[kept])
    numbers = {0: 0, 1: 1, 2: 2, 4: 3, 5: 4, 6: 5, 8: 6, 9: 7}
    assert part.y.tolist() == [numbers[whole.y.tolist()[place]] for place in kept]
    assert (part.name, part.num_classes) == ("digits:without=3,7", 8)
    assert left_out(part.name) == (3, 7)
    assert left_out("digits") == ()


def test_a_file_leaves_out_nothing_whatever_its_name() -> None:
    assert left_out("npz:digits:without=ab.npz") == ()
    assert left_out("digits:without=08,3,3") == (3, 8)


def test_names_of_the_classes_that_are_left() -> None:
    names = load("fashion-mnist:without=0,9").class_names
    assert (len(names), names[0], names[-1]) == (8, "trouser", "bag")


@pytest.mark.parametrize("listed", ["", "a", "-1", "10", "1;2", "0,1,2,3,4,5,6,7,8", 5000 * "9"])
def test_classes_that_cannot_be_left_out_are_refused(listed: str) -> None:
    assert _refused(f"digits:without={listed}").startswith(f"data set digits:without={listed}: ")


def test_an_unknown_data_set_suggests_the_nearest() -> None:
    assert _refused("fashon-mnist").startswith("unknown data set 'fashon-mnist'; did you mean fashion-mnist")
    far = _refused("zzz")
    for name in ("fashion-mnist", "mnist", "cifar10", "cifar100", "svhn", "npz:FILE", "folder:DIR"):
        assert name in far


def _idx(array: NDArray[np.uint8]) -> bytes:
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_an_idx_file_is_read_plain_and_gzipped(tmp_path: Path, suffix: str) -> None:
    array = _images()
    path = tmp_path / f"images{suffix}"
    path.write_bytes(gzip.compress(_idx(array)) if suffix else _idx(array))
    assert np.array_equal(read_idx(path), array)


GOOD = _idx(_images())
BAD_IDX: dict[str, bytes] = {
    "empty": b"",
    "magic cut": GOOD[:3],
    "header cut": GOOD[:10],
    "data cut": GOOD[:-1],
    "data too long": GOOD + b"\x00",
    "wrong magic": b"\x01" + GOOD[1:],
    "floats": GOOD[:2] + b"\x0d" + GOOD[3:],
    "other shape": GOOD[:4] + struct.pack(">I", 400) + GOOD[8:],
    "shape beyond 64 bits": GOOD[:4] + b"\xff" * 12 + GOOD[16:],
    "text": b"<html>404 not found</html>",
}


@pytest.mark.parametrize("kind", BAD_IDX)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_corrupt_idx_file_is_named(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"t10k{suffix}"
    path.write_bytes(gzip.compress(BAD_IDX[kind]) if suffix else BAD_IDX[kind])
    with pytest.raises(RequestError, match=re.escape(f"image archive {path} is corrupt")) as caught:
        read_idx(path)
    assert "\n" not in str(caught.value)


def test_a_gzip_file_cut_or_changed_anywhere_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t10k.gz"
    whole = gzip.compress(GOOD, mtime=0)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(RequestError, match="is corrupt"):
            read_idx(path)
    for place in range(10, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        with pytest.raises(RequestError, match="is corrupt"):
            read_idx(path)


def _mnist_folder(root: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True)
    (raw / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(_idx(images)))
    (raw / "t10k-labels-idx1-ubyte").write_bytes(b"")
    (raw / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(_idx(labels)))


def test_idx_files_under_the_data_root_are_found(tmp_path: Path) -> None:
    images, labels = _images(), _labels().astype(np.uint8)
    _mnist_folder(tmp_path, images, labels)
    data = load("mnist", tmp_path)
    assert np.array_equal((data.x[:, 0] * 255).round().byte().numpy(), images)
    assert data.y.tolist() == labels.tolist()


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (_images(4), _labels(3).astype(np.uint8)),
        (_images(4), _images(4)),
        (_images(4)[0], _labels(6).astype(np.uint8)),
        (np.array(7, dtype=np.uint8), _labels(4).astype(np.uint8)),
        (_images(4), np.array(7, dtype=np.uint8)),
        (_images(0), _labels(0).astype(np.uint8)),
    ],
)
def test_idx_files_that_are_no_images_with_their_labels_are_refused(
    tmp_path: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> None:
    _mnist_folder(tmp_path, images, labels)
    assert "mnist" in _refused("mnist", tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn"])
def test_a_failed_download_is_one_line_with_the_remedy(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets

    def offline(*_: object, **__: object) -> None:
        raise RuntimeError("urlopen error:\n  no route to host")

    monkeypatch.setattr(torchvision.datasets, name.upper(), offline)
    message = _refused(name, tmp_path)
    assert name.upper() in message
    assert str(tmp_path) in message
    assert "urlopen error: no route to host" in message
    assert "--data-root" in message


@pytest.mark.parametrize(("name", "shape"), [("cifar10", (4, 32, 32, 3)), ("svhn", (4, 3, 32, 32))])
def test_torchvision_sets_come_as_channels_first_images(
    name: str, shape: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchvision.datasets

    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    class Stored:
        def __init__(self, root: Path, download: bool, **selector: object):
            assert selector == ({"split": "test"} if name == "svhn" else {"train": False})
            self.data = pixels
            self.targets = self.labels = [0, 1, 2, 3]

    monkeypatch.setattr(torchvision.datasets, name.upper(), Stored)
    data = load(name, tmp_path)
    expected = pixels if name == "svhn" else pixels.transpose(0, 3, 1, 2)
    assert np.array_equal((data.x * 255).round().byte().numpy(), expected)
    assert data.y.tolist() == [0, 1, 2, 3]


def test_bytes_are_scaled_and_floats_are_taken_as_they_are() -> None:
    pixels = _images()
    as_bytes = from_arrays("a", pixels, _labels())
    assert torch.equal(as_bytes.x[:, 0], torch.from_numpy(pixels).float() / 255)
    scaled = (pixels / 255).astype(np.float32)
    assert torch.equal(from_arrays("a", scaled, _labels()).x[:, 0], torch.from_numpy(scaled))
    assert from_arrays("a", pixels / 255, _labels()).x.dtype == torch.float32


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_may_come_first_or_last(channels: int) -> None:
    first = _images(4, channels, 6, 5)
    expected = torch.from_numpy(first).float() / 255
    assert torch.equal(from_arrays("a", first, _labels()).x, expected)
    last = np.ascontiguousarray(first.transpose(0, 2, 3, 1))
    assert torch.equal(from_arrays("a", last, _labels()).x, expected)


def test_grey_images_get_their_channel() -> None:
    pixels = _images()
    assert torch.equal(from_arrays("a", pixels, _labels()).x, from_arrays("a", pixels[:, None], _labels()).x)


@pytest.mark.parametrize("value", [-0.001, 1.001, 255.0, np.nan, np.inf, -np.inf])
def test_floats_outside_the_box_are_refused(value: float) -> None:
    images = np.full((4, 6, 5), 0.5)
    images[2, 3, 4] = value
    with pytest.raises(RequestError, match=r"images must lie in \[0, 1\]"):
        from_arrays("a", images, _labels())


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (_images(4), _labels(3), "4 images and 3 labels"),
        (_images(0), _labels(0), "0 images"),
        (_images(4), _labels(4) - 1, "non-negative integers"),
        (_images(4), _labels(4).astype(float), "non-negative integers"),
        (_images(4), _labels(4)[:, None], "non-negative integers"),
        (_images(4).astype(np.int32), _labels(4), "uint8 or float, got int32"),
        (_images(4) > 3, _labels(4), "uint8 or float, got bool"),
        (_images(4, 30), _labels(4), "3 or 4 dimensions"),
        (_images(4, 1, 2, 3, 4), _labels(4), "3 or 4 dimensions"),
    ],
)
def test_arrays_that_are_no_labelled_images_are_refused(
    images: NDArray[Any], labels: NDArray[Any], message: str
) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        from_arrays("npz:mine", images, labels)
    assert "npz:mine" in str(caught.value)


def _sha(images: NDArray[Any], labels: NDArray[Any]) -> str:
    return from_arrays("a", images, labels).sha256


def test_the_checksum_belongs_to_every_pixel_and_label_and_to_the_shape() -> None:
    images, labels = _images(), _labels()
    changed = {_sha(images, labels)}
    for place in (0, images.size // 2, images.size - 1):
        other = images.copy()
        other.flat[place] ^= 1
        changed.add(_sha(other, labels))
    for place in range(len(labels)):
        more = labels.copy()
        more[place] += 1
        changed.add(_sha(images, more))
    changed.add(_sha(images.reshape(4, 5, 6), labels))
    changed.add(_sha(images[::-1], labels))
    assert len(changed) == 1 + 3 + 4 + 2


def test_the_checksum_does_not_depend_on_memory_layout_or_the_labels_width() -> None:
    images, labels = _images(), _labels()
    expected = _sha(images, labels)
    assert _sha(np.asfortranarray(images), labels) == expected
    for dtype in (np.uint8, np.int32, np.int64, ">i4"):
        assert _sha(images, labels.astype(dtype)) == expected


def _npz(path: Path, **arrays: Any) -> str:
    np.savez_compressed(path, **arrays)
    return f"npz:{path}"


@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y")])
def test_an_npz_file_is_read_by_either_pair_of_names(tmp_path: Path, names: tuple[str, str]) -> None:
    arrays = dict(zip(names, (_images(), _labels()), strict=True))
    data = load(_npz(tmp_path / "mine.npz", **arrays))
    assert torch.equal(data.x, from_arrays("a", _images(), _labels()).x)
    assert data.y.tolist() == _labels().tolist()
    assert data.sha256 == _sha(_images(), _labels())


def test_an_npz_file_without_the_arrays_is_refused_with_what_it_has(tmp_path: Path) -> None:
    message = _refused(_npz(tmp_path / "mine.npz", pixels=_images(), labels=_labels()))
    assert "images and labels" in message
    assert "pixels" in message


def test_a_missing_npz_file_is_named(tmp_path: Path) -> None:
    assert _refused(f"npz:{tmp_path / 'none.npz'}") == f"data set npz:{tmp_path / 'none.npz'}: no such file"


class Bomb:
    """Leaves a file behind when unpickled."""

    target = Path("unset")

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.target,)


def test_pickled_objects_are_refused_and_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bomb, "target", tmp_path / "executed")
    name = _npz(tmp_path / "mine.npz", images=np.array([Bomb()] * 4), labels=_labels())
    assert str(tmp_path / "mine.npz") in _refused(name)
    assert not (tmp_path / "executed").exists()
    with np.load(tmp_path / "mine.npz", allow_pickle=True) as archive:
        assert len(archive["images"]) == 4
    assert (tmp_path / "executed").exists(), "the bomb is a dud, and the test above shows nothing"


def test_a_pickle_in_the_place_of_an_npz_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    path.write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    assert str(path) in _refused(f"npz:{path}")


def test_a_single_array_in_the_place_of_an_npz_file_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "mine.npy", _images())
    assert str(tmp_path / "mine.npy") in _refused(f"npz:{tmp_path / 'mine.npy'}")


@pytest.mark.parametrize("images", [np.uint8(3), _images()])
@pytest.mark.parametrize("labels", [np.int64(3)])
def test_single_numbers_in_the_place_of_arrays_are_refused(tmp_path: Path, images: Any, labels: Any) -> None:
    assert "mine.npz" in _refused(_npz(tmp_path / "mine.npz", images=images, labels=labels))


def test_a_folder_in_the_place_of_an_npz_file_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path) in _refused(f"npz:{tmp_path}")


def _loaded_or_told(name: str) -> Dataset | str:
    """The data set, or what it is refused with."""
    try:
        return load(name)
    except RequestError as error:
        return str(error)


def _is_refused_or_whole(name: str, whole: Dataset) -> bool:
    """True when refused in one line; damage that touches no pixel and no label may pass as the whole."""
    found = _loaded_or_told(name)
    if isinstance(found, str):
        assert "\n" not in found
        return True
    assert torch.equal(found.x, whole.x)
    assert torch.equal(found.y, whole.y)
    return False


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_npz_file_cut_or_changed_anywhere_is_refused_or_still_whole(tmp_path: Path, compression: int) -> None:
    path = tmp_path / "mine.npz"
    save = np.savez if compression == zipfile.ZIP_STORED else np.savez_compressed
    save(path, images=_images(2, 3, 3), labels=_labels(2))
    good, whole = path.read_bytes(), load(f"npz:{path}")
    refused = 0
    for length in range(0, len(good), 7):
        path.write_bytes(good[:length])
        assert _is_refused_or_whole(f"npz:{path}", whole)
    for place in range(len(good)):
        for mask in (0x01, 0xFF) if compression == zipfile.ZIP_STORED else (0xFF,):
            path.write_bytes(good[:place] + bytes([good[place] ^ mask]) + good[place + 1 :])
            refused += _is_refused_or_whole(f"npz:{path}", whole)
    assert refused > len(good) // 2


def _folder(root: Path, sizes: dict[str, list[tuple[int, int]]], mode: str = "L") -> Path:
    rng = np.random.default_rng(0)
    for name, images in sizes.items():
        (root / name).mkdir(parents=True)
        for number, (height, width) in enumerate(images):
            shape = (height, width) if mode == "L" else (height, width, 3)
            image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
            image.save(root / name / f"{number}.png")
    return root


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_a_folder_holds_a_class_a_sub_folder_in_alphabetical_order(tmp_path: Path, mode: str, channels: int) -> None:
    root = _folder(tmp_path / "set", {"b-dogs": [(6, 5)] * 2, "a-cats": [(6, 5)]}, mode)
    (root / "a-cats" / "notes.txt").write_text("not an image")
    data = load(f"folder:{root}")
    assert data.class_names == ("a-cats", "b-dogs")
    assert data.y.tolist() == [0, 1, 1]
    assert data.x.shape == (3, channels, 6, 5)
    with Image.open(root / "b-dogs" / "1.png") as image:
        pixels = np.asarray(image).reshape(6, 5, channels).transpose(2, 0, 1)
    assert torch.equal(data.x[2], torch.from_numpy(pixels.copy()).float() / 255)


def test_images_of_different_sizes_are_refused(tmp_path: Path) -> None:
    root = _folder(tmp_path / "set", {"a": [(6, 5)], "b": [(6, 5), (5, 6)]})
    message = _refused(f"folder:{root}")
    assert str(root / "b" / "1.png") in message
    assert "(5, 6)" in message
    assert "(6, 5)" in message


def test_grey_and_coloured_images_are_not_mixed(tmp_path: Path) -> None:
    root = _folder(tmp_path / "set", {"a": [(6, 5)]})
    _folder(tmp_path / "more", {"b": [(6, 5)]}, "RGB")
    (tmp_path / "more" / "b").rename(root / "b")
    assert str(root / "b" / "0.png") in _refused(f"folder:{root}")


@pytest.mark.parametrize("sizes", [{}, {"a": [(6, 5)]}])
def test_fewer_than_two_classes_are_refused(tmp_path: Path, sizes: dict[str, list[tuple[int, int]]]) -> None:
    root = tmp_path / "set"
    root.mkdir()
    assert "one sub-folder of images a class" in _refused(f"folder:{_folder(root, sizes)}")


def test_a_missing_folder_and_a_file_in_its_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("none", "file"):
        assert f"folder:{tmp_path / name}" in _refused(f"folder:{tmp_path / name}")


def test_classes_without_images_are_refused(tmp_path: Path) -> None:
    assert "no images" in _refused(f"folder:{_folder(tmp_path / 'set', {'a': [], 'b': []})}")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0"])
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    root = _folder(tmp_path / "set", {"a": [(6, 5)], "b": [(6, 5)]})
    (root / "b" / "1.png").write_bytes(content)
    message = _refused(f"folder:{root}")
    assert f"image {root / 'b' / '1.png'} is corrupt" in message


@pytest.mark.parametrize("form", ["png", "jpeg", "bmp", "webp"])
def test_an_image_cut_off_is_named(tmp_path: Path, form: str) -> None:
    root = _folder(tmp_path / "set", {"a": [(16, 16)], "b": []})
    path, stream = root / "b" / f"1.{form}", BytesIO()
    Image.fromarray(_images(1, 16, 16)[0]).save(stream, format=form)
    whole = stream.getvalue()
    for length in range(0, len(whole) - len(whole) // 4, 5):
        path.write_bytes(whole[:length])
        message = _refused(f"folder:{root}")
        assert str(path) in message
        assert "\n" not in message


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("form", ["png", "bmp"])
def test_an_image_whose_first_bytes_change_is_refused_or_still_an_image(
    tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)  # or a changed width asks for gigabytes
    root = _folder(tmp_path / "set", {"a": [(6, 5)], "b": []})
    path = root / "b" / f"0.{form}"
    Image.fromarray(_images(1)[0]).save(path)
    whole, refused = path.read_bytes(), 0
    for place in range(min(100, len(whole))):
        for mask in (0x01, 0x80, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ mask]) + whole[place + 1 :])
            told = _loaded_or_told(f"folder:{root}")
            if isinstance(told, str):
                assert str(path) in told
                assert "\n" not in told
                refused += 1
    assert refused > 0
