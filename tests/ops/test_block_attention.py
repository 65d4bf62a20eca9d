"""`block_attention` and `block_cross_attention` against eq. 8."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from attention_loops import (
    angles,
    attention_row,
    eager_attention,
    eager_norm_and_rotate,
    norm_and_rotate_vector,
)
from numerics import assert_equation, assert_no_worse
from torch import Tensor

from pavdit.ops import axis_attention, block_attention, block_cross_attention

Block = tuple[int, int, int]


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def loops(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    block: Block,
    valid: Tensor | None = None,
    weights: tuple[Tensor | None, Tensor | None] = (None, None),
    rope: Tensor | None = None,
) -> Tensor:
    """For every query: the keys whose (t, h, w) fall into the same block, one vector at a time."""
    out = torch.zeros_like(q)
    b, *grid, heads, _ = q.shape
    tokens = list(itertools.product(*(range(n) for n in grid)))

    def block_of(token: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(x // n for x, n in zip(token, block, strict=True))

    for i, token, head in itertools.product(range(b), tokens, range(heads)):
        mates = [other for other in tokens if block_of(other) == block_of(token)]  # in the order (t, h, w)
        seen = [n for n, m in enumerate(mates) if valid is None or valid.expand(q.shape[:4])[(i, *m)]]
        query = norm_and_rotate_vector(q[(i, *token, head)], weights[0], rope, mates.index(token))
        keys = [norm_and_rotate_vector(k[(i, *mates[n], head)], weights[1], rope, n) for n in seen]
        out[(i, *token, head)] = attention_row(query, keys, [v[(i, *mates[n], head)] for n in seen])
    return out


CASES: dict[str, tuple[tuple[int, ...], Block, bool, bool]] = {
    # shape (B, T, H, W, A, E); block; with a mask; with norm and rope
    "one": ((1, 1, 1, 1, 1, 2), (1, 1, 1), False, False),
    "frame": ((2, 2, 2, 3, 1, 4), (1, 2, 3), False, False),
    "cube": ((1, 4, 2, 2, 2, 4), (2, 2, 1), False, True),
    "whole": ((1, 2, 3, 1, 1, 2), (2, 3, 1), False, True),
    "masked": ((2, 2, 2, 4, 1, 4), (2, 1, 2), True, False),
    "masked-normed": ((1, 2, 2, 4, 2, 2), (1, 2, 2), True, True),
}


@pytest.mark.parametrize(("shape", "block", "masked", "normed"), CASES.values(), ids=CASES.keys())
def test_reference_is_the_equation(shape: tuple[int, ...], block: Block, masked: bool, normed: bool) -> None:
    q, k, v = (draw(*shape, seed=s).requires_grad_() for s in range(3))
    width = shape[-1]
    weights = [1 + 0.3 * draw(width, seed=s).requires_grad_() if normed else None for s in (3, 4)]
    rope = angles(block[0] * block[1] * block[2], width).double() if normed else None
    valid = None
    if masked:
        valid = draw(*shape[:4], seed=5) > 0
        valid[0, : block[0], : block[1], : block[2]] = False  # a block that sees nothing
    inputs = [q, k, v, *(w for w in weights if w is not None)]
    got = block_attention(q, k, v, block, valid, weights[0], weights[1], rope)
    want = loops(q, k, v, block, valid, (weights[0], weights[1]), rope)
    assert_equation(got, want)
    grad = draw(*shape, seed=6)
    for one, other in zip(
        torch.autograd.grad(got, inputs, grad), torch.autograd.grad(want, inputs, grad), strict=True
    ):
        assert_equation(one, other, what="gradient")


def test_cross_reference_is_the_equation_in_both_directions() -> None:
    a, b = (draw(1, 2, 2, 4, 3, 2, 4, seed=s).requires_grad_() for s in (0, 1))
    (q_a, k_a, v_a), (q_b, k_b, v_b) = a.unbind(4), b.unbind(4)
    got = block_cross_attention(a, b, (2, 1, 2))
    want = loops(q_a, k_b, v_b, (2, 1, 2)), loops(q_b, k_a, v_a, (2, 1, 2))
    for what, one, other in zip(("out_a", "out_b"), got, want, strict=True):
        assert_equation(one, other, what=what)
    grads = [draw(*out.shape, seed=s) for s, out in enumerate(got)]
    for one, other in zip(
        torch.autograd.grad(got, (a, b), grads), torch.autograd.grad(want, (a, b), grads), strict=True
    ):
        assert_equation(one, other, what="gradient")


def test_a_block_of_all_frames_is_axis_attention() -> None:
    qkv = draw(2, 5, 3, 4, 3, 2, 8, dtype=torch.float32)
    assert_equation(block_attention(*qkv.unbind(4), (5, 1, 1)), axis_attention(qkv, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("normed", [False, True])
def test_no_worse_than_eager(normed: bool, dtype: torch.dtype) -> None:
    shape, block = (2, 4, 8, 8, 4, 64), (1, 8, 8)
    q, k, v, grad = (draw(*shape, dtype=dtype, seed=s) for s in range(4))
    weights = [(1 + 0.1 * draw(64, seed=s)).float() if normed else None for s in (4, 5)]
    rope = angles(64, 64) if normed else None

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return block_attention(q, k, v, block, None, weights[0], weights[1], rope)

    def eager(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3)  # (B, T, H*W, A, E)
        if weights[0] is not None and weights[1] is not None:
            q, k = eager_norm_and_rotate(q, weights[0], rope), eager_norm_and_rotate(k, weights[1], rope)
        out = eager_attention(q.transpose(2, 3), k.transpose(2, 3), v.transpose(2, 3)).transpose(2, 3)
        return out.unflatten(2, (8, 8))

    results = []
    for run, work in ((ours, dtype), (eager, dtype), (ours, torch.float64)):
        inputs = [x.to(work).requires_grad_() for x in (q, k, v)]
        out = run(*inputs)
        results.append((out, *torch.autograd.grad(out, inputs, grad.to(work))))
    for what, got, plain, exact in zip(("out", "dq", "dk", "dv"), *results, strict=True):
        assert_no_worse(got, plain, exact, what=what)


def test_a_block_without_valid_keys_is_zero_and_hidden_keys_do_not_leak() -> None:
    q, k, v = (draw(1, 2, 2, 2, 1, 4, dtype=torch.float32, seed=s) for s in range(3))
    valid = torch.tensor([True, False])[:, None, None].expand(2, 2, 2).clone()
    valid[0, 0, 1] = False
    want = block_attention(q, k, v, (1, 2, 2), valid)
    for x in (k, v):
        x[0][~valid] = torch.nan
        x.requires_grad_()
    out = block_attention(q, k, v, (1, 2, 2), valid)
    out.sum().backward()
    assert torch.equal(out, want)
    assert torch.equal(out[:, 1], torch.zeros_like(out[:, 1]))
    assert k.grad is not None
    assert bool(k.grad.isfinite().all())


def test_strides_do_not_change_the_result() -> None:
    q, k, v = draw(4, 2, 4, 4, 3, 2, 8, dtype=torch.float32).transpose(0, 1).unbind(4)
    out = block_attention(q, k, v, (2, 2, 4))
    assert out.is_contiguous()
    assert_equation(out, block_attention(q.contiguous(), k.contiguous(), v.contiguous(), (2, 2, 4)))


def test_more_problems_than_a_grid_dimension() -> None:
    qkv = draw(1, 2, 8, 8200, 3, 1, 2, dtype=torch.float32)
    out_a, _ = block_cross_attention(qkv, qkv, (2, 1, 1))
    assert_equation(out_a[:, :, -1:], block_attention(*qkv[:, :, -1:].unbind(4), (2, 1, 1)))


@pytest.mark.parametrize("shape", [(0, 2, 2, 2, 1, 4), (1, 0, 2, 2, 1, 4), (1, 2, 2, 2, 0, 4)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    q = torch.zeros(shape)
    assert block_attention(q, q, q, (1, 2, 2), torch.ones(2, 2, dtype=torch.bool)).shape == shape


def test_raw_ops() -> None:
    qkv = draw(2, 2, 4, 4, 3, 2, 8, dtype=torch.float32)
    valid, weight = draw(2, 4, 4, seed=1) > 0, torch.ones(8)
    op = torch.ops.pavdit.block_attention.default
    torch.library.opcheck(op, (*qkv.unbind(4), (2, 2, 2), valid, weight, weight, angles(8, 8)))
    torch.library.opcheck(
        op, (*qkv.unbind(4), (1, 1, 1), None, None, None, None)
    )  # must not alias the values
    torch.library.opcheck(torch.ops.pavdit.block_cross_attention.default, (qkv, qkv.flip(0), (1, 4, 4)))


@pytest.mark.parametrize("cross", [False, True])
def test_raw_op_refuses_gradients(cross: bool) -> None:
    qkv = draw(1, 2, 2, 2, 3, 1, 4).requires_grad_()
    with pytest.raises(RuntimeError, match="want inputs that need no gradient.*call pavdit.ops.block_"):
        if cross:
            torch.ops.pavdit.block_cross_attention(qkv, qkv, (1, 1, 1))
        else:
            torch.ops.pavdit.block_attention(*qkv.unbind(4), (1, 1, 1), None, None, None, None)


def test_compiles_as_one_graph() -> None:
    def both(a: Tensor, b: Tensor, valid: Tensor) -> Tensor:
        out_a, out_b = block_cross_attention(a, b, (1, 4, 2))
        return out_a + out_b + block_attention(*a.unbind(4), (2, 2, 2), valid)

    a, b = (draw(2, 2, 4, 4, 3, 2, 8, dtype=torch.float32, seed=s) for s in (0, 1))
    valid = draw(2, 4, 4, seed=2) > 0
    assert_equation(torch.compile(both, fullgraph=True)(a, b, valid), both(a, b, valid))


GOOD = torch.zeros(1, 2, 4, 4, 2, 8)
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({"v": None}, TypeError, "want v a tensor, got NoneType"),
    "dtype": ({"k": GOOD.double()}, TypeError, "want k torch.float32 as q, got torch.float64"),
    "device": ({"k": GOOD.to("meta")}, ValueError, "want k on cpu as q, got meta"),
    "shape": ({"v": GOOD[:, :1]}, ValueError, r"want q, k, v \(B,T,H,W,A,E\) of one shape, got"),
    "block type": ({"block": 4}, TypeError, r"want block three ints \(bt, bh, bw\), got 4"),
    "block rank": ({"block": (4, 4)}, ValueError, r"want block .*to divide .*got \(4, 4\)"),
    "block zero": ({"block": (0, 4, 4)}, ValueError, r"want block .*to divide .*got \(0, 4, 4\)"),
    "block": ({"block": (1, 3, 4)}, ValueError, r"want block .* \(T, H, W\) = \(2, 4, 4\), got \(1, 3, 4\)"),
    "valid": (
        {"valid": torch.ones(5) > 0},
        ValueError,
        r"want valid broadcastable to \(1, 2, 4, 4\), got \(5,\)",
    ),
    "weights": ({"k_weight": torch.ones(8)}, ValueError, "want both .* or neither, got only k_weight"),
    "rope": ({"rope": torch.ones(2, 4, 4)}, ValueError, r"want rope \(2, 16, 4\), got \(2, 4, 4\)"),
}


@pytest.mark.parametrize(("change", "error", "text"), ERRORS.values(), ids=ERRORS.keys())
def test_error_text(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^block_attention: {text}"):
        block_attention(**{"q": GOOD, "k": GOOD, "v": GOOD, "block": (1, 4, 4), **change})


PACKED = torch.zeros(1, 2, 4, 4, 3, 2, 8)
CROSS_ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({"qkv_b": None}, TypeError, "want qkv_b a tensor, got NoneType"),
    "dtype": ({"qkv_b": PACKED.half()}, TypeError, "want qkv_b torch.float32 as qkv_a, got torch.float16"),
    "packed": ({"qkv_a": GOOD}, ValueError, r"want qkv_a and qkv_b \(B,T,H,W,3,A,E\) of one shape, got"),
    "block": ({"block": (1, 4, 3)}, ValueError, r"want block .*got \(1, 4, 3\)"),
}


@pytest.mark.parametrize(("change", "error", "text"), CROSS_ERRORS.values(), ids=CROSS_ERRORS.keys())
def test_cross_error_text(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^block_cross_attention: {text}"):
        block_cross_attention(**{"qkv_a": PACKED, "qkv_b": PACKED, "block": (1, 4, 4), **change})
