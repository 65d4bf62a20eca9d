"""A gated residual and the adaptive LayerNorm that follows it, left as e4m3 rows for a matrix product."""

from __future__ import annotations

import torch
from torch import Tensor

from pavdit.ops._checks import check_no_gradient, check_number
from pavdit.ops._library import forbid_gradients, native, register_fake, serve_by_triton
from pavdit.ops.adaln_modulate import adaln_modulate_reference
from pavdit.ops.gated_residual_adaln import check_gated_residual, close_residual
from pavdit.ops.scaled_linear import FP8, QuantisedRows, has_e4m3, quantise_rows

MAX_WIDTH = 8192
"""Row that one program of the kernel holds at a time."""

torch.library.define(
    "pavdit::gated_residual_adaln_fp8",
    "(Tensor x, Tensor y, Tensor? gate, Tensor shift, Tensor scale, float eps)"
    " -> (Tensor residual, Tensor values, Tensor row_scale)",
)
forbid_gradients("gated_residual_adaln_fp8")


def gated_residual_adaln_fp8(
    x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float = 1e-6
) -> tuple[Tensor, QuantisedRows]:
    r"""`gated_residual_adaln` whose modulated rows are quantised where they are made.

    ``residual = x + gate[g] * y``, rounded to the dtype of `x`; ``m = LayerNorm_D(residual) * (1 + scale[g])
    + shift[g]``; ``row_scale = max_D |m| / 448``, ``values = e4m3(m / row_scale)``. `m` stays float32.
    Source: adaLN of DiT (Peebles & Xie, arXiv 2212.09748); e4m3 of Micikevicius et al., arXiv 2209.05433.

    Args:
        x: ``(B, F, N, D)``, float32, bfloat16 or float16 (float64: reference only).
        y: the branch's output: shape, dtype and device of `x`.
        gate: ``(B or 1, G, D)``, dtype of `x` or float32, G dividing F; None leaves `y` as it is.
        shift: ``(B or 1, G, D)``, dtype of `x` or float32; a batch stride of 0 is fine.
        scale: shape and dtype of `shift`.
        eps: added to the variance.

    Returns:
        residual ``(B, F, N, D)``, contiguous, dtype of `x`; and values ``(B, F, N, D)`` float8_e4m3fn with
        scale ``(B, F, N, 1)`` float32.

    Raises:
        ValueError: a shape or a device does not fit, G does not divide F, D is 0, or a gradient is needed.
        TypeError: a dtype is none of the above.
    """
    _check(x, y, gate, shift, scale)
    check_number("gated_residual_adaln_fp8", "eps", eps)
    check_no_gradient("gated_residual_adaln_fp8", x=x, y=y, gate=gate, shift=shift, scale=scale)
    if not _served(x, shift):
        return gated_residual_adaln_fp8_reference(x, y, gate, shift, scale, eps)
    residual, *rows = torch.ops.pavdit.gated_residual_adaln_fp8(x, y, gate, shift, scale, eps)
    return residual, QuantisedRows(*rows)


def _check(x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor) -> None:
    op = "gated_residual_adaln_fp8"
    check_gated_residual(op, x, y, gate, shift, scale)
    if x.shape[-1] == 0:
        raise ValueError(f"{op}: want x (B,F,N,D) with D > 0, got {tuple(x.shape)}")


def _served(x: Tensor, shift: Tensor) -> bool:
    return native("gated_residual_adaln_fp8", x, shift) and x.shape[-1] <= MAX_WIDTH


def gated_residual_adaln_fp8_reference(
    x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, QuantisedRows]:
    """The op in plain PyTorch."""
    residual = close_residual(x, y, gate)
    work = torch.promote_types(x.dtype, torch.float32)
    modulated = adaln_modulate_reference(residual.to(work), shift.to(work), scale.to(work), eps)
    return residual, quantise_rows(modulated)


def _raw(
    x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    _check(x, y, gate, shift, scale)
    residual, rows = gated_residual_adaln_fp8_reference(x, y, gate, shift, scale, eps)
    return residual.contiguous(), rows.values.contiguous(), rows.scale.contiguous()


def _triton(
    x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    from pavdit.kernels.gated_residual_adaln_fp8 import gated_residual_adaln_fp8 as kernel

    _check(x, y, gate, shift, scale)
    if not _served(x, shift) or not has_e4m3(x.device):
        return _raw(x, y, gate, shift, scale, eps)
    return kernel(x.contiguous(), y.contiguous(), gate, shift, scale, eps)


torch.library.impl("pavdit::gated_residual_adaln_fp8", "CompositeExplicitAutograd", _raw)
serve_by_triton("gated_residual_adaln_fp8", _triton)


@register_fake("pavdit::gated_residual_adaln_fp8")
def _(
    x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    row_scale = x.new_empty((*x.shape[:3], 1), dtype=torch.float32)
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=FP8), row_scale
