"""`gated_residual_adaln` against its equation."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from numerics import assert_equation, assert_no_worse, assert_rounded_once
from torch import Tensor

from pavdit.ops import gated_residual_adaln


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def loops(
    x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The equation, one token at a time."""
    residual, modulated = torch.zeros_like(x), torch.zeros_like(x)
    b, f, n, d = x.shape
    groups = shift.shape[1]
    for i, frame, token in itertools.product(range(b), range(f), range(n)):
        row, group = i % shift.shape[0], frame * groups // f
        factor = 1.0 if gate is None else gate[i % gate.shape[0], frame * gate.shape[1] // f]
        h = x[i, frame, token] + factor * y[i, frame, token]
        mean = h.sum() / d
        normed = (h - mean) / torch.sqrt(((h - mean) ** 2).sum() / d + eps)
        residual[i, frame, token] = h
        modulated[i, frame, token] = normed * (1 + scale[row, group]) + shift[row, group]
    return residual, modulated


CASES: dict[str, tuple[tuple[int, ...], int, int, int | None]] = {
    # x's shape; rows and groups of shift and scale; groups of the gate
    "one": ((1, 1, 1, 2), 1, 1, 1),
    "no-gate": ((2, 4, 3, 6), 2, 2, None),
    "groups": ((2, 4, 3, 5), 2, 4, 4),
    "broadcast": ((3, 6, 2, 4), 1, 2, 3),
}


@pytest.mark.parametrize(("shape", "rows", "groups", "gated"), CASES.values(), ids=CASES.keys())
def test_reference_is_the_equation(shape: tuple[int, ...], rows: int, groups: int, gated: int | None) -> None:
    d = shape[-1]
    x, y = (draw(*shape, seed=s).requires_grad_() for s in (0, 1))
    shift, scale = (draw(rows, groups, d, seed=s).requires_grad_() for s in (2, 3))
    gate = None if gated is None else draw(rows, gated, d, seed=4).requires_grad_()
    got = gated_residual_adaln(x, y, gate, shift, scale, 1e-3)
    want = loops(x, y, gate, shift, scale, 1e-3)
    for what, one, other in zip(("residual", "modulated"), got, want, strict=True):
        assert_equation(one, other, what=what)
    inputs = [x, y, shift, scale] if gate is None else [x, y, shift, scale, gate]
    grads = [draw(*shape, seed=s) for s in (5, 6)]
    for one, other in zip(
        torch.autograd.grad(got, inputs, grads), torch.autograd.grad(want, inputs, grads), strict=True
    ):
        assert_equation(one, other, what="gradient")


@pytest.mark.parametrize("wide", [False, True], ids=["modulation-like-x", "modulation-float32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_no_worse_than_eager(dtype: torch.dtype, wide: bool) -> None:
    x, y = draw(2, 4, 16, 384, dtype=dtype), draw(2, 4, 16, 384, dtype=dtype, seed=1)
    modulation = torch.float32 if wide else dtype
    gate, shift, scale = (draw(2, 2, 384, dtype=modulation, seed=s) for s in (2, 3, 4))

    def eager(x: Tensor, y: Tensor, gate: Tensor, shift: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        gate, shift, scale = (
            m.to(x.dtype).repeat_interleave(2, 1).unsqueeze(2) for m in (gate, shift, scale)
        )
        residual = x + gate * y
        normed = torch.nn.functional.layer_norm(residual, residual.shape[-1:], eps=1e-6)
        return residual, normed * (1 + scale) + shift

    grads = [draw(2, 4, 16, 384, dtype=dtype, seed=s) for s in (5, 6)]
    results = []
    for run, double in ((gated_residual_adaln, False), (eager, False), (gated_residual_adaln, True)):
        inputs = [
            t.to(torch.float64 if double else t.dtype).requires_grad_() for t in (x, y, gate, shift, scale)
        ]
        outs = run(*inputs)
        gradients = torch.autograd.grad(outs, inputs, [g.to(outs[0].dtype) for g in grads])
        results.append((*outs, *gradients))
    names = ("residual", "modulated", "dx", "dy", "dgate", "dshift", "dscale")
    for what, got, plain, exact in zip(names, *results, strict=True):
        assert_no_worse(got, plain, exact, what=what)
    if dtype != torch.float32:
        assert_rounded_once(results[0][0], results[2][0], what="residual")


def test_batch_stride_zero() -> None:
    x, y = draw(3, 2, 4, 8, dtype=torch.float32), draw(3, 2, 4, 8, dtype=torch.float32, seed=1)
    one = [draw(1, 2, 8, dtype=torch.float32, seed=s) for s in (2, 3, 4)]
    for got, want in zip(
        gated_residual_adaln(x, y, *(m.expand(3, 2, 8) for m in one)),
        gated_residual_adaln(x, y, *one),
        strict=True,
    ):
        assert_equation(got, want)


def test_empty() -> None:
    x, modulation = torch.zeros(2, 4, 0, 8), torch.zeros(2, 2, 8)
    assert [out.shape for out in gated_residual_adaln(x, x, modulation, modulation, modulation)] == [
        x.shape
    ] * 2


def test_raw_op() -> None:
    op = torch.ops.pavdit.gated_residual_adaln.default
    x, modulation = draw(2, 4, 3, 8, dtype=torch.bfloat16), draw(2, 2, 8, dtype=torch.float32)
    torch.library.opcheck(op, (x, x.flip(0), modulation, modulation, modulation, 1e-6))
    torch.library.opcheck(op, (x.transpose(1, 2), x.transpose(1, 2), None, *[modulation[:1, :1]] * 2, 1e-6))


def test_raw_op_refuses_gradients() -> None:
    x, modulation = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="call pavdit.ops.gated_residual_adaln"):
        torch.ops.pavdit.gated_residual_adaln(x, x, None, modulation, modulation, 1e-6)


def test_compiles_as_one_graph() -> None:
    compiled = torch.compile(gated_residual_adaln, fullgraph=True)
    x, y = draw(2, 4, 3, 8, dtype=torch.float32), draw(2, 4, 3, 8, dtype=torch.float32, seed=1)
    gate, shift, scale = (draw(1, 2, 8, dtype=torch.float32, seed=s) for s in (2, 3, 4))
    for got, want in zip(
        compiled(x, y, gate, shift, scale), gated_residual_adaln(x, y, gate, shift, scale), strict=True
    ):
        assert_equation(got, want)


X, MODULATION = torch.zeros(2, 4, 3, 8), torch.zeros(2, 2, 8)
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({"y": None}, TypeError, "want y a tensor, got NoneType"),
    "dtype": ({"y": X.half()}, TypeError, "want y torch.float32 as x, got torch.float16"),
    "shape": ({"y": X[:1]}, ValueError, r"want x and y \(B,F,N,D\) of one shape, got"),
    "shift none": ({"shift": None}, TypeError, "want shift a tensor, got NoneType"),
    "shift dtype": ({"shift": MODULATION.half()}, TypeError, "want shift float32, got torch.float16"),
    "gate device": ({"gate": MODULATION.to("meta")}, ValueError, "want gate on cpu, got meta"),
    "gate shape": ({"gate": MODULATION[..., :4]}, ValueError, r"want gate \(2 or 1, G, 8\), got \(2, 2, 4\)"),
    "groups": ({"gate": torch.zeros(2, 3, 8)}, ValueError, "want gate with G dividing F = 4, got G = 3"),
    "no groups": ({"gate": torch.zeros(2, 0, 8)}, ValueError, "want gate with G dividing F = 4, got G = 0"),
    "scale": ({"scale": MODULATION[:1]}, ValueError, r"want scale \(2, 2, 8\) as shift, got \(1, 2, 8\)"),
}


@pytest.mark.parametrize(("change", "error", "text"), ERRORS.values(), ids=ERRORS.keys())
def test_error_text(change: dict[str, Any], error: type[Exception], text: str) -> None:
    good = {"x": X, "y": X, "gate": MODULATION, "shift": MODULATION, "scale": MODULATION}
    with pytest.raises(error, match=f"^gated_residual_adaln: {text}"):
        gated_residual_adaln(**{**good, **change})
