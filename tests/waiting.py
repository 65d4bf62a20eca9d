"""Fails where a computation would wait for the device, wherever it runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PLACES = [
    "cpu",
    "meta",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]
"""On the meta device values that are carried to the host come from another device than the rest."""

WAITING = {
    "_local_scalar_dense",
    "is_nonzero",
    "item",
    "nonzero",
    "nonzero_numpy",
    "argwhere",
    "masked_select",
    "equal",
    "allclose",
    "unique_dim",
    "unique_consecutive",
    "_unique",
    "_unique2",
    "repeat_interleave",
}
"""Whose result has a size, or is a number, that depends on values."""


class NoWaiting(TorchDispatchMode):
    """Fails where an operation would wait for the device, or carries values to another one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if name in WAITING:
            raise AssertionError(f"want nothing that waits for the device, got {func}")
        if name.startswith("index") and any(t.dtype in (torch.bool, torch.uint8) for t in tensors[1:]):
            raise AssertionError(f"want no indexing by a mask, got {func}")
        out = func(*args, **(kwargs or {}))
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        devices = {t.device for t in (*tensors, *results) if t.ndim > 0}
        if len(devices) > 1:
            raise AssertionError(f"want one device, got {func} on {sorted(map(str, devices))}")
        return out
