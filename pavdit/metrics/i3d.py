"""I3D, the network of FVD: Inception-v1 inflated to three dimensions, trained on Kinetics-400.

Carreira & Zisserman 2017 (arXiv 1705.07750), table 1 and figure 3. The names of the weights are those of the
PyTorch port that the peers' files are made with. FVD and KVD are measured on its 400 logits. The weights are
not part of pavdit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pavdit.clip import frames_to_volume
from pavdit.metrics.networks import Network, fill, is_torchscript, load_script, read_state, sha256_of

SIDE = 224
NUM_CLASSES = 400
Fit = Literal["crop", "whole"]
"""How a picture becomes 224 x 224: `crop` scales the shorter side and cuts the rest, `whole` scales both."""

STEM: dict[str, tuple[int, int, int, int]] = {  # channels in and out, kernel, stride
    "Conv3d_1a_7x7": (3, 64, 7, 2),
    "Conv3d_2b_1x1": (64, 64, 1, 1),
    "Conv3d_2c_3x3": (64, 192, 3, 1),
}
MIXED: dict[str, tuple[int, int, int, int, int, int, int]] = {
    # channels in; branch 0; branch 1: reduced, out; branch 2: reduced, out; branch 3
    "Mixed_3b": (192, 64, 96, 128, 16, 32, 32),
    "Mixed_3c": (256, 128, 128, 192, 32, 96, 64),
    "Mixed_4b": (480, 192, 96, 208, 16, 48, 64),
    "Mixed_4c": (512, 160, 112, 224, 24, 64, 64),
    "Mixed_4d": (512, 128, 128, 256, 24, 64, 64),
    "Mixed_4e": (512, 112, 144, 288, 32, 64, 64),
    "Mixed_4f": (528, 256, 160, 320, 32, 128, 128),
    "Mixed_5b": (832, 256, 160, 320, 32, 128, 128),
    "Mixed_5c": (832, 384, 192, 384, 48, 128, 128),
}
POOLS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]] = {  # before this layer: kernel, stride
    "Conv3d_2b_1x1": ((1, 3, 3), (1, 2, 2)),
    "Mixed_3b": ((1, 3, 3), (1, 2, 2)),
    "Mixed_4b": ((3, 3, 3), (2, 2, 2)),
    "Mixed_5b": ((2, 2, 2), (2, 2, 2)),
}


def _pad_same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """TensorFlow's SAME: outputs of ceil(size / stride), the odd element of padding at the end."""
    pad: list[int] = []
    for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):
        total = max((math.ceil(size / s) - 1) * s + k - size, 0)
        pad += [total // 2, total - total // 2]
    return F.pad(x, pad) if any(pad) else x


def _pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    """Maximum over windows, one axis after the other: `F.max_pool3d` takes a third of I3D's time on a CPU."""
    x = _pad_same(x, kernel, stride)  # with zeros, which no value behind a ReLU is below
    for dim, k, s in zip((2, 3, 4), kernel, stride, strict=True):
        length = (x.shape[dim] - k) // s * s + 1
        x = reduce(
            torch.maximum,
            (x.narrow(dim, i, length).movedim(dim, -1)[..., ::s].movedim(-1, dim) for i in range(k)),
        )
    return x


class Unit(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, channels_in: int, channels: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels_in, channels, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)``, every axis divided by the stride."""
        return F.relu(self.bn(self.conv3d(_pad_same(x, self.conv3d.kernel_size, self.conv3d.stride))))


class Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, channels_in: int, b0: int, b1a: int, b1b: int, b2a: int, b2b: int, b3b: int) -> None:
        super().__init__()
        self.b0 = Unit(channels_in, b0)
        self.b1a, self.b1b = Unit(channels_in, b1a), Unit(b1a, b1b, 3)
        self.b2a, self.b2b = Unit(channels_in, b2a), Unit(b2a, b2b, 3)
        self.b3b = Unit(channels_in, b3b)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` with other channels."""
        pooled = _pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)


class Logits(nn.Module):
    """The last layer, a convolution without anything after it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(1024, NUM_CLASSES, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 1024, T, 1, 1)`` to ``(B, 400, T, 1, 1)``."""
        return self.conv3d(x)


class InceptionI3d(nn.Module):
    """344 weights under the peers' names."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = Logits()
        for name, sizes in STEM.items():
            self.add_module(name, Unit(*sizes))
        for name, channels in MIXED.items():
            self.add_module(name, Mixed(*channels))

    def pooled(self, volume: Tensor) -> Tensor:
        """``(B, 3, T, 224, 224)`` in [-1, 1], T >= 9, to ``(B, 1024, ceil(T / 8) - 1, 1, 1)``."""
        x = volume
        for name in (*STEM, *MIXED):
            if name in POOLS:
                x = _pool(x, *POOLS[name])
            x = self.get_submodule(name)(x)
        return F.avg_pool3d(x, (2, 7, 7), stride=1)

    def forward(self, volume: Tensor) -> Tensor:
        """``(B, 3, T, 224, 224)`` in [-1, 1] to the logits ``(B, 400)``, mean over time."""
        return self.logits(self.pooled(volume)).squeeze((3, 4)).mean(dim=2)


def i3d_input(frames: Tensor, fit: Fit = "crop") -> Tensor:
    """Frames as I3D takes them: bilinear without antialiasing, as all peers do.

    Args:
        frames: ``(B, T, 3, H, W)`` uint8.
        fit: `crop` (MM-Diffusion, PVDM) or `whole` (StyleGAN-V); the same for square frames.

    Returns:
        ``(B, 3, T, 224, 224)`` float32 in [-1, 1].
    """
    height, width = frames.shape[-2:]
    scale = SIDE / min(height, width)
    size = (SIDE, SIDE) if fit == "whole" else (math.ceil(height * scale), math.ceil(width * scale))
    small = frames_to_volume(frames).movedim(1, 2).flatten(0, 1)  # (B T, 3, H, W)
    large = F.interpolate(small, size=size, mode="bilinear", align_corners=False)
    top, left = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    square = large[..., top : top + SIDE, left : left + SIDE]
    return square.unflatten(0, frames.shape[:2]).movedim(2, 1)


def load_i3d(path: Path, device: torch.device) -> Network:
    """I3D from weights under the peers' names (safetensors or ``torch.save``) or StyleGAN-V's torchscript.

    Returns:
        ``run``: what `i3d_input` gives, to the logits ``(B, 400)`` float32 on the CPU.

    Raises:
        DataError: there is no such file, or it is another network's.
    """
    digest = sha256_of(path)
    forward: Callable[[Tensor], Tensor]
    if is_torchscript(path):
        script = load_script(path, device)

        def forward(volume: Tensor) -> Tensor:
            return script(volume, rescale=False, resize=False, return_features=True)
    else:
        model = InceptionI3d()
        fill(model, read_state(path), path)
        forward = _folded(model.eval(), device.type).to(device)

    @torch.inference_mode()
    def run(volume: Tensor) -> Tensor:
        # TF32, the default of convolutions on CUDA, is good for three digits
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return forward(volume.to(device)).float().cpu()

    return Network(path.name, digest, run)


def _folded(model: nn.Module, device_type: str) -> nn.Module:
    """The same function with every normalisation inside its convolution: a sixth less time on a CPU."""
    for unit in [module for module in model.modules() if isinstance(module, Unit)]:
        unit.conv3d = fuse_conv_bn_eval(unit.conv3d, unit.bn)
        unit.bn = nn.Identity()  # type: ignore[assignment]
        if device_type == "cpu" and unit.conv3d.kernel_size == (1, 1, 1):
            unit.conv3d = _Pointwise(unit.conv3d)  # type: ignore[assignment]
    return model


class _Pointwise(nn.Module):
    """A convolution of one point as a product: with one thread PyTorch has only a slow kernel for it."""

    def __init__(self, conv: nn.Conv3d) -> None:
        super().__init__()
        self.kernel_size, self.stride = conv.kernel_size, conv.stride
        assert conv.bias is not None  # noqa: S101 - the normalisation left one
        self.weight, self.bias = conv.weight.flatten(1), conv.bias[:, None]  # (out, in), (out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)``."""
        return (self.weight @ x.flatten(2)).add_(self.bias).unflatten(2, x.shape[2:])
