"""`multiscale_temporal_attention` against eq. 4 and the inner part of eq. 5."""

from __future__ import annotations

import itertools

import pytest
import torch
from attention_loops import attention_row, eager_attention
from numerics import assert_equation, assert_no_worse
from torch import Tensor

from pavdit.ops import axis_attention, multiscale_temporal_attention


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def loops(qkv: Tensor, scale: int) -> Tensor:
    """Average `scale` neighbouring frames, then attend along time, one vector at a time."""
    b, t, s, _, a, e = qkv.shape
    out = qkv.new_zeros(b, t // scale, s, a, e)
    for i, row, head in itertools.product(range(b), range(s), range(a)):
        pooled = [
            [
                sum(qkv[i, scale * j + n, row, part, head] for n in range(scale)) / scale
                for j in range(t // scale)
            ]
            for part in range(3)
        ]
        for j, query in enumerate(pooled[0]):
            out[i, j, row, head] = attention_row(query, pooled[1], pooled[2])
    return out


@pytest.mark.parametrize("shape", [(1, 4, 1, 3, 1, 2), (2, 8, 3, 3, 1, 3)], ids=["one", "ragged"])
def test_reference_is_the_equation(shape: tuple[int, ...]) -> None:
    qkv = draw(*shape).requires_grad_()
    for scale, got in zip((1, 2, 4), multiscale_temporal_attention(qkv), strict=True):
        want = loops(qkv, scale)
        assert_equation(got, want, what=f"scale {scale}")
        grad = draw(*got.shape, seed=scale)
        gradient = torch.autograd.grad(got, qkv, grad, retain_graph=True)[0]
        assert_equation(gradient, torch.autograd.grad(want, qkv, grad)[0], what=f"gradient of scale {scale}")


def test_the_finest_scale_is_axis_attention() -> None:
    qkv = draw(2, 8, 5, 3, 2, 16, dtype=torch.float32)
    assert_equation(multiscale_temporal_attention(qkv)[0], axis_attention(qkv, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_no_worse_than_eager(dtype: torch.dtype) -> None:
    qkv = draw(2, 16, 8, 3, 6, 64, dtype=dtype)

    def eager(x: Tensor) -> list[Tensor]:
        outs = []
        for scale in (1, 2, 4):
            pooled = sum(x[:, n::scale] for n in range(scale)) / scale
            assert isinstance(pooled, Tensor)
            q, k, v = pooled.movedim(1, -2).unbind(3 - 1)  # (B, S, A, T, E)
            outs.append(eager_attention(q, k, v).movedim(-2, 1))
        return outs

    results = []
    for run, x in (
        (multiscale_temporal_attention, qkv),
        (eager, qkv),
        (multiscale_temporal_attention, qkv.double()),
    ):
        x = x.detach().requires_grad_()
        outs = run(x)
        grads = [draw(*out.shape, dtype=dtype, seed=9).to(out.dtype) for out in outs]
        results.append((*outs, *torch.autograd.grad(list(outs), x, grads)))
    for what, got, plain, exact in zip(("1", "2", "4", "gradient"), *results, strict=True):
        assert_no_worse(got, plain, exact, what=what)


def test_strides_do_not_change_the_result() -> None:
    view = draw(8, 2, 5, 3 * 2 * 8 + 8, dtype=torch.float32)[..., 8:].unflatten(-1, (3, 2, 8)).transpose(0, 1)
    for got, want in zip(
        multiscale_temporal_attention(view), multiscale_temporal_attention(view.contiguous()), strict=True
    ):
        assert got.is_contiguous()
        assert_equation(got, want)


def test_more_problems_than_a_grid_dimension() -> None:
    qkv = draw(1, 4, 65_600, 3, 1, 2, dtype=torch.float32)
    for got, want in zip(
        multiscale_temporal_attention(qkv), multiscale_temporal_attention(qkv[:, :, -70:]), strict=True
    ):
        assert_equation(got[:, :, -70:], want)


@pytest.mark.parametrize("shape", [(0, 4, 2, 3, 2, 8), (2, 0, 2, 3, 2, 8), (2, 4, 0, 3, 2, 8)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    b, t, s, _, a, e = shape
    outs = multiscale_temporal_attention(torch.zeros(shape, device="cpu"))
    assert [out.shape for out in outs] == [(b, t // scale, s, a, e) for scale in (1, 2, 4)]


def test_raw_op() -> None:
    op = torch.ops.pavdit.multiscale_temporal_attention.default
    torch.library.opcheck(op, (draw(2, 8, 3, 3, 2, 8, dtype=torch.float32),))


def test_raw_op_refuses_gradients() -> None:
    with pytest.raises(RuntimeError, match="call pavdit.ops.multiscale_temporal_attention"):
        torch.ops.pavdit.multiscale_temporal_attention(draw(2, 4, 3, 3, 2, 8).requires_grad_())


def test_compiles_as_one_graph() -> None:
    compiled = torch.compile(multiscale_temporal_attention, fullgraph=True)
    qkv = draw(2, 8, 3, 3, 2, 8, dtype=torch.float32)
    for got, want in zip(compiled(qkv), multiscale_temporal_attention(qkv), strict=True):
        assert_equation(got, want)


ERRORS: dict[str, tuple[object, type[Exception], str]] = {
    "none": (None, TypeError, "want qkv a tensor, got NoneType"),
    "dtype": (torch.zeros(1, 4, 1, 3, 1, 2).long(), TypeError, "want qkv float32, .*got torch.int64"),
    "rank": (torch.zeros(4, 1, 3, 1, 2), ValueError, r"want qkv \(B,T,S,3,A,E\), got \(4, 1, 3, 1, 2\)"),
    "packed": (
        torch.zeros(1, 4, 3, 1, 1, 2),
        ValueError,
        r"want qkv \(B,T,S,3,A,E\), got \(1, 4, 3, 1, 1, 2\)",
    ),
    "frames": (torch.zeros(1, 6, 1, 3, 1, 2), ValueError, "want T a multiple of 4, got 6"),
}


@pytest.mark.parametrize(("qkv", "error", "text"), ERRORS.values(), ids=ERRORS.keys())
def test_error_text(qkv: Tensor, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^multiscale_temporal_attention: {text}"):
        multiscale_temporal_attention(qkv)
