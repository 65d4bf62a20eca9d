"""Attention along time at three temporal resolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pavdit.ops._attend import attend, attend_backward
from pavdit.ops._checks import check_floating
from pavdit.ops._library import native
from pavdit.ops._raw import call, forbid_gradients, register_fake

SCALES = (1, 2, 4)

torch.library.define("pavdit::multiscale_temporal_attention", "(Tensor qkv) -> (Tensor, Tensor, Tensor)")
torch.library.define(
    "pavdit::multiscale_temporal_attention_backward",
    "(Tensor? grad_full, Tensor? grad_half, Tensor? grad_quarter, Tensor qkv) -> Tensor dqkv",
)
forbid_gradients("multiscale_temporal_attention")
forbid_gradients("multiscale_temporal_attention_backward")

_forward = torch.ops.pavdit.multiscale_temporal_attention.default
_backward = torch.ops.pavdit.multiscale_temporal_attention_backward.default

MAX_FRAMES, MAX_WIDTH = {"cpu": 80, "cuda": 32}, 128
"""The native kernels hold one problem in cache; beyond these sizes PyTorch's attention is as good."""


def multiscale_temporal_attention(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Average-pool q, k and v 1x, 2x and 4x along T and attend along T at each scale, per position of S and
    head.

    ``out_s = Attn_t(AvgPool_s(qkv))`` for s in 1, 2, 4.    Source: PAV-DiT eq. 4 and the Attn_t of eq. 5; the
    transposed convolutions of eq. 5 and their sum are the caller's.

    Pooling after a projection without bias is the same as before it, so one projection serves the three
    scales.

    Args:
        qkv: ``(B, T, S, 3, A, E)``, T a multiple of 4; float32, bfloat16 or float16 (float64: reference
            only). Any strides.

    Returns:
        ``(B, T, S, A, E)``, ``(B, T/2, S, A, E)`` and ``(B, T/4, S, A, E)``, contiguous, dtype of `qkv`;
        pooling and softmax are float32.

    Raises:
        ValueError: another shape, or T is no multiple of 4.
        TypeError: no tensor, or another dtype.
    """
    check_floating("multiscale_temporal_attention", qkv=qkv)
    if qkv.ndim != 6 or qkv.shape[3] != 3 or qkv.shape[5] == 0:
        raise ValueError(f"multiscale_temporal_attention: want qkv (B,T,S,3,A,E), got {tuple(qkv.shape)}")
    if qkv.shape[1] % 4:
        raise ValueError(f"multiscale_temporal_attention: want T a multiple of 4, got {qkv.shape[1]}")
    if not _served(qkv):
        return multiscale_temporal_attention_reference(qkv)
    if torch.is_grad_enabled():
        return _MultiscaleTemporalAttention.apply(qkv)
    return call(_forward, qkv)


def _served(qkv: Tensor) -> bool:
    """Whether the native kernel takes this shape."""
    if not native("multiscale_temporal_attention", qkv):
        return False
    return 4 <= qkv.shape[1] <= MAX_FRAMES[qkv.device.type] and qkv.shape[5] <= MAX_WIDTH


def multiscale_temporal_attention_reference(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The op in plain PyTorch."""
    b, t, s, _, a, e = qkv.shape
    problems = qkv.transpose(1, 2).reshape(b * s, t, 3, a, e)
    full, half, quarter = (_attend_pooled(problems, scale) for scale in SCALES)  # (B*S, T/scale, A, E)
    return _grid(full, b, s), _grid(half, b, s), _grid(quarter, b, s)


def _pool(problems: Tensor, scale: int) -> Tensor:
    """``(P, T, 3, A, E)`` to ``(P, T/scale, 3, A, E)``."""
    if scale == 1:
        return problems
    return problems.unflatten(1, (problems.shape[1] // scale, scale)).mean(2)


def _attend_pooled(problems: Tensor, scale: int) -> Tensor:
    """``(P, T, 3, A, E)`` to ``(P, T/scale, A, E)``."""
    q, k, v = _pool(problems, scale).unbind(2)
    return attend(q, k, v)


def _grid(out: Tensor, b: int, s: int) -> Tensor:
    return out.reshape(b, s, *out.shape[1:]).transpose(1, 2).contiguous()


def _backward_raw(
    grad_full: Tensor | None, grad_half: Tensor | None, grad_quarter: Tensor | None, qkv: Tensor
) -> Tensor:
    b, t, s, _, a, e = qkv.shape
    work = torch.promote_types(qkv.dtype, torch.float32)
    problems = qkv.to(work).transpose(1, 2).reshape(b * s, t, 3, a, e)
    total = torch.zeros_like(problems)
    for grad, scale in zip((grad_full, grad_half, grad_quarter), SCALES, strict=True):
        if grad is None:
            continue
        g = grad.transpose(1, 2).reshape(b * s, t // scale, a, e)
        of_pooled = torch.stack(attend_backward(g, *_pool(problems, scale).unbind(2)), 2)  # (P, T/k, 3, A, E)
        total += of_pooled.repeat_interleave(scale, 1) / scale  # every frame has an equal share in the mean
    return _grid(total, b, s).to(qkv.dtype)


torch.library.impl(
    "pavdit::multiscale_temporal_attention",
    "CompositeExplicitAutograd",
    multiscale_temporal_attention_reference,
)
torch.library.impl(
    "pavdit::multiscale_temporal_attention_backward", "CompositeExplicitAutograd", _backward_raw
)


@register_fake("pavdit::multiscale_temporal_attention")
def _(qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    b, t, s, _, a, e = qkv.shape
    full, half, quarter = (qkv.new_empty((b, t // scale, s, a, e)) for scale in SCALES)
    return full, half, quarter


@register_fake("pavdit::multiscale_temporal_attention_backward")
def _(grad_full: Tensor | None, grad_half: Tensor | None, grad_quarter: Tensor | None, qkv: Tensor) -> Tensor:
    return qkv.new_empty(qkv.shape)


class _MultiscaleTemporalAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # a scale that nobody uses costs nothing
        ctx.save_for_backward(qkv)
        return call(_forward, qkv)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(
        ctx: Any, grad_full: Tensor | None, grad_half: Tensor | None, grad_quarter: Tensor | None
    ) -> Tensor | None:
        if grad_full is None and grad_half is None and grad_quarter is None:
            return None
        (qkv,) = ctx.saved_tensors
        return call(_backward, grad_full, grad_half, grad_quarter, qkv)
