"""`scaled_linear` against its equation in float64; on a GPU also against the emulation."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from numerics import assert_equation, assert_fp8_rows, assert_no_worse
from torch import Tensor

from pavdit.ops import scaled_linear
from pavdit.ops.scaled_linear import FP8, fp8_missing, quantise_rows

CUDA = pytest.mark.skipif(
    not torch.cuda.is_available() and "cuda" not in os.environ.get("PAVDIT_REQUIRE_KERNELS", ""),
    reason="no CUDA device",
)
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHAPES = {
    "one": ((1, 16), 16),
    "model": ((2, 5, 1152), 64),
    "tall": ((3, 7, 2, 32), 80),
    "none": ((0, 32), 16),
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def make(name: str, dtype: torch.dtype, device: str) -> tuple[Tensor, ...]:
    (*rows, width), outputs = SHAPES[name]
    x = quantise_rows(draw(*rows, width))
    weight = quantise_rows(draw(outputs, width, seed=1) / width**0.5)
    return tuple(t.to(device) for t in (*x, *weight, draw(outputs, seed=2).to(dtype)))


def equation(values: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor) -> Tensor:
    """One output at a time."""
    values, scale, weight, weight_scale, bias = (
        t.double() for t in (values, scale, weight, weight_scale, bias)
    )
    columns = [
        (values * w).sum(-1) * scale[..., 0] * s + b
        for w, s, b in zip(weight, weight_scale[:, 0], bias, strict=True)
    ]
    return torch.stack(columns, -1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_accuracy(name: str, dtype: str, device: str) -> None:
    arguments = make(name, DTYPES[dtype], device)
    exact = equation(*arguments)
    got = scaled_linear(*arguments)
    assert got.dtype == DTYPES[dtype]
    if dtype == "fp32":
        assert_equation(got, exact.float())
    else:
        eager = torch.nn.functional.linear(
            *((q.float() * s).to(got.dtype) for q, s in (arguments[:2], arguments[2:4])), arguments[4]
        )
        assert_no_worse(got, eager, exact)


def test_rows_are_quantised_once() -> None:
    x = draw(4, 33)
    x[1] = 0
    for dtype in DTYPES.values():
        assert_fp8_rows(*quantise_rows(x.to(dtype)), x.to(dtype).double())


def test_the_cpu_says_that_it_emulates() -> None:
    assert "emulated" in fp8_missing(torch.device("cpu"))


@CUDA
def test_cuda_says_why_not() -> None:
    """It works from sm_89 on, and elsewhere the reason is one line with the device's name."""
    reason = fp8_missing(torch.device("cuda"))
    if torch.cuda.get_device_capability() >= (8, 9):
        assert reason == ""
    else:
        assert "sm_" in reason
        assert "\n" not in reason


@pytest.mark.parametrize("device", DEVICES)
def test_raw_op(device: str) -> None:
    arguments = make("tall", torch.bfloat16, device)
    checks = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.pavdit.scaled_linear.default, arguments, test_utils=checks)
    assert torch.equal(torch.ops.pavdit.scaled_linear(*arguments), scaled_linear(*arguments))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_as_one_graph(device: str) -> None:
    arguments = make("tall", torch.bfloat16, device)
    compiled = torch.compile(scaled_linear, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*arguments), scaled_linear(*arguments))


V, S, W, WS, B = make("tall", torch.float32, "cpu")
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({"values": None}, TypeError, "want values a tensor, got NoneType"),
    "values": ({"values": V.float()}, TypeError, "want values torch.float8_e4m3fn, got torch.float32"),
    "scale": ({"scale": S.bfloat16()}, TypeError, "want scale torch.float32, got torch.bfloat16"),
    "bias": ({"bias": B.to(FP8)}, TypeError, "want bias float32, .*got torch.float8_e4m3fn"),
    "device": ({"weight": W.to("meta")}, ValueError, "want weight on cpu as bias, got meta"),
    "width": ({"weight": W[:, :16]}, ValueError, r"want values \(...,D\), scale .*got .*\(80, 16\)"),
    "per row": ({"scale": S[..., 0]}, ValueError, r"want .*scale \(...,1\), .*got"),
    "gradient": ({"bias": B.clone().requires_grad_()}, ValueError, "want bias that needs no gradient"),
}


@pytest.mark.parametrize(("change", "error", "text"), ERRORS.values(), ids=ERRORS.keys())
def test_error_text(change: dict[str, Any], error: type[Exception], text: str) -> None:
    good = {"values": V, "scale": S, "weight": W, "weight_scale": WS, "bias": B}
    with pytest.raises(error, match=f"^scaled_linear: {text}"):
        scaled_linear(**{**good, **change})
