"""Descent as device work alone: norm, clip, finite or not, AdamW in one pass; its rate and its state."""

from __future__ import annotations

import math

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor

from pavdit.config import LoopConfig
from pavdit.train.sharded import like, local


class Descent:
    """One module's optimiser: Adam with decoupled weight decay; without decay it is Adam (PAV-DiT A.2).

    Attributes:
        module: what descends.
        names: of its parameters, in their order.
        refused: 0-d float32 on the device, 1 where the last update was not finite and so not applied.
        norms: one gradient norm a parameter of the last update, 0 where it had no gradient.
    """

    def __init__(self, module: nn.Module, config: LoopConfig) -> None:
        self.module, self.gradient_clip = module, config.gradient_clip
        self.names, self.parameters = zip(*module.named_parameters(), strict=True)
        # What the optimiser sees: the parameters themselves, or what this rank has of them.
        self.shards = [local(p.detach()) if isinstance(p, DTensor) else p for p in self.parameters]
        device = self.parameters[0].device
        self.refused, self.norms = torch.zeros((), device=device), torch.zeros(0, device=device)
        self.optimizer = torch.optim.AdamW(
            self.shards,
            lr=torch.zeros((), device=device),  # a tensor: `set_rate` needs no new launch parameters
            betas=config.betas,
            weight_decay=config.weight_decay,
            fused=True,
            capturable=device.type == "cuda",
        )
        self.optimizer._warned_capturable_if_run_uncaptured = True  # it is at home outside of graphs, too

    def set_rate(self, rate: float) -> None:
        """Learning rate of the next step."""
        for group in self.optimizer.param_groups:
            group["lr"].fill_(rate)

    def step(self, loss: Tensor) -> Tensor:
        """Apply the gradients, their norm limited to `gradient_clip`, unless they or `loss` are not finite.

        The host is told nothing: the flag goes to the fused optimiser as ``found_inf``, the clip as
        ``grad_scale``, by which it divides.

        Returns:
            The norm before it was limited, 0-d.
        """
        for parameter, shard in zip(self.parameters, self.shards, strict=True):
            if shard is not parameter and parameter.grad is not None:
                shard.grad = local(parameter.grad)
        zero = torch.zeros_like(self.refused)
        has = [p.grad is not None for p in self.shards]
        found = iter(torch._foreach_norm([p.grad for p in self.shards if p.grad is not None]))
        self.norms = torch.stack([next(found) if there else zero for there in has])
        if any(isinstance(p, DTensor) for p in self.parameters):
            squares = self.norms.square()
            distributed.all_reduce(squares)
            self.norms = squares.sqrt()
        norm = torch.linalg.vector_norm(self.norms)
        self.refused = (~(norm.isfinite() & loss.detach().isfinite())).float()
        vars(self.optimizer)["found_inf"] = self.refused
        vars(self.optimizer)["grad_scale"] = (norm / self.gradient_clip).clamp(min=1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.module.zero_grad(set_to_none=True)
        return norm

    def tensors(self) -> dict[str, Tensor]:
        """The optimiser's state as ``parameter/key`` tensors."""
        state = self.optimizer.state_dict()["state"]
        return {
            f"{self.names[i]}/{key}": like(value, self.parameters[i])
            for i, entry in state.items()
            for key, value in entry.items()
        }

    def begin(self) -> None:
        """Have the state of a first step, for tensors to be read into."""
        for shard in self.shards:
            zeros = {name: torch.zeros_like(shard) for name in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[shard] = {"step": torch.zeros((), device=shard.device), **zeros}

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `tensors` gave; rates and betas stay those of the present configuration.

        State that is there is written into, for a captured graph knows it by its memory.
        """
        shards, loaded = dict(zip(self.names, self.shards, strict=True)), set[Tensor]()
        for key, value in tensors.items():
            name, _, what = key.rpartition("/")
            state, shard = self.optimizer.state, shards[name]
            loaded.add(shard)
            state[shard].setdefault(what, torch.empty_like(value, device=shard.device)).copy_(value)
        for shard in self.optimizer.state.keys() - loaded:
            del self.optimizer.state[shard]


def decayed_rate(config: LoopConfig, rate: float, step: int, seconds: float = 0.0) -> float:
    """Linear warm-up to `rate`, then cosine decay in the proportion of `final_learning_rate`.

    Args:
        config: rates and lengths.
        rate: `learning_rate`, or the adversary's.
        step: updates done.
        seconds: time trained; with a time limit the decay follows whichever of steps and time is further, so
            that a run that ends by the clock ends at the final rate too.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.final_learning_rate is None:
        return rate * warmup
    progress = step / config.num_steps
    if config.time_limit_seconds is not None:
        progress = max(progress, seconds / config.time_limit_seconds)
    cosine = 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress))
    last = config.final_learning_rate * (rate / config.learning_rate)
    return (last + (rate - last) * cosine) * warmup
