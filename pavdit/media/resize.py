"""Bringing a picture of any size and orientation to H x W."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

Resize = Literal["crop", "mmdiffusion", "mmdiffusion-antialiased", "pvdm"]
"""`crop` is ours; the others are the peers', who leave the shape of a pixel out of account.

crop: the centre of the shape that is asked for, bilinear, antialiased.
mmdiffusion: the whole picture on black, bicubic, as with the torchvision of its time; -antialiased: as with
today's.
pvdm: the centre square, bilinear, not antialiased.
"""


def turn(picture: np.ndarray, quarter_turns: int) -> np.ndarray:
    """Turn ``(h, w, 3)`` counterclockwise by quarter turns, as a display matrix asks."""
    return np.ascontiguousarray(np.rot90(picture, quarter_turns))


def _centre_crop(picture: Tensor, height: int, width: int, pixel_aspect: float) -> Tensor:
    """The largest centred window of ``(3, h, w)`` that has the shape of height x width on the display."""
    rows, columns = picture.shape[-2:]
    aspect = width / height / pixel_aspect
    crop_rows = min(rows, max(1, round(columns / aspect)))
    crop_columns = min(columns, max(1, round(rows * aspect)))
    top, left = (rows - crop_rows) // 2, (columns - crop_columns) // 2
    return picture[:, top : top + crop_rows, left : left + crop_columns]


def _fit(picture: Tensor, height: int, width: int, antialias: bool) -> Tensor:
    """The whole of ``(3, h, w)``, bicubic, centred on black."""
    rows, columns = picture.shape[-2:]
    scale = min(height / rows, width / columns)
    # int() truncates as the peers' code does; a row or column of black is the difference.
    size = (max(1, int(rows * scale)), max(1, int(columns * scale)))
    small = F.interpolate(picture[None], size=size, mode="bicubic", antialias=antialias)[0]
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return F.pad(small, (left, width - size[1] - left, top, height - size[0] - top))


def resize_picture(
    picture: np.ndarray, height: int, width: int, rule: Resize, pixel_aspect: float = 1.0
) -> Tensor:
    """Bring one picture to the size of a clip.

    Args:
        picture: ``(h, w, 3)`` uint8.
        height: H in pixels.
        width: W in pixels.
        rule: see `Resize`.
        pixel_aspect: width of a stored pixel over its height; only ``crop`` heeds it.

    Returns:
        ``(3, H, W)`` uint8.
    """
    pixels = torch.from_numpy(picture).permute(2, 0, 1).to(torch.float32)
    return scaled(pixels, height, width, rule, pixel_aspect).round().clamp(0, 255).to(torch.uint8)


def scaled(pixels: Tensor, height: int, width: int, rule: Resize, pixel_aspect: float = 1.0) -> Tensor:
    """`resize_picture` of ``(3, h, w)`` float32, before it is rounded."""
    if rule in ("mmdiffusion", "mmdiffusion-antialiased"):
        return _fit(pixels, height, width, antialias=rule == "mmdiffusion-antialiased")
    if rule == "pvdm":
        window = _centre_crop(pixels, 1, 1, 1.0)
    else:
        window = _centre_crop(pixels, height, width, pixel_aspect)
    return F.interpolate(window[None], size=(height, width), mode="bilinear", antialias=rule == "crop")[0]
