"""`block_attention` against eq. 8."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from attention_loops import angles, eager_attention, eager_norm_and_rotate
from block_calls import DEVICES, LOW, Block, assert_as_good_as, draw, laid_out, loops, on, with_gradients
from numerics import assert_equation, assert_no_worse
from torch import Tensor

from pavdit.ops import axis_attention, block_attention
from pavdit.ops._library import build_facts, native
from pavdit.ops.block_attention import MAX_KEYS, MAX_WIDTH, _backward_raw, block_attention_reference

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


def test_raw_op_refuses_gradients() -> None:
    qkv = draw(1, 2, 2, 2, 3, 1, 4, dtype=torch.float32).requires_grad_()
    with pytest.raises(RuntimeError, match="want inputs that need no gradient.*call pavdit.ops.block_att"):
        torch.ops.pavdit.block_attention(*qkv.unbind(4), (1, 1, 1), None, None, None, None)


def test_compiles_as_one_graph() -> None:
    compiled = torch.compile(block_attention, fullgraph=True, dynamic=True)
    for batch in (2, 3):
        qkv = draw(batch, 2, 4, 4, 3, 2, 8, dtype=torch.float32)
        valid = draw(2, 4, 4, seed=1) > 0
        want = block_attention(*qkv.unbind(4), (2, 2, 2), valid)
        assert_equation(compiled(*qkv.unbind(4), (2, 2, 2), valid), want)


# ---- the native kernels: what they return for every shape, against the reference in float64 ----

NATIVE = native("block_attention", torch.empty(0))
needs_native = pytest.mark.skipif(not NATIVE, reason="no native library")


@dataclass(frozen=True)
class Call:
    """Shape (B, T, H, W, A, E) and block of one call, and what it comes with."""

    shape: tuple[int, ...]
    block: Block
    masked: bool = False
    normed: bool = False
    turned: bool = False
    layout: str = "packed"


CALLS = {
    "one": Call((1, 1, 1, 1, 1, 1), (1, 1, 1)),
    "frame": Call((2, 2, 8, 8, 2, 64), (1, 8, 8), turned=True),  # MDSA's attention inside a frame
    "tall-frame": Call((1, 2, 16, 16, 1, 64), (1, 16, 16), turned=True),
    "stdit": Call((1, 4, 1, 256, 3, 64), (1, 1, 256), normed=True),
    "stdit-72": Call((1, 2, 1, 128, 2, 72), (1, 1, 128), normed=True, masked=True),
    "batch-of-3": Call((3, 4, 8, 16, 2, 64), (2, 8, 8)),
    "cube": Call((1, 8, 8, 4, 3, 48), (4, 4, 4), normed=True, turned=True, masked=True),
    "pairs": Call((2, 2, 3, 4, 2, 16), (1, 1, 2)),
    "alone": Call((2, 2, 3, 4, 2, 16), (1, 1, 1), normed=True, turned=True),
    "widest": Call((1, 2, 3, 4, 2, 128), (2, 3, 4), normed=True),
    "ragged": Call((3, 3, 5, 14, 3, 37), (3, 5, 7), masked=True, normed=True),
    "ragged-pairs": Call((1, 2, 6, 11, 1, 6), (2, 3, 11), masked=True, normed=True, turned=True),
    "nearly-all": Call((1, 3, 5, 17, 2, 64), (3, 5, 17)),
    "frames-first": Call((3, 2, 4, 6, 2, 40), (2, 2, 3), normed=True, layout="frames-first"),
    "heads-first": Call((2, 2, 4, 4, 3, 64), (2, 4, 4), layout="heads-first"),
    "sparse": Call((1, 2, 4, 6, 2, 24), (1, 4, 3), turned=True, layout="sparse"),
    "unaligned": Call((2, 2, 4, 6, 2, 64), (2, 2, 3), masked=True, layout="unaligned"),
    "no-batch": Call((0, 2, 2, 2, 1, 8), (1, 2, 2), normed=True, masked=True),
    "no-frames": Call((1, 0, 2, 2, 1, 8), (1, 2, 2)),
    "no-rows": Call((1, 2, 0, 2, 1, 8), (1, 2, 2)),
    "no-columns": Call((1, 2, 2, 0, 1, 8), (1, 2, 2), turned=True),
    "no-heads": Call((1, 2, 2, 2, 0, 8), (1, 2, 2), masked=True),
    "70000-problems": Call((1, 2, 125, 280, 2, 4), (1, 1, 2), masked=True),
}


def inputs_of(
    call: Call, dtype: torch.dtype, weight_dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> list[Any]:
    """Everything that `block_attention` takes."""
    (*grid, heads, width), (bt, bh, bw) = call.shape, call.block
    packed = draw(*grid, 3, heads, width, dtype=dtype).to(device)
    q, k, v = laid_out(packed, call.layout).unbind(4)
    valid = draw(*grid, seed=1) > -0.3 if call.masked else None
    if valid is not None and valid.numel() > 0:
        valid[0, :bt, :bh, :bw] = False  # a block that sees nothing
    weights = [(1 + 0.2 * draw(width, seed=s)).to(weight_dtype) if call.normed else None for s in (2, 3)]
    rope = angles(bt * bh * bw, width) if call.turned else None
    return [q, k, v, call.block, *on(device, [valid, *weights, rope])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_accuracy(name: str, dtype: torch.dtype, device: str) -> None:
    arguments = inputs_of(CALLS[name], dtype, device=device)
    assert_as_good_as(block_attention_reference, block_attention, arguments)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("block", [(4, 8, 8), (2, 8, 8), (1, 8, 8), (4, 4, 4)], ids=str)
def test_accuracy_of_the_decoder(block: Block, device: str) -> None:
    arguments = inputs_of(Call((1, 16, 32, 32, 6, 64), block), torch.bfloat16, device=device)
    assert_as_good_as(block_attention_reference, block_attention, arguments)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_accuracy_with_weights_in_the_dtype_of_the_input(dtype: torch.dtype, device: str) -> None:
    arguments = inputs_of(CALLS["cube"], dtype, dtype, device=device)
    assert_as_good_as(block_attention_reference, block_attention, arguments)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(4,), (3, 1), (4, 1, 1), (2, 1, 1, 1), (2, 4, 3, 4)], ids=str)
def test_accuracy_with_masks_that_broadcast(shape: tuple[int, ...], device: str) -> None:
    arguments = inputs_of(Call((2, 4, 3, 4, 2, 8), (2, 3, 2)), torch.float32)
    arguments[4] = draw(*shape, seed=7) > -0.2
    assert_as_good_as(block_attention_reference, block_attention, on(device, arguments))


@needs_native
@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
def test_accuracy_with_less_capable_processors(capability: str) -> None:
    facts = build_facts()
    if facts is None or facts.cpu_capability() in ("baseline", capability):
        pytest.skip("no facts, or this process runs it already")
    environment = os.environ | {"PAVDIT_CPU_CAPABILITY": capability, "PAVDIT_REQUIRE_KERNELS": "cpu"}
    wanted = "accuracy and cpu and not less_capable and not decoder"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", wanted, "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, str(Path(__file__)), str(Path(__file__).with_name("test_block_cross_attention.py"))],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["cube", "stdit-72", "ragged-pairs", "pairs"])
def test_written_out_gradient_is_autograd(name: str, dtype: torch.dtype) -> None:
    arguments = inputs_of(CALLS[name], dtype)
    grad = draw(*CALLS[name].shape, dtype=dtype, seed=5)
    found = [g for g in _backward_raw(grad, *arguments) if g.numel() > 0]
    for got, want in zip(
        found, with_gradients(block_attention_reference, arguments, [grad])[1:], strict=True
    ):
        assert_equation(got.to(want.dtype), want)


@pytest.mark.parametrize("name", ["ragged-pairs", "frames-first", "pairs", "no-heads"])
def test_raw_backward_op(name: str) -> None:
    arguments = inputs_of(CALLS[name], torch.bfloat16)
    grad = draw(*CALLS[name].shape, dtype=torch.bfloat16, seed=5)
    torch.library.opcheck(torch.ops.pavdit.block_attention.default, tuple(arguments))
    torch.library.opcheck(torch.ops.pavdit.block_attention_backward.default, (grad, *arguments))


@pytest.mark.parametrize("device", DEVICES)
def test_same_bits_in_every_run(device: str) -> None:
    call = Call((3, 4, 10, 14, 3, 16), (2, 5, 7), normed=True, masked=True)
    arguments = inputs_of(call, torch.float32, device=device)
    grad = draw(*call.shape, dtype=torch.float32).to(device)
    threads = torch.get_num_threads()
    first = with_gradients(block_attention, arguments, [grad])
    try:
        torch.set_num_threads(3)
        second = with_gradients(block_attention, arguments, [grad])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@needs_native
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_masked_rows_are_never_read(dtype: torch.dtype, device: str) -> None:
    q, k, v, block, valid, *others = inputs_of(CALLS["cube"], dtype, device=device)
    want = block_attention(q, k, v, block, valid, *others)
    k, v = k.clone(), v.clone()
    for x in (k, v):
        x[~valid] = torch.nan
        x.requires_grad_()
    out = block_attention(q, k, v, block, valid, *others)
    assert torch.equal(out, want)
    for grad in torch.autograd.grad(out.float().square().sum(), (k, v)):
        assert bool((grad[~valid] == 0).all())
        assert bool(grad.isfinite().all())


@needs_native
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_what_is_not_a_number_stays_in_its_problem(dtype: torch.dtype) -> None:
    q, k, v = (draw(1, 2, 4, 4, 2, 64, dtype=dtype, seed=s) for s in range(3))
    q[0, 0, 1, 2, 1, 5] = torch.nan  # one query
    k[0, 1, 2, 2, 0, 7] = torch.nan  # one key
    broken = block_attention(q, k, v, (1, 2, 4)).isnan().all(-1)
    want = torch.zeros(1, 2, 4, 4, 2, dtype=torch.bool)
    want[0, 0, 1, 2, 1] = True
    want[0, 1, 2:, :, 0] = True
    assert torch.equal(broken, want)


def test_large_scores_do_not_overflow() -> None:
    q, k, v = (draw(1, 2, 4, 4, 2, 16, dtype=torch.float32, seed=s) for s in range(3))
    arguments = [1e4 * q, 1e4 * k, v, (1, 4, 4)]
    exact = block_attention(*(a.double() if isinstance(a, Tensor) else a for a in arguments))
    plain = block_attention_reference(*arguments, None, None, None, None)
    assert_no_worse(block_attention(*arguments), plain, exact)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
def test_more_elements_than_32_bits_count(device: str) -> None:
    pattern = draw(4100, 1, 64, dtype=torch.bfloat16).to(device)
    x = pattern.expand(1, 2, 4096, 4100, 1, 64).contiguous()  # 4 GiB, and as much for the result
    assert x.numel() > 2**31
    x[:, :, -4:] = draw(1, 2, 4, 4100, 1, 64, dtype=torch.bfloat16, seed=1).to(device)
    out = block_attention(x, x, x, (1, 4, 4))
    for rows in (slice(None, 4), slice(-4, None)):
        part = x[:, :, rows].contiguous()
        assert torch.equal(out[:, :, rows], block_attention(part, part, part, (1, 4, 4)))


@pytest.mark.parametrize("needs", [(0,), (1, 2), (5, 6), (0, 5)], ids=["q", "kv", "weights", "q-weight"])
def test_expanded_and_missing_gradients(needs: tuple[int, ...]) -> None:
    arguments = inputs_of(CALLS["cube"], torch.float32)
    grads = []
    for op in (block_attention, block_attention_reference):
        leaves = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
        for i in needs:
            leaves[i].requires_grad_()
        op(*leaves).sum().backward()  # the gradient of sum is one number, expanded
        grads.append([leaves[i].grad for i in needs])
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


def test_rope_that_learns_and_mixed_weights_take_the_reference() -> None:
    q, k, v, block, _, q_weight, k_weight, rope = inputs_of(CALLS["cube"], torch.bfloat16)
    rope.requires_grad_()
    block_attention(q, k, v, block, None, q_weight, k_weight.bfloat16(), rope).sum().backward()
    assert rope.grad is not None


@pytest.mark.parametrize(
    ("shape", "block"),
    [((1, 1, 2, MAX_KEYS + 1, 1, 8), (1, 1, MAX_KEYS + 1)), ((1, 1, 2, 4, 1, MAX_WIDTH + 8), (1, 2, 4))],
    ids=["keys", "width"],
)
def test_beyond_the_native_sizes_the_reference_serves(shape: tuple[int, ...], block: Block) -> None:
    q, k, v = (draw(*shape, dtype=torch.float32, seed=s) for s in range(3))
    want = block_attention_reference(q, k, v, block, None, None, None, None)
    assert_equation(block_attention(q, k, v, block), want)


def test_compiles_with_gradients_as_one_graph() -> None:
    arguments = inputs_of(CALLS["ragged-pairs"], torch.float32)
    grad = draw(*CALLS["ragged-pairs"].shape, dtype=torch.float32, seed=5)
    compiled = torch.compile(block_attention, fullgraph=True)
    pairs = zip(
        with_gradients(compiled, arguments, [grad]),
        with_gradients(block_attention, arguments, [grad]),
        strict=True,
    )
    for got, want in pairs:
        assert_equation(got, want)


def test_two_threads_at_once() -> None:
    q, k, v = (draw(1, 2, 8, 8, 4, 64, dtype=torch.float32, seed=s) for s in range(3))
    want = block_attention(q, k, v, (1, 8, 8))
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: block_attention(q, k, v, (1, 8, 8)), range(32)))
    assert all(torch.equal(result, want) for result in results)


@needs_native
def test_has_no_second_derivative() -> None:
    q = draw(1, 2, 4, 4, 2, 8, dtype=torch.float32).requires_grad_()
    out = block_attention(q, q, q, (1, 4, 4))
    (dq,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dq.sum().backward()


RAW = torch.zeros(1, 2, 4, 4, 2, 8)
RAW_ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "dtype": ({"q": RAW.double(), "k": RAW.double()}, "want q in float32, bfloat16 or float16"),
    "mixed dtypes": ({"k": RAW.half()}, "want k with shape"),
    "rank": ({"q": RAW[0]}, r"want q \(B,T,H,W,A,E\), got \(2, 4, 4, 2, 8\)"),
    "shape": ({"v": RAW[:, :1]}, r"want v with shape \(1, 2, 4, 4, 2, 8\).* got shape \(1, 1, 4, 4, 2, 8\)"),
    "block rank": ({"block": (4, 4)}, "want block .bt,bh,bw. to divide .T,H,W., got 2 numbers"),
    "block zero": ({"block": (1, 0, 4)}, r"want block .* of \(1, 2, 4, 4, 2, 8\), got \(1, 0, 4\)"),
    "block": ({"block": (1, 3, 4)}, r"want block .* of \(1, 2, 4, 4, 2, 8\), got \(1, 3, 4\)"),
    "keys": (
        {n: torch.zeros(1, 1, 1, 257, 1, 8) for n in "qkv"} | {"block": (1, 1, 257)},
        r"want at most 256 tokens in a block and E in 1..128, got block \(1, 1, 257\) and E = 8",
    ),
    "width": ({n: torch.zeros(1, 2, 4, 4, 2, 129) for n in "qkv"}, "want at most 256 .*E = 129"),
    "valid": ({"valid": torch.ones(3) > 0}, r"want valid in bool, broadcastable .*got \(3\)"),
    "valid dtype": ({"valid": torch.ones(4)}, "want valid in bool"),
    "one weight": ({"q_weight": torch.ones(8)}, "want both of q_weight and k_weight or neither"),
    "weights": ({"q_weight": torch.ones(7), "k_weight": torch.ones(7)}, r"want q_weight and k_weight \(E,\)"),
    "rope": ({"rope": torch.ones(2, 5, 4)}, r"want rope \(2,L,E/2\) .*L = 16 and E = 8 .*, got \(2, 5, 4\)"),
    "rope dtype": ({"rope": torch.ones(2, 16, 4).half()}, r"want rope \(2,L,E/2\) in float32"),
}


@needs_native
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("change", "text"), RAW_ERRORS.values(), ids=RAW_ERRORS.keys())
def test_raw_error_text(change: dict[str, Any], text: str, backward: bool) -> None:
    names = ("q", "k", "v", "block", "valid", "q_weight", "k_weight", "rope")
    good = {"q": RAW, "k": RAW, "v": RAW, "block": (1, 4, 4)}
    arguments = [(good | change).get(name) for name in names]
    with pytest.raises(RuntimeError, match=f"block_attention(_backward)?: {text}"):
        if backward:
            torch.ops.pavdit.block_attention_backward(RAW, *arguments)
        else:
            torch.ops.pavdit.block_attention(*arguments)


@needs_native
@pytest.mark.parametrize("grad", [RAW[..., :1, :], RAW.half(), RAW[0]], ids=["shape", "dtype", "rank"])
def test_raw_backward_error_text(grad: Tensor) -> None:
    with pytest.raises(RuntimeError, match="block_attention_backward: want grad with shape"):
        torch.ops.pavdit.block_attention_backward(grad, RAW, RAW, RAW, (1, 4, 4), None, None, None, None)


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
