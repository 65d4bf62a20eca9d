"""A linear layer of e4m3 rows: the library's fp8 matrix product with a scale a row and a scale an output."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pavdit.ops._checks import check_floating, check_no_gradient, check_tensor
from pavdit.ops._library import native, serve_by_torch
from pavdit.ops._raw import forbid_gradients, register_fake

torch.library.define(
    "pavdit::scaled_linear",
    "(Tensor values, Tensor scale, Tensor weight, Tensor weight_scale, Tensor bias) -> Tensor",
)
forbid_gradients("scaled_linear")

FP8 = torch.float8_e4m3fn
FP8_MAX = torch.finfo(FP8).max
SMALLEST = 1e-12
"""A row whose largest magnitude is less has the scale of this one, so that zeros stay zeros."""
WIDTH_MULTIPLE = 16
"""The library's product wants both widths in multiples of 16."""


class QuantisedRows(NamedTuple):
    """Numbers that are ``values * scale``.

    Attributes:
        values: ``(..., D)`` float8_e4m3fn.
        scale: ``(..., 1)`` float32.
    """

    values: Tensor
    scale: Tensor


def quantise_rows(x: Tensor) -> QuantisedRows:
    """The largest magnitude of each row becomes 448, the largest number of e4m3.

    Args:
        x: ``(..., D)``; the arithmetic is float32 (float64 stays).
    """
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    largest = x.abs().amax(-1, keepdim=True).clamp(min=SMALLEST)
    return QuantisedRows((x * (FP8_MAX / largest)).to(FP8), (largest / FP8_MAX).float())


def scaled_linear(
    values: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor
) -> Tensor:
    r"""``out[.., o] = scale[..] weight_scale[o] sum_d values[.., d] weight[o, d] + bias[o]``.

    ``torch._scaled_mm`` for bfloat16 on a CUDA device that has e4m3 numbers; elsewhere an emulation: the
    product of the dequantised numbers in float32, which is no faster than a product of floats.    Source:
    fp8 formats of Micikevicius et al., arXiv 2209.05433.

    Args:
        values: ``(..., D)`` float8_e4m3fn.
        scale: ``(..., 1)`` float32.
        weight: ``(O, D)`` float8_e4m3fn.
        weight_scale: ``(O, 1)`` float32.
        bias: ``(O,)``; its dtype is that of the result.

    Returns:
        ``(..., O)``, dtype of `bias`.

    Raises:
        ValueError: a shape or a device does not fit, or a gradient is needed.
        TypeError: a dtype or a type is none of the above.
    """
    _check(values, scale, weight, weight_scale, bias)
    named = {"values": values, "scale": scale, "weight": weight, "weight_scale": weight_scale, "bias": bias}
    check_no_gradient("scaled_linear", **named)
    if not native("scaled_linear", bias):
        return scaled_linear_reference(values, scale, weight, weight_scale, bias)
    return torch.ops.pavdit.scaled_linear(values, scale, weight, weight_scale, bias)


def _check(values: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor) -> None:
    op = "scaled_linear"
    check_floating(op, bias=bias)
    named = {"values": values, "scale": scale, "weight": weight, "weight_scale": weight_scale}
    for name, tensor in named.items():
        check_tensor(op, name, tensor)
        wanted = (torch.float32,) if "scale" in name else (FP8,)
        if tensor.dtype not in wanted:
            raise TypeError(f"{op}: want {name} {wanted[0]}, got {tensor.dtype}")
        if tensor.device != bias.device:
            raise ValueError(f"{op}: want {name} on {bias.device} as bias, got {tensor.device}")
    if (
        values.ndim < 1
        or weight.ndim != 2
        or values.shape[-1] != weight.shape[1]
        or scale.shape != (*values.shape[:-1], 1)
        or weight_scale.shape != (weight.shape[0], 1)
        or bias.shape != weight.shape[:1]
    ):
        got = ", ".join(str(tuple(t.shape)) for t in (*named.values(), bias))
        raise ValueError(
            f"{op}: want values (...,D), scale (...,1), weight (O,D), weight_scale (O,1), bias (O,), "
            f"got {got}"
        )


def scaled_linear_reference(
    values: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor
) -> Tensor:
    """The op in plain PyTorch: every product of two e4m3 numbers is exact in float32."""
    work = torch.promote_types(bias.dtype, torch.float32)
    rows, columns = values.to(work) * scale, weight.to(work) * weight_scale
    return functional.linear(rows, columns, bias.to(work)).to(bias.dtype)


def _raw(values: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
    _check(values, scale, weight, weight_scale, bias)
    return scaled_linear_reference(values, scale, weight, weight_scale, bias)


@functools.cache
def has_e4m3(device: torch.device) -> bool:
    """Whether a device has e4m3 numbers, or is none that would need them (CUDA: sm_89 and later)."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 9)


def _product(values: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
    """The library's: ``(rows, D)`` and ``(O, D)`` to ``(rows, O)``."""
    return torch._scaled_mm(
        values,
        weight.t(),
        scale_a=scale,
        scale_b=weight_scale.t(),
        bias=bias,
        out_dtype=bias.dtype,
        use_fast_accum=True,  # its error is far below that of three bits of mantissa
    )


def _on_cuda(values: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
    _check(values, scale, weight, weight_scale, bias)
    if values.numel() == 0 or bias.dtype != torch.bfloat16 or not has_e4m3(bias.device):
        return scaled_linear_reference(values, scale, weight, weight_scale, bias)
    rows = values.reshape(-1, values.shape[-1]).contiguous(), scale.reshape(-1, 1).contiguous()
    out = _product(*rows, weight.contiguous(), weight_scale.contiguous(), bias)
    return out.view(*values.shape[:-1], weight.shape[0])


torch.library.impl("pavdit::scaled_linear", "CompositeExplicitAutograd", _raw)
serve_by_torch("scaled_linear", "cuda", _on_cuda, "torch._scaled_mm, where the device has it: fp8_missing()")


@register_fake("pavdit::scaled_linear")
def _(values: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
    return bias.new_empty((*values.shape[:-1], weight.shape[0]))


@functools.cache
def fp8_missing(device: torch.device) -> str:
    """Say why fp8 products do not run fast on a device; empty where they do. Tries one, once a device."""
    if device.type != "cuda":
        return f"no fp8 product on {device.type}: emulated with dequantised numbers, for its error alone"
    values = torch.ones(32, 32, device=device).to(FP8)
    scale = torch.ones(32, 1, device=device)
    bias = torch.zeros(32, dtype=torch.bfloat16, device=device)
    try:
        found = _product(values, scale, values, scale, bias)
    except RuntimeError as fault:  # also what is not implemented
        major, minor = torch.cuda.get_device_capability(device)
        reason = str(fault).strip().partition("\n")[0]
        return f"torch._scaled_mm with row-wise scales fails on {device} (sm_{major}{minor}): {reason}"
    wrong = not bool((found == 32).all())
    return f"torch._scaled_mm with row-wise scales gives wrong numbers on {device}" if wrong else ""
