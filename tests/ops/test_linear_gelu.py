"""linear_gelu: the equation, no worse than two steps, gradients, one graph, messages."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from numerics import assert_equation, assert_no_worse
from torch import Tensor

from pavdit.ops import linear_gelu
from pavdit.ops.linear_gelu import linear_gelu_reference

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHAPES = {  # leading axes of x, D, hidden
    "one": ((1,), 8, 8),
    "model": ((2, 6, 64), 384, 1536),
    "ragged": ((3, 5), 37, 41),
    "vector": ((), 16, 24),
    "no-rows": ((2, 0), 16, 24),
    "no-hidden": ((2, 3), 16, 0),
    "no-width": ((2, 3), 0, 24),
}


def draw(shape: str, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    leading, width, hidden = SHAPES[shape]
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(*leading, width, generator=generator)
    weight = torch.randn(hidden, width, generator=generator) / max(1, width) ** 0.5
    bias = torch.randn(hidden, generator=generator)
    return x.to(device, dtype), weight.to(device, dtype), bias.to(device, dtype)


def doubles(inputs: tuple[Tensor, ...]) -> list[Tensor]:
    return [t.double() for t in inputs]


def test_reference_is_the_equation() -> None:
    x, weight, bias = (t.double() for t in draw("ragged", torch.float32, "cpu"))
    want = torch.empty(3, 5, 41, dtype=torch.float64)
    for row in range(3):
        for column in range(5):
            for h in range(41):
                u = float(sum(x[row, column, d] * weight[h, d] for d in range(37)) + bias[h])
                inner = math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)
                want[row, column, h] = 0.5 * u * (1 + math.tanh(inner))
    assert_equation(linear_gelu(x, weight, bias), want)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("gradients", [False, True], ids=["inference", "training"])
def test_accuracy(shape: str, dtype: str, gradients: bool, device: str) -> None:
    inputs = draw(shape, DTYPES[dtype], device)
    with torch.set_grad_enabled(gradients):
        got = linear_gelu(*inputs)
    assert_no_worse(got, linear_gelu_reference(*inputs), linear_gelu_reference(*doubles(inputs)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_strided(dtype: str, device: str) -> None:
    x, weight, bias = draw("model", DTYPES[dtype], device)
    x, weight = x.transpose(0, 1), weight.t().contiguous().t()
    bias = torch.stack([bias, bias], -1)[:, 0]
    with torch.no_grad():
        got = linear_gelu(x, weight, bias)
    inputs = x, weight, bias
    assert_no_worse(got, linear_gelu_reference(*inputs), linear_gelu_reference(*doubles(inputs)))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_gradients(dtype: str, device: str) -> None:
    inputs = [t.requires_grad_() for t in draw("ragged", DTYPES[dtype], device)]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    got = torch.autograd.grad(linear_gelu(*inputs).sum(), inputs)
    eager = torch.autograd.grad(linear_gelu_reference(*inputs).sum(), inputs)
    want = torch.autograd.grad(linear_gelu_reference(*exact).sum(), exact)
    for name, one, two, three in zip(("dx", "dweight", "dbias"), got, eager, want, strict=True):
        assert_no_worse(one, two, three, what=name)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_opcheck(dtype: str, device: str) -> None:
    torch.library.opcheck(torch.ops.pavdit.linear_gelu, draw("ragged", DTYPES[dtype], device))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_into_one_graph(device: str) -> None:
    compiled = torch.compile(linear_gelu, fullgraph=True, dynamic=True)
    _, weight, bias = draw("ragged", torch.bfloat16, device)
    with torch.no_grad():
        for rows in (2, 3, 5):
            x = torch.randn(rows, 37, device=device).bfloat16()
            inputs = x, weight, bias
            assert_no_worse(
                compiled(*inputs), linear_gelu_reference(*inputs), linear_gelu_reference(*doubles(inputs))
            )


def test_autocast_chooses_the_dtype() -> None:
    x, weight, bias = draw("ragged", torch.float32, "cpu")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert linear_gelu(x, weight, bias).dtype == torch.bfloat16


def test_raw_op_refuses_inputs_that_need_a_gradient() -> None:
    x, weight, bias = draw("ragged", torch.float32, "cpu")
    with pytest.raises(RuntimeError, match="linear_gelu: want inputs that need no gradient"):
        torch.ops.pavdit.linear_gelu(x, weight.requires_grad_(), bias)


X, W, B = torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(4)
BAD: dict[str, tuple[tuple[Any, Any, Any], type[Exception], str]] = {
    "no-tensor": ((None, W, B), TypeError, "want x a tensor, got NoneType"),
    "int": ((X.long(), W, B), TypeError, "want x float32, bfloat16, float16 or float64, got torch.int64"),
    "dtypes": ((X, W.bfloat16(), B), TypeError, "want weight torch.float32 as x, got torch.bfloat16"),
    "device": ((X, W, B.to("meta")), ValueError, "want bias on cpu as x, got meta"),
    "width": ((X, torch.zeros(4, 5), B), ValueError, r"got \(2, 3\), \(4, 5\), \(4,\)"),
    "bias": ((X, W, torch.zeros(3)), ValueError, r"bias \(hidden,\), got"),
    "rank": ((X, W[0], B), ValueError, r"want x \(...,D\), weight \(hidden,D\)"),
    "scalar": ((torch.zeros(()), W, B), ValueError, r"want x \(...,D\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_message(name: str) -> None:
    arguments, kind, message = BAD[name]
    with pytest.raises(kind, match=f"linear_gelu: .*{message}"):
        linear_gelu(*arguments)
