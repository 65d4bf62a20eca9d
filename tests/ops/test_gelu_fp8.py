"""`gelu_fp8` against tanh-GELU in float64, element by element."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest
import torch
from interpreted import INTERPRETED
from numerics import assert_fp8_rows
from torch import Tensor

from pavdit.ops import gelu_fp8
from pavdit.ops._library import native

CUDA = pytest.mark.skipif(
    not torch.cuda.is_available() and "cuda" not in os.environ.get("PAVDIT_REQUIRE_KERNELS", ""),
    reason="no CUDA device",
)
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHAPES = {
    "one": (1, 1),
    "model": (3, 4608),
    "ragged": (2, 3, 77),
    "strided": (5, 96),
    "long": (2, 20_000),
    "no-rows": (0, 8),
}


def draw(*shape: int) -> Tensor:
    return 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def equation(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_accuracy(name: str, dtype: str, device: str) -> None:
    x = draw(*SHAPES[name]).to(DTYPES[dtype]).to(device)
    x = x.t().contiguous().t() if name == "strided" else x
    exact = torch.tensor([equation(float(v)) for v in x.flatten()], dtype=torch.float64).view(x.shape)
    values, scale = gelu_fp8(x)
    assert_fp8_rows(values.cpu(), scale.cpu(), exact)


@pytest.mark.parametrize("device", DEVICES)
def test_zeros_and_large_numbers(device: str) -> None:
    values, scale = gelu_fp8(torch.tensor([[0.0, 0.0, 0.0], [-1e4, 3e4, 1.0]], device=device))
    assert torch.equal((values.float() * scale).cpu()[0], torch.zeros(3))
    assert torch.equal(values.float().cpu()[1], torch.tensor([0.0, 448.0, 0.01171875]))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_broken_row_shows(value: float, device: str) -> None:
    values, scale = gelu_fp8(torch.tensor([[1.0, value], [1.0, 2.0]], device=device))
    broken = ~(values.float() * scale).isfinite().cpu()
    assert bool(broken[0].any())
    assert not bool(broken[1].any())


@pytest.mark.parametrize("device", DEVICES)
def test_raw_op(device: str) -> None:
    x = draw(2, 3, 24).float().to(device)
    torch.library.opcheck(torch.ops.pavdit.gelu_fp8.default, (x,))
    raw, public = torch.ops.pavdit.gelu_fp8(x), gelu_fp8(x)
    for got, want in zip(raw, public, strict=True):
        assert torch.equal(got.view(torch.uint8), want.view(torch.uint8))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_as_one_graph(device: str) -> None:
    x = draw(2, 3, 24).float().to(device)
    values, scale = torch.compile(gelu_fp8, fullgraph=True, backend="aot_eager")(x)
    assert_fp8_rows(values.cpu(), scale.cpu(), torch.nn.functional.gelu(x.cpu().double(), approximate="tanh"))


@pytest.mark.skipif(not INTERPRETED, reason="not interpreted; test_gated_residual_adaln_fp8 does it")
def test_the_kernel_serves_here() -> None:
    assert native("gelu_fp8", torch.empty(0))


ERRORS: dict[str, tuple[Any, type[Exception], str]] = {
    "none": (None, TypeError, "want x a tensor, got NoneType"),
    "dtype": (torch.zeros(3, dtype=torch.int32), TypeError, "want x float32, .*got torch.int32"),
    "scalar": (torch.zeros(()), ValueError, r"want x \(...,D\) with D > 0, got \(\)"),
    "empty": (torch.zeros(2, 0), ValueError, r"want x \(...,D\) with D > 0, got \(2, 0\)"),
    "gradient": (torch.zeros(3, requires_grad=True), ValueError, "want x that needs no gradient"),
}


@pytest.mark.parametrize(("x", "error", "text"), ERRORS.values(), ids=ERRORS.keys())
def test_error_text(x: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^gelu_fp8: {text}"):
        gelu_fp8(x)
