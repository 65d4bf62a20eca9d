"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def ema_decay(decay: float, num_updates: int) -> float:
    """Decay of update `num_updates` (from 0): low at first, so that the initial weights are forgotten."""
    return min(decay, (1 + num_updates) / (10 + num_updates))


class Ema:
    """Averaged copy of a model; buffers are copied.

    Attributes:
        model: the average, in eval mode, without gradients.
        num_updates: updates so far.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.num_updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards `model`: ``ema += (1 - decay) * (weight - ema)``."""
        weight = 1.0 - ema_decay(self.decay, self.num_updates)
        averages: list[Tensor] = list(self.model.parameters())
        torch._foreach_lerp_(averages, [p.detach() for p in model.parameters()], weight)
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(buffer)
        self.num_updates += 1
