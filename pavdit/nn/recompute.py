"""Gradient checkpointing (Chen et al., arXiv 1604.06174): activations recomputed instead of kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class Recomputable(nn.Module):
    """A module whose layers can be run a second time in the backward pass.

    Attributes:
        recompute: keep a layer's inputs alone; the gradients are the same, the time about a third more.
        draws: a layer draws random numbers, which are then drawn again; else it must not.
    """

    recompute: bool = False
    draws: bool = False

    def run(self, layer: Callable[..., Any], *inputs: Any) -> Any:  # noqa: ANN401 (whatever the layer takes)
        """``layer(*inputs)``."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(layer, *inputs, use_reentrant=False, preserve_rng_state=self.draws)
        return layer(*inputs)


def recompute_layers(model: nn.Module, on: bool = True) -> None:
    """Switch gradient checkpointing of every `Recomputable` part of a model."""
    for part in model.modules():
        if isinstance(part, Recomputable):
            part.recompute = on
