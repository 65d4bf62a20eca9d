"""flash-attn, where it is installed: an optional kernel for long attention inside a frame."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

MODULES = {4: "flash_attn.cute", 3: "flash_attn_interface", 2: "flash_attn"}
"""Where each generation keeps its `flash_attn_func`, the newest first."""


@dataclass(frozen=True, slots=True)
class Flash:
    """A generation of flash-attn that imports.

    Attributes:
        generation: 2, 3 or 4.
        function: ``flash_attn_func(q, k, v)`` of ``(P, N, A, E)`` tensors.
    """

    generation: int
    function: Callable[..., Tensor | tuple[Tensor, ...]]


@lru_cache(maxsize=1)
def find_flash() -> Flash | None:
    """The newest generation that imports here; None: there is none."""
    for generation, name in MODULES.items():
        try:
            return Flash(generation, importlib.import_module(name).flash_attn_func)
        except Exception:  # noqa: S112 (built for another torch it fails in its own ways, as if it were not there)
            continue
    return None


@torch.library.custom_op("pavdit_nn::flash_attention", mutates_args=())
def flash_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """``softmax(q k^T / sqrt(E)) v`` of ``(P, N, A, E)`` tensors by flash-attn; it has no gradient here.

    Behind an op, because the compiler cannot look into every generation.

    Raises:
        RuntimeError: flash-attn is not installed.
    """
    found = find_flash()
    if found is None:
        raise RuntimeError("flash_attention: want flash-attn to be installed, got none that imports")
    out = found.function(q, k, v)
    return out if isinstance(out, Tensor) else out[0]  # some return the logarithms of the sums too


@flash_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return q.new_empty(q.shape)
