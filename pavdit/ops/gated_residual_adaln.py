"""A gated residual and the adaptive LayerNorm that follows it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pavdit.ops._checks import check_beside, check_floating, check_number
from pavdit.ops._library import forbid_gradients, native, register_fake
from pavdit.ops.adaln_modulate import (
    adaln_modulate,
    adaln_modulate_reference,
    forward_with_stats,
    gradients_in_float32,
    grouped,
)

torch.library.define(
    "pavdit::gated_residual_adaln",
    "(Tensor x, Tensor y, Tensor? gate, Tensor shift, Tensor scale, float eps)"
    " -> (Tensor residual, Tensor modulated, Tensor stats)",
)
torch.library.define(
    "pavdit::gated_residual_adaln_backward",
    "(Tensor? grad_residual, Tensor grad_modulated, Tensor residual, Tensor? y, Tensor? gate, Tensor scale,"
    " Tensor stats) -> (Tensor dx, Tensor dy, Tensor dgate, Tensor dshift, Tensor dscale)",
)
forbid_gradients("gated_residual_adaln")
forbid_gradients("gated_residual_adaln_backward")


def gated_residual_adaln(
    x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    r"""Close a residual and modulate it for the next layer.

    ``residual = x + gate[g] * y`` (no gate: ``x + y``), ``modulated = LayerNorm_D(residual) * (1 + scale[g])
    + shift[g]``, where frame f belongs to group ``g = f * G // F``.    Source: adaLN of DiT (Peebles & Xie,
    arXiv 2212.09748) in the blocks of Open-Sora 1.2, STDiT3 (PAV-DiT 3.2).

    Args:
        x: ``(B, F, N, D)``, float32, bfloat16 or float16 (float64: reference only).
        y: the branch's output: shape, dtype and device of `x`.
        gate: ``(B or 1, G, D)``, dtype of `x` or float32, G dividing F; None leaves `y` as it is.
        shift: ``(B or 1, G, D)``, dtype of `x` or float32; a batch stride of 0 is fine.
        scale: shape and dtype of `shift`.
        eps: added to the variance.

    Returns:
        ``residual`` and ``modulated``, each ``(B, F, N, D)``, contiguous, dtype of `x`. Both are computed in
        float32; `modulated` is the norm of the rounded residual.

    Raises:
        ValueError: a shape or a device does not fit, or G does not divide F.
        TypeError: a dtype is none of the above.
    """
    op = "gated_residual_adaln"
    check_gated_residual(op, x, y, gate, shift, scale)
    check_number(op, "eps", eps)
    given = (x, y, shift, scale) if gate is None else (x, y, gate, shift, scale)
    if not native(op, *given):
        residual = close_residual(x, y, gate)
        return residual, adaln_modulate(residual, shift, scale, eps)
    if gate is not None and gate.dtype != shift.dtype:  # the kernels read one dtype of modulation
        gate, shift, scale = gate.float(), shift.float(), scale.float()
    if torch.is_grad_enabled():
        return _GatedResidualAdaln.apply(x, y, gate, shift, scale, eps)
    residual, modulated, _ = torch.ops.pavdit.gated_residual_adaln(x, y, gate, shift, scale, eps)
    return residual, modulated


def check_gated_residual(
    op: str, x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor
) -> None:
    """x and y are of one shape, modulation is beside them and its groups divide the frames.

    Raises:
        ValueError: a shape or a device does not fit.
        TypeError: a dtype or a type does not.
    """
    check_floating(op, x=x, y=y)
    if x.ndim != 4 or y.shape != x.shape:
        raise ValueError(
            f"{op}: want x and y (B,F,N,D) of one shape, got {tuple(x.shape)} and {tuple(y.shape)}"
        )
    names = ("shift", "scale") if gate is None else ("gate", "shift", "scale")
    for name, tensor in zip(names, (shift, scale) if gate is None else (gate, shift, scale), strict=True):
        check_beside(op, name, tensor, x)
        _check_groups(op, name, tensor, x)
    if shift.shape != scale.shape:
        raise ValueError(f"{op}: want scale {tuple(shift.shape)} as shift, got {tuple(scale.shape)}")
    if shift.dtype != scale.dtype:
        raise TypeError(f"{op}: want scale {shift.dtype} as shift, got {scale.dtype}")


def _check_groups(op: str, name: str, tensor: Tensor, x: Tensor) -> None:
    batch, frames, _, width = x.shape
    if tensor.ndim != 3 or tensor.shape[0] not in (1, batch) or tensor.shape[2] != width:
        raise ValueError(f"{op}: want {name} ({batch} or 1, G, {width}), got {tuple(tensor.shape)}")
    if tensor.shape[1] == 0 or frames % tensor.shape[1]:
        raise ValueError(f"{op}: want {name} with G dividing F = {frames}, got G = {tensor.shape[1]}")


def close_residual(x: Tensor, y: Tensor, gate: Tensor | None) -> Tensor:
    """``x + gate * y`` in float32, rounded once."""
    if gate is None:
        return x + y
    groups = gate.shape[1]
    work = torch.promote_types(x.dtype, torch.float32)
    x_groups = x.to(work).unflatten(1, (groups, x.shape[1] // groups))  # (B, G, F/G, N, D)
    y_groups = y.to(work).unflatten(1, (groups, x.shape[1] // groups))
    return torch.addcmul(x_groups, gate.to(work)[:, :, None, None], y_groups).flatten(1, 2).to(x.dtype)


def gated_residual_adaln_reference(
    x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The op in plain PyTorch."""
    residual = close_residual(x, y, gate)
    return residual, adaln_modulate_reference(residual, shift, scale, eps)


def _forward_raw(
    x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    residual = close_residual(x, y, gate).contiguous()
    modulated, stats = forward_with_stats(residual, shift, scale, eps)
    return residual, modulated.contiguous(), stats


def _through_gate(grad: Tensor, y: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of `y` and `gate`, where `grad` is that of the residual."""
    groups = gate.shape[1]
    g = grouped(grad, groups)  # (B, G, F/G, N, D)
    dy = (gate.to(g.dtype)[:, :, None, None] * g).flatten(1, 2).to(y.dtype).contiguous()
    return dy, (g * grouped(y, groups)).sum((2, 3)).sum_to_size(gate.shape).to(gate.dtype)


def _backward_raw(
    grad_residual: Tensor | None,
    grad_modulated: Tensor,
    residual: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    scale: Tensor,
    stats: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    through_norm, dshift, dscale = gradients_in_float32(grad_modulated, residual, scale, stats)
    total = through_norm if grad_residual is None else through_norm + grad_residual
    if y is None or gate is None:
        dy, dgate = residual.new_empty(0), scale.new_empty(0)
    else:
        dy, dgate = _through_gate(total, y, gate)
    return total.to(residual.dtype).contiguous(), dy, dgate, dshift, dscale


torch.library.impl("pavdit::gated_residual_adaln", "CompositeExplicitAutograd", _forward_raw)
torch.library.impl("pavdit::gated_residual_adaln_backward", "CompositeExplicitAutograd", _backward_raw)


@register_fake("pavdit::gated_residual_adaln")
def _(
    x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    stats = x.new_empty((*x.shape[:3], 2), dtype=torch.promote_types(x.dtype, torch.float32))
    return x.new_empty(x.shape), x.new_empty(x.shape), stats


@register_fake("pavdit::gated_residual_adaln_backward")
def _(
    grad_residual: Tensor | None,
    grad_modulated: Tensor,
    residual: Tensor,
    y: Tensor | None,
    gate: Tensor | None,
    scale: Tensor,
    stats: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dx, dshift, dscale = (t.new_empty(t.shape) for t in (residual, scale, scale))
    if gate is None:
        return dx, residual.new_empty(0), scale.new_empty(0), dshift, dscale
    return dx, residual.new_empty(residual.shape), gate.new_empty(gate.shape), dshift, dscale


Gradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None, None]


class _GatedResidualAdaln(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        residual, modulated, stats = torch.ops.pavdit.gated_residual_adaln(x, y, gate, shift, scale, eps)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(residual, None if gate is None else y, gate, scale, stats)
        return residual, modulated

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_residual: Tensor | None, grad_modulated: Tensor | None) -> Gradients:
        residual, y, gate, scale, stats = ctx.saved_tensors
        if grad_modulated is not None:
            dx, dy, dgate, dshift, dscale = torch.ops.pavdit.gated_residual_adaln_backward(
                grad_residual, grad_modulated, residual, y, gate, scale, stats
            )
        elif grad_residual is not None:  # nobody used the norm
            dx, dshift, dscale = grad_residual, None, None
            dy, dgate = (dx, None) if gate is None else _through_gate(dx, y, gate)
        else:
            return None, None, None, None, None, None
        return (dx, dx, None, dshift, dscale, None) if gate is None else (dx, dy, dgate, dshift, dscale, None)
