"""The perceptual term that a run can afford: LPIPS where there are weights, else multi-scale gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rich.console import Console
from torch import Tensor

from pavdit.audio.mel import display
from pavdit.config import RunConfig
from pavdit.files import file_record
from pavdit.mdsa.loss import Distance, gradient_l1
from pavdit.nn.lpips import LPIPS


@dataclass(frozen=True, slots=True)
class LpipsOfFrames:
    """LPIPS of video frames and of mel images, which it sees as the grey pictures that people see.

    Attributes:
        lpips: on the run's device.
        height, width: H and W of the pictures.
    """

    lpips: LPIPS
    height: int
    width: int

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Distance ``(B,)`` of frames ``(B, 3, H, W)`` or mel images ``(B, 1, M, L)``."""
        return self.lpips(self.picture(a), self.picture(b))

    def picture(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)``."""
        if x.shape[1] == 3:
            return x
        return display(x[:, :, None], self.height, self.width)[:, :, 0].expand(-1, 3, -1, -1)


def perceptual_distance(config: RunConfig, device: torch.device, console: Console) -> Distance:
    """The distance that `config` names; says which on the console.

    Raises:
        DataError: a file of weights cannot be used.
    """
    train, clip = config.train, config.model.clip
    if train.lpips_trunk is None:
        if train.perceptual_weight > 0:
            console.print("perceptual loss: multi-scale gradient L1, as there is no LPIPS trunk")
        return gradient_l1
    lpips = LPIPS(train.lpips_trunk, train.lpips_heads).to(device)
    heads = "all channels alike" if train.lpips_heads is None else f"heads {train.lpips_heads}"
    digest = file_record(train.lpips_trunk).sha256[:12]
    console.print(f"perceptual loss: LPIPS, {lpips.name} of {train.lpips_trunk} ({digest}), {heads}")
    return LpipsOfFrames(lpips, clip.height, clip.width)
