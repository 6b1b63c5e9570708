"""Linear layers written out as matrices, entry by entry, with nothing of torch in them."""

import itertools
from collections.abc import Iterator

import numpy as np

Matrix = np.ndarray
Size = tuple[int, int]


def windows(size: Size, kernel: int, stride: int, padding: int, dilation: int = 1) -> Iterator[tuple[int, int, int]]:
    """(place of the output, tap, place of the input) for every tap that lies in the image."""
    out = output_size(size, kernel, stride, padding, dilation)
    for row, column, a, b in itertools.product(range(out[0]), range(out[1]), range(kernel), range(kernel)):
        y, x = row * stride - padding + a * dilation, column * stride - padding + b * dilation
        if 0 <= y < size[0] and 0 <= x < size[1]:
            yield row * out[1] + column, a * kernel + b, y * size[1] + x


def output_size(size: Size, kernel: int, stride: int, padding: int, dilation: int = 1) -> Size:
    height, width = ((side + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for side in size)
    return height, width


def convolution(weight: Matrix, size: Size, stride: int = 1, padding: int = 0) -> Matrix:
    """(outputs, inputs) for weights (out, in, k, k)."""
    channels_out, channels_in, kernel, _ = weight.shape
    places = np.prod(output_size(size, kernel, stride, padding)), np.prod(size)
    matrix = np.zeros((channels_out, places[0], channels_in, places[1]))
    taps = weight.reshape(channels_out, channels_in, -1)
    for to, tap, source in windows(size, kernel, stride, padding):
        matrix[:, to, :, source] += taps[:, :, tap]
    return matrix.reshape(channels_out * places[0], -1)


def average_pooling(channels: int, size: Size, kernel: int, stride: int, padding: int = 0, dilation: int = 1) -> Matrix:
    """Means over whole windows: cells of the padding are zeros that are counted."""
    places = np.prod(output_size(size, kernel, stride, padding, dilation)), np.prod(size)
    one = np.zeros(places)
    for to, _, source in windows(size, kernel, stride, padding, dilation):
        one[to, source] += 1.0 / kernel**2
    return np.kron(np.eye(channels), one)


def spatial_mean(channels: int, places: int) -> Matrix:
    return np.kron(np.eye(channels), np.full((1, places), 1.0 / places))


def per_channel(scale: Matrix, places: int) -> Matrix:
    return np.diag(np.repeat(scale, places))
