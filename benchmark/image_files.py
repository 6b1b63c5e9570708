"""Image files to arrays: idx, npz and folders of pictures; RequestError, one line, for what is corrupt."""

import gzip
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmark.errors import RequestError

Split = Literal["train", "test"]
Arrays = tuple[NDArray[Any], NDArray[Any]]


def read_idx_pair(folders: list[Path], split: Split) -> Arrays | None:
    """Images and labels from the first folder that has both files, plain or gzipped."""
    prefix = "t10k" if split == "test" else "train"
    for folder in folders:
        for suffix in ("", ".gz"):
            images = folder / f"{prefix}-images-idx3-ubyte{suffix}"
            labels = folder / f"{prefix}-labels-idx1-ubyte{suffix}"
            if images.is_file() and labels.is_file():
                return read_idx(images), read_idx(labels)
    return None


def read_idx(path: Path) -> NDArray[np.uint8]:
    """An idx file of unsigned bytes, plain or gzipped; RequestError when it is corrupt."""
    try:
        payload = path.read_bytes()
        if path.suffix == ".gz":
            payload = gzip.decompress(payload)
    except (OSError, EOFError, zlib.error) as error:
        raise RequestError(f"image archive {path} is corrupt: {error}") from None
    if len(payload) < 4 or payload[:3] != b"\x00\x00\x08":
        raise RequestError(f"image archive {path} is corrupt: not an idx file of unsigned bytes")
    dimensions = payload[3]
    header = 4 + 4 * dimensions
    if len(payload) < header:
        raise RequestError(f"image archive {path} is corrupt: its header is cut off")
    shape = struct.unpack(f">{dimensions}I", payload[4:header])
    if len(payload) - header != int(np.prod(shape)):
        raise RequestError(f"image archive {path} is corrupt: {len(payload) - header} bytes of data for shape {shape}")
    return np.frombuffer(payload, np.uint8, offset=header).reshape(shape)


def read_npz(path: Path) -> Arrays:
    """Arrays `images` and `labels` (or `x` and `y`); pickled objects are refused."""
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise RequestError(f"{path} must be an npz file with arrays images and labels, is a single array")
        with archive:
            for first, second in (("images", "labels"), ("x", "y")):
                if first in archive and second in archive:
                    return archive[first], archive[second]
            raise RequestError(f"{path} must hold arrays images and labels, has {', '.join(archive.files) or 'none'}")
    except FileNotFoundError:
        raise RequestError(f"data set npz:{path}: no such file") from None
    except RequestError:
        raise
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise RequestError(f"image archive {path} is corrupt or not an npz file: {error}") from None


_IMAGE_FILE = re.compile(r".+\.(png|jpe?g|bmp|webp)", re.IGNORECASE)


def read_folder(path: Path) -> tuple[NDArray[Any], NDArray[Any], tuple[str, ...]]:
    """One sub-folder a class, in alphabetical order, of images of one size and mode (L or RGB)."""
    from PIL import Image

    classes = sorted(p for p in path.iterdir() if p.is_dir()) if path.is_dir() else []
    if len(classes) < 2:
        raise RequestError(f"data set folder:{path}: expected a folder with one sub-folder of images a class")
    images: list[NDArray[Any]] = []
    labels: list[int] = []
    for label, folder in enumerate(classes):
        files = sorted(p for p in folder.iterdir() if _IMAGE_FILE.fullmatch(p.name))
        for file in files:
            try:
                with Image.open(file) as image:
                    images.append(np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB")))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                raise RequestError(f"image {file} is corrupt: {error}") from None
            labels.append(label)
            if images[-1].shape != images[0].shape:
                raise RequestError(f"image {file} has shape {images[-1].shape}, the first image {images[0].shape}")
    if not images:
        raise RequestError(f"data set folder:{path}: no images (png, jpg, bmp, webp) in its sub-folders")
    return np.stack(images), np.asarray(labels, dtype=np.int64), tuple(c.name for c in classes)
