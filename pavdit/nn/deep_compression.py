"""SqueezeNet 1.0 from its Deep Compression file (Han et al., arXiv 1510.00149), 0.66 MB instead of 5.

The file, little-endian: how many weights each layer has left, uint32; then layer by layer a codebook (256
float32), the biases (float32), a code (uint8) per weight left, and two to a byte, low half first, how many
weights were dropped before it. Where more than 15 were, a weight of value 0 stands in between.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pavdit.clip import DataError

SUFFIX = ".net"
CODEBOOK = 256
PIXEL_MEAN_BGR = (104.0, 117.0, 123.0)
"""Caffe's: the network was trained on blue, green, red from 0 to 255 less these."""


def read_squeezenet(path: Path, mean: tuple[float, ...], std: tuple[float, ...]) -> dict[str, Tensor]:
    """Weights under torchvision's names, for pictures as torchvision's networks take them.

    The first layer takes in what lies between the two kinds of picture; it pads nothing, so this is exact.

    Args:
        path: ``compressed_SqueezeNet.net`` of songhan/SqueezeNet-Deep-Compression.
        mean, std: of red, green and blue in [-1, 1], taken out of what the network is given.

    Returns:
        ``features.*`` and ``classifier.1.*`` (whose convolution pads by 1 here), float32.

    Raises:
        DataError: the file cannot be read, or is another one.
    """
    shapes = _shapes()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: want a Deep Compression file, got {error.strerror}") from None
    counts = np.frombuffer(data[: 4 * min(len(shapes), len(data) // 4)], "<u4")
    sizes = [
        4 * CODEBOOK + 4 * shape[0] + int(n) + (int(n) + 1) // 2
        for n, shape in zip(counts, shapes.values(), strict=False)
    ]
    if len(counts) < len(shapes) or 4 * len(shapes) + sum(sizes) != len(data):
        raise DataError(
            f"{path}: want SqueezeNet 1.0 as a Deep Compression file, got {len(data)} bytes that are none"
        )
    weights: dict[str, Tensor] = {}
    at = 4 * len(shapes)
    for count, size, (name, shape) in zip(counts.tolist(), sizes, shapes.items(), strict=True):
        weights |= _layer(path, data[at : at + size], count, name, shape)
        at += size
    _take_torchvision_pictures(weights, mean, std)
    return weights


def _shapes() -> dict[str, tuple[int, int, int, int]]:
    """Layers in the order of the file."""
    shapes = {"features.0": (96, 3, 7, 7)}
    channels = 96
    for number, squeezed, expanded in (
        *((3, 16, 64), (4, 16, 64), (5, 32, 128), (7, 32, 128)),
        *((8, 48, 192), (9, 48, 192), (10, 64, 256), (12, 64, 256)),
    ):
        shapes[f"features.{number}.squeeze"] = (squeezed, channels, 1, 1)
        shapes[f"features.{number}.expand1x1"] = (expanded, squeezed, 1, 1)
        shapes[f"features.{number}.expand3x3"] = (expanded, squeezed, 3, 3)
        channels = 2 * expanded
    shapes["classifier.1"] = (1000, channels, 1, 1)
    return shapes


def _layer(path: Path, data: bytes, count: int, name: str, shape: tuple[int, ...]) -> dict[str, Tensor]:
    numbers = np.frombuffer(data, "<f4", CODEBOOK + shape[0])
    rest = np.frombuffer(data, np.uint8, offset=numbers.nbytes)
    codes, halves = rest[:count], rest[count:]
    dropped = np.stack([halves & 15, halves >> 4], axis=1).reshape(-1)[:count]
    places = np.cumsum(dropped.astype(np.int64) + 1) - 1
    dense = np.zeros(int(np.prod(shape)), np.float32)
    # A layer may end in steps past its last weight, whose codes are zeros.
    inside = places < len(dense)
    if not np.isfinite(numbers).all() or codes[~inside].any():
        raise DataError(f"{path}: want {dense.size} weights in {name}, got a damaged layer")
    dense[places[inside]] = numbers[codes[inside]]
    return {
        f"{name}.weight": torch.from_numpy(dense.reshape(shape)),
        f"{name}.bias": torch.from_numpy(numbers[CODEBOOK:].copy()),
    }


def _take_torchvision_pictures(
    weights: dict[str, Tensor], mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    """The layer's picture is ``(127.5 (std x + mean + 1)) reversed - PIXEL_MEAN_BGR`` of torchvision's x."""
    weight = weights["features.0.weight"].double().flip(1)  # red, green, blue
    scale = 127.5 * torch.tensor(std, dtype=torch.float64)
    offset = 127.5 * (torch.tensor(mean, dtype=torch.float64) + 1) - torch.tensor(PIXEL_MEAN_BGR).flip(0)
    bias = weights["features.0.bias"].double() + (weight.sum(dim=(2, 3)) * offset).sum(dim=1)
    weights["features.0.weight"] = (weight * scale[:, None, None]).float()
    weights["features.0.bias"] = bias.float()
