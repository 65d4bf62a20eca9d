"""Attention inside non-overlapping 3-D blocks, of one stream and across two."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pavdit.ops._attend import attend
from pavdit.ops._checks import check_floating, check_norm_and_rope, check_valid
from pavdit.ops._library import forbid_gradients, register_fake
from pavdit.ops.qk_norm_rope import norm_and_rotate

torch.library.define(
    "pavdit::block_attention",
    "(Tensor q, Tensor k, Tensor v, int[] block, Tensor? valid, Tensor? q_weight, Tensor? k_weight, "
    "Tensor? rope) -> Tensor",
)
torch.library.define(
    "pavdit::block_cross_attention", "(Tensor qkv_a, Tensor qkv_b, int[] block) -> (Tensor, Tensor)"
)
forbid_gradients("block_attention")
forbid_gradients("block_cross_attention")


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
    _check_block(op, block, q.shape[1:4])
    check_valid(op, valid, q.shape[:4], q.device)
    check_norm_and_rope(op, q, math.prod(block), q_weight, k_weight, rope)
    return block_attention_reference(q, k, v, block, valid, q_weight, k_weight, rope)


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
    _check_block(op, block, qkv_a.shape[1:4])
    return block_cross_attention_reference(qkv_a, qkv_b, block)


def _check_block(op: str, block: Sequence[int], grid: Sequence[int]) -> None:
    if not isinstance(block, Sequence) or any(not isinstance(n, int) for n in block):
        raise TypeError(f"{op}: want block three ints (bt, bh, bw), got {block!r}")
    if len(block) != 3 or min(block) < 1 or any(n % b for n, b in zip(grid, block, strict=True)):
        raise ValueError(
            f"{op}: want block (bt, bh, bw) to divide (T, H, W) = {tuple(grid)}, got {tuple(block)}"
        )


def _to_blocks(x: Tensor, block: Sequence[int]) -> Tensor:
    """``(B, T, H, W, ...)`` to ``(P, bt*bh*bw, ...)``, tokens in the order (t, h, w)."""
    (b, t, h, w), rest = x.shape[:4], x.shape[4:]
    bt, bh, bw = block
    x = x.reshape(b, t // bt, bt, h // bh, bh, w // bw, bw, *rest).movedim((3, 5), (2, 3))
    return x.reshape(b * (t // bt) * (h // bh) * (w // bw), bt * bh * bw, *rest)


def _from_blocks(x: Tensor, grid: Sequence[int], block: Sequence[int]) -> Tensor:
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
    keys = None if valid is None else _to_blocks(valid.expand(grid), block)  # (P, N)
    q_PNAE = norm_and_rotate(_to_blocks(q, block), q_weight, rope)
    k_PNAE = norm_and_rotate(_to_blocks(k, block), k_weight, rope)
    return _from_blocks(attend(q_PNAE, k_PNAE, _to_blocks(v, block), keys), grid, block)


def block_cross_attention_reference(
    qkv_a: Tensor, qkv_b: Tensor, block: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """The op in plain PyTorch."""
    grid = qkv_a.shape[:4]
    q_a, k_a, v_a = _to_blocks(qkv_a, block).unbind(2)  # (P, N, A, E)
    q_b, k_b, v_b = _to_blocks(qkv_b, block).unbind(2)
    out_a, out_b = attend(q_a, k_b, v_b), attend(q_b, k_a, v_a)
    return _from_blocks(out_a, grid, block), _from_blocks(out_b, grid, block)


torch.library.impl("pavdit::block_attention", "CompositeExplicitAutograd", block_attention_reference)
torch.library.impl(
    "pavdit::block_cross_attention", "CompositeExplicitAutograd", block_cross_attention_reference
)


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


@register_fake("pavdit::block_cross_attention")
def _(qkv_a: Tensor, qkv_b: Tensor, block: Sequence[int]) -> tuple[Tensor, Tensor]:
    shape = (*qkv_a.shape[:4], *qkv_a.shape[5:])
    return qkv_a.new_empty(shape), qkv_a.new_empty(shape)
