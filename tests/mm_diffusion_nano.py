"""The smallest coupled U-Nets, for the tests of MM-Diffusion."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from pavdit.baselines.mm_diffusion.config import MMDiffusionRun, UNetConfig
from pavdit.baselines.mm_diffusion.unet import CoupledUNet
from pavdit.clip import ClipSpec
from pavdit.train.checkpoint import begin, commit

UNET = {
    "width": 8,
    "multipliers": [1, 2],
    "num_blocks": 1,
    "groups": 4,
    "attention": [2],
    "num_heads": 1,
    "cross_attention": {1: 1, 2: 3},
    "cross_head_dim": 8,
}
CLIP = {"num_frames": 4, "height": 8, "width": 8, "fps": 50, "sample_rate": 8000}
SPEC = ClipSpec(**CLIP)
MEL = {"n_mels": 16, "f_max_hz": 4000, "n_fft": 513}
MODEL = {"clip": CLIP, "mel": MEL, "unet": UNET}


def small_unet(**over: object) -> CoupledUNet:
    """With something in every zero-initialised tensor."""
    torch.manual_seed(0)
    unet = CoupledUNet(UNetConfig(**(UNET | over)), SPEC.num_frames)
    for parameter in unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return unet.eval()


def write_weights(folder: Path, **over: object) -> Path:
    """A checkpoint of untrained weights."""
    tree = {"model": MODEL | over, "data": {"num_clips": 4, "scenes": "simple"}}
    config = MMDiffusionRun.model_validate(tree | {"train": {"run_dir": folder, "num_steps": 1}})
    unet = CoupledUNet(config.model.unet, config.model.clip.num_frames)
    state = {"seconds": 2.0}
    tensors = {"ema": unet.state_dict()}
    return commit(begin(folder, 1), 1, tensors=tensors, state=state, config=config)


def noisy(batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Video, audio, timesteps."""
    random = torch.Generator().manual_seed(1)
    video = torch.randn(batch, 3, 4, 8, 8, generator=random)
    return video, torch.randn(batch, 1, SPEC.num_samples, generator=random), torch.arange(batch) * 3.0
