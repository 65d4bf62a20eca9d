"""The narrow middle of a stream: planes of width D to C channels in [-1, 1], and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pavdit.latents import Planes
from pavdit.mdsa.attention import PlaneFeatures

LOG_VARIANCE_AT_START = -6.0
"""sigma = 0.05: small beside the latent's spread, so stage 2 starts from stage 1's pictures."""

MEAN_AT_START = 0.6
"""Spread of mu, where tanh is still nearly linear."""


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

    def sample(self, noise: Planes) -> Planes:
        """``tanh(mu + sigma * eps)``: the latent that stage 2 trains on.

        Args:
            noise: eps, see `draw_noise`.
        """

        def draw(mean: Tensor, log_variance: Tensor, eps: Tensor) -> Tensor:
            return torch.tanh(mean + torch.exp(0.5 * log_variance) * eps.to(mean.dtype))

        mean, log_variance = self.mean, self.log_variance
        return Planes(
            draw(mean.hw, log_variance.hw, noise.hw),
            draw(mean.tw, log_variance.tw, noise.tw),
            draw(mean.th, log_variance.th, noise.th),
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


def draw_noise(
    batch: int, channels: int, grid: tuple[int, int, int], generator: torch.Generator | None = None
) -> Planes:
    """eps ~ N(0, 1) for the planes of one stream, float32.

    Args:
        batch: B.
        channels: C.
        grid: (T, H', W').
        generator: of the draws and of the device.
    """
    frames, rows, columns = grid
    device = None if generator is None else generator.device
    hw, tw, th = (
        torch.randn(batch, channels, *edges, generator=generator, device=device)
        for edges in ((rows, columns), (frames, columns), (frames, rows))
    )
    return Planes(hw, tw, th)


class ToLatent(nn.Module):
    """Planes of width D to a `Posterior` of C channels: per plane a LayerNorm and two 1 x 1 convolutions.

    The convolutions are matrix products. The log-variance heads begin constant and are unused in stage 1;
    they are there so that stage 2 can load its checkpoint as it is.
    """

    def __init__(self, width: int, latent_channels: int) -> None:
        super().__init__()
        planes = PlaneFeatures._fields
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in planes)
        self.mean = nn.ModuleList(MeanHead(width, latent_channels) for _ in planes)
        self.log_variance = nn.ModuleList(LogVarianceHead(width, latent_channels) for _ in planes)

    def forward(self, planes: PlaneFeatures) -> Posterior:
        features = [norm(plane) for norm, plane in zip(self.norm, planes, strict=True)]
        return Posterior(_apply_heads(self.mean, features), _apply_heads(self.log_variance, features))


class MeanHead(nn.Linear):
    """A linear layer whose weights are of order 1, its inputs divided by sqrt(D) instead.

    Adam moves every weight by about the learning rate, so D weights that agree move a plain linear layer's
    output D times as fast: within some tens of steps the tanh behind it is saturated and the latent dead.
    This divides that by sqrt(D).
    """

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__(width, out_channels)
        nn.init.normal_(self.weight, std=MEAN_AT_START)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.in_features**-0.5)


class LogVarianceHead(nn.Linear):
    """A linear layer that begins by giving `LOG_VARIANCE_AT_START` for every input."""

    def __init__(self, width: int, out_channels: int) -> None:
        super().__init__(width, out_channels)
        nn.init.zeros_(self.weight)
        nn.init.constant_(self.bias, LOG_VARIANCE_AT_START)


def _apply_heads(heads: nn.ModuleList, features: list[Tensor]) -> Planes:
    hw, tw, th = (head(x).movedim(-1, 1).contiguous() for head, x in zip(heads, features, strict=True))
    return Planes(hw, tw, th)  # (B, C, rows, columns) each


class FromLatent(nn.Module):
    """Planes of C channels back to width D, channels last: a 1 x 1 convolution per plane."""

    def __init__(self, latent_channels: int, width: int) -> None:
        super().__init__()
        self.hw = nn.Linear(latent_channels, width)
        self.tw = nn.Linear(latent_channels, width)
        self.th = nn.Linear(latent_channels, width)
        for layer in (self.hw, self.tw, self.th):
            nn.init.normal_(layer.weight)  # latents are small and few: three planes sum to about 1
            nn.init.zeros_(layer.bias)

    def forward(self, planes: Planes) -> PlaneFeatures:
        return PlaneFeatures(
            self.hw(planes.hw.movedim(1, -1)),  # (B, H', W', D)
            self.tw(planes.tw.movedim(1, -1)),  # (B, T, W', D)
            self.th(planes.th.movedim(1, -1)),  # (B, T, H', D)
        )
