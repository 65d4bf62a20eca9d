"""The references of `axis_attention` and `axis_query_attention` against their equation."""

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
from axis_calls import LOW, draw, with_gradients
from numerics import assert_equation, assert_no_worse
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from pavdit.ops import axis_attention, axis_query_attention


def loops(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    axis: int,
    valid: Tensor | None,
    weights: tuple[Tensor | None, Tensor | None] = (None, None),
    rope: Tensor | None = None,
) -> Tensor:
    """The equation over q ``(..., A, E)`` and k, v ``(..., A, E)``, one vector at a time."""
    out = torch.zeros_like(q)
    length = k.shape[axis]
    for index in itertools.product(*(range(n) for n in q.shape[:-1])):
        others = [(*index[:axis], j, *index[axis + 1 :]) for j in range(length)]
        seen = [j for j in range(length) if valid is None or valid.expand(k.shape[:-2])[others[j][:-1]]]
        query = norm_and_rotate_vector(q[index], weights[0], rope, index[axis])
        keys = [norm_and_rotate_vector(k[others[j]], weights[1], rope, j) for j in seen]
        out[index] = attention_row(query, keys, [v[others[j]] for j in seen])
    return out


CASES: dict[str, tuple[tuple[int, ...], int, bool, bool]] = {
    # leading shape + (A, E), axis, masked, norm and rope
    "one": ((1, 1, 2), 0, False, False),
    "alone": ((5, 2, 4), 0, False, True),
    "middle": ((2, 4, 3, 2, 4), 1, False, False),
    "last": ((2, 3, 5, 1, 6), 2, False, True),
    "masked": ((2, 4, 3, 2, 4), 1, True, False),
    "masked-normed": ((3, 5, 2, 2), 1, True, True),
}


@pytest.mark.parametrize(("shape", "axis", "masked", "normed"), CASES.values(), ids=CASES.keys())
def test_reference_is_the_equation(shape: tuple[int, ...], axis: int, masked: bool, normed: bool) -> None:
    leading, (heads, width) = shape[:-2], shape[-2:]
    qkv = draw(*leading, 3, heads, width).requires_grad_()
    rope = angles(leading[axis], width).double() if normed else None
    weights = [1 + 0.3 * draw(width, seed=s).requires_grad_() if normed else None for s in (1, 2)]
    valid = None
    if masked:
        valid = draw(*leading, seed=3) > 0
        valid.movedim(axis, 0)[:, 0] = False  # some rows see nothing
    inputs = [qkv, *(w for w in weights if w is not None)]
    got = axis_attention(qkv, axis, valid, *weights, rope)
    want = loops(*qkv.unbind(-3), axis, valid, (weights[0], weights[1]), rope)
    assert_equation(got, want)
    grad = draw(*got.shape, seed=4)
    for one, other in zip(
        torch.autograd.grad(got, inputs, grad), torch.autograd.grad(want, inputs, grad), strict=True
    ):
        assert_equation(one, other, what="gradient")


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_query_reference_is_the_equation(axis: int, masked: bool) -> None:
    leading = (2, 4, 3)
    one = tuple(1 if i == axis else n for i, n in enumerate(leading))
    q, kv = draw(*one, 1, 2, 4).requires_grad_(), draw(*leading, 2, 2, 4, seed=1).requires_grad_()
    valid = None
    if masked:
        valid = draw(*leading, seed=2) > 0
        valid.select(axis - 1, 1).fill_(False)
    got = axis_query_attention(q, kv, axis, valid)
    want = loops(q.squeeze(-3), *kv.unbind(-3), axis, valid)
    assert_equation(got, want)
    grad = draw(*got.shape, seed=3)
    for g, w in zip(
        torch.autograd.grad(got, (q, kv), grad), torch.autograd.grad(want, (q, kv), grad), strict=True
    ):
        assert_equation(g, w, what="gradient")


@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 16, 9, 4, 64), 1), ((1, 33, 2, 1, 48), 1)], ids=["model", "ragged"]
)
def test_no_worse_than_eager(shape: tuple[int, ...], axis: int, dtype: torch.dtype) -> None:
    leading, (heads, width) = shape[:-2], shape[-2:]
    qkv = draw(*leading, 3, heads, width, dtype=dtype)
    weights = [(1 + 0.1 * draw(width, seed=s)).float() for s in (1, 2)]
    rope = angles(leading[axis], width)
    grad = draw(*shape, dtype=dtype, seed=3)

    def eager(x: Tensor) -> Tensor:
        q, k, v = x.movedim(axis, -4).unbind(-3)  # (..., L, A, E)
        q, k = eager_norm_and_rotate(q, weights[0], rope), eager_norm_and_rotate(k, weights[1], rope)
        out = eager_attention(q.transpose(-2, -3), k.transpose(-2, -3), v.transpose(-2, -3))
        return out.transpose(-2, -3).movedim(-3, axis)

    results = []
    for run, x in (
        (lambda x: axis_attention(x, axis, None, *weights, rope), qkv),
        (eager, qkv),
        (lambda x: axis_attention(x, axis, None, *weights, rope), qkv.double()),
    ):
        x = x.detach().requires_grad_()
        out = run(x)
        results.append((out, *torch.autograd.grad(out, x, grad.to(out.dtype))))
    for what, got, plain, exact in zip(("out", "gradient"), *results, strict=True):
        assert got.dtype == dtype
        assert_no_worse(got, plain, exact, what=what)


def test_a_row_without_valid_keys_is_zero_and_hidden_keys_do_not_leak() -> None:
    qkv = draw(2, 4, 3, 2, 8, dtype=torch.float32)
    valid = torch.tensor([[True, True, False, True], [False] * 4])
    poisoned = qkv.clone()
    poisoned[..., 1:, :, :][~valid] = torch.nan  # keys and values that no query may see
    poisoned.requires_grad_()
    out = axis_attention(poisoned, 1, valid)
    out.sum().backward()
    assert torch.equal(out[1], torch.zeros_like(out[1]))
    assert torch.equal(out, axis_attention(qkv, 1, valid))
    assert poisoned.grad is not None
    assert bool(poisoned.grad.isfinite().all())


def test_strides_do_not_change_the_result() -> None:
    packed = draw(
        3, 5, 4, 3 * 2 * 8 + 8, dtype=torch.float32
    )  # rows longer than a QKV, time outside of batch
    view = packed[..., 4:-4].unflatten(-1, (3, 2, 8)).transpose(0, 1)
    assert not view.is_contiguous()
    out = axis_attention(view, 1)
    assert out.is_contiguous()
    assert_equation(out, axis_attention(view.contiguous(), 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("problems", [65_535, 65_536, 70_000])
def test_more_problems_than_a_grid_dimension(problems: int, dtype: torch.dtype) -> None:
    qkv = torch.randn(problems, 8, 3, 1, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    grad = torch.randn(problems, 8, 1, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    whole = with_gradients(axis_attention, [qkv, 1], grad)
    pieces = [with_gradients(axis_attention, [qkv[i], 1], grad[i]) for i in (slice(99), slice(-99, None))]
    for got, first, last in zip(whole, *pieces, strict=True):
        assert torch.equal(got[:99], first)
        assert torch.equal(got[-99:], last)


@pytest.mark.parametrize("shape", [(0, 4, 3, 2, 8), (2, 0, 3, 2, 8), (2, 4, 3, 0, 8)], ids=str)
def test_empty(shape: tuple[int, ...]) -> None:
    qkv = torch.zeros(shape, requires_grad=True)
    valid = torch.ones(shape[:2], dtype=torch.bool)
    out = axis_attention(qkv, 1, valid)
    out.sum().backward()
    assert out.shape == (*shape[:2], *shape[3:])


def test_query_without_tokens_is_zero() -> None:
    q, kv = draw(2, 1, 1, 2, 8, dtype=torch.float32), torch.zeros(2, 0, 2, 2, 8)
    assert torch.equal(axis_query_attention(q, kv, 1), torch.zeros(2, 1, 2, 8))


def test_meta_device() -> None:
    out = axis_attention(torch.empty(2, 6, 3, 2, 8, device="meta", dtype=torch.bfloat16), 1)
    assert (out.shape, out.dtype) == ((2, 6, 2, 8), torch.bfloat16)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode: Any) -> None:
    qkv = draw(2, 4, 3, 2, 8, dtype=torch.float32).requires_grad_()
    q, kv = qkv[:, :1, :1], qkv[:, :, 1:]
    want = axis_attention(qkv, 1), axis_query_attention(q, kv, 1)
    with mode():
        got = axis_attention(qkv, 1), axis_query_attention(q, kv, 1)
    for g, w in zip(got, want, strict=True):
        assert not g.requires_grad
        assert torch.equal(g, w)


def test_fake_tensors_stay_fake() -> None:
    with FakeTensorMode(), torch.no_grad():
        qkv = torch.empty(2, 4, 3, 2, 8)
        found = axis_attention(qkv, 1), axis_query_attention(qkv[:, :1, :1], qkv[:, :, 1:], 1)
    assert all(isinstance(out, FakeTensor) for out in found)


def test_raw_ops() -> None:
    valid = torch.tensor([[True, False, True, True], [False] * 4])
    weights = draw(8, dtype=torch.float32), draw(8, dtype=torch.float32, seed=1)
    qkv = draw(2, 4, 3, 2, 8, dtype=torch.float32)
    torch.library.opcheck(torch.ops.pavdit.axis_attention.default, (qkv, 1, valid, *weights, angles(4, 8)))
    torch.library.opcheck(torch.ops.pavdit.axis_attention.default, (qkv, 0, None, None, None, None))
    torch.library.opcheck(
        torch.ops.pavdit.axis_query_attention.default, (qkv[:, :1, :1], qkv[:, :, 1:], 1, valid)
    )


@pytest.mark.parametrize("query", [False, True])
def test_raw_op_refuses_gradients(query: bool) -> None:
    qkv = draw(2, 4, 3, 2, 8, dtype=torch.float32).requires_grad_()
    with pytest.raises(RuntimeError, match="want inputs that need no gradient.*call pavdit.ops.axis_"):
        if query:
            torch.ops.pavdit.axis_query_attention(qkv[:, :1, :1], qkv[:, :, 1:], 1, None)
        else:
            torch.ops.pavdit.axis_attention(qkv, 1, None, None, None, None)


def test_compiles_as_one_graph() -> None:
    def both(qkv: Tensor, valid: Tensor) -> Tensor:
        out = axis_attention(qkv, 1, valid)
        return out + axis_query_attention(qkv[:, :1, :, :1], qkv[:, :, :, 1:], 1, valid)

    compiled = torch.compile(both, fullgraph=True, dynamic=True)
    for batch in (2, 3):
        qkv = draw(batch, 4, 2, 3, 2, 8, dtype=torch.float32)
        valid = draw(batch, 4, 1, seed=1) > 0
        assert_equation(compiled(qkv, valid), both(qkv, valid))
