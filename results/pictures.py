"""Images to PNG data URIs, and what an attack changed, amplified until it can be seen."""

import base64
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LARGEST = 96
"""Pixels a side; larger images are shrunk."""


def data_uri(image: NDArray[np.float32]) -> str:
    """An image (c, h, w) in [0, 1] with one or three channels, as the source of an <img>; ValueError for others."""
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"an image of shape {image.shape} has neither one nor three channels")
    pixels = np.rint(np.clip(image, 0.0, 1.0) * 255).astype(np.uint8)
    drawn = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if max(drawn.size) > LARGEST:
        drawn.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    buffer = BytesIO()
    drawn.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def difference(clean: NDArray[np.float32], adversarial: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """What was added, mid-grey where nothing was, and the factor that brings its largest entry to black or white."""
    delta = adversarial.astype(np.float64) - clean.astype(np.float64)
    largest = float(np.abs(delta).max(initial=0.0))
    factor = 0.5 / largest if largest > 0 else 1.0
    return (0.5 + factor * delta).astype(np.float32), factor
