"""The narrow middle of a stream: planes of width D to C channels in [-1, 1], and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pavdit.latents import Planes
from pavdit.mdsa.attention import PlaneFeatures

LOG_VARIANCE_AT_START = -6.0
"""sigma = 0.05: small beside the latent's spread, so stage 2 starts from stage 1's pictures."""


@dataclass(frozen=True, slots=True)
class Posterior:
    """N(mean, exp(log_variance)) per latent value, before the tanh that puts latents into the box [-1, 1].

    Attributes:
        mean: mu, planes ``(B, C, rows, columns)``.
        log_variance: log sigma^2, same shapes.
    """

    mean: Planes
    log_variance: Planes

    def mode(self) -> Planes:
        """``tanh(mu)``: the latent of stage 1, of caches and of files."""
        return self.mean.map(torch.tanh)

    def sample(self, generator: torch.Generator | None = None) -> Planes:
        """``tanh(mu + sigma * eps)``, eps ~ N(0, 1): the latent that stage 2 trains on."""

        def draw(mean: Tensor, log_variance: Tensor) -> Tensor:
            device = mean.device if generator is None else generator.device
            eps = torch.randn(mean.shape, generator=generator, device=device).to(mean)
            return torch.tanh(mean + torch.exp(0.5 * log_variance) * eps)

        mean, log_variance = self.mean, self.log_variance
        return Planes(
            draw(mean.hw, log_variance.hw), draw(mean.tw, log_variance.tw), draw(mean.th, log_variance.th)
        )

    def kl(self) -> Tensor:
        """KL(N(mu, sigma^2) || N(0, 1)) summed over a stream's latent: ``(B,)``, at least float32.

        The KL term of eq. 11, read as the latent's ("batchmean": the trainer averages over the batch).
        """
        terms = []
        for mean, log_variance in (
            (self.mean.hw, self.log_variance.hw),
            (self.mean.tw, self.log_variance.tw),
            (self.mean.th, self.log_variance.th),
        ):
            dtype = torch.promote_types(mean.dtype, torch.float32)
            mu, log_var = mean.to(dtype), log_variance.to(dtype)
            terms.append(0.5 * (mu.square() + log_var.exp() - 1.0 - log_var).flatten(1).sum(1))
        return terms[0] + terms[1] + terms[2]


class ToLatent(nn.Module):
    """Planes of width D to a `Posterior` of C channels: two 1 x 1 convolutions a plane, as matrix products.

    The log-variance heads begin constant and are unused in stage 1; they are there so that stage 2 can load
    its checkpoint as it is.
    """

    def __init__(self, width: int, latent_channels: int) -> None:
        super().__init__()
        self.mean = nn.ModuleList(nn.Linear(width, latent_channels) for _ in PlaneFeatures._fields)
        self.log_variance = nn.ModuleList(
            _constant_head(width, latent_channels, LOG_VARIANCE_AT_START) for _ in PlaneFeatures._fields
        )

    def forward(self, planes: PlaneFeatures) -> Posterior:
        return Posterior(self._apply_heads(self.mean, planes), self._apply_heads(self.log_variance, planes))

    @staticmethod
    def _apply_heads(heads: nn.ModuleList, planes: PlaneFeatures) -> Planes:
        hw, tw, th = (
            head(plane).movedim(-1, 1).contiguous() for head, plane in zip(heads, planes, strict=True)
        )
        return Planes(hw, tw, th)  # (B, C, rows, columns) each


def _constant_head(width: int, out_channels: int, value: float) -> nn.Linear:
    """A linear layer that begins by giving `value` for every input."""
    head = nn.Linear(width, out_channels)
    nn.init.zeros_(head.weight)
    nn.init.constant_(head.bias, value)
    return head


class FromLatent(nn.Module):
    """Planes of C channels back to width D, channels last: a 1 x 1 convolution per plane."""

    def __init__(self, latent_channels: int, width: int) -> None:
        super().__init__()
        self.hw = nn.Linear(latent_channels, width)
        self.tw = nn.Linear(latent_channels, width)
        self.th = nn.Linear(latent_channels, width)

    def forward(self, planes: Planes) -> PlaneFeatures:
        return PlaneFeatures(
            self.hw(planes.hw.movedim(1, -1)),  # (B, H', W', D)
            self.tw(planes.tw.movedim(1, -1)),  # (B, T, W', D)
            self.th(planes.th.movedim(1, -1)),  # (B, T, H', D)
        )
