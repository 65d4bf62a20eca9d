"""What the tests of the block attention ops share: inputs in every layout, and how a result is judged."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from attention_loops import attention_row, norm_and_rotate_vector
from numerics import assert_no_worse
from torch import Tensor

Block = tuple[int, int, int]
CUDA = pytest.mark.skipif(
    not torch.cuda.is_available() and "cuda" not in os.environ.get("PAVDIT_REQUIRE_KERNELS", ""),
    reason="no CUDA device",
)
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
LOW = [torch.float32, torch.bfloat16, torch.float16]


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """Normal numbers, the same for every dtype up to rounding."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def loops(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block: Block,
    valid: Tensor | None = None,
    weights: tuple[Tensor | None, Tensor | None] = (None, None),
    rope: Tensor | None = None,
) -> Tensor:
    """For every query: the keys whose (t, h, w) fall into the same block, one vector at a time."""
    out = torch.zeros_like(q)
    b, *grid, heads, _ = q.shape
    tokens = list(itertools.product(*(range(n) for n in grid)))

    def block_of(token: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(x // n for x, n in zip(token, block, strict=True))

    for i, token, head in itertools.product(range(b), tokens, range(heads)):
        mates = [other for other in tokens if block_of(other) == block_of(token)]  # in the order (t, h, w)
        seen = [n for n, m in enumerate(mates) if valid is None or valid.expand(q.shape[:4])[(i, *m)]]
        query = norm_and_rotate_vector(q[(i, *token, head)], weights[0], rope, mates.index(token))
        keys = [norm_and_rotate_vector(k[(i, *mates[n], head)], weights[1], rope, n) for n in seen]
        out[(i, *token, head)] = attention_row(query, keys, [v[(i, *mates[n], head)] for n in seen])
    return out


def laid_out(packed: Tensor, layout: str) -> Tensor:
    """The same values of ``(B, T, H, W, 3, A, E)`` in other places."""
    if layout == "frames-first":  # as a view of something longer
        return (
            torch.cat([packed, packed], 2)
            .transpose(0, 1)
            .contiguous()
            .transpose(0, 1)[:, :, : packed.shape[2]]
        )
    if layout == "heads-first":
        return packed.movedim(5, 1).contiguous().movedim(1, 5)
    if layout == "sparse":  # E has a stride
        return torch.stack([packed, packed], -1)[..., 0]
    if layout == "unaligned":
        return torch.cat([packed.flatten()[:1], packed.flatten()])[1:].view_as(packed)
    return packed


def on(device: str, arguments: list[Any]) -> list[Any]:
    """The same arguments with all tensors on a device."""
    return [a.to(device) if isinstance(a, Tensor) else a for a in arguments]


def double(value: Any) -> Any:
    """Floating-point tensors in float64, all else as it is."""
    return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value


def with_gradients(op: Callable[..., Any], arguments: list[Any], grads: list[Tensor]) -> list[Tensor]:
    """The results, then the gradients of all floating-point arguments but the table of angles."""
    leaves = [
        a.detach().requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() and a.ndim != 3 else a
        for a in arguments
    ]
    outs = op(*leaves)
    outs = [outs] if isinstance(outs, Tensor) else list(outs)
    wanted = [a for a in leaves if isinstance(a, Tensor) and a.requires_grad]
    typed = [g.to(outs[0].dtype) for g in grads]
    return [*(out.detach() for out in outs), *torch.autograd.grad(outs, wanted, typed)]


def assert_as_good_as(reference: Any, op: Any, arguments: list[Any], results: int = 1) -> None:
    """Forward and backward err at most twice as much as PyTorch's own attention in the dtype given."""
    like = arguments[0]
    shape = like.shape if like.ndim == 6 else (*like.shape[:4], *like.shape[5:])
    grads = [draw(*shape, dtype=like.dtype, seed=50 + i).to(like.device) for i in range(results)]
    found, plain, exact = (
        with_gradients(f, a, grads)
        for f, a in (
            (op, arguments),
            (reference, arguments),
            (reference, [double(a) for a in arguments]),
        )
    )
    assert all(tensor.is_contiguous() for tensor in found[:results])
    for i, tensors in enumerate(zip(found, plain, exact, strict=True)):
        assert_no_worse(*tensors, what=f"result {i}" if i < results else f"gradient {i - results}")
