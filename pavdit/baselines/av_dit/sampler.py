"""Noise to clips, of one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from pavdit.baselines.av_dit.config import AVDiTConfig, AVDiTSampling
from pavdit.baselines.av_dit.network import AVDiT
from pavdit.baselines.mm_diffusion.schedule import NoiseSchedule
from pavdit.baselines.mm_diffusion.solvers import Streams, ddim, ddim_step
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
    ) -> tuple[Tensor, Tensor]:
        """One clip a seed, whatever its neighbours in the batch are.

        Args:
            seeds: of each clip's noise.
            sampling: how.
            callback: ``callback(step, num_steps, video)`` after every step.

        Returns:
            ``(B, C, T, rows, columns)`` and ``(B, C_a, 1, rows, columns)`` float32.
        """
        random = [torch.Generator().manual_seed(seed) for seed in seeds]
        shapes = {"video": self.config.picture_shape, "audio": self.config.sound_shape}

        def draw() -> dict[str, Tensor]:
            each = [
                {name: torch.randn(shape, generator=one) for name, shape in shapes.items()} for one in random
            ]
            return {name: torch.stack([row[name] for row in each]).to(self.device) for name in shapes}

        def predict(noisy: Streams, t: float) -> dict[str, Tensor]:
            times = torch.full((len(seeds),), t, device=self.device)
            video, audio = self.network(noisy["video"].to(self.dtype), noisy["audio"].to(self.dtype), times)
            return {"video": video.float(), "audio": audio.float()}

        schedule = NoiseSchedule(self.config.diffusion)
        fresh = draw if sampling.eta else None
        step = partial(ddim_step, schedule, predict, eta=sampling.eta, fresh=fresh, bounded=False)
        x: Streams = draw()
        for number, x in enumerate(ddim(schedule, step, x, sampling.num_steps), 1):  # noqa: B020 (steps)
            if callback is not None:
                callback(number, sampling.num_steps, x["video"])
        return x["video"], x["audio"]
