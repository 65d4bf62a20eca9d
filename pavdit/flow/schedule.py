"""Times: drawn for training, laid out for sampling; both shifted towards noise by the same factor."""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
from torch import Tensor


def draw_times(
    batch: int,
    distribution: Literal["logit_normal", "uniform"] = "logit_normal",
    generator: torch.Generator | None = None,
    shift: float = 1.0,
) -> Tensor:
    """Training times ``(B,)`` float32 in (0, 1) on the CPU.

    ``logit_normal`` is sigmoid(N(0, 1)), which trains the middle of the path more often than its ends. Both
    are shifted as in `shifted`.
    """
    if distribution == "logit_normal":
        return shifted(torch.sigmoid(torch.randn(batch, generator=generator)), shift)
    if distribution == "uniform":
        return shifted(torch.rand(batch, generator=generator), shift)
    raise ValueError(f"draw_times: want logit_normal or uniform, got {distribution!r}")


Time = TypeVar("Time", float, Tensor)


def shifted(t: Time, shift: float) -> Time:
    """``t / (t + s (1 - t))``: the time at which noise is s times as strong against data as it was at `t`.

    Source: timestep shifting (Esser et al., arXiv 2403.03206, eq. 23, in their time 1 - t).
    """
    return t if shift == 1.0 else t / (t + shift * (1.0 - t))


def time_grid(num_steps: int, shift: float = 1.0) -> list[float]:
    """``num_steps + 1`` times from noise to data, equally spaced before they are `shifted`; on the host: no
    step waits for it."""
    if num_steps < 1:
        raise ValueError(f"time_grid: want num_steps >= 1, got {num_steps}")
    return [shifted(step / num_steps, shift) for step in range(num_steps + 1)]
