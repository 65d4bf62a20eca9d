"""`multiscale_temporal_attention` against eq. 4 and the inner part of eq. 5."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from attention_loops import attention_row, eager_attention
from numerics import assert_equation, assert_no_worse
from torch import Tensor

from pavdit.ops import axis_attention, multiscale_temporal_attention
from pavdit.ops._library import build_facts, native
from pavdit.ops.multiscale_temporal_attention import (
    MAX_FRAMES,
    MAX_WIDTH,
    _backward_raw,
    multiscale_temporal_attention_reference,
)

SCALES = (1, 2, 4)
LOW = [torch.float32, torch.bfloat16, torch.float16]
NATIVE = native("multiscale_temporal_attention", torch.empty(0))
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
needs_native = pytest.mark.skipif(not NATIVE, reason="no native library")


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


def eager(qkv: Tensor) -> tuple[Tensor, ...]:
    """Plain PyTorch in the dtype given, every step rounded to it."""
    outs = []
    for scale in SCALES:
        pooled = sum((qkv[:, n::scale] for n in range(scale)), torch.zeros((), dtype=qkv.dtype)) / scale
        q, k, v = pooled.movedim(1, -2).unbind(2)  # (B, S, A, T, E)
        outs.append(eager_attention(q, k, v).movedim(-2, 1))
    return tuple(outs)


def with_gradient(
    op: Callable[[Tensor], tuple[Tensor, ...]], qkv: Tensor, grads: list[Tensor]
) -> list[Tensor]:
    """The three results and the gradient of qkv."""
    leaf = qkv.detach().requires_grad_()
    outs = op(leaf)
    (dqkv,) = torch.autograd.grad(outs, leaf, [grad.to(leaf.dtype) for grad in grads])
    return [*(out.detach() for out in outs), dqkv]


def draw_gradients(qkv: Tensor) -> list[Tensor]:
    b, t, s, _, a, e = qkv.shape
    return [draw(b, t // k, s, a, e, dtype=qkv.dtype, seed=k).to(qkv.device) for k in SCALES]


@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_no_worse_than_eager(dtype: torch.dtype) -> None:
    qkv = draw(2, 16, 8, 3, 6, 64, dtype=dtype)
    grads = draw_gradients(qkv)
    found, plain = (with_gradient(op, qkv, grads) for op in (multiscale_temporal_attention, eager))
    exact = with_gradient(eager, qkv.double(), grads)
    for what, *tensors in zip(("1", "2", "4", "gradient"), found, plain, exact, strict=True):
        assert_no_worse(*tensors, what=what)


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


@pytest.mark.parametrize("backward", [False, True])
def test_raw_op_refuses_gradients(backward: bool) -> None:
    qkv = draw(2, 4, 3, 3, 2, 8, dtype=torch.float32).requires_grad_()
    with pytest.raises(RuntimeError, match="call pavdit.ops.multiscale_temporal_attention instead"):
        if backward:
            torch.ops.pavdit.multiscale_temporal_attention_backward(None, None, None, qkv)
        else:
            torch.ops.pavdit.multiscale_temporal_attention(qkv)


def test_meta_device() -> None:
    outs = multiscale_temporal_attention(torch.empty(2, 8, 5, 3, 2, 8, device="meta", dtype=torch.bfloat16))
    assert [out.shape for out in outs] == [(2, 8 // k, 5, 2, 8) for k in SCALES]
    assert {out.dtype for out in outs} == {torch.bfloat16}


@pytest.mark.parametrize("gradients", [False, True])
def test_compiles_as_one_graph(gradients: bool) -> None:
    compiled = torch.compile(multiscale_temporal_attention, fullgraph=True, dynamic=True)
    for batch in (2, 3):
        qkv = draw(batch, 8, 3, 3, 2, 8, dtype=torch.float32)
        if gradients:
            grads = draw_gradients(qkv)
            found = [with_gradient(op, qkv, grads) for op in (compiled, multiscale_temporal_attention)]
        else:
            found = [list(op(qkv)) for op in (compiled, multiscale_temporal_attention)]
        for got, want in zip(*found, strict=True):
            assert_equation(got, want)


# ---- the native kernels: what they return for every shape, against the reference in float64 ----


@dataclass(frozen=True)
class Call:
    """A shape (B, T, S, A, E) and where its values lie."""

    shape: tuple[int, ...]
    layout: str = "packed"


CALLS = {
    "one": Call((1, 4, 1, 1, 1)),
    "model": Call((1, 16, 32, 6, 64)),  # MDSA at 256 x 256: T = 16, S = 32, D = 384
    "model-3": Call((3, 16, 5, 6, 64)),
    "tiny": Call((3, 8, 8, 2, 64)),
    "tall": Call((1, 32, 16, 2, 64)),  # T = 32, S = 16
    "ragged": Call((3, 12, 5, 3, 37)),
    "narrow": Call((2, 20, 3, 2, 6)),
    "twenty": Call((2, 20, 3, 3, 96)),
    "four": Call((3, 4, 5, 3, 64)),
    "twelve": Call((2, 12, 3, 2, 96)),
    "wide": Call((1, 16, 3, 2, 128)),
    "widest": Call((1, 28, 2, 2, 128)),
    "longest": Call((1, 80, 2, 1, 96)),
    "strided": Call((3, 16, 4, 2, 40), "strided"),
    "sparse": Call((2, 8, 4, 2, 24), "sparse"),  # E has a stride
    "unaligned": Call((2, 16, 3, 2, 64), "unaligned"),
    "no-batch": Call((0, 8, 3, 2, 8)),
    "no-frames": Call((2, 0, 3, 2, 8)),
    "no-positions": Call((2, 8, 0, 2, 8)),
    "no-heads": Call((2, 8, 3, 0, 8)),
    "70000-problems": Call((1, 4, 70_000, 1, 4)),
}


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values in other places."""
    if layout == "strided":  # frames outside of the batch, heads before parts, a view of something longer
        longer = torch.cat([x, x], 2).permute(1, 0, 2, 4, 3, 5).contiguous()
        return longer.permute(1, 0, 2, 4, 3, 5)[:, :, : x.shape[2]]
    if layout == "sparse":
        return torch.stack([x, x], -1)[..., 0]
    if layout == "unaligned":
        return torch.cat([x.flatten()[:1], x.flatten()])[1:].view_as(x)
    return x


def input_of(name: str, dtype: torch.dtype, device: str = "cpu") -> Tensor:
    b, t, s, a, e = CALLS[name].shape
    return laid_out(draw(b, t, s, 3, a, e, dtype=dtype).to(device), CALLS[name].layout)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_accuracy(name: str, dtype: torch.dtype, device: str) -> None:
    qkv = input_of(name, dtype, device)
    grads = draw_gradients(qkv)
    found = with_gradient(multiscale_temporal_attention, qkv, grads)
    plain = with_gradient(multiscale_temporal_attention_reference, qkv, grads)
    exact = with_gradient(multiscale_temporal_attention_reference, qkv.double(), grads)
    for what, *tensors in zip(("1", "2", "4", "gradient"), found, plain, exact, strict=True):
        assert what == "gradient" or tensors[0].is_contiguous()
        assert_no_worse(*tensors, what=what)


@needs_native
@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
def test_accuracy_with_less_capable_processors(capability: str) -> None:
    facts = build_facts()
    if facts is None or facts.cpu_capability() in ("baseline", capability):
        pytest.skip("no facts, or this process runs it already")
    environment = os.environ | {"PAVDIT_CPU_CAPABILITY": capability, "PAVDIT_REQUIRE_KERNELS": "cpu"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", "accuracy and cpu and not less_capable"]
    run = subprocess.run(
        [*command, "-p", "no:cacheprovider", str(Path(__file__))],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-2000:]


@pytest.mark.parametrize("device", DEVICES)
def test_same_bits_in_every_run(device: str) -> None:
    qkv = draw(3, 16, 40, 3, 2, 64, dtype=torch.float32).to(device)
    grads = draw_gradients(qkv)
    threads = torch.get_num_threads()
    first = with_gradient(multiscale_temporal_attention, qkv, grads)
    try:
        torch.set_num_threads(3)
        second = with_gradient(multiscale_temporal_attention, qkv, grads)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("used", ["full", "half", "quarter", "full-quarter", "all", "none"])
@pytest.mark.parametrize("device", DEVICES)
def test_expanded_and_missing_gradients(used: str, device: str) -> None:
    qkv = input_of("model-3", torch.float32, device)
    found = []
    for op in (multiscale_temporal_attention, multiscale_temporal_attention_reference):
        leaf = qkv.clone().requires_grad_()
        outs = op(leaf)
        terms = {
            "full": outs[:1],
            "half": outs[1:2],
            "quarter": outs[2:],
            "full-quarter": outs[::2],
            "all": outs,
            "none": (),
        }[used]
        # the gradient of sum is one number, expanded
        total = sum((out.sum() for out in terms), leaf.new_zeros((), requires_grad=True))
        (gradient,) = torch.autograd.grad(total, leaf, allow_unused=True)
        found.append(gradient)
    assert (found[0] is None) == (used == "none")
    if used != "none":
        torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("used", [(True, False, True), (False, True, False), (False,) * 3], ids=str)
def test_written_out_gradient_is_autograd(used: tuple[bool, ...]) -> None:
    qkv = draw(2, 8, 3, 3, 2, 6).requires_grad_()
    grads = [g if wanted else None for g, wanted in zip(draw_gradients(qkv), used, strict=True)]
    outs = multiscale_temporal_attention_reference(qkv)
    total = sum(
        ((out * grad).sum() for out, grad in zip(outs, grads, strict=True) if grad is not None), 0 * qkv.sum()
    )
    assert_equation(_backward_raw(*grads, qkv.detach()), torch.autograd.grad(total, qkv)[0])


@pytest.mark.parametrize("name", ["ragged", "strided", "narrow"])
def test_raw_ops(name: str) -> None:
    qkv = input_of(name, torch.bfloat16)
    full, half, quarter = draw_gradients(qkv)
    torch.library.opcheck(torch.ops.pavdit.multiscale_temporal_attention.default, (qkv,))
    backward = torch.ops.pavdit.multiscale_temporal_attention_backward.default
    for grads in ((full, half, quarter), (None, half, None), (None, None, None)):
        torch.library.opcheck(backward, (*grads, qkv))


@needs_native
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_not_a_number_stays_in_its_problem(dtype: torch.dtype, device: str) -> None:
    qkv = draw(2, 8, 3, 3, 2, 64, dtype=dtype).to(device)
    qkv[0, 5, 1, 0, 1, 7] = torch.nan  # one query
    qkv[1, 2, 2, 1, 0, 9] = torch.nan  # one key
    qkv[1, 7, 0, 2, 1, 3] = torch.nan  # one value
    broken = torch.zeros(2, 3, 2, dtype=torch.bool, device=device)  # (B, S, A)
    broken[0, 1, 1] = broken[1, 2, 0] = broken[1, 0, 1] = True
    *outs, dqkv = with_gradient(multiscale_temporal_attention, qkv, draw_gradients(qkv))
    for scale, out in zip(SCALES, outs, strict=True):
        rows = out.isnan().all(-1)  # (B, T/scale, S, A)
        want = torch.zeros_like(rows)
        want[0, 5 // scale, 1, 1] = True
        want[1, :, 2, 0] = True
        assert torch.equal(rows, want)
        assert torch.equal(out.isnan().any(-1).any(1), broken)
    assert torch.equal(dqkv.isnan().any(-1).any(3).any(1), broken)


def test_large_scores_do_not_overflow() -> None:
    qkv = draw(1, 8, 2, 3, 2, 16, dtype=torch.float32)
    qkv[..., :2, :, :] *= 1e4
    outs = (
        multiscale_temporal_attention(qkv),
        multiscale_temporal_attention_reference(qkv),
        multiscale_temporal_attention(qkv.double()),
    )
    for tensors in zip(*outs, strict=True):
        assert_no_worse(*tensors)


@pytest.mark.parametrize(
    "shape", [(1, MAX_FRAMES["cpu"] + 4, 2, 3, 1, 8), (1, 4, 2, 3, 1, MAX_WIDTH + 8)], ids=str
)
def test_beyond_the_native_sizes_the_reference_serves(shape: tuple[int, ...]) -> None:
    qkv = draw(*shape, dtype=torch.float32)
    outs = multiscale_temporal_attention(qkv), multiscale_temporal_attention_reference(qkv)
    for got, want in zip(*outs, strict=True):
        assert_equation(got, want)


@pytest.mark.slow
def test_more_elements_than_32_bits_count() -> None:
    """4 GB of qkv, two different clips in turn: the first and the last are looked at."""
    clips = draw(2, 8, 64, 3, 6, 64, dtype=torch.bfloat16)
    qkv = clips.repeat(2**31 // clips.numel() + 1, 1, 1, 1, 1, 1)
    assert qkv.numel() > 2**31
    for got, want in zip(
        multiscale_temporal_attention(qkv), multiscale_temporal_attention(clips), strict=True
    ):
        assert torch.equal(got[:2], want)
        assert torch.equal(got[-2:], want)


def test_two_threads_at_once() -> None:
    qkv = draw(2, 16, 12, 3, 2, 64, dtype=torch.float32)
    want = multiscale_temporal_attention(qkv)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: multiscale_temporal_attention(qkv), range(32)))
    assert all(torch.equal(a, b) for result in results for a, b in zip(result, want, strict=True))


@needs_native
def test_has_no_second_derivative() -> None:
    qkv = draw(1, 4, 2, 3, 2, 8, dtype=torch.float32).requires_grad_()
    outs = multiscale_temporal_attention(qkv)
    (dqkv,) = torch.autograd.grad(outs[1].square().sum(), qkv, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dqkv.sum().backward()


RAW = torch.zeros(2, 8, 3, 3, 2, 8)
RAW_ERRORS: dict[str, tuple[Tensor, str]] = {
    "dtype": (RAW.double(), "want qkv in float32, bfloat16 or float16"),
    "rank": (RAW[0], r"want qkv \(B,T,S,3,A,E\), got \(8, 3, 3, 2, 8\)"),
    "packed": (RAW[:, :, :, :2], r"want qkv \(B,T,S,3,A,E\), got \(2, 8, 3, 2, 2, 8\)"),
    "frames": (RAW[:, :6], "want .*T a multiple of 4 in 4..80.*got .*6"),
    "no frames": (RAW[:, :0], "want .*T a multiple of 4 in 4..80.*got .*0"),
    "long": (torch.zeros(1, 84, 1, 3, 1, 2), "want .*T a multiple of 4 in 4..80.*got .*84"),
    "wide": (torch.zeros(1, 4, 1, 3, 1, 129), "want .*E in 1..128.*got .*129"),
}


@needs_native
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("qkv", "text"), RAW_ERRORS.values(), ids=RAW_ERRORS.keys())
def test_raw_error_text(qkv: Tensor, text: str, backward: bool) -> None:
    with pytest.raises(RuntimeError, match=f"multiscale_temporal_attention: {text}"):
        if backward:
            torch.ops.pavdit.multiscale_temporal_attention_backward(None, None, None, qkv)
        else:
            torch.ops.pavdit.multiscale_temporal_attention(qkv)


GRAD = RAW[:, :, :, 0]
RAW_GRAD_ERRORS: dict[str, tuple[tuple[Tensor | None, ...], str]] = {
    "full": ((GRAD[:, :4], None, None), r"want grad_full \(2, 8, 3, 2, 8\).*got \(2, 4, 3, 2, 8\)"),
    "half": ((None, GRAD, None), r"want grad_half \(2, 4, 3, 2, 8\).*got \(2, 8, 3, 2, 8\)"),
    "quarter": ((GRAD, None, GRAD[0]), r"want grad_quarter \(2, 2, 3, 2, 8\).*got \(8, 3, 2, 8\)"),
    "dtype": ((GRAD.half(), None, None), "want grad_full .* in the dtype of qkv"),
}


@needs_native
@pytest.mark.parametrize(("grads", "text"), RAW_GRAD_ERRORS.values(), ids=RAW_GRAD_ERRORS.keys())
def test_raw_backward_error_text(grads: tuple[Tensor | None, ...], text: str) -> None:
    with pytest.raises(RuntimeError, match=f"multiscale_temporal_attention_backward: {text}"):
        torch.ops.pavdit.multiscale_temporal_attention_backward(*grads, RAW)


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
    "width": (torch.zeros(1, 4, 1, 3, 1, 0), ValueError, r"want qkv \(B,T,S,3,A,E\)"),
    "mixed": ([torch.zeros(1)], TypeError, "want qkv a tensor, got list"),
}


@pytest.mark.parametrize(("qkv", "error", "text"), ERRORS.values(), ids=ERRORS.keys())
def test_error_text(qkv: Tensor, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^multiscale_temporal_attention: {text}"):
        multiscale_temporal_attention(qkv)
