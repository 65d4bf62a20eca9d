"""Calls of `axis_attention`: their shapes, inputs and gradients, for the tests of the op and its emulator."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from attention_loops import (
    angles,
)
from numerics import assert_no_worse
from torch import Tensor

from pavdit.ops._library import native

LOW = [torch.float32, torch.bfloat16, torch.float16]
CUDA = pytest.mark.skipif(
    not torch.cuda.is_available() and "cuda" not in os.environ.get("PAVDIT_REQUIRE_KERNELS", ""),
    reason="no CUDA device",
)
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


NATIVE = native("axis_attention", torch.empty(0))
needs_native = pytest.mark.skipif(not NATIVE, reason="no native library")


@dataclass(frozen=True)
class Call:
    """Leading shape + (A, E) of one call, and what it comes with."""

    shape: tuple[int, ...]
    axis: int
    masked: bool = False
    normed: bool = False
    turned: bool = False
    layout: str = "packed"


CALLS = {
    "one": Call((1, 1, 1), 0),
    "time": Call((2, 16, 9, 4, 64), 1, turned=True),  # MDSA: frames at one position
    "time-8": Call((2, 8, 5, 2, 64), 1, turned=True, masked=True),
    "projector": Call((1, 4, 17, 3, 4, 48), 2),  # MDSA: 16 tokens and their summary
    "projector-33": Call((33, 3, 2, 2, 48), 0, masked=True),
    "stdit": Call((2, 6, 16, 3, 64), 1, normed=True),  # STDiT: across the frames of P
    "stdit-4": Call((1, 4, 16, 2, 72), 1, normed=True, turned=True),
    "longest": Call((2, 80, 1, 96), 1, masked=True, normed=True, turned=True),
    "long": Call((2, 69, 2, 64), 1),
    "widest": Call((3, 5, 2, 128), 1, normed=True),
    "ragged": Call((3, 13, 2, 3, 37), 1, masked=True, normed=True),
    "ragged-pairs": Call((2, 3, 11, 1, 6), 2, masked=True, normed=True, turned=True),
    "strided": Call((3, 7, 4, 2, 40), 1, normed=True, turned=True, layout="strided"),
    "sparse": Call((3, 7, 4, 2, 24), 1, turned=True, layout="sparse"),  # E has a stride
    "unaligned": Call((2, 9, 3, 2, 64), 1, turned=True, layout="unaligned"),
    "no-batch": Call((0, 4, 3, 2, 8), 1, normed=True),
    "no-heads": Call((2, 4, 3, 0, 8), 1, masked=True),
    "no-tokens": Call((2, 0, 3, 2, 8), 1),
    "70000-problems": Call((35_000, 3, 2, 4), 1, masked=True),
}


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values in other places."""
    if layout == "strided":  # heads before parts, as a view of something longer
        longer = torch.cat([x, x], -4).transpose(-2, -3).contiguous()
        return longer.transpose(-2, -3).narrow(-4, 0, x.shape[-4])
    if layout == "sparse":
        return torch.stack([x, x], -1)[..., 0]
    if layout == "unaligned":
        return torch.cat([x.flatten()[:1], x.flatten()])[1:].view_as(x)
    return x


def inputs_of(
    call: Call, dtype: torch.dtype, weight_dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> list[Any]:
    """Everything that `axis_attention` takes."""
    leading, (heads, width) = call.shape[:-2], call.shape[-2:]
    qkv = laid_out(draw(*leading, 3, heads, width, dtype=dtype).to(device), call.layout)
    valid = (draw(*leading, seed=1) > -0.3).to(device) if call.masked else None
    if valid is not None and valid.numel() > 0:
        valid.movedim(call.axis, 0)[:, 0] = False
    weights = [
        (1 + 0.2 * draw(width, seed=s)).to(device, weight_dtype) if call.normed else None for s in (2, 3)
    ]
    rope = angles(leading[call.axis], width).to(device) if call.turned else None
    return [qkv, call.axis, valid, *weights, rope]


def double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.dtype != torch.bool else value


def with_gradients(op: Any, arguments: list[Any], grad: Tensor) -> list[Tensor]:
    """The result, then the gradients of all floating-point arguments but the table of angles."""
    leaves = [
        a.detach().requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() and a.ndim != 3 else a
        for a in arguments
    ]
    out = op(*leaves)
    wanted = [a for a in leaves if isinstance(a, Tensor) and a.requires_grad]
    return [out.detach(), *torch.autograd.grad(out, wanted, grad.to(out.dtype))]


def assert_as_good_as(reference: Any, op: Any, arguments: list[Any]) -> None:
    """Forward and backward err at most twice as much as PyTorch's own attention in the dtype given."""
    exact_arguments = [double(a) for a in arguments]
    out = op(*arguments)
    grad = draw(*out.shape, dtype=out.dtype, seed=5).to(out.device)
    found, plain, exact = (
        with_gradients(f, a, grad)
        for f, a in ((op, arguments), (reference, arguments), (reference, exact_arguments))
    )
    assert found[0].is_contiguous()
    for i, tensors in enumerate(zip(found, plain, exact, strict=True)):
        assert_no_worse(*tensors, what="result" if i == 0 else f"gradient {i}")
