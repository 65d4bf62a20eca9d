"""A linear layer and its tanh-GELU in one call, where the library's GEMM does both."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pavdit.ops._checks import check_floating
from pavdit.ops._library import native, serve_by_torch
from pavdit.ops._raw import call, forbid_gradients, register_fake

torch.library.define("pavdit::linear_gelu", "(Tensor x, Tensor weight, Tensor bias) -> Tensor")
forbid_gradients("linear_gelu")

_forward = torch.ops.pavdit.linear_gelu.default

ONEDNN_HAS_BFLOAT16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    r"""``gelu(x weight^T + bias)``, GELU in its tanh form.    Source: the MLP of Open-Sora 1.2, STDiT3
    (PAV-DiT 3.2); Hendrycks & Gimpel, arXiv 1606.08415.

    Without gradients the GELU is the GEMM's epilogue: cuBLASLt's on CUDA, oneDNN's for bfloat16 on a CPU
    (its float32 form errs more than twice as much as two steps do). With gradients, and elsewhere, two steps.

    Args:
        x: ``(..., D)``, float32, bfloat16 or float16 (float64: two steps).
        weight: ``(hidden, D)``, dtype and device of `x`; autocast may cast all three.
        bias: ``(hidden,)``, dtype and device of `x`.

    Returns:
        ``(..., hidden)``, dtype of `x`, under autocast its dtype.

    Raises:
        ValueError: a shape or a device does not fit.
        TypeError: a dtype or a type is none of the above.
    """
    op = "linear_gelu"
    autocast = isinstance(x, Tensor) and _autocasts(x.device.type)
    if autocast:
        check_floating(op, x=x)
        check_floating(op, weight=weight, bias=bias)
    else:
        check_floating(op, x=x, weight=weight, bias=bias)
    if x.ndim < 1 or weight.ndim != 2 or bias.shape != weight.shape[:1] or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"{op}: want x (...,D), weight (hidden,D), bias (hidden,), "
            f"got {tuple(x.shape)}, {tuple(weight.shape)}, {tuple(bias.shape)}"
        )
    if autocast or torch.is_grad_enabled() or not native("linear_gelu", x):
        return linear_gelu_reference(x, weight, bias)
    return call(_forward, x, weight, bias)


def _autocasts(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def linear_gelu_reference(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The op in plain PyTorch."""
    return functional.gelu(functional.linear(x, weight, bias), approximate="tanh")


def _on_cpu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if x.dtype != torch.bfloat16 or not ONEDNN_HAS_BFLOAT16 or x.numel() == 0 or weight.numel() == 0:
        return linear_gelu_reference(x, weight, bias)
    x, weight = x.contiguous(), weight.contiguous()  # it takes strides for what they are not
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias.contiguous(), "gelu", [], "tanh")


def _on_cuda(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rows = torch._addmm_activation(bias, x.flatten(0, -2), weight.t(), use_gelu=True)
    return rows.view(*x.shape[:-1], weight.shape[0])


torch.library.impl("pavdit::linear_gelu", "CompositeExplicitAutograd", linear_gelu_reference)
serve_by_torch("linear_gelu", "cpu", _on_cpu, "oneDNN, bfloat16 only")
serve_by_torch("linear_gelu", "cuda", _on_cuda, "cuBLASLt")


@register_fake("pavdit::linear_gelu")
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))
