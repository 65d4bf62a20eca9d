"""RMS norm and rotary positions of queries and keys, in a packed QKV."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pavdit.ops._checks import check_floating, check_norm_and_rope
from pavdit.ops._library import native, serve_by_triton
from pavdit.ops._raw import call, forbid_gradients, register_fake

NORM_EPS = 1e-6
MAX_WIDTH = 128
"""Head width up to which `make kernels-check` compiles the native kernel."""

torch.library.define(
    "pavdit::qk_norm_rope", "(Tensor qkv, Tensor q_weight, Tensor k_weight, Tensor? rope) -> Tensor"
)
torch.library.define(
    "pavdit::qk_norm_rope_backward",
    "(Tensor grad, Tensor qkv, Tensor q_weight, Tensor k_weight, Tensor? rope)"
    " -> (Tensor dqkv, Tensor dq_weight, Tensor dk_weight)",
)
forbid_gradients("qk_norm_rope")
forbid_gradients("qk_norm_rope_backward")

_forward = torch.ops.pavdit.qk_norm_rope.default
_backward = torch.ops.pavdit.qk_norm_rope_backward.default


def qk_norm_rope(qkv: Tensor, q_weight: Tensor, k_weight: Tensor, rope: Tensor | None = None) -> Tensor:
    r"""Normalise queries and keys over the head width, then rotate them by position. Values pass untouched.

    ``q' = q / sqrt(mean_E(q^2) + 1e-6) * q_weight``, the same for k; then every pair ``(q'[2i], q'[2i+1])``
    turns by the angle of its position.    Source: Open-Sora 1.2, STDiT3 (QK-norm before RoPE); Su et al.,
    arXiv 2104.09864.

    Norm and rotation are computed in float32 and rounded once.

    Args:
        qkv: ``(..., N, 3, A, E)``, float32, bfloat16 or float16 (float64: reference only).
        q_weight: ``(E,)``, dtype of `qkv` or float32.
        k_weight: ``(E,)``, likewise.
        rope: float32 ``(2, N, E/2)``: cosine and sine of the angle of each position and pair.

    Returns:
        ``(..., N, 3, A, E)``, contiguous, dtype of `qkv`.

    Raises:
        ValueError: a shape or a device does not fit, or E is odd with `rope`.
        TypeError: a dtype is none of the above.
    """
    _check(qkv, q_weight, k_weight, rope)
    # the kernel has no gradient for rope
    if not _served(qkv) or (rope is not None and rope.requires_grad and torch.is_grad_enabled()):
        return qk_norm_rope_reference(qkv, q_weight, k_weight, rope)
    if torch.is_grad_enabled():
        return _QkNormRope.apply(qkv, q_weight, k_weight, rope)
    return call(_forward, qkv, q_weight, k_weight, rope)


def _check(qkv: Tensor, q_weight: Tensor, k_weight: Tensor, rope: Tensor | None) -> None:
    check_floating("qk_norm_rope", qkv=qkv)
    if qkv.ndim < 4 or qkv.shape[-3] != 3 or qkv.shape[-1] == 0:
        raise ValueError(f"qk_norm_rope: want qkv (...,N,3,A,E), got {tuple(qkv.shape)}")
    if q_weight is None or k_weight is None:
        raise TypeError("qk_norm_rope: want q_weight and k_weight tensors, got None")
    check_norm_and_rope("qk_norm_rope", qkv, qkv.shape[-4], q_weight, k_weight, rope)


def _served(qkv: Tensor) -> bool:
    """Whether the Triton kernel takes this width and dtype."""
    return native("qk_norm_rope", qkv) and qkv.shape[-1] <= MAX_WIDTH


def qk_norm_rope_reference(qkv: Tensor, q_weight: Tensor, k_weight: Tensor, rope: Tensor | None) -> Tensor:
    """The op in plain PyTorch."""
    q, k, v = qkv.unbind(-3)  # (..., N, A, E)
    return torch.stack((norm_and_rotate(q, q_weight, rope), norm_and_rotate(k, k_weight, rope), v), dim=-3)


def norm_and_rotate(x: Tensor, weight: Tensor | None, rope: Tensor | None) -> Tensor:
    """RMS norm over E (where there is a weight), then rotation (where there is a table), rounded once.

    Args:
        x: ``(..., N, A, E)``.
        weight: ``(E,)`` or None.
        rope: ``(2, N, E/2)`` or None.
    """
    if weight is None and rope is None:
        return x
    y = x.to(torch.promote_types(x.dtype, torch.float32))
    if weight is not None:
        y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + NORM_EPS) * weight
    if rope is not None:
        y = _rotate(y, rope)
    return y.to(x.dtype)


def norm_and_rotate_backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, rope: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The gradient of `norm_and_rotate` for x and weight, in the dtype of `grad` (float32 or float64)."""
    if rope is not None:
        cos, sin = rope.unbind(0)
        grad = _rotate(grad, torch.stack((cos, -sin)))
    if weight is None:
        return grad, None
    x = x.to(grad.dtype)
    rstd = torch.rsqrt(x.square().mean(-1, keepdim=True) + NORM_EPS)
    xhat, h = x * rstd, grad * weight
    dx = rstd * (h - xhat * (h * xhat).mean(-1, keepdim=True))
    return dx, (grad * xhat).flatten(0, -2).sum(0)


def _rotate(y: Tensor, rope: Tensor) -> Tensor:
    """Turn every pair of ``(..., N, A, E)`` by its angle."""
    cos, sin = rope.unsqueeze(-2).unbind(0)  # (N, 1, E/2): the same for every head
    pairs = y.unflatten(-1, (y.shape[-1] // 2, 2))  # (..., N, A, E/2, 2)
    if torch.compiler.is_compiling():
        first, second = pairs.unbind(-1)
        return torch.stack((first * cos - second * sin, first * sin + second * cos), dim=-1).flatten(-2)
    # A pair is a complex number: one pass over memory; the real form, which a compiler fuses, takes eight.
    turned = torch.view_as_complex(pairs.contiguous()) * torch.complex(cos, sin)
    return torch.view_as_real(turned).flatten(-2)


def _forward_raw(qkv: Tensor, q_weight: Tensor, k_weight: Tensor, rope: Tensor | None) -> Tensor:
    _check(qkv, q_weight, k_weight, rope)
    return qk_norm_rope_reference(qkv, q_weight, k_weight, rope)


def _check_grad(grad: Tensor, qkv: Tensor) -> None:
    op = "qk_norm_rope_backward"
    check_floating(op, qkv=qkv, grad=grad)
    if grad.shape != qkv.shape:
        raise ValueError(f"{op}: want grad {tuple(qkv.shape)} as qkv, got {tuple(grad.shape)}")


def _backward_raw(
    grad: Tensor, qkv: Tensor, q_weight: Tensor, k_weight: Tensor, rope: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    _check(qkv, q_weight, k_weight, rope)
    _check_grad(grad, qkv)
    q, k, _ = qkv.unbind(-3)  # (..., N, A, E)
    dq, dk, dv = grad.to(torch.promote_types(grad.dtype, torch.float32)).unbind(-3)
    dq, dq_weight = norm_and_rotate_backward(dq, q, q_weight, rope)
    dk, dk_weight = norm_and_rotate_backward(dk, k, k_weight, rope)
    assert dq_weight is not None and dk_weight is not None  # noqa: S101 - both weights are given
    dqkv = torch.stack((dq, dk, dv), dim=-3).to(qkv.dtype)
    return dqkv, dq_weight.to(q_weight.dtype), dk_weight.to(k_weight.dtype)


def _triton(qkv: Tensor, q_weight: Tensor, k_weight: Tensor, rope: Tensor | None) -> Tensor:
    from pavdit.kernels.qk_norm_rope import qk_norm_rope as kernel

    _check(qkv, q_weight, k_weight, rope)
    if not _served(qkv):
        return qk_norm_rope_reference(qkv, q_weight, k_weight, rope)
    return kernel(qkv, *_dense(q_weight, k_weight, rope))


def _triton_backward(
    grad: Tensor, qkv: Tensor, q_weight: Tensor, k_weight: Tensor, rope: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    from pavdit.kernels.qk_norm_rope import qk_norm_rope_backward as kernel

    _check(qkv, q_weight, k_weight, rope)
    _check_grad(grad, qkv)
    if not _served(qkv):
        return _backward_raw(grad, qkv, q_weight, k_weight, rope)
    return kernel(grad.contiguous(), qkv, *_dense(q_weight, k_weight, rope))


def _dense(*tensors: Tensor | None) -> list[Tensor | None]:
    return [None if t is None else t.contiguous() for t in tensors]


torch.library.impl("pavdit::qk_norm_rope", "CompositeExplicitAutograd", _forward_raw)
torch.library.impl("pavdit::qk_norm_rope_backward", "CompositeExplicitAutograd", _backward_raw)
serve_by_triton("qk_norm_rope", _triton)
serve_by_triton("qk_norm_rope_backward", _triton_backward)


@register_fake("pavdit::qk_norm_rope")
def _(qkv: Tensor, q_weight: Tensor, k_weight: Tensor, rope: Tensor | None) -> Tensor:
    return qkv.new_empty(qkv.shape)


@register_fake("pavdit::qk_norm_rope_backward")
def _(
    grad: Tensor, qkv: Tensor, q_weight: Tensor, k_weight: Tensor, rope: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    dense = (t.new_empty(t.shape) for t in (qkv, q_weight, k_weight))
    dqkv, dq_weight, dk_weight = dense
    return dqkv, dq_weight, dk_weight


class _QkNormRope(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, q_weight: Tensor, k_weight: Tensor, rope: Tensor | None) -> Tensor:
        ctx.save_for_backward(qkv, q_weight, k_weight, rope)
        return call(_forward, qkv, q_weight, k_weight, rope)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        dqkv, dq_weight, dk_weight = call(_backward, grad, *ctx.saved_tensors)
        return dqkv, dq_weight, dk_weight, None
