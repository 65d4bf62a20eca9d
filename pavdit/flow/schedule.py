"""Times: drawn for training, laid out for sampling."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def draw_times(
    batch: int,
    distribution: Literal["logit_normal", "uniform"] = "logit_normal",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Training times ``(B,)`` float32 in (0, 1) on the CPU.

    ``logit_normal`` is sigmoid(N(0, 1)), which trains the middle of the path more often than its ends.
    """
    if distribution == "logit_normal":
        return torch.sigmoid(torch.randn(batch, generator=generator))
    if distribution == "uniform":
        return torch.rand(batch, generator=generator)
    raise ValueError(f"draw_times: want logit_normal or uniform, got {distribution!r}")


def time_grid(num_steps: int) -> list[float]:
    """``num_steps + 1`` equally spaced times from noise to data; on the host: no step waits for it."""
    if num_steps < 1:
        raise ValueError(f"time_grid: want num_steps >= 1, got {num_steps}")
    return [step / num_steps for step in range(num_steps + 1)]
