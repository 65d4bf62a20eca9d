"""Noise to clips, of one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pavdit.baselines.av_dit.config import AVDiTConfig, AVDiTSampling
from pavdit.baselines.av_dit.diffusion import Latents, NoiseLevels, sample
from pavdit.baselines.av_dit.network import AVDiT
from pavdit.flow.sampler import Callback

Network = AVDiT | Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Sampler:
    """Makes latents of both streams.

    Attributes:
        config: sizes.
        network: in eval mode, or its compiled form.
        device: where it runs.
        dtype: in which; what is stepped stays float32.
    """

    config: AVDiTConfig
    network: Network
    device: torch.device
    dtype: torch.dtype = torch.float32

    @torch.no_grad()
    def make(
        self, seeds: Sequence[int], sampling: AVDiTSampling, callback: Callback | None = None
    ) -> Latents:
        """One clip a seed, whatever its neighbours in the batch are.

        Args:
            seeds: of each clip's noise.
            sampling: how.
            callback: ``callback(step, num_steps, video)`` after every step.

        Returns:
            ``(B, C, T, rows, columns)`` and ``(B, C_a, 1, rows, columns)`` float32.
        """
        random = [torch.Generator().manual_seed(seed) for seed in seeds]

        def draw() -> Latents:
            shapes = self.config.picture_shape, self.config.sound_shape
            each = [[torch.randn(shape, generator=one) for shape in shapes] for one in random]
            video, audio = (torch.stack(rows).to(self.device) for rows in zip(*each, strict=True))
            return video, audio

        def predict(noisy: Latents, t: int) -> Latents:
            times = torch.full((len(seeds),), t, device=self.device)
            video, audio = self.network(noisy[0].to(self.dtype), noisy[1].to(self.dtype), times)
            return video.float(), audio.float()

        levels = NoiseLevels(self.config.num_timesteps)
        steps = sample(levels, predict, draw, sampling.num_steps, sampling.eta)
        latents: Latents | None = None
        for number, latents in enumerate(steps, 1):
            if callback is not None:
                callback(number, sampling.num_steps, latents[0])
        assert latents is not None  # noqa: S101 - there is at least one step
        return latents
