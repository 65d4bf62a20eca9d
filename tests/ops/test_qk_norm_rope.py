"""`qk_norm_rope` against its equation."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from attention_loops import angles, eager_norm_and_rotate, norm_and_rotate_vector
from numerics import assert_equation, assert_no_worse, assert_rounded_once
from torch import Tensor

from pavdit.ops import qk_norm_rope


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("with_rope", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 3, 1, 2), (2, 5, 3, 2, 6), (2, 2, 3, 3, 1, 4)], ids=["one", "ragged", "grid"]
)
def test_reference_is_the_equation(shape: tuple[int, ...], with_rope: bool) -> None:
    qkv = draw(*shape).requires_grad_()
    weights = [1 + 0.3 * draw(shape[-1], seed=s).requires_grad_() for s in (1, 2)]
    rope = angles(shape[-4], shape[-1]).double() if with_rope else None
    got = qk_norm_rope(qkv, weights[0], weights[1], rope)
    want = torch.zeros_like(qkv)
    for index in itertools.product(*(range(n) for n in shape[:-1])):
        part, position = index[-2], index[-3]
        vector = qkv[index]
        want[index] = vector if part == 2 else norm_and_rotate_vector(vector, weights[part], rope, position)
    assert_equation(got, want)
    assert torch.equal(got[..., 2, :, :], qkv[..., 2, :, :])
    grad = draw(*shape, seed=3)
    inputs = [qkv, *weights]
    for one, other in zip(
        torch.autograd.grad(got, inputs, grad), torch.autograd.grad(want, inputs, grad), strict=True
    ):
        assert_equation(one, other, what="gradient")


def test_rotation_keeps_lengths_and_depends_on_the_difference_of_positions_only() -> None:
    turn = torch.arange(6).double()[:, None] * torch.tensor([0.9, 0.1])
    rope = torch.stack((turn.cos(), turn.sin()))
    qkv = draw(4).expand(6, 3, 1, 4)
    out = qk_norm_rope(qkv, torch.ones(4).double(), torch.ones(4).double(), rope)
    products = out[:, 0, 0] @ out[:, 1, 0].T  # (6, 6)
    assert_equation(products.diagonal(1), products[0, 1].expand(5))
    square = qkv[0, 0, 0].square().mean()
    assert_equation(products.diagonal(), (4 * square / (square + 1e-6)).expand(6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_no_worse_than_eager(dtype: torch.dtype) -> None:
    qkv, rope, grad = (
        draw(2, 33, 3, 4, 64, dtype=dtype),
        angles(33, 64),
        draw(2, 33, 3, 4, 64, dtype=dtype, seed=1),
    )
    weights = [(1 + 0.1 * draw(64, seed=s)).float() for s in (2, 3)]

    def eager(x: Tensor) -> Tensor:
        q, k, v = x.unbind(-3)
        q, k = eager_norm_and_rotate(q, weights[0], rope), eager_norm_and_rotate(k, weights[1], rope)
        return torch.stack((q, k, v), -3)

    results = []
    for run, x in (
        (lambda x: qk_norm_rope(x, weights[0], weights[1], rope), qkv),
        (eager, qkv),
        (lambda x: qk_norm_rope(x, weights[0], weights[1], rope), qkv.double()),
    ):
        x = x.detach().requires_grad_()
        out = run(x)
        results.append((out, *torch.autograd.grad(out, x, grad.to(out.dtype))))
    for what, got, plain, exact in zip(("out", "gradient"), *results, strict=True):
        assert_no_worse(got, plain, exact, what=what)
    if dtype != torch.float32:
        assert_rounded_once(results[0][0], results[2][0])


def test_a_zero_vector_stays_zero() -> None:
    qkv = torch.zeros(1, 3, 1, 4, requires_grad=True)
    out = qk_norm_rope(qkv, torch.ones(4), torch.ones(4), angles(1, 4))
    out.sum().backward()
    assert torch.equal(out, torch.zeros_like(out))
    assert qkv.grad is not None
    assert bool(qkv.grad.isfinite().all())


def test_raw_op() -> None:
    qkv, weight = draw(2, 5, 4, 3, 8, dtype=torch.bfloat16).transpose(-2, -3), draw(8, dtype=torch.float32)
    op = torch.ops.pavdit.qk_norm_rope.default
    torch.library.opcheck(op, (qkv, weight, weight, angles(5, 8)))
    torch.library.opcheck(op, (qkv[:0], weight, weight, None))


def test_raw_op_refuses_gradients() -> None:
    weight = torch.ones(8, requires_grad=True)
    with pytest.raises(RuntimeError, match="want inputs that need no gradient.*call pavdit.ops.qk_norm_rope"):
        torch.ops.pavdit.qk_norm_rope(draw(5, 3, 2, 8), weight, weight, None)


def test_compiles_as_one_graph() -> None:
    compiled = torch.compile(qk_norm_rope, fullgraph=True)
    inputs = draw(2, 5, 3, 2, 8, dtype=torch.float32), torch.ones(8), torch.full((8,), 0.5), angles(5, 8)
    assert_equation(compiled(*inputs), qk_norm_rope(*inputs))


GOOD: dict[str, Any] = {
    "qkv": torch.zeros(2, 5, 3, 2, 8),
    "q_weight": torch.ones(8),
    "k_weight": torch.ones(8),
}
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({"qkv": None}, TypeError, "want qkv a tensor, got NoneType"),
    "rank": ({"qkv": torch.zeros(3, 2, 8)}, ValueError, r"want qkv \(...,N,3,A,E\), got \(3, 2, 8\)"),
    "packed": ({"qkv": torch.zeros(5, 2, 2, 8)}, ValueError, r"want qkv .*got \(5, 2, 2, 8\)"),
    "no weight": ({"k_weight": None}, TypeError, "want q_weight and k_weight tensors, got None"),
    "weight shape": ({"q_weight": torch.ones(4)}, ValueError, r"want q_weight \(8,\), got \(4,\)"),
    "weight device": (
        {"q_weight": torch.ones(8, device="meta")},
        ValueError,
        "want q_weight on cpu, got meta",
    ),
    "rope length": ({"rope": torch.ones(2, 4, 4)}, ValueError, r"want rope \(2, 5, 4\), got \(2, 4, 4\)"),
    "rope dtype": (
        {"rope": torch.ones(2, 5, 4).bfloat16()},
        TypeError,
        "want rope float32, got torch.bfloat16",
    ),
}


@pytest.mark.parametrize(("change", "error", "text"), ERRORS.values(), ids=ERRORS.keys())
def test_error_text(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^qk_norm_rope: {text}"):
        qk_norm_rope(**{**GOOD, **change})
