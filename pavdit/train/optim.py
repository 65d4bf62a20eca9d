"""The optimiser, its learning rate, and its state as named tensors."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pavdit.config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay; without decay it is Adam (PAV-DiT A.2)."""
    return torch.optim.AdamW(
        model.parameters(),
        lr=config.learning_rate,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=True,
    )


def learning_rate(config: TrainConfig, step: int, seconds: float = 0.0) -> float:
    """Linear warm-up, then cosine decay to `final_learning_rate`.

    Args:
        config: rates and lengths.
        step: updates done.
        seconds: time trained; with a time limit the decay follows whichever of steps and time is further, so
            that a run that ends by the clock ends at the final rate too.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.final_learning_rate is None:
        return config.learning_rate * warmup
    progress = step / config.num_steps
    if config.time_limit_seconds is not None:
        progress = max(progress, seconds / config.time_limit_seconds)
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress))
    decayed = config.final_learning_rate + (config.learning_rate - config.final_learning_rate) * cosine
    return decayed * warmup


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state as ``parameter/key`` tensors."""
    names = [name for name, _ in model.named_parameters()]
    state = optimizer.state_dict()["state"]
    return {f"{names[i]}/{key}": value for i, entry in state.items() for key, value in entry.items()}


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]
) -> None:
    """Restore what `optimizer_tensors` gave; rates and betas stay those of the present configuration."""
    index = {name: i for i, (name, _) in enumerate(model.named_parameters())}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, what = key.rpartition("/")
        state.setdefault(index[name], {})[what] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
