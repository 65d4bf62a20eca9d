"""The diffusion of both latents: noise levels, and DDIM, of which DDPM is eta 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import sqrt

import numpy as np
import torch
from torch import Tensor

Latents = tuple[Tensor, Tensor]
"""Of the video and of the sound."""


class NoiseLevels:
    """Variances that rise linearly, scaled to the number of times (Ho et al., arXiv 2006.11239, 4).

    ``noisy = sqrt(a_t) data + sqrt(1 - a_t) noise``, eq. 4, with ``a_t`` = `kept`.

    Args:
        num_timesteps: times from 0 (least noise) on.
    """

    def __init__(self, num_timesteps: int) -> None:
        variances = np.linspace(0.1 / num_timesteps, 20.0 / num_timesteps, num_timesteps)
        self.kept = np.cumprod(1.0 - variances)

    def diffuse(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Noisy data at times ``(B,)``, int64."""
        kept = torch.from_numpy(self.kept).to(t.device)[t].view(-1, *[1] * (data.ndim - 1))
        return kept.sqrt().to(data.dtype) * data + (1 - kept).sqrt().to(data.dtype) * noise

    def times(self, num_steps: int) -> list[int]:
        """Equally spaced from the last one to 0."""
        return np.linspace(len(self.kept) - 1, 0, num_steps).round().astype(int).tolist()

    def step(
        self, noisy: Tensor, noise: Tensor, t: int, to: int | None, eta: float, fresh: Tensor | None
    ) -> Tensor:
        """One step of DDIM (Song et al., arXiv 2010.02502, eq. 12 and 16).

        Args:
            noisy: at time `t`.
            noise: in it, as predicted.
            t: a time.
            to: the next one; None: the data.
            eta: share of fresh noise.
            fresh: that noise; None where `eta` is 0.
        """
        now = float(self.kept[t])
        data = (noisy - sqrt(1 - now) * noise) / sqrt(now)
        if to is None:
            return data
        then = float(self.kept[to])
        spread = eta * sqrt((1 - then) / (1 - now) * (1 - now / then))
        next_ = sqrt(then) * data + sqrt(max(0.0, 1 - then - spread**2)) * noise
        return next_ if fresh is None else next_ + spread * fresh


def sample(
    levels: NoiseLevels,
    predict: Callable[[Latents, int], Latents],
    draw: Callable[[], Latents],
    num_steps: int,
    eta: float,
) -> Iterator[Latents]:
    """Both latents after every step.

    Args:
        levels: of the noise.
        predict: the noise in both at a time.
        draw: standard normal numbers for both; first what is begun with.
        num_steps: evaluations of `predict`.
        eta: share of fresh noise.
    """
    latents, times = draw(), levels.times(num_steps)
    for t, to in zip(times, [*times[1:], None], strict=True):
        noise = predict(latents, t)
        fresh = draw() if eta and to is not None else (None, None)
        video, audio = (
            levels.step(x, e, t, to, eta, z) for x, e, z in zip(latents, noise, fresh, strict=True)
        )
        latents = video, audio
        yield latents
