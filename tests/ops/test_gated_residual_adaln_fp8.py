"""`gated_residual_adaln_fp8` against its equation, one token at a time."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from interpreted import INTERPRETED, assert_passes_interpreted
from numerics import assert_fp8_rows
from torch import Tensor

from pavdit.ops import gated_residual_adaln, gated_residual_adaln_fp8
from pavdit.ops._library import native

CUDA = pytest.mark.skipif(
    not torch.cuda.is_available() and "cuda" not in os.environ.get("PAVDIT_REQUIRE_KERNELS", ""),
    reason="no CUDA device",
)
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
UP = {torch.float32: 24, torch.bfloat16: 8, torch.float16: 11}
"""Bits of a number of the dtype."""


@dataclass(frozen=True)
class Case:
    """Sizes, and how the inputs lie in memory."""

    shape: tuple[int, int, int, int]
    groups: tuple[int, int] = (1, 1)
    """Of the gate, of shift and scale."""
    clips: int = 1
    strided: bool = False
    gated: bool = True
    programs: bool = True


CASES = {
    "one": Case((1, 1, 1, 1)),
    "tables": Case((2, 4, 3, 32), (2, 2), strided=True),
    "clips": Case((2, 4, 2, 24), (4, 2), clips=2, strided=True),
    "ungated": Case((2, 2, 3, 40), gated=False),
    "ragged": Case((3, 3, 1, 77), (3, 1)),
    "model": Case((1, 4, 16, 1152), (2, 2), strided=True, programs=False),
    "long": Case((1, 1, 2, 9000), programs=False),
    "no-clips": Case((0, 2, 3, 8)),
}


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(case: Case, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
    """x, y, gate, shift, scale; strided: modulation as rows of one table, as in the models."""
    (*_, width), batch = case.shape, 1 if case.clips == 1 else case.shape[0]
    x, y = draw(*case.shape), draw(*case.shape, seed=1)
    if case.strided:
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
        shift, scale = draw(batch, case.groups[1], 6, width, seed=2)[:, :, :2].unbind(2)
    else:
        shift, scale = draw(2, batch, case.groups[1], width, seed=2)
    gate = draw(batch, case.groups[0], width, seed=3) if case.gated else None
    cast = [None if t is None else t.to(dtype).to(device) for t in (x, y, gate, shift, scale)]
    return tuple(cast)  # type: ignore[return-value]


def equation(
    x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """The rounded residual and the exact norm of it, in float64."""
    dtype = x.dtype
    clips, frames, tokens, _ = x.shape
    residual, out = torch.empty_like(x, dtype=torch.float64), torch.empty_like(x, dtype=torch.float64)
    x, y, shift, scale = (t.double() for t in (x, y, shift, scale))
    for b, f, n in itertools.product(range(clips), range(frames), range(tokens)):
        branch = y[b, f, n]
        if gate is not None:
            branch = branch * gate.double()[b % gate.shape[0], f * gate.shape[1] // frames]
        row = (x[b, f, n] + branch).to(dtype).double()
        xhat = (row - row.mean()) / (row.var(correction=0) + eps).sqrt()
        where = b % shift.shape[0], f * shift.shape[1] // frames
        residual[b, f, n], out[b, f, n] = row, xhat * (1 + scale[where]) + shift[where]
    return residual, out


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_accuracy(name: str, dtype: str, device: str) -> None:
    """Rows are those of the residual that came out, which is a unit off at most."""
    case = CASES[name]
    if INTERPRETED and not case.programs:
        pytest.skip("too many programs for the interpreter")
    x, y, gate, shift, scale = make(case, DTYPES[dtype], device)
    residual, (values, row_scale) = gated_residual_adaln_fp8(x, y, gate, shift, scale)
    assert residual.dtype == x.dtype
    cpu = [None if t is None else t.cpu() for t in (x, y, gate, shift, scale)]
    want, _ = equation(*cpu)  # type: ignore[arg-type]
    off = (residual.cpu().double() - want).abs()
    # a product and a sum in float32 before the rounding; the interpreter cuts where a GPU rounds
    assert bool((off <= 2.0 ** (1 - UP[x.dtype]) * want.abs() + 1e-6).all())
    zero = torch.zeros_like(residual)
    _, exact = equation(residual.cpu(), zero.cpu(), None, cpu[3], cpu[4])  # type: ignore[arg-type]
    assert_fp8_rows(values.cpu(), row_scale.cpu(), exact)


def test_off_is_on_without_rounding() -> None:
    """The rows are the exact op's, but for three bits of mantissa."""
    x, y, gate, shift, scale = make(CASES["tables"], torch.float32, "cpu")
    with torch.no_grad():
        residual, (values, row_scale) = gated_residual_adaln_fp8(x, y, gate, shift, scale)
        plain, modulated = gated_residual_adaln(x, y, gate, shift, scale)
    assert torch.allclose(residual, plain, atol=1e-6)
    assert_fp8_rows(values, row_scale, modulated)


@pytest.mark.parametrize("device", DEVICES)
def test_raw_op(device: str) -> None:
    arguments = (*make(CASES["clips"], torch.bfloat16, device), 1e-6)
    torch.library.opcheck(torch.ops.pavdit.gated_residual_adaln_fp8.default, arguments)
    residual, rows = gated_residual_adaln_fp8(*arguments)
    for got, want in zip(
        torch.ops.pavdit.gated_residual_adaln_fp8(*arguments), (residual, *rows), strict=True
    ):
        assert torch.equal(got.view(torch.uint8), want.view(torch.uint8))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_as_one_graph(device: str) -> None:
    arguments = make(CASES["tables"], torch.float32, device)
    compiled = torch.compile(gated_residual_adaln_fp8, fullgraph=True, backend="aot_eager")
    residual, (values, row_scale) = compiled(*arguments)
    want, exact = equation(*(t.cpu() for t in arguments))  # type: ignore[union-attr]
    assert torch.allclose(residual.cpu().double(), want, atol=1e-6)
    assert_fp8_rows(values.cpu(), row_scale.cpu(), exact)


def test_passes_interpreted() -> None:
    """Both ops that make e4m3 rows in one process: its start is most of the time."""
    assert_passes_interpreted(__file__, str(Path(__file__).with_name("test_gelu_fp8.py")))


@pytest.mark.skipif(not INTERPRETED, reason="not interpreted")
def test_the_kernel_serves_here() -> None:
    assert native("gated_residual_adaln_fp8", torch.empty(0))


X, M = torch.zeros(2, 4, 3, 8), torch.zeros(2, 2, 8)
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({"x": None}, TypeError, "want x a tensor, got NoneType"),
    "shape": ({"y": X[:1]}, ValueError, r"want x and y \(B,F,N,D\) of one shape, got"),
    "gate": ({"gate": M[:, :, :4]}, ValueError, r"want gate \(2 or 1, G, 8\), got \(2, 2, 4\)"),
    "groups": ({"gate": torch.zeros(1, 3, 8)}, ValueError, "want gate with G dividing F = 4, got G = 3"),
    "scale": ({"scale": M[:1]}, ValueError, r"want scale \(2, 2, 8\) as shift, got \(1, 2, 8\)"),
    "eps": ({"eps": None}, TypeError, "want eps a number, got NoneType"),
    "width": (
        {"x": X[..., :0], "y": X[..., :0], "gate": None, "shift": M[..., :0], "scale": M[..., :0]},
        ValueError,
        r"want x \(B,F,N,D\) with D > 0",
    ),
    "gradient": ({"shift": M.clone().requires_grad_()}, ValueError, "want shift that needs no gradient"),
}


@pytest.mark.parametrize(("change", "error", "text"), ERRORS.values(), ids=ERRORS.keys())
def test_error_text(change: dict[str, Any], error: type[Exception], text: str) -> None:
    good = {"x": X, "y": X, "gate": M, "shift": M, "scale": M, "eps": 1e-6}
    with pytest.raises(error, match=f"^gated_residual_adaln_fp8: {text}"):
        gated_residual_adaln_fp8(**{**good, **change})
