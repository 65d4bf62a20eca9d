"""Noise to volumes and waves, of one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from pavdit.baselines.mm_diffusion.conditioning import Given, pulled_step, replacing
from pavdit.baselines.mm_diffusion.config import MMDiffusionConfig, SamplingConfig
from pavdit.baselines.mm_diffusion.schedule import NoiseSchedule
from pavdit.baselines.mm_diffusion.solvers import Predict, Streams, ddim, ddim_step, dpm_solver, orders_of
from pavdit.baselines.mm_diffusion.unet import CoupledUNet
from pavdit.flow.sampler import Callback

Network = CoupledUNet | Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

_SHIFTS = 0
"""Seed of the shifts, which follow each other: those of an evaluation are the same for every clip, so that no
clip depends on others of its batch."""


class Sampler:
    """Makes both streams, or the one that is not given.

    Args:
        config: sizes.
        unet: the network, in eval mode; draws the shifts.
        device: where it runs.
        dtype: in which; what is stepped stays float32.
        network: what is called in its place, such as its compiled form.
    """

    def __init__(
        self,
        config: MMDiffusionConfig,
        unet: CoupledUNet,
        device: torch.device,
        dtype: torch.dtype = torch.float32,
        network: Network | None = None,
    ) -> None:
        self.config, self.unet, self.device, self.dtype = config, unet, device, dtype
        self.network: Network = unet if network is None else network
        self.schedule = NoiseSchedule(config.diffusion)

    @torch.no_grad()
    def make(
        self,
        seeds: Sequence[int],
        sampling: SamplingConfig,
        given: Streams | None = None,
        callback: Callback | None = None,
    ) -> dict[str, Tensor]:
        """One clip a seed.

        Args:
            seeds: of each clip's noise.
            sampling: how.
            given: ``video`` ``(1, 3, T, H, W)`` or ``audio`` ``(1, 1, S)`` in [-1, 1], for all clips; None:
                neither.
            callback: ``callback(step, steps, stream)`` after every step, of the first stream that is made.

        Returns:
            ``video`` ``(B, 3, T, H, W)`` and ``audio`` ``(B, 1, S)``, float32 in [-1, 1]; not the given one.
        """
        random = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = self._noise(random)
        clean = {name: value.to(self.device).expand_as(noise[name]) for name, value in (given or {}).items()}
        known = Given(clean, {name: noise[name] for name in clean})
        x: Streams = {name: value for name, value in noise.items() if name not in clean}
        predict, evaluations = self._predict(), sampling.num_steps
        if sampling.method == "dpm-solver":
            made = replacing(self.schedule, predict, known)
            total = 1 + len(orders_of(evaluations - 1, sampling.order))
            steps = dpm_solver(self.schedule, made, x, evaluations, sampling.order)
        else:
            fresh, total = partial(self._noise, random) if sampling.eta else None, evaluations
            step = partial(ddim_step, self.schedule, replacing(self.schedule, predict, known))
            if sampling.condition == "gradient" and clean:
                step = partial(pulled_step, self.schedule, predict, known, scale=sampling.guidance_scale)
            steps = ddim(self.schedule, partial(step, eta=sampling.eta, fresh=fresh), x, evaluations)
        for number, x in enumerate(steps, 1):
            if callback is not None:
                callback(number, total, next(iter(x.values())))
        return dict(x)

    def _predict(self) -> Predict:
        """The network on float32 streams, with the shifts of one evaluation after the other."""
        shifts = torch.Generator().manual_seed(_SHIFTS)

        def predict(noisy: Streams, t: float) -> dict[str, Tensor]:
            video, audio = (noisy[name].to(self.dtype) for name in ("video", "audio"))
            times = torch.full((len(video),), t, device=self.device)
            out = self.network(video, audio, times, self.unet.draw_shifts(shifts).to(self.device))
            return dict(zip(("video", "audio"), (value.float() for value in out), strict=True))

        return predict

    def _noise(self, random: Sequence[torch.Generator]) -> dict[str, Tensor]:
        """Both streams, each clip's from its own generator, on the device."""
        clip = self.config.clip
        shapes = {
            "video": (3, clip.num_frames, clip.height, clip.width),
            "audio": (1, clip.num_samples),
        }
        drawn: dict[str, list[Tensor]] = {name: [] for name in shapes}
        for one in random:
            for name, shape in shapes.items():
                drawn[name].append(torch.randn(shape, generator=one))
        return {name: torch.stack(values).to(self.device) for name, values in drawn.items()}
