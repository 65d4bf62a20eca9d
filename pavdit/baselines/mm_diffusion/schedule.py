"""How much noise there is when (Ho et al., arXiv 2006.11239, eq. 4; Lu et al., arXiv 2206.00927, appendix D).

A time is a number from 0 (least noise) to N - 1 (all but nothing else), as the network is told it; whole
numbers in training. ``x_t = alpha_t data + sigma_t noise`` with ``alpha_t^2 + sigma_t^2 = 1``.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pavdit.baselines.mm_diffusion.config import DiffusionConfig


class NoiseSchedule:
    """The levels of every time.

    Attributes:
        last: N - 1.
    """

    def __init__(self, config: DiffusionConfig) -> None:
        steps = config.num_timesteps
        variances = np.linspace(0.1 / steps, 20.0 / steps, steps)  # 1e-4 to 0.02 for 1000
        self.last = float(steps - 1)
        self._times = np.arange(steps, dtype=np.float64)
        self._log_alpha = 0.5 * np.cumsum(np.log1p(-variances))

    def levels(self, t: float) -> tuple[float, float]:
        """alpha and sigma; between whole times ``log alpha`` is linear."""
        log_alpha = float(np.interp(t, self._times, self._log_alpha))
        return float(np.exp(log_alpha)), float(np.sqrt(-np.expm1(2 * log_alpha)))

    def half_log_snr(self, t: float) -> float:
        """lambda = log(alpha / sigma), which falls with the time."""
        alpha, sigma = self.levels(t)
        return float(np.log(alpha / sigma))

    def time_of(self, half_log_snr: float) -> float:
        """The inverse of `half_log_snr`; at the ends the nearest time."""
        log_alpha = -0.5 * np.logaddexp(0.0, -2.0 * half_log_snr)
        return float(np.interp(log_alpha, self._log_alpha[::-1], self._times[::-1]))

    def diffuse(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """``alpha_t data + sigma_t noise``.

        Args:
            data: ``(B, ...)``.
            noise: its shape.
            t: ``(B,)`` int64, on the same device.
        """
        log_alpha = torch.from_numpy(self._log_alpha).to(t.device)[t]  # float64
        alpha, sigma = log_alpha.exp(), (-(2 * log_alpha).expm1()).sqrt()
        rows = (-1, *[1] * (data.ndim - 1))
        return alpha.to(data.dtype).view(rows) * data + sigma.to(data.dtype).view(rows) * noise
