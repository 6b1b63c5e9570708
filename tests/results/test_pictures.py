"""Pictures read back from their data URIs."""

import base64
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from results.pictures import LARGEST, data_uri, difference


def _read(uri: str) -> NDArray[np.uint8]:
    prefix = "data:image/png;base64,"
    assert uri.startswith(prefix)
    return np.asarray(Image.open(BytesIO(base64.b64decode(uri.removeprefix(prefix)))))


def test_grey_and_colour_images_come_back_to_the_nearest_of_256_levels() -> None:
    grey = np.array([[[0.0, 0.5], [1.0, 100.4 / 255]]], dtype=np.float32)
    assert _read(data_uri(grey)).tolist() == [[0, 128], [255, 100]]
    colour = np.random.default_rng(0).random((3, 4, 5), dtype=np.float32)
    assert np.array_equal(_read(data_uri(colour)), np.rint(colour.transpose(1, 2, 0) * 255))


def test_large_images_are_shrunk() -> None:
    assert max(_read(data_uri(np.zeros((3, 200, 100), dtype=np.float32))).shape[:2]) == LARGEST


def test_other_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="neither one nor three channels"):
        data_uri(np.zeros((2, 4, 4), dtype=np.float32))


def test_a_difference_is_amplified_to_black_and_white_around_grey() -> None:
    clean = np.full((1, 1, 3), 0.5, dtype=np.float32)
    changed, factor = difference(clean, clean + np.array([[[0.1, -0.05, 0.0]]], dtype=np.float32))
    assert factor == pytest.approx(5.0, rel=1e-5)
    assert changed.tolist() == [[pytest.approx([1.0, 0.25, 0.5], abs=1e-5)]]


def test_no_difference_is_grey() -> None:
    clean = np.zeros((1, 2, 2), dtype=np.float32)
    changed, factor = difference(clean, clean)
    assert (changed == 0.5).all()
    assert factor == 1.0
