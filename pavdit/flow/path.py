"""The path from noise to data, and the direction of time.

**t = 0 is noise, t = 1 is data.** This is the only place that says so. The path is straight; the box [-1, 1]
is convex, so a path between two points inside never leaves it, and the velocity along it is ``data - noise``
(Xie et al., Reflected Flow Matching, arXiv 2405.16577, section 3; PAV-DiT 4.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Prior = Literal["truncated_normal", "normal"]


def draw_noise(
    shape: Sequence[int], generators: Sequence[torch.Generator], prior: Prior = "truncated_normal"
) -> Tensor:
    """Noise for a batch of clips, one generator a clip: a seed means the clip, whatever the batch.

    ``truncated_normal`` is N(0, 1) truncated to [-1, 1] in every coordinate, drawn by inverting its
    distribution function in float64.

    Args:
        shape: of one clip's latent, ``(C, G, rows, columns)``.
        generators: one for each clip, all of one device; those of a CPU give the same numbers everywhere.
        prior: the distribution.

    Returns:
        ``(B, C, G, rows, columns)`` float32 on the generators' device.
    """
    return torch.stack([_draw(tuple(shape), generator, prior) for generator in generators])


def _draw(shape: tuple[int, ...], generator: torch.Generator, prior: Prior) -> Tensor:
    if prior == "normal":
        return torch.randn(shape, generator=generator, device=generator.device)
    if prior != "truncated_normal":
        raise ValueError(f"draw_noise: want prior truncated_normal or normal, got {prior!r}")
    draw = torch.rand(shape, generator=generator, device=generator.device, dtype=torch.float64)
    uniform = 2.0 * draw - 1.0
    mass = math.erf(1.0 / math.sqrt(2.0))  # of N(0, 1) inside [-1, 1]
    normal = math.sqrt(2.0) * torch.erfinv(mass * uniform)
    return normal.to(torch.float32).clamp(-1.0, 1.0)


def interpolate(noise: Tensor, data: Tensor, t: Tensor) -> Tensor:
    """The point of the straight path at time `t`, which is broadcast from the left."""
    t = t.reshape(t.shape + (1,) * (data.ndim - t.ndim)).to(data.dtype)
    return noise + t * (data - noise)


def target_velocity(noise: Tensor, data: Tensor) -> Tensor:
    """The velocity along the straight path, the same at every time."""
    return data - noise
