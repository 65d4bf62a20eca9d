"""An exponential moving average of a model's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from pavdit.train.sharded import gathered, like, local


def ema_decay(decay: float, num_updates: Tensor) -> Tensor:
    """Decay of update `num_updates` (from 0): low at first, so that the initial weights are forgotten."""
    return ((1 + num_updates) / (10 + num_updates)).clamp(max=decay)


class Ema:
    """Averaged copy of a model; buffers are copied.

    Attributes:
        model: the average, in eval mode, without gradients.
        num_updates: updates so far, 0-d float64 on the model's device.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.averages: list[Tensor] = list(self.model.parameters())
        device = next(model.parameters()).device
        self.num_updates = torch.zeros((), dtype=torch.float64, device=device)

    def shard(self, model: nn.Module) -> None:
        """Keep the average as `model`, which holds the same weights, was split over the ranks."""
        self.averages = [local(p.detach()).clone() for p in model.parameters()]

    @torch.no_grad()
    def gather(self, model: nn.Module) -> None:
        """Make `self.model` the average where it is split; all ranks call it."""
        for whole, average, p in zip(self.model.parameters(), self.averages, model.parameters(), strict=True):
            if average is not whole:
                whole.copy_(gathered(like(average, p)))

    @torch.no_grad()
    def update(self, model: nn.Module, refused: Tensor) -> None:
        """Move the average towards `model`, ``ema += (1 - decay) * (weight - ema)``, unless `refused` is 1.

        This is gradient ascent with weight decay 1 where the weights stand as the gradient:
        ``ema - lr * (ema - weight)``. So torch's fused SGD does it, in one pass over all tensors, with the
        rate and the gate (``found_inf``) on the device.

        Args:
            model: what is averaged.
            refused: 0-d float32 on the device.
        """
        weight = (1.0 - ema_decay(self.decay, self.num_updates)).float()
        torch._fused_sgd_(
            self.averages,
            [local(p.detach()) for p in model.parameters()],
            [],
            weight_decay=1.0,
            momentum=0.0,
            lr=weight,
            dampening=0.0,
            nesterov=False,
            maximize=True,
            is_first_step=False,
            found_inf=refused,
        )
        for average, buffer in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(torch.where(refused.bool(), average, buffer))
        self.num_updates += 1.0 - refused
