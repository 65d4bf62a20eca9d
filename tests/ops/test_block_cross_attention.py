"""`block_cross_attention` against eq. 8, both directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from block_calls import DEVICES, LOW, Block, assert_as_good_as, draw, laid_out, loops, with_gradients
from numerics import assert_equation

from pavdit.ops import block_attention, block_cross_attention
from pavdit.ops._library import native
from pavdit.ops.block_attention import MAX_KEYS
from pavdit.ops.block_cross_attention import _backward_raw, block_cross_attention_reference

needs_native = pytest.mark.skipif(
    not native("block_cross_attention", torch.empty(0)), reason="no native library"
)


def test_reference_is_the_equation_in_both_directions() -> None:
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


def test_is_block_attention_twice() -> None:
    a, b = (draw(2, 2, 4, 6, 3, 2, 8, dtype=torch.float32, seed=s) for s in (0, 1))
    (q_a, k_a, v_a), (q_b, k_b, v_b) = a.unbind(4), b.unbind(4)
    out_a, out_b = block_cross_attention(a, b, (2, 2, 3))
    assert_equation(out_a, block_attention(q_a, k_b, v_b, (2, 2, 3)))
    assert_equation(out_b, block_attention(q_b, k_a, v_a, (2, 2, 3)))


@dataclass(frozen=True)
class Call:
    """Shape (B, T, H, W, A, E), block, and how each stream lies in memory."""

    shape: tuple[int, ...]
    block: Block
    layouts: tuple[str, str] = ("packed", "packed")


CALLS = {
    "one": Call((1, 1, 1, 1, 1, 1), (1, 1, 1)),
    "frame": Call((2, 2, 8, 8, 2, 64), (1, 8, 8)),
    "plane": Call((3, 1, 16, 16, 1, 64), (1, 16, 16)),  # GCM-Attn: a whole plane is one block
    "cube": Call((1, 8, 8, 4, 3, 48), (4, 4, 4)),
    "ragged": Call((3, 3, 5, 14, 3, 37), (3, 5, 7)),
    "layouts": Call((2, 2, 4, 6, 2, 40), (2, 2, 3), ("frames-first", "heads-first")),
    "unaligned": Call((2, 2, 4, 6, 2, 64), (2, 2, 3), ("unaligned", "sparse")),
    "no-batch": Call((0, 2, 2, 2, 1, 8), (1, 2, 2)),
    "no-frames": Call((1, 0, 2, 2, 1, 8), (1, 2, 2)),
    "no-heads": Call((1, 2, 2, 2, 0, 8), (1, 2, 2)),
    "70000-problems": Call((1, 2, 125, 280, 1, 4), (1, 1, 2)),
}


def inputs_of(call: Call, dtype: torch.dtype, device: str = "cpu") -> list[Any]:
    """Everything that `block_cross_attention` takes."""
    (*grid, heads, width), (first, second) = call.shape, call.layouts
    a, b = (draw(*grid, 3, heads, width, dtype=dtype, seed=s).to(device) for s in (0, 1))
    return [laid_out(a, first), laid_out(b, second), call.block]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_accuracy(name: str, dtype: torch.dtype, device: str) -> None:
    arguments = inputs_of(CALLS[name], dtype, device=device)
    assert_as_good_as(block_cross_attention_reference, block_cross_attention, arguments, results=2)


@pytest.mark.parametrize("device", DEVICES)
def test_accuracy_of_the_decoder(device: str) -> None:
    arguments = inputs_of(Call((1, 16, 32, 32, 6, 64), (1, 8, 8)), torch.bfloat16, device=device)
    assert_as_good_as(block_cross_attention_reference, block_cross_attention, arguments, results=2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["cube", "ragged"])
def test_written_out_gradient_is_autograd(name: str, dtype: torch.dtype) -> None:
    arguments = inputs_of(CALLS[name], dtype)
    grads = [draw(*CALLS[name].shape, dtype=dtype, seed=s) for s in (5, 6)]
    wanted = with_gradients(block_cross_attention_reference, arguments, grads)[2:]
    for got, want in zip(_backward_raw(*grads, *arguments), wanted, strict=True):
        assert_equation(got, want)


@pytest.mark.parametrize("name", ["frame", "layouts", "no-heads"])
def test_raw_ops(name: str) -> None:
    arguments = inputs_of(CALLS[name], torch.bfloat16)
    grads = [draw(*CALLS[name].shape, dtype=torch.bfloat16, seed=s) for s in (5, 6)]
    torch.library.opcheck(torch.ops.pavdit.block_cross_attention.default, tuple(arguments))
    torch.library.opcheck(torch.ops.pavdit.block_cross_attention_backward.default, (*grads, *arguments))


def test_raw_op_refuses_gradients() -> None:
    qkv = draw(1, 2, 2, 2, 3, 1, 4, dtype=torch.float32).requires_grad_()
    with pytest.raises(RuntimeError, match="want inputs that need no gradient.*call pavdit.ops.block_cross"):
        torch.ops.pavdit.block_cross_attention(qkv, qkv, (1, 1, 1))


def test_one_tensor_may_be_both_streams() -> None:
    qkv = draw(1, 2, 4, 4, 3, 2, 8, dtype=torch.float32).requires_grad_()
    grads = []
    for op in (block_cross_attention, block_cross_attention_reference):
        out_a, out_b = op(qkv, qkv, (1, 4, 4))
        assert torch.equal(out_a, out_b)
        grads.append(torch.autograd.grad((out_a + 2 * out_b).square().sum(), qkv)[0])
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("used", [(0,), (1,), (0, 1)], ids=["a", "b", "both"])
@pytest.mark.parametrize("needs", [(0,), (0, 1)], ids=["qkv_a", "all"])
def test_expanded_and_missing_gradients(used: tuple[int, ...], needs: tuple[int, ...]) -> None:
    grads = []
    for op in (block_cross_attention, block_cross_attention_reference):
        a, b, block = inputs_of(CALLS["cube"], torch.float32)
        leaves = [(a, b)[i].requires_grad_() for i in needs]
        outs = op(a, b, block)
        sum(outs[i].sum() for i in used).backward()  # the gradient of sum is one number, expanded
        grads.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


def test_same_bits_with_more_threads() -> None:
    arguments = inputs_of(Call((3, 4, 10, 14, 3, 16), (2, 5, 7)), torch.float32)
    grads = [draw(3, 4, 10, 14, 3, 16, dtype=torch.float32, seed=s) for s in (5, 6)]
    threads = torch.get_num_threads()
    first = with_gradients(block_cross_attention, arguments, grads)
    try:
        torch.set_num_threads(3)
        second = with_gradients(block_cross_attention, arguments, grads)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_beyond_the_native_sizes_the_reference_serves() -> None:
    a, b = (draw(1, 1, 2, MAX_KEYS + 1, 3, 1, 8, dtype=torch.float32, seed=s) for s in (0, 1))
    block = (1, 1, MAX_KEYS + 1)
    for got, want in zip(
        block_cross_attention(a, b, block), block_cross_attention_reference(a, b, block), strict=True
    ):
        assert_equation(got, want)


@pytest.mark.parametrize("gradients", [False, True])
def test_compiles_as_one_graph(gradients: bool) -> None:
    compiled = torch.compile(block_cross_attention, fullgraph=True, dynamic=True)
    for batch in (2, 3):
        call = Call((batch, 2, 4, 4, 2, 8), (1, 4, 2))
        arguments = inputs_of(call, torch.float32)
        if gradients:
            grads = [draw(*call.shape, dtype=torch.float32, seed=s) for s in (5, 6)]
            got = with_gradients(compiled, arguments, grads)
            want = with_gradients(block_cross_attention, arguments, grads)
        else:
            got, want = list(compiled(*arguments)), list(block_cross_attention(*arguments))
        for one, other in zip(got, want, strict=True):
            assert_equation(one, other)


RAW = torch.zeros(1, 2, 4, 4, 3, 2, 8)
RAW_ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "dtype": ({"qkv_a": RAW.double()}, "want qkv_a in float32, bfloat16 or float16"),
    "mixed dtypes": ({"qkv_b": RAW.half()}, "want qkv_b with shape"),
    "packed": ({"qkv_a": RAW[..., :2, :, :]}, r"want qkv_a \(B,T,H,W,3,A,E\), got \(1, 2, 4, 4, 2, 2, 8\)"),
    "rank": ({"qkv_a": RAW[0]}, r"want qkv_a \(B,T,H,W,3,A,E\), got \(2, 4, 4, 3, 2, 8\)"),
    "shape": ({"qkv_b": RAW[:, :1]}, "want qkv_b with shape"),
    "block": ({"block": (1, 3, 4)}, r"want block .* got \(1, 3, 4\)"),
}


@needs_native
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("change", "text"), RAW_ERRORS.values(), ids=RAW_ERRORS.keys())
def test_raw_error_text(change: dict[str, Any], text: str, backward: bool) -> None:
    arguments = list(({"qkv_a": RAW, "qkv_b": RAW, "block": (1, 4, 4)} | change).values())
    with pytest.raises(RuntimeError, match=f"block_cross_attention(_backward)?: {text}"):
        if backward:
            grad = RAW[..., 0, :, :]
            torch.ops.pavdit.block_cross_attention_backward(grad, grad, *arguments)
        else:
            torch.ops.pavdit.block_cross_attention(*arguments)


@needs_native
@pytest.mark.parametrize("which", [0, 1])
def test_raw_backward_error_text(which: int) -> None:
    grads = [RAW[..., 0, :, :], RAW[..., 0, :, :]]
    grads[which] = RAW
    with pytest.raises(
        RuntimeError, match=f"block_cross_attention_backward: want grad_{'ab'[which]} with shape"
    ):
        torch.ops.pavdit.block_cross_attention_backward(*grads, RAW, RAW, (1, 4, 4))


PACKED = torch.zeros(1, 2, 4, 4, 3, 2, 8)
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({"qkv_b": None}, TypeError, "want qkv_b a tensor, got NoneType"),
    "dtype": ({"qkv_b": PACKED.half()}, TypeError, "want qkv_b torch.float32 as qkv_a, got torch.float16"),
    "packed": (
        {"qkv_a": PACKED[..., 0, :, :]},
        ValueError,
        r"want qkv_a and qkv_b \(B,T,H,W,3,A,E\) of one shape, got",
    ),
    "block": ({"block": (1, 4, 3)}, ValueError, r"want block .*got \(1, 4, 3\)"),
}


@pytest.mark.parametrize(("change", "error", "text"), ERRORS.values(), ids=ERRORS.keys())
def test_error_text(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^block_cross_attention: {text}"):
        block_cross_attention(**{"qkv_a": PACKED, "qkv_b": PACKED, "block": (1, 4, 4), **change})
