"""`absorbed_attention` against its equation, and against multi-head attention with its two layers."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from interpreted import INTERPRETED, assert_passes_interpreted
from numerics import assert_equation, assert_no_worse
from torch import Tensor
from torch.nn import functional

from pavdit.ops import absorbed_attention
from pavdit.ops._library import native
from pavdit.ops.absorbed_attention import absorbed_attention_reference

CUDA = pytest.mark.skipif(
    not torch.cuda.is_available() and "cuda" not in os.environ.get("PAVDIT_REQUIRE_KERNELS", ""),
    reason="no CUDA device",
)
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Case:
    """B, N, A, M, D."""

    sizes: tuple[int, int, int, int, int]
    strided: bool = False
    programs: bool = True


CASES = {
    "one": Case((1, 1, 1, 1, 1)),
    "nine": Case((2, 70, 3, 9, 96)),
    "many-heads": Case((1, 5, 18, 17, 72)),
    "ragged": Case((2, 65, 5, 33, 77)),
    "strided": Case((2, 6, 2, 5, 24), strided=True),
    "long": Case((1, 3, 2, 130, 16)),
    "model": Case((2, 256, 18, 9, 1152), programs=False),
    "no-clips": Case((0, 3, 2, 4, 8)),
    "no-rows": Case((2, 0, 2, 4, 8)),
    "no-width": Case((2, 3, 2, 4, 0)),
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(case: Case, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, keys, bias with padding, values."""
    b, n, a, m, d = case.sizes
    x, keys, values = draw(b, n, d), draw(b, a, m, d, seed=1) / max(d, 1) ** 0.5, draw(b, a, m, d, seed=2)
    bias = draw(b, a, m, seed=3)
    if m > 1:
        bias[: (b + 1) // 2, :, m // 2 :] = -torch.inf
    if case.strided:
        x, keys, values = (t.transpose(0, -2).contiguous().transpose(0, -2) for t in (x, keys, values))
    x, keys, values = (t.to(dtype).to(device) for t in (x, keys, values))
    return x, keys, bias.to(torch.float64 if dtype == torch.float64 else torch.float32).to(device), values


def loops(x: Tensor, keys: Tensor, bias: Tensor, values: Tensor) -> Tensor:
    """One row and one head at a time, in float64."""
    out = torch.zeros_like(x)
    for b, n, a in itertools.product(range(x.shape[0]), range(x.shape[1]), range(keys.shape[1])):
        weights = [float(x[b, n] @ k) + float(c) for k, c in zip(keys[b, a], bias[b, a], strict=True)]
        weights = torch.tensor(weights, dtype=torch.float64).exp()
        out[b, n] += (weights / weights.sum()) @ values[b, a]
    return out


def test_reference_is_the_equation() -> None:
    inputs = make(Case((2, 3, 2, 4, 8)), torch.float64, "cpu")
    assert_equation(absorbed_attention_reference(*inputs), loops(*inputs))


def test_it_is_attention_with_its_layers_absorbed() -> None:
    """Keys that hold W_q, values that hold W_o and a share of its bias."""
    (b, n, a, m, e), d = (2, 5, 3, 4, 8), 24
    x, k, v = draw(b, n, d), draw(b, a, m, e, seed=1), draw(b, a, m, e, seed=2)
    (q_weight, o_weight), (q_bias, o_bias) = draw(2, d, d, seed=3) / d**0.5, draw(2, d, seed=4)
    q = functional.linear(x, q_weight, q_bias).unflatten(-1, (a, e)).transpose(1, 2)
    heads = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2)
    keys = torch.einsum("bame,aed->bamd", k, q_weight.view(a, e, d)) / e**0.5
    bias = torch.einsum("bame,ae->bam", k, q_bias.view(a, e)) / e**0.5
    values = torch.einsum("bame,dae->bamd", v, o_weight.view(d, a, e)) + o_bias / a
    assert_equation(absorbed_attention(x, keys, bias, values), functional.linear(heads, o_weight, o_bias))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_accuracy(name: str, dtype: str, device: str) -> None:
    case = CASES[name]
    if INTERPRETED and not case.programs:
        pytest.skip("too many programs for the interpreter")
    x, keys, bias, values = make(case, DTYPES[dtype], device)
    exact = absorbed_attention_reference(x.double(), keys.double(), bias.double(), values.double())
    scores = torch.einsum("bnd,bamd->bnam", x, keys) + bias.to(x.dtype)[:, None]
    eager = torch.einsum("bnam,bamd->bnd", scores.softmax(-1), values)
    assert_no_worse(absorbed_attention(x, keys, bias, values), eager, exact)


@pytest.mark.parametrize("device", DEVICES)
def test_raw_op(device: str) -> None:
    arguments = make(CASES["strided"], torch.float32, device)
    torch.library.opcheck(torch.ops.pavdit.absorbed_attention.default, arguments)
    assert torch.equal(torch.ops.pavdit.absorbed_attention(*arguments), absorbed_attention(*arguments))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_as_one_graph(device: str) -> None:
    arguments = make(CASES["strided"], torch.float32, device)
    compiled = torch.compile(absorbed_attention, fullgraph=True, backend="aot_eager")
    assert_equation(compiled(*arguments), absorbed_attention(*arguments))


def test_passes_interpreted() -> None:
    assert_passes_interpreted(__file__)


@pytest.mark.skipif(not INTERPRETED, reason="not interpreted")
def test_the_kernel_serves_here() -> None:
    assert native("absorbed_attention", torch.empty(0))


X, K, C = torch.zeros(2, 3, 8), torch.zeros(2, 2, 4, 8), torch.zeros(2, 2, 4)
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({"x": None}, TypeError, "want x a tensor, got NoneType"),
    "dtype": ({"keys": K.half()}, TypeError, "want keys torch.float32 as x, got torch.float16"),
    "bias": ({"bias": C.half()}, TypeError, "want bias float32, got torch.float16"),
    "device": ({"bias": C.to("meta")}, ValueError, "want bias on cpu as x, got meta"),
    "batch": ({"x": X[:1]}, ValueError, r"want x \(B,N,D\), .*got \(1, 3, 8\)"),
    "values": ({"values": K[:, :1]}, ValueError, r"want x \(B,N,D\), .*\(2, 1, 4, 8\)"),
    "tokens": (
        {"keys": K[:, :, :0], "values": K[:, :, :0], "bias": C[..., :0]},
        ValueError,
        "with A, M > 0, got",
    ),
    "gradient": ({"keys": K.clone().requires_grad_()}, ValueError, "want keys that needs no gradient"),
}


@pytest.mark.parametrize(("change", "error", "text"), ERRORS.values(), ids=ERRORS.keys())
def test_error_text(change: dict[str, Any], error: type[Exception], text: str) -> None:
    good = {"x": X, "keys": K, "bias": C, "values": K}
    with pytest.raises(error, match=f"^absorbed_attention: .*{text}"):
        absorbed_attention(**{**good, **change})
