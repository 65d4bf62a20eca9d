"""LPIPS, the perceptual distance of pictures (Zhang et al., arXiv 1801.03924), by weights that the user has.

A *trunk* is the convolutional part of an image classifier, named as torchvision does (``features.0.weight``);
*heads* weigh its channels, named as the authors do (``lin0.model.1.weight``). Both are read from a path:
safetensors, or PyTorch's own format without code in it; a trunk also as `pavdit.nn.deep_compression` has it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pavdit.clip import DataError
from pavdit.nn import deep_compression

SMALLEST_SIDE = 32
"""Pixels; below it the last layers of some trunk have no output."""

IMAGE_MEAN, IMAGE_STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""Of ImageNet's pictures in [-1, 1], red, green, blue: what the trunks expect to be taken out."""


class Fire(nn.Module):
    """SqueezeNet's block: a 1 x 1 convolution, then a 1 x 1 and a 3 x 3 side by side."""

    def __init__(self, channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1).relu()


class Trunk(NamedTuple):
    """Layers with torchvision's numbers, and the numbers of those whose outputs count."""

    layers: Callable[[], list[nn.Module]]
    taps: tuple[int, ...]


def _vgg16() -> list[nn.Module]:
    layers: list[nn.Module] = []
    channels = 3
    for width, convolutions in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(convolutions):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return layers


def _alexnet() -> list[nn.Module]:
    return [
        *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
        *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU()),
    ]


def _squeezenet(first: nn.Conv2d, pools_after: tuple[int, int]) -> list[nn.Module]:
    layers: list[nn.Module] = [first, nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)]
    channels = first.out_channels
    for i, (squeezed, expanded) in enumerate(
        [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)]
    ):
        layers.append(Fire(channels, squeezed, expanded))
        channels = 2 * expanded
        if i in pools_after:
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
    return layers


TRUNKS = {
    "vgg16": Trunk(_vgg16, (3, 8, 15, 22, 29)),
    "alexnet": Trunk(_alexnet, (1, 4, 7, 9, 11)),
    "squeezenet1_1": Trunk(
        lambda: _squeezenet(nn.Conv2d(3, 64, 3, stride=2), (1, 3)), (1, 4, 7, 9, 10, 11, 12)
    ),
    "squeezenet1_0": Trunk(lambda: _squeezenet(nn.Conv2d(3, 96, 7, stride=2), (2, 6)), (1, 4, 5, 8, 10, 12)),
}


class LPIPS(nn.Module):
    """Distance of pictures: squared differences of unit-length features, weighted, summed over the layers.

    Args:
        trunk: file with the trunk; which of `TRUNKS` it is follows from the shapes in it.
        heads: file with the heads; None weighs every channel alike, the layers together as 1.

    Attributes:
        name: of the trunk.

    Raises:
        DataError: a file cannot be read, or does not hold one of these trunks, or the trunk's heads.
    """

    def __init__(self, trunk: Path, heads: Path | None = None) -> None:
        super().__init__()
        self.name, self.features = _build(trunk)
        self.taps = TRUNKS[self.name].taps
        weights = _uniform(self) if heads is None else _read_heads(heads, self)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(IMAGE_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGE_STD).view(1, 3, 1, 1))
        self.heads = nn.ParameterList(weights)
        self.eval().requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance per picture, ``(B,)`` float32.

        Args:
            a, b: ``(B, 3, H, W)`` in [-1, 1], at least 32 x 32.

        Raises:
            ValueError: other shapes.
        """
        if a.shape != b.shape or a.ndim != 4 or a.shape[1] != 3 or min(a.shape[2:]) < SMALLEST_SIDE:
            raise ValueError(
                f"lpips: want two batches (B, 3, H, W) of at least {SMALLEST_SIDE} x {SMALLEST_SIDE} pixels, "
                f"got {tuple(a.shape)} and {tuple(b.shape)}"
            )
        distance = torch.zeros(a.shape[0], device=a.device)
        for weight, x, y in zip(self.heads, self.tapped(a), self.tapped(b), strict=True):
            difference = (unit_length(x) - unit_length(y)).square()  # (B, C, h, w)
            distance = distance + (difference * weight).sum(1).mean((1, 2))
        return distance

    def tapped(self, x: Tensor) -> list[Tensor]:
        """Outputs of the layers that count, for pictures ``(B, 3, H, W)`` in [-1, 1]."""
        x, outputs = (x - self.mean) / self.std, []
        for i, layer in enumerate(self.features):
            x = layer(x)
            if i in self.taps:
                outputs.append(x)
        return outputs


def unit_length(x: Tensor) -> Tensor:
    """Every position's channels over their norm, float32; all zeros stay zeros, with a finite gradient."""
    x = x.float()
    return x * (x.square().sum(1, keepdim=True) + 1e-20).rsqrt()


def _build(path: Path) -> tuple[str, nn.Sequential]:
    stored = {name: t for name, t in _read(path).items() if name.startswith("features.")}
    shapes = {name.removeprefix("features."): t.shape for name, t in stored.items()}
    for name, trunk in TRUNKS.items():
        with torch.device("meta"):
            features = nn.Sequential(*trunk.layers())
        if {key: t.shape for key, t in features.state_dict().items()} == shapes:
            features.load_state_dict({key: stored[f"features.{key}"].float() for key in shapes}, assign=True)
            return name, nn.Sequential(*list(features)[: trunk.taps[-1] + 1])
    raise DataError(
        f"{path}: want the features.* of one of {', '.join(TRUNKS)}, got {len(stored)} such tensors"
        + (f", features.0.weight {tuple(shapes['0.weight'])}" if "0.weight" in shapes else "")
    )


def _widths(lpips: LPIPS) -> list[int]:
    """Channels of every tap."""
    side = SMALLEST_SIDE
    x, widths = torch.zeros(1, 3, side, side), []
    for i, layer in enumerate(lpips.features):
        x = layer(x)
        if i in lpips.taps:
            widths.append(x.shape[1])
    return widths


def _uniform(lpips: LPIPS) -> list[Tensor]:
    return [torch.full((1, width, 1, 1), 1 / len(lpips.taps)) for width in _widths(lpips)]


def _read_heads(path: Path, lpips: LPIPS) -> list[Tensor]:
    stored = _read(path)
    want = {f"lin{i}.model.1.weight": (1, width, 1, 1) for i, width in enumerate(_widths(lpips))}
    got = {name: tuple(t.shape) for name, t in stored.items()}
    if got != want:
        raise DataError(f"{path}: want the heads of {lpips.name}, {want}, got {got}")
    return [stored[name].float() for name in want]


def _read(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == deep_compression.SUFFIX:
            return deep_compression.read_squeezenet(path, IMAGE_MEAN, IMAGE_STD)
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, UnpicklingError, RuntimeError, EOFError) as error:
        raise DataError(
            f"{path}: want weights (safetensors or .pth), got {' '.join(str(error).split())}"
        ) from None
    if not isinstance(stored, dict) or not all(isinstance(t, Tensor) for t in stored.values()):
        raise DataError(f"{path}: want named tensors, got {type(stored).__name__}")
    return stored
