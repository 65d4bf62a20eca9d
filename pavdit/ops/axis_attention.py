"""Self-attention along one axis of a token grid, and its form with a single query."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pavdit.ops._axis_reference import (
    axis_attention_reference,
    axis_query_attention_reference,
    backward_raw,
    query_backward_raw,
)
from pavdit.ops._checks import check_floating, check_norm_and_rope, check_valid
from pavdit.ops._library import native
from pavdit.ops._raw import call, forbid_gradients, register_fake

torch.library.define(
    "pavdit::axis_attention",
    "(Tensor qkv, int axis, Tensor? valid, Tensor? q_weight, Tensor? k_weight, Tensor? rope) -> Tensor",
)
torch.library.define(
    "pavdit::axis_query_attention", "(Tensor q, Tensor kv, int axis, Tensor? valid) -> Tensor"
)
torch.library.define(
    "pavdit::axis_attention_backward",
    "(Tensor grad, Tensor qkv, int axis, Tensor? valid, Tensor? q_weight, Tensor? k_weight, Tensor? rope)"
    " -> (Tensor dqkv, Tensor dq_weight, Tensor dk_weight)",
)
torch.library.define(
    "pavdit::axis_query_attention_backward",
    "(Tensor grad, Tensor q, Tensor kv, int axis, Tensor? valid) -> (Tensor dq, Tensor dkv)",
)
for _op in ("axis_attention", "axis_query_attention"):
    forbid_gradients(_op)
    forbid_gradients(f"{_op}_backward")

_forward = torch.ops.pavdit.axis_attention.default
_backward = torch.ops.pavdit.axis_attention_backward.default
_query_forward = torch.ops.pavdit.axis_query_attention.default
_query_backward = torch.ops.pavdit.axis_query_attention_backward.default

MAX_LEADING, MAX_LENGTH, MAX_WIDTH = 8, 80, 128
"""The native kernels hold one problem in cache; beyond these sizes PyTorch's attention is as good."""


def axis_attention(
    qkv: Tensor,
    axis: int,
    valid: Tensor | None = None,
    q_weight: Tensor | None = None,
    k_weight: Tensor | None = None,
    rope: Tensor | None = None,
) -> Tensor:
    r"""Self-attention along one leading axis; every other position and every head is a problem of its own.

    ``out = softmax(q k^T / sqrt(E)) v``.    Source: divided attention of TimeSformer (Bertasius et al.,
    arXiv 2102.05095) in the encoder of PAV-DiT eq. 1; temporal blocks of Open-Sora 1.2, STDiT3 (PAV-DiT 3.2).

    Args:
        qkv: ``(..., 3, A, E)`` with at least one leading axis; float32, bfloat16 or float16 (float64:
            reference only). Any strides.
        axis: index of the leading axis to attend along, counted from 0.
        valid: bool, broadcastable to the leading shape: False hides that position as a key, whatever is
            stored there. A row with no valid key gives 0.
        q_weight: ``(E,)``, RMS norm of the queries (eps 1e-6) before the rotation; dtype of `qkv` or float32.
        k_weight: ``(E,)``, the same for keys. Both or neither.
        rope: float32 ``(2, L, E/2)``: cosine and sine per position of the axis; pairs ``(2i, 2i+1)`` rotate.

    Returns:
        ``(..., A, E)``, contiguous, dtype of `qkv`; the softmax is float32.

    Raises:
        ValueError: a shape, a device or `axis` does not fit.
        TypeError: a dtype or a type is none of the above.
    """
    op = "axis_attention"
    plain = valid is None and q_weight is None and k_weight is None and rope is None
    if plain and _usual(op, qkv, 3, axis):
        if qkv.requires_grad and torch.is_grad_enabled():
            return _AxisAttention.apply(qkv, axis, None, None, None, None)
        return call(_forward, qkv, axis, None, None, None, None)
    check_floating(op, qkv=qkv)
    shape = qkv.shape
    if len(shape) < 4 or shape[-3] != 3 or shape[-1] == 0:
        raise ValueError(f"{op}: want qkv (...,3,A,E) with a leading axis, got {tuple(shape)}")
    _check_axis(op, axis, len(shape) - 3)
    if valid is not None:
        check_valid(op, valid, shape[:-3], qkv.device)
    if q_weight is None and k_weight is None and rope is None:
        if not _served(op, qkv, axis):
            return axis_attention_reference(qkv, axis, valid, None, None, None)
    else:
        check_norm_and_rope(op, qkv, shape[axis], q_weight, k_weight, rope)
        mixed = q_weight is not None and k_weight is not None and q_weight.dtype != k_weight.dtype
        if mixed or not _served(op, qkv, axis, rope):
            return axis_attention_reference(qkv, axis, valid, q_weight, k_weight, rope)
        q_weight, k_weight, rope = (None if t is None else t.contiguous() for t in (q_weight, k_weight, rope))
    if torch.is_grad_enabled():
        return _AxisAttention.apply(qkv, axis, valid, q_weight, k_weight, rope)
    return call(_forward, qkv, axis, valid, q_weight, k_weight, rope)


def axis_query_attention(q: Tensor, kv: Tensor, axis: int, valid: Tensor | None = None) -> Tensor:
    r"""Attention of one query per problem along an axis: the last layer of a projector, where only the
    summary token's output is used.

    ``out = softmax(q k^T / sqrt(E)) v``.    Source: the projections f^t, f^h, f^w of PAV-DiT eq. 2.

    Args:
        q: ``(..., 1, A, E)``, of length 1 along `axis`; float32, bfloat16 or float16 (float64: reference
            only).
        kv: ``(..., 2, A, E)``, keys and values, dtype and device of `q`; the same leading shape but for
            `axis`.
        axis: index of the leading axis to attend along, counted from 0.
        valid: bool, broadcastable to the leading shape of `kv`, as in `axis_attention`.

    Returns:
        ``(..., A, E)`` of length 1 along `axis`, contiguous, dtype of `q`; the softmax is float32.

    Raises:
        ValueError: a shape, a device or `axis` does not fit.
        TypeError: a dtype or a type is none of the above.
    """
    op = "axis_query_attention"
    check_floating(op, q=q, kv=kv)
    shape, wide = q.shape, kv.shape
    if len(shape) < 4 or len(wide) != len(shape) or shape[-3] != 1 or wide[-3] != 2 or shape[-1] == 0:
        raise ValueError(
            f"{op}: want q (...,1,A,E) and kv (...,2,A,E) with a leading axis, "
            f"got {tuple(shape)} and {tuple(wide)}"
        )
    _check_axis(op, axis, len(wide) - 3)
    want = list(wide)
    want[axis] = want[-3] = 1
    if list(shape) != want:
        raise ValueError(
            f"{op}: want q {tuple(want)}, of length 1 along axis {axis} beside kv {tuple(wide)}, "
            f"got {tuple(shape)}"
        )
    if valid is not None:
        check_valid(op, valid, wide[:-3], q.device)
    if not _served(op, kv, axis):
        return axis_query_attention_reference(q, kv, axis, valid)
    if torch.is_grad_enabled():
        return _AxisQueryAttention.apply(q, kv, axis, valid)
    return call(_query_forward, q, kv, axis, valid)


def _usual(op: str, packed: Tensor, parts: int, axis: int) -> bool:
    """Whether a call with nothing else beside is right and native: what all checks say, in a sixth of their
    time. Says no to whatever is rare.
    """
    plain = type(packed) is Tensor and packed.layout is torch.strided and not packed.is_nested
    if not plain or type(axis) is not int:
        return False
    shape = packed.shape
    leading = len(shape) - 3
    return (
        0 <= axis < leading <= MAX_LEADING
        and shape[-3] == parts
        and 1 <= shape[axis] <= MAX_LENGTH
        and 1 <= shape[-1] <= MAX_WIDTH
        and native(op, packed)
    )


def _served(op: str, packed: Tensor, axis: int, rope: Tensor | None = None) -> bool:
    """Whether the native kernel takes these shapes. It has no gradient for `rope`."""
    shape = packed.shape
    return (
        native(op, packed)
        and len(shape) - 3 <= MAX_LEADING
        and 1 <= shape[axis] <= MAX_LENGTH
        and shape[-1] <= MAX_WIDTH
        and not (rope is not None and rope.requires_grad)
    )


def _check_axis(op: str, axis: int, leading: int) -> None:
    if not isinstance(axis, int) or isinstance(axis, bool):
        raise TypeError(f"{op}: want axis an int, got {type(axis).__name__}")
    if not 0 <= axis < leading:
        raise ValueError(f"{op}: want axis in 0..{leading - 1} (a leading axis), got {axis}")


torch.library.impl("pavdit::axis_attention_backward", "CompositeExplicitAutograd", backward_raw)
torch.library.impl("pavdit::axis_query_attention_backward", "CompositeExplicitAutograd", query_backward_raw)
torch.library.impl("pavdit::axis_attention", "CompositeExplicitAutograd", axis_attention_reference)
torch.library.impl(
    "pavdit::axis_query_attention", "CompositeExplicitAutograd", axis_query_attention_reference
)


@register_fake("pavdit::axis_attention")
def _(
    qkv: Tensor,
    axis: int,
    valid: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    rope: Tensor | None,
) -> Tensor:
    return qkv.new_empty((*qkv.shape[:-3], *qkv.shape[-2:]))


@register_fake("pavdit::axis_query_attention")
def _(q: Tensor, kv: Tensor, axis: int, valid: Tensor | None) -> Tensor:
    return q.new_empty((*q.shape[:-3], *q.shape[-2:]))


@register_fake("pavdit::axis_attention_backward")
def _(
    grad: Tensor,
    qkv: Tensor,
    axis: int,
    valid: Tensor | None,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    rope: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    like = qkv.new_empty(0) if q_weight is None else q_weight
    return qkv.new_empty(qkv.shape), like.new_empty(like.shape), like.new_empty(like.shape)


@register_fake("pavdit::axis_query_attention_backward")
def _(grad: Tensor, q: Tensor, kv: Tensor, axis: int, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), kv.new_empty(kv.shape)


class _AxisAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        axis: int,
        valid: Tensor | None,
        q_weight: Tensor | None,
        k_weight: Tensor | None,
        rope: Tensor | None,
    ) -> Tensor:
        # Only the inputs are saved: short problems are computed again faster than read.
        ctx.save_for_backward(qkv, valid, q_weight, k_weight, rope)
        ctx.axis = axis
        return call(_forward, qkv, axis, valid, q_weight, k_weight, rope)  # type: ignore[no-any-return]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, *others = ctx.saved_tensors
        dqkv, dq_weight, dk_weight = call(_backward, grad, qkv, ctx.axis, *others)
        if others[1] is None:
            return dqkv, None, None, None, None, None
        return dqkv, None, None, dq_weight, dk_weight, None


class _AxisQueryAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, axis: int, valid: Tensor | None) -> Tensor:
        ctx.save_for_backward(q, kv, valid)
        ctx.axis = axis
        return call(_query_forward, q, kv, axis, valid)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        q, kv, valid = ctx.saved_tensors
        dq, dkv = call(_query_backward, grad, q, kv, ctx.axis, valid)
        return dq, dkv, None, None
