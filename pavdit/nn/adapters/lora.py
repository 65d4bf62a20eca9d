"""Low-rank updates of linear layers (Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from pavdit.nn.twin import twin


class LoRA(nn.Module):
    """The update of one linear layer, ``alpha / rank * up @ down``. It begins at zero, because `up` does.

    Args:
        in_features, out_features: of the layer.
        rank: r.
        alpha: see above.
    """

    def __init__(self, in_features: int, out_features: int, rank: int, alpha: float) -> None:
        super().__init__()
        self.scale = alpha / rank
        self.down = nn.Parameter(torch.randn(rank, in_features) / in_features**0.5)
        self.up = nn.Parameter(torch.zeros(out_features, rank))

    def forward(self, x: Tensor, strength: float = 1.0) -> Tensor:
        """``(..., D)`` to ``(..., out_features)``, in two thin products."""
        return functional.linear(self.scale * strength * functional.linear(x, self.down), self.up)

    def update(self, strength: float = 1.0) -> Tensor:
        """``(out_features, in_features)``, what is added to the layer's weight."""
        return self.scale * strength * (self.up @ self.down)


class LoRALinear(nn.Linear):
    """A frozen linear layer with low-rank updates, made by `with_lora`.

    A call computes the thin products. Whoever takes `weight` itself, as the fused ops and the quantised
    layers do, gets the sum, so that no update is ever left out.
    """

    lora: nn.ModuleList
    lora_strengths: tuple[float, ...]

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """``(out_features, in_features)``: the layer's own and every update."""
        weight: Tensor = self._parameters["weight"]  # type: ignore[assignment]
        for lora, strength in zip(self.lora, self.lora_strengths, strict=True):
            weight = weight + lora.update(strength)  # type: ignore[operator]
        return weight

    def forward(self, x: Tensor) -> Tensor:
        y = functional.linear(x, self._parameters["weight"], self.bias)  # type: ignore[arg-type]
        for lora, strength in zip(self.lora, self.lora_strengths, strict=True):
            y = y + lora(x, strength)
        return y


@cache
def _with_updates(kind: type[nn.Linear]) -> type[LoRALinear]:
    """`LoRALinear` under what a kind of linear layer adds to ``nn.Linear``, such as its shapes."""
    return LoRALinear if kind is nn.Linear else type(f"LoRA{kind.__name__}", (kind, LoRALinear), {})


def with_lora(linear: nn.Linear, updates: Sequence[tuple[LoRA, float]]) -> LoRALinear:
    """The same layer, which is not changed, with updates of some strengths."""
    second = twin(linear)
    second.__class__ = _with_updates(type(linear))  # type: ignore[arg-type]
    assert isinstance(second, LoRALinear)  # noqa: S101 - just made one
    second.lora = nn.ModuleList(lora for lora, _ in updates)
    second.lora_strengths = tuple(strength for _, strength in updates)
    return second
