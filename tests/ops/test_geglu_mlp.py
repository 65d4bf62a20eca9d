"""geglu_mlp: the equation, no worse than four steps, gradients, one graph, messages."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from numerics import assert_equation, assert_no_worse
from torch import Tensor

from pavdit.ops import geglu_mlp
from pavdit.ops.geglu_mlp import geglu_mlp_reference

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SHAPES = {  # leading axes of x, D, hidden, columns
    "one": ((1,), 8, 8, 8),
    "model": ((1, 2, 16, 16), 192, 768, 192),
    "ragged": ((3, 89), 13, 21, 5),  # 267 rows are more than are taken at a time
    "vector": ((), 16, 24, 16),
    "no-rows": ((2, 0), 16, 24, 16),
    "no-hidden": ((2, 3), 16, 0, 16),
    "no-width": ((2, 3), 0, 24, 16),
}


def draw(shape: str, dtype: torch.dtype) -> list[Tensor]:
    leading, width, hidden, columns = SHAPES[shape]
    generator = torch.Generator().manual_seed(3)

    def normal(*sizes: int, terms: int = 1) -> Tensor:
        return (torch.randn(sizes, generator=generator) / max(1, terms) ** 0.5).to(dtype)

    into = normal(2 * hidden, width, terms=width), normal(2 * hidden)
    return [3 * normal(*leading, width), *into, normal(columns, hidden, terms=hidden), normal(columns)]


def exact(inputs: list[Tensor]) -> Tensor:
    return geglu_mlp_reference(*(t.double() for t in inputs))


def test_reference_is_the_equation() -> None:
    x, weight_in, bias_in, weight_out, bias_out = (t.double()[:21] for t in draw("ragged", torch.float32))
    weight_in, bias_in = weight_in[:6], bias_in[:6]
    weight_out = weight_out[:, :3]
    x = x[0, :4]
    want = torch.empty(4, 5, dtype=torch.float64)
    for row in range(4):
        u = [float(sum(x[row, d] * weight_in[h, d] for d in range(13)) + bias_in[h]) for h in range(6)]
        hidden = [u[h] * u[3 + h] * 0.5 * (1 + math.erf(u[3 + h] / math.sqrt(2))) for h in range(3)]
        for column in range(5):
            products = (hidden[h] * float(weight_out[column, h]) for h in range(3))
            want[row, column] = sum(products) + float(bias_out[column])
    assert_equation(geglu_mlp(x, weight_in, bias_in, weight_out, bias_out), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_accuracy(shape: str, dtype: str) -> None:
    inputs = draw(shape, DTYPES[dtype])
    with torch.no_grad():
        got = geglu_mlp(*inputs)
    assert_no_worse(got, geglu_mlp_reference(*inputs), exact(inputs))


@torch.no_grad()
def test_strided() -> None:
    x, weight_in, bias_in, weight_out, bias_out = draw("model", torch.float32)
    bias_in = torch.stack([bias_in, bias_in], -1)[:, 0]
    inputs = [x.transpose(1, 2), weight_in.t().contiguous().t(), bias_in, weight_out[:, ::1], bias_out[::1]]
    assert_no_worse(geglu_mlp(*inputs), geglu_mlp_reference(*inputs), exact(inputs))


@torch.no_grad()
def test_far_from_zero_and_not_finite() -> None:
    """What GELU makes of its extremes, a column each; the second product of a unit matrix leaves it alone."""
    far = [0.0, -0.0, 1e-30, 5.0, -5.0, 13.0, -13.0, 1e4, -1e4, 3e38, -3e38, torch.inf, -torch.inf, torch.nan]
    gate = torch.tensor(far)[:, None]
    inputs = [gate, torch.tensor([[0.0], [1.0]]), torch.tensor([1.0, 0.0]), torch.ones(1, 1), torch.zeros(1)]
    got, want = geglu_mlp(*inputs), geglu_mlp_reference(*inputs)
    finite = want.isfinite()
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got[want.isinf()], want[want.isinf()])
    assert_no_worse(got[finite], want[finite], exact(inputs)[finite])


def test_gradients() -> None:
    inputs = [t.requires_grad_() for t in draw("ragged", torch.float32)]
    doubles = [t.detach().double().requires_grad_() for t in inputs]
    got = torch.autograd.grad(geglu_mlp(*inputs).square().sum(), inputs)
    eager = torch.autograd.grad(geglu_mlp_reference(*inputs).square().sum(), inputs)
    want = torch.autograd.grad(geglu_mlp_reference(*doubles).square().sum(), doubles)
    for one, two, three in zip(got, eager, want, strict=True):
        assert_no_worse(one, two, three)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_opcheck(dtype: str) -> None:
    torch.library.opcheck(torch.ops.pavdit.geglu_mlp, tuple(draw("ragged", DTYPES[dtype])))


def test_compiles_into_one_graph() -> None:
    compiled = torch.compile(geglu_mlp, fullgraph=True, dynamic=True)
    _, *weights = draw("ragged", torch.float32)
    with torch.no_grad():
        for rows in (2, 3):
            inputs = [torch.randn(rows, 13), *weights]
            assert_no_worse(compiled(*inputs), geglu_mlp_reference(*inputs), exact(inputs))


def test_autocast_chooses_the_dtype() -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert geglu_mlp(*draw("ragged", torch.float32)).dtype == torch.bfloat16


def test_raw_op_refuses_inputs_that_need_a_gradient() -> None:
    x, *weights = draw("one", torch.float32)
    with pytest.raises(RuntimeError, match="geglu_mlp: want inputs that need no gradient"):
        torch.ops.pavdit.geglu_mlp(x.requires_grad_(), *weights)


X, W, B, V, C = torch.zeros(2, 3), torch.zeros(8, 3), torch.zeros(8), torch.zeros(5, 4), torch.zeros(5)
BAD: dict[str, tuple[tuple[Any, ...], type[Exception], str]] = {
    "no-tensor": ((None, W, B, V, C), TypeError, "want x a tensor, got NoneType"),
    "dtypes": ((X, W, B, V.half(), C), TypeError, "want weight_out torch.float32 as x, got torch.float16"),
    "device": ((X, W, B, V, C.to("meta")), ValueError, "want bias_out on cpu as x, got meta"),
    "width": ((X, torch.zeros(8, 5), B, V, C), ValueError, r"got \(2, 3\), \(8, 5\), \(8,\), \(5, 4\)"),
    "half": ((X, torch.zeros(9, 3), torch.zeros(9), V, C), ValueError, r"weight_in \(2\*hidden,D\)"),
    "bias": ((X, W, B, V, torch.zeros(4)), ValueError, r"bias_out \(columns,\), got"),
    "scalar": ((torch.zeros(()), W, B, V, C), ValueError, r"want x \(...,D\)"),
}


@pytest.mark.parametrize("name", BAD)
def test_message(name: str) -> None:
    arguments, kind, message = BAD[name]
    with pytest.raises(kind, match=f"geglu_mlp: .*{message}"):
        geglu_mlp(*arguments)
