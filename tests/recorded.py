"""Stands for a CUDA graph where there is no device: what a call did is done again, on the same memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from waiting import WAITING

HOST = WAITING | {"lift_fresh"}
"""What reads a number of the device, or makes a tensor of numbers of the host: no graph holds either."""


class Recording(TorchDispatchMode):
    """Keeps every operation of a call, with the tensors that it read and those that it made."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name.partition("::")[2] in HOST:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}")
        out = func(*args, **(kwargs or {}))
        own = [a for a in func._schema.returns if a.alias_info is None]
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)] if own else []
        self.steps.append((func, args, kwargs or {}, made))
        return out

    @torch.no_grad()
    def again(self) -> None:
        """Results take the place of the results before, as kernels write where they wrote."""
        for func, args, kwargs, made in self.steps:
            if func.is_view:
                continue
            out = func(*args, **kwargs)
            for old, new in zip(made, tree_leaves(out) if made else [], strict=True):
                if isinstance(old, Tensor) and old is not new:
                    old.copy_(new)


class RecordedCapture:
    """Warms up once, then records."""

    def __init__(self) -> None:
        self.captures = 0

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        function()
        self.captures += 1
        with Recording() as recording:
            function()
        return recording.again
