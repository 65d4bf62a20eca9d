"""tanh-GELU that leaves e4m3 rows for the next matrix product."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pavdit.ops._checks import check_floating, check_no_gradient
from pavdit.ops._library import forbid_gradients, native, register_fake, serve_by_triton
from pavdit.ops.scaled_linear import FP8, QuantisedRows, has_e4m3, quantise_rows

MAX_WIDTH = 16_384
"""Row that one program of the kernel holds at a time."""

torch.library.define("pavdit::gelu_fp8", "(Tensor x) -> (Tensor values, Tensor scale)")
forbid_gradients("gelu_fp8")


def gelu_fp8(x: Tensor) -> QuantisedRows:
    r"""``gelu(x)``, GELU in its tanh form, quantised by rows.

    ``scale = max_D |gelu(x)| / 448``, ``values = e4m3(gelu(x) / scale)``; nothing is rounded in between.
    Source: the MLP of Open-Sora 1.2, STDiT3 (PAV-DiT 3.2); e4m3 of Micikevicius et al., arXiv 2209.05433.

    Args:
        x: ``(..., D)`` with D > 0, float32, bfloat16 or float16 (float64: reference only).

    Returns:
        values ``(..., D)`` float8_e4m3fn and scale ``(..., 1)`` float32.

    Raises:
        ValueError: a row is empty, or a gradient is needed.
        TypeError: a dtype or a type is none of the above.
    """
    _check(x)
    check_no_gradient("gelu_fp8", x=x)
    if not _served(x):
        return gelu_fp8_reference(x)
    return QuantisedRows(*torch.ops.pavdit.gelu_fp8(x))


def _check(x: Tensor) -> None:
    check_floating("gelu_fp8", x=x)
    if x.ndim < 1 or x.shape[-1] == 0:
        raise ValueError(f"gelu_fp8: want x (...,D) with D > 0, got {tuple(x.shape)}")


def _served(x: Tensor) -> bool:
    return native("gelu_fp8", x) and x.shape[-1] <= MAX_WIDTH


def gelu_fp8_reference(x: Tensor) -> QuantisedRows:
    """The op in plain PyTorch."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    return quantise_rows(functional.gelu(x, approximate="tanh"))


def _raw(x: Tensor) -> tuple[Tensor, Tensor]:
    _check(x)
    values, scale = gelu_fp8_reference(x)
    return values.contiguous(), scale.contiguous()


def _triton(x: Tensor) -> tuple[Tensor, Tensor]:
    from pavdit.kernels.gelu_fp8 import gelu_fp8 as kernel

    _check(x)
    return kernel(x.contiguous()) if _served(x) and has_e4m3(x.device) else _raw(x)


torch.library.impl("pavdit::gelu_fp8", "CompositeExplicitAutograd", _raw)
serve_by_triton("gelu_fp8", _triton)


@register_fake("pavdit::gelu_fp8")
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    scale = x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)
    return x.new_empty(x.shape, dtype=FP8), scale
