"""Attention inside non-overlapping 3-D blocks of a token volume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pavdit.ops._attend import attend, attend_backward
from pavdit.ops._checks import check_floating, check_norm_and_rope, check_valid
from pavdit.ops._library import native
from pavdit.ops._raw import BACKWARD, call, forbid_gradients, register_fake
from pavdit.ops.qk_norm_rope import norm_and_rotate, norm_and_rotate_backward

torch.library.define(
    "pavdit::block_attention",
    "(Tensor q, Tensor k, Tensor v, int[] block, Tensor? valid, Tensor? q_weight, Tensor? k_weight, "
    "Tensor? rope) -> Tensor",
)
torch.library.define(
    f"pavdit::block_attention{BACKWARD}",
    "(Tensor grad, Tensor q, Tensor k, Tensor v, int[] block, Tensor? valid, Tensor? q_weight, "
    "Tensor? k_weight, Tensor? rope) "
    "-> (Tensor dq, Tensor dk, Tensor dv, Tensor dq_weight, Tensor dk_weight)",
)
forbid_gradients("block_attention")
forbid_gradients(f"block_attention{BACKWARD}")

_forward = torch.ops.pavdit.block_attention.default
_backward = torch.ops.pavdit.block_attention_backward.default

MAX_KEYS, MAX_WIDTH = 256, 128
"""The native kernels hold one block in cache; beyond these sizes PyTorch's attention is as good."""


def block_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block: Sequence[int],
    valid: Tensor | None = None,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    rope: Tensor | None = None,
) -> Tensor:
    r"""Attention of every query over the keys of its own block of ``(bt, bh, bw)`` tokens.

    ``A[i,j] = softmax_j(q_i k_j / sqrt(E))`` with i, j in one block.    Source: PAV-DiT eq. 8. With a block
    of one frame it is the spatial attention of Open-Sora 1.2, STDiT3.

    Args:
        q: ``(B, T, H, W, A, E)``, float32, bfloat16 or float16 (float64: reference only). Any strides.
        k: shape, dtype and device of `q`.
        v: shape, dtype and device of `q`.
        block: ``(bt, bh, bw)``, dividing ``(T, H, W)``. Inside a block tokens count in the order (t, h, w).
        valid: bool, broadcastable to ``(B, T, H, W)``: False hides that position as a key, whatever is stored
            there. A query with no valid key in its block gives 0.
        q_weight: ``(E,)``, RMS norm of the queries (eps 1e-6) before the rotation; dtype of `q` or float32.
        k_weight: ``(E,)``, the same for keys. Both or neither.
        rope: float32 ``(2, bt*bh*bw, E/2)``: cosine and sine per position in the block; pairs ``(2i, 2i+1)``
            rotate.

    Returns:
        ``(B, T, H, W, A, E)``, contiguous, dtype of `q`; the softmax is float32.

    Raises:
        ValueError: a shape or a device does not fit, or `block` does not divide the grid.
        TypeError: a dtype or a type is none of the above.
    """
    op = "block_attention"
    check_floating(op, q=q, k=k, v=v)
    if q.ndim != 6 or k.shape != q.shape or v.shape != q.shape or q.shape[-1] == 0:
        raise ValueError(
            f"{op}: want q, k, v (B,T,H,W,A,E) of one shape, "
            f"got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    check_block(op, block, q.shape[1:4])
    check_valid(op, valid, q.shape[:4], q.device)
    check_norm_and_rope(op, q, math.prod(block), q_weight, k_weight, rope)
    mixed = q_weight is not None and k_weight is not None and q_weight.dtype != k_weight.dtype
    learned = rope is not None and rope.requires_grad  # the kernels have no gradient for the table
    if mixed or learned or not served(op, q, block):
        return block_attention_reference(q, k, v, block, valid, q_weight, k_weight, rope)
    dense = [None if t is None else t.contiguous() for t in (q_weight, k_weight, rope)]
    if torch.is_grad_enabled():
        return _BlockAttention.apply(q, k, v, block, valid, *dense)
    return call(_forward, q, k, v, block, valid, *dense)


def served(op: str, like: Tensor, block: Sequence[int]) -> bool:
    """Whether the native kernel takes heads and blocks of these sizes."""
    return native(op, like) and 1 <= math.prod(block) <= MAX_KEYS and like.shape[-1] <= MAX_WIDTH


def check_block(op: str, block: Sequence[int], grid: Sequence[int]) -> None:
    """`block` is three positive ints that divide the grid (T, H, W).

    Raises:
        TypeError: something else than ints.
        ValueError: not three, not positive, or no divisor.
    """
    if not isinstance(block, Sequence) or any(not isinstance(n, int) for n in block):
        raise TypeError(f"{op}: want block three ints (bt, bh, bw), got {block!r}")
    if len(block) != 3 or min(block) < 1 or any(n % b for n, b in zip(grid, block, strict=True)):
        raise ValueError(
            f"{op}: want block (bt, bh, bw) to divide (T, H, W) = {tuple(grid)}, got {tuple(block)}"
        )


def to_blocks(x: Tensor, block: Sequence[int]) -> Tensor:
    """``(B, T, H, W, ...)`` to ``(P, bt*bh*bw, ...)``, tokens in the order (t, h, w)."""
    (b, t, h, w), rest = x.shape[:4], x.shape[4:]
    bt, bh, bw = block
    x = x.reshape(b, t // bt, bt, h // bh, bh, w // bw, bw, *rest).movedim((3, 5), (2, 3))
    return x.reshape(b * (t // bt) * (h // bh) * (w // bw), bt * bh * bw, *rest)


def from_blocks(x: Tensor, grid: Sequence[int], block: Sequence[int]) -> Tensor:
    """``(P, bt*bh*bw, ...)`` to ``(B, T, H, W, ...)`` for `grid` = (B, T, H, W)."""
    (b, t, h, w), rest = grid, x.shape[2:]
    bt, bh, bw = block
    x = x.reshape(b, t // bt, h // bh, w // bw, bt, bh, bw, *rest).movedim((2, 3), (3, 5))
    return x.reshape(b, t, h, w, *rest).contiguous()


def block_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block: Sequence[int],
    valid: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    rope: Tensor | None,
) -> Tensor:
    """The op in plain PyTorch: q, k, v partitioned into blocks, one SDPA."""
    grid = q.shape[:4]
    keys = None if valid is None else to_blocks(valid.expand(grid), block)  # (P, N)
    q_PNAE = norm_and_rotate(to_blocks(q, block), q_weight, rope)
    k_PNAE = norm_and_rotate(to_blocks(k, block), k_weight, rope)
    return from_blocks(attend(q_PNAE, k_PNAE, to_blocks(v, block), keys), grid, block)


def _backward_raw(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block: Sequence[int],
    valid: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    rope: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    grid = q.shape[:4]
    keys = None if valid is None else to_blocks(valid.expand(grid), block)  # (P, N)
    q_PNAE, k_PNAE, v_PNAE, grad_PNAE = (to_blocks(x, block) for x in (q, k, v, grad))
    turned = norm_and_rotate(q_PNAE, q_weight, rope), norm_and_rotate(k_PNAE, k_weight, rope)
    dq, dk, dv = attend_backward(grad_PNAE, *turned, v_PNAE, keys)
    dq, dq_weight = norm_and_rotate_backward(dq, q_PNAE, q_weight, rope)
    dk, dk_weight = norm_and_rotate_backward(dk, k_PNAE, k_weight, rope)
    dq, dk, dv = (from_blocks(d.to(q.dtype), grid, block) for d in (dq, dk, dv))
    if q_weight is None or dq_weight is None or dk_weight is None:
        return dq, dk, dv, q.new_empty(0), q.new_empty(0)
    return dq, dk, dv, dq_weight.to(q_weight.dtype), dk_weight.to(q_weight.dtype)


torch.library.impl("pavdit::block_attention", "CompositeExplicitAutograd", block_attention_reference)
torch.library.impl(f"pavdit::block_attention{BACKWARD}", "CompositeExplicitAutograd", _backward_raw)


@register_fake("pavdit::block_attention")
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block: Sequence[int],
    valid: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    rope: Tensor | None,
) -> Tensor:
    return q.new_empty(q.shape)


@register_fake(f"pavdit::block_attention{BACKWARD}")
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block: Sequence[int],
    valid: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    rope: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    like = q.new_empty(0) if q_weight is None else q_weight
    dq, dk, dv = (q.new_empty(q.shape) for _ in range(3))
    return dq, dk, dv, like.new_empty(like.shape), like.new_empty(like.shape)


class _BlockAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        block: Sequence[int],
        valid: Tensor | None,
        q_weight: Tensor | None,
        k_weight: Tensor | None,
        rope: Tensor | None,
    ) -> Tensor:
        # Only the inputs are saved: the weights of a block are computed again faster than read.
        ctx.save_for_backward(q, k, v, valid, q_weight, k_weight, rope)
        ctx.block = block
        return call(_forward, q, k, v, block, valid, q_weight, k_weight, rope)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, *others = ctx.saved_tensors
        dq, dk, dv, dq_weight, dk_weight = call(_backward, grad, q, k, v, ctx.block, *others)
        if others[1] is None:
            dq_weight = dk_weight = None
        return dq, dk, dv, None, None, dq_weight, dk_weight, None
