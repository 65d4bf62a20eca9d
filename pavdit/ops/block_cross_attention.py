"""Attention between two streams inside non-overlapping 3-D blocks, both directions at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pavdit.ops._attend import attend, attend_backward
from pavdit.ops._checks import check_floating
from pavdit.ops._raw import BACKWARD, call, forbid_gradients, register_fake
from pavdit.ops.block_attention import check_block, from_blocks, served, to_blocks

torch.library.define(
    "pavdit::block_cross_attention", "(Tensor qkv_a, Tensor qkv_b, int[] block) -> (Tensor, Tensor)"
)
torch.library.define(
    f"pavdit::block_cross_attention{BACKWARD}",
    "(Tensor grad_a, Tensor grad_b, Tensor qkv_a, Tensor qkv_b, int[] block) "
    "-> (Tensor dqkv_a, Tensor dqkv_b)",
)
forbid_gradients("block_cross_attention")
forbid_gradients(f"block_cross_attention{BACKWARD}")

_forward = torch.ops.pavdit.block_cross_attention.default
_backward = torch.ops.pavdit.block_cross_attention_backward.default


def block_cross_attention(qkv_a: Tensor, qkv_b: Tensor, block: Sequence[int]) -> tuple[Tensor, Tensor]:
    r"""Bi-Block CrossAttn: each stream's queries over the other's keys and values, block by block.

    ``out_a = A(q_a, k_b) v_b`` and ``out_b = A(q_b, k_a) v_a``, ``A[i,j] = softmax_j(q_i k_j / sqrt(E))``
    with i, j in one block.    Source: PAV-DiT eq. 8, both directions.

    Args:
        qkv_a: ``(B, T, H, W, 3, A, E)``, float32, bfloat16 or float16 (float64: reference only). Any strides.
        qkv_b: shape, dtype and device of `qkv_a`.
        block: ``(bt, bh, bw)``, dividing ``(T, H, W)``.

    Returns:
        ``out_a`` and ``out_b``, each ``(B, T, H, W, A, E)``, contiguous, dtype of `qkv_a`; the softmax is
        float32.

    Raises:
        ValueError: a shape or a device does not fit, or `block` does not divide the grid.
        TypeError: a dtype or a type is none of the above.
    """
    op = "block_cross_attention"
    check_floating(op, qkv_a=qkv_a, qkv_b=qkv_b)
    if qkv_a.ndim != 7 or qkv_a.shape[4] != 3 or qkv_b.shape != qkv_a.shape or qkv_a.shape[-1] == 0:
        raise ValueError(
            f"{op}: want qkv_a and qkv_b (B,T,H,W,3,A,E) of one shape, "
            f"got {tuple(qkv_a.shape)} and {tuple(qkv_b.shape)}"
        )
    check_block(op, block, qkv_a.shape[1:4])
    if not served(op, qkv_a, block):
        return block_cross_attention_reference(qkv_a, qkv_b, block)
    if torch.is_grad_enabled():
        return _BlockCrossAttention.apply(qkv_a, qkv_b, block)
    return call(_forward, qkv_a, qkv_b, block)


def block_cross_attention_reference(
    qkv_a: Tensor, qkv_b: Tensor, block: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The op in plain PyTorch."""
    grid = qkv_a.shape[:4]
    q_a, k_a, v_a = to_blocks(qkv_a, block).unbind(2)  # (P, N, A, E)
    q_b, k_b, v_b = to_blocks(qkv_b, block).unbind(2)
    out_a, out_b = attend(q_a, k_b, v_b), attend(q_b, k_a, v_a)
    return from_blocks(out_a, grid, block), from_blocks(out_b, grid, block)


def _backward_raw(
    grad_a: Tensor, grad_b: Tensor, qkv_a: Tensor, qkv_b: Tensor, block: Sequence[int]
) -> tuple[Tensor, Tensor]:
    grid = qkv_a.shape[:4]
    q_a, k_a, v_a = to_blocks(qkv_a, block).unbind(2)  # (P, N, A, E)
    q_b, k_b, v_b = to_blocks(qkv_b, block).unbind(2)
    dq_a, dk_b, dv_b = attend_backward(to_blocks(grad_a, block), q_a, k_b, v_b)
    dq_b, dk_a, dv_a = attend_backward(to_blocks(grad_b, block), q_b, k_a, v_a)
    dqkv_a, dqkv_b = torch.stack((dq_a, dk_a, dv_a), 2), torch.stack((dq_b, dk_b, dv_b), 2)
    dqkv_a, dqkv_b = (from_blocks(d.to(qkv_a.dtype), grid, block) for d in (dqkv_a, dqkv_b))
    return dqkv_a, dqkv_b


torch.library.impl(
    "pavdit::block_cross_attention", "CompositeExplicitAutograd", block_cross_attention_reference
)
torch.library.impl(f"pavdit::block_cross_attention{BACKWARD}", "CompositeExplicitAutograd", _backward_raw)


@register_fake("pavdit::block_cross_attention")
def _(qkv_a: Tensor, qkv_b: Tensor, block: Sequence[int]) -> tuple[Tensor, Tensor]:
    shape = (*qkv_a.shape[:4], *qkv_a.shape[5:])
    return qkv_a.new_empty(shape), qkv_a.new_empty(shape)


@register_fake(f"pavdit::block_cross_attention{BACKWARD}")
def _(
    grad_a: Tensor, grad_b: Tensor, qkv_a: Tensor, qkv_b: Tensor, block: Sequence[int]
) -> tuple[Tensor, Tensor]:
    return qkv_a.new_empty(qkv_a.shape), qkv_b.new_empty(qkv_b.shape)


class _BlockCrossAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv_a: Tensor, qkv_b: Tensor, block: Sequence[int]) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(qkv_a, qkv_b)
        ctx.block = block
        return call(_forward, qkv_a, qkv_b, block)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_a: Tensor, grad_b: Tensor) -> tuple[Tensor, Tensor, None]:
        dqkv_a, dqkv_b = call(_backward, grad_a, grad_b, *ctx.saved_tensors, ctx.block)
        return dqkv_a, dqkv_b, None
