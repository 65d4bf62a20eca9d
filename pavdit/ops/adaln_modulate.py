"""Adaptive LayerNorm: the norm that a transformer's condition scales and shifts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pavdit.ops._checks import check_beside, check_floating, check_number
from pavdit.ops._library import native
from pavdit.ops._raw import call, forbid_gradients, register_fake

torch.library.define(
    "pavdit::adaln_modulate",
    "(Tensor x, Tensor shift, Tensor scale, float eps) -> (Tensor out, Tensor stats)",
)
torch.library.define(
    "pavdit::adaln_modulate_backward",
    "(Tensor grad, Tensor x, Tensor scale, Tensor stats) -> (Tensor dx, Tensor dshift, Tensor dscale)",
)
forbid_gradients("adaln_modulate")
forbid_gradients("adaln_modulate_backward")

_forward = torch.ops.pavdit.adaln_modulate.default
_backward = torch.ops.pavdit.adaln_modulate_backward.default


def adaln_modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    r"""Normalise every token and modulate it by its frame's group.

    ``out[b,f,n,:] = xhat[b,f,n,:] * (1 + scale[b,g,:]) + shift[b,g,:]`` with
    ``xhat = (x - mean(x)) / sqrt(var(x) + eps)`` over D and the group ``g = f * G // F``.
    Source: adaLN of DiT (Peebles & Xie, arXiv 2212.09748), shared by all blocks in STDiT3 (PAV-DiT 3.2).

    Args:
        x: ``(B, F, N, D)``, float32, bfloat16 or float16 (float64: reference only).
        shift: ``(B or 1, G, D)``, dtype of `x` or float32, G dividing F; a batch stride of 0 is fine.
        scale: shape and dtype of `shift`.
        eps: added to the variance.

    Returns:
        ``(B, F, N, D)``, contiguous, dtype of `x`; computed in float32 and rounded once.

    Raises:
        ValueError: a shape or a device does not fit, or G does not divide F.
        TypeError: a dtype is none of the above.
    """
    _check(x, shift, scale, eps)
    if not native("adaln_modulate", x, shift, scale):
        return adaln_modulate_reference(x, shift, scale, eps)
    if torch.is_grad_enabled():
        return _AdalnModulate.apply(x, shift, scale, eps)
    return call(_forward, x, shift, scale, eps)[0]


def _check(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> None:
    op = "adaln_modulate"
    check_floating(op, x=x)
    check_beside(op, "shift", shift, x)
    check_beside(op, "scale", scale, x)
    check_number(op, "eps", eps)
    if scale.dtype != shift.dtype:
        raise TypeError(f"{op}: want scale {shift.dtype} as shift, got {scale.dtype}")
    if (
        x.ndim != 4
        or shift.ndim != 3
        or shift.shape != scale.shape
        or shift.shape[0] not in (1, x.shape[0])
        or shift.shape[2] != x.shape[3]
    ):
        raise ValueError(
            f"{op}: want x (B,F,N,D), shift and scale (B or 1,G,D), "
            f"got {tuple(x.shape)}, {tuple(shift.shape)}, {tuple(scale.shape)}"
        )
    if shift.shape[1] == 0 or x.shape[1] % shift.shape[1]:
        raise ValueError(f"{op}: want shift with G dividing F = {x.shape[1]}, got G = {shift.shape[1]}")


def adaln_modulate_reference(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """The op in plain PyTorch."""
    return forward_with_stats(x, shift, scale, eps)[0]


def grouped(x: Tensor, groups: int) -> Tensor:
    """``(B, F, N, D)`` to ``(B, G, F/G, N, D)`` in float32 (float64 stays)."""
    work = torch.promote_types(x.dtype, torch.float32)
    return x.to(work).unflatten(1, (groups, x.shape[1] // groups))


def forward_with_stats(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    rows = grouped(x, shift.shape[1])  # (B, G, F/G, N, D)
    variance, mean = torch.var_mean(rows, -1, correction=0, keepdim=True)
    rstd = torch.rsqrt(variance + eps)
    gain = 1 + scale.to(rows.dtype)[:, :, None, None]  # (B or 1, G, 1, 1, D)
    out = (rows - mean) * rstd * gain + shift.to(rows.dtype)[:, :, None, None]
    stats = torch.cat([mean, rstd], -1).flatten(1, 2)  # (B, F, N, 2)
    return out.flatten(1, 2).to(x.dtype), stats


def _forward_raw(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    out, stats = forward_with_stats(x, shift, scale, eps)
    return out.contiguous(), stats


def gradients_in_float32(
    grad: Tensor, x: Tensor, scale: Tensor, stats: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (not rounded yet), shift and scale."""
    groups = scale.shape[1]
    g, rows = grouped(grad, groups), grouped(x, groups)  # (B, G, F/G, N, D)
    mean, rstd = grouped(stats, groups).split(1, -1)
    xhat = (rows - mean) * rstd
    h = g * (1 + scale.to(g.dtype)[:, :, None, None])
    dx = rstd * (h - h.mean(-1, keepdim=True) - xhat * (h * xhat).mean(-1, keepdim=True))
    dshift = g.sum((2, 3)).sum_to_size(scale.shape)
    dscale = (g * xhat).sum((2, 3)).sum_to_size(scale.shape)
    return dx.flatten(1, 2), dshift.to(scale.dtype), dscale.to(scale.dtype)


def _backward_raw(grad: Tensor, x: Tensor, scale: Tensor, stats: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dx, dshift, dscale = gradients_in_float32(grad, x, scale, stats)
    return dx.to(x.dtype).contiguous(), dshift, dscale


torch.library.impl("pavdit::adaln_modulate", "CompositeExplicitAutograd", _forward_raw)
torch.library.impl("pavdit::adaln_modulate_backward", "CompositeExplicitAutograd", _backward_raw)


@register_fake("pavdit::adaln_modulate")
def _(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    stats_dtype = torch.promote_types(x.dtype, torch.float32)
    return x.new_empty(x.shape), x.new_empty((*x.shape[:3], 2), dtype=stats_dtype)


@register_fake("pavdit::adaln_modulate_backward")
def _(grad: Tensor, x: Tensor, scale: Tensor, stats: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), scale.new_empty(scale.shape), scale.new_empty(scale.shape)


class _AdalnModulate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
        out, stats = call(_forward, x, shift, scale, eps)
        ctx.save_for_backward(x, scale, stats)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        dx, dshift, dscale = call(_backward, grad, *ctx.saved_tensors)
        return dx, dshift, dscale, None
