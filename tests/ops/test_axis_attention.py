"""`axis_attention` and `axis_query_attention` against their equation."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
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
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from pavdit.ops import axis_attention, axis_query_attention
from pavdit.ops._axis_reference import (
    axis_attention_reference,
    axis_query_attention_reference,
    backward_raw,
    query_backward_raw,
)
from pavdit.ops._library import build_facts, native
from pavdit.ops.axis_attention import MAX_LENGTH, MAX_WIDTH

LOW = [torch.float32, torch.bfloat16, torch.float16]
CUDA = pytest.mark.skipif(
    not torch.cuda.is_available() and "cuda" not in os.environ.get("PAVDIT_REQUIRE_KERNELS", ""),
    reason="no CUDA device",
)
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


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


# ---- the native kernels: what they return for every shape, against the reference in float64 ----

NATIVE = native("axis_attention", torch.empty(0))
needs_native = pytest.mark.skipif(not NATIVE, reason="no native library")


@dataclass(frozen=True)
class Call:
    """Leading shape + (A, E) of one call, and what it comes with."""

    shape: tuple[int, ...]
    axis: int
    masked: bool = False
    normed: bool = False
    turned: bool = False
    layout: str = "packed"


CALLS = {
    "one": Call((1, 1, 1), 0),
    "time": Call((2, 16, 9, 4, 64), 1, turned=True),  # MDSA: frames at one position
    "time-8": Call((2, 8, 5, 2, 64), 1, turned=True, masked=True),
    "projector": Call((1, 4, 17, 3, 4, 48), 2),  # MDSA: 16 tokens and their summary
    "projector-33": Call((33, 3, 2, 2, 48), 0, masked=True),
    "stdit": Call((2, 6, 16, 3, 64), 1, normed=True),  # STDiT: across the frames of P
    "stdit-4": Call((1, 4, 16, 2, 72), 1, normed=True, turned=True),
    "longest": Call((2, 80, 1, 96), 1, masked=True, normed=True, turned=True),
    "long": Call((2, 69, 2, 64), 1),
    "widest": Call((3, 5, 2, 128), 1, normed=True),
    "ragged": Call((3, 13, 2, 3, 37), 1, masked=True, normed=True),
    "ragged-pairs": Call((2, 3, 11, 1, 6), 2, masked=True, normed=True, turned=True),
    "strided": Call((3, 7, 4, 2, 40), 1, normed=True, turned=True, layout="strided"),
    "sparse": Call((3, 7, 4, 2, 24), 1, turned=True, layout="sparse"),  # E has a stride
    "unaligned": Call((2, 9, 3, 2, 64), 1, turned=True, layout="unaligned"),
    "no-batch": Call((0, 4, 3, 2, 8), 1, normed=True),
    "no-heads": Call((2, 4, 3, 0, 8), 1, masked=True),
    "no-tokens": Call((2, 0, 3, 2, 8), 1),
    "70000-problems": Call((35_000, 3, 2, 4), 1, masked=True),
}


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same values in other places."""
    if layout == "strided":  # heads before parts, as a view of something longer
        longer = torch.cat([x, x], -4).transpose(-2, -3).contiguous()
        return longer.transpose(-2, -3).narrow(-4, 0, x.shape[-4])
    if layout == "sparse":
        return torch.stack([x, x], -1)[..., 0]
    if layout == "unaligned":
        return torch.cat([x.flatten()[:1], x.flatten()])[1:].view_as(x)
    return x


def inputs_of(
    call: Call, dtype: torch.dtype, weight_dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> list[Any]:
    """Everything that `axis_attention` takes."""
    leading, (heads, width) = call.shape[:-2], call.shape[-2:]
    qkv = laid_out(draw(*leading, 3, heads, width, dtype=dtype).to(device), call.layout)
    valid = (draw(*leading, seed=1) > -0.3).to(device) if call.masked else None
    if valid is not None and valid.numel() > 0:
        valid.movedim(call.axis, 0)[:, 0] = False
    weights = [
        (1 + 0.2 * draw(width, seed=s)).to(device, weight_dtype) if call.normed else None for s in (2, 3)
    ]
    rope = angles(leading[call.axis], width).to(device) if call.turned else None
    return [qkv, call.axis, valid, *weights, rope]


def double(value: Any) -> Any:
    return value.double() if isinstance(value, Tensor) and value.dtype != torch.bool else value


def with_gradients(op: Any, arguments: list[Any], grad: Tensor) -> list[Tensor]:
    """The result, then the gradients of all floating-point arguments but the table of angles."""
    leaves = [
        a.detach().requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() and a.ndim != 3 else a
        for a in arguments
    ]
    out = op(*leaves)
    wanted = [a for a in leaves if isinstance(a, Tensor) and a.requires_grad]
    return [out.detach(), *torch.autograd.grad(out, wanted, grad.to(out.dtype))]


def assert_as_good_as(reference: Any, op: Any, arguments: list[Any]) -> None:
    """Forward and backward err at most twice as much as PyTorch's own attention in the dtype given."""
    exact_arguments = [double(a) for a in arguments]
    out = op(*arguments)
    grad = draw(*out.shape, dtype=out.dtype, seed=5).to(out.device)
    found, plain, exact = (
        with_gradients(f, a, grad)
        for f, a in ((op, arguments), (reference, arguments), (reference, exact_arguments))
    )
    assert found[0].is_contiguous()
    for i, tensors in enumerate(zip(found, plain, exact, strict=True)):
        assert_no_worse(*tensors, what="result" if i == 0 else f"gradient {i}")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_accuracy(name: str, dtype: torch.dtype, device: str) -> None:
    arguments = inputs_of(CALLS[name], dtype, device=device)
    assert_as_good_as(axis_attention_reference, axis_attention, arguments)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_query_accuracy(name: str, dtype: torch.dtype, device: str) -> None:
    qkv, axis, valid, *_ = inputs_of(CALLS[name], dtype, device=device)
    if qkv.shape[axis] == 0:
        pytest.skip("no query where there is no token")
    q, kv = qkv.narrow(axis, 0, 1)[..., :1, :, :], qkv[..., 1:, :, :]
    assert_as_good_as(axis_query_attention_reference, axis_query_attention, [q, kv, axis, valid])


LENGTHS = [*range(2, 18), 25, 33, 48, 65, 80]  # around whole vectors and tiles of queries
WIDTHS = [(48, torch.float32), (64, torch.float32), (72, torch.float32), (96, torch.float32)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("width", "dtype"), [*WIDTHS, (72, torch.bfloat16), (64, torch.float16)], ids=str)
def test_accuracy_at_every_length(width: int, dtype: torch.dtype, device: str) -> None:
    for length in LENGTHS:
        arguments = inputs_of(Call((1, length, 5, width), 1, masked=length % 3 == 0), dtype, device=device)
        assert_as_good_as(axis_attention_reference, axis_attention, arguments)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_accuracy_with_weights_in_the_dtype_of_the_input(dtype: torch.dtype, device: str) -> None:
    arguments = inputs_of(CALLS["stdit-4"], dtype, dtype, device)
    assert_as_good_as(axis_attention_reference, axis_attention, arguments)


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", ["time-8", "stdit-4", "ragged-pairs", "projector"])
def test_written_out_gradient_is_autograd(name: str, dtype: torch.dtype) -> None:
    arguments = inputs_of(CALLS[name], dtype)
    grad = draw(*CALLS[name].shape, dtype=dtype, seed=5)
    found = [g for g in backward_raw(grad, *arguments) if g.numel() > 0]
    for got, want in zip(found, with_gradients(axis_attention_reference, arguments, grad)[1:], strict=True):
        assert_equation(got.to(want.dtype), want)
    qkv, axis, valid, *_ = arguments
    query = [qkv.narrow(axis, 0, 1)[..., :1, :, :], qkv[..., 1:, :, :], axis, valid]
    grad = grad.narrow(axis, 0, 1)
    wanted = with_gradients(axis_query_attention_reference, query, grad)[1:]
    for got, want in zip(query_backward_raw(grad, *query), wanted, strict=True):
        assert_equation(got, want)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["ragged-pairs", "strided", "projector"])
def test_raw_backward_ops(name: str, device: str) -> None:
    arguments = inputs_of(CALLS[name], torch.bfloat16, device=device)
    grad = draw(*CALLS[name].shape, dtype=torch.bfloat16, seed=5).to(device)
    torch.library.opcheck(torch.ops.pavdit.axis_attention.default, tuple(arguments))
    torch.library.opcheck(torch.ops.pavdit.axis_attention_backward.default, (grad, *arguments))
    qkv, axis, valid, *_ = arguments
    query = (qkv.narrow(axis, 0, 1)[..., :1, :, :], qkv[..., 1:, :, :], axis, valid)
    torch.library.opcheck(torch.ops.pavdit.axis_query_attention.default, query)
    torch.library.opcheck(
        torch.ops.pavdit.axis_query_attention_backward.default, (grad.narrow(axis, 0, 1), *query)
    )


@pytest.mark.parametrize("device", DEVICES)
def test_same_bits_in_every_run(device: str) -> None:
    arguments = inputs_of(Call((301, 6, 3, 16), 1, normed=True), torch.float32, device=device)
    grad = draw(301, 6, 3, 16, dtype=torch.float32).to(device)
    threads = torch.get_num_threads()
    first = with_gradients(axis_attention, arguments, grad)
    try:
        torch.set_num_threads(3)
        second = with_gradients(axis_attention, arguments, grad)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_masked_rows_are_never_read(dtype: torch.dtype, device: str) -> None:
    qkv, axis, valid, *_ = inputs_of(CALLS["projector-33"], dtype, device=device)
    assert valid is not None
    poisoned = qkv.clone()
    poisoned[..., 1:, :, :][~valid] = torch.nan
    poisoned.requires_grad_()
    out = axis_attention(poisoned, axis, valid)
    assert torch.equal(out, axis_attention(qkv, axis, valid))
    (dqkv,) = torch.autograd.grad(out.float().square().sum(), poisoned)
    assert bool((dqkv[..., 1:, :, :][~valid] == 0).all())
    assert bool(dqkv.isfinite().all())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", LOW, ids=str)
def test_what_is_not_a_number_stays_in_its_problem(dtype: torch.dtype, device: str) -> None:
    qkv = draw(3, 8, 3, 2, 64, dtype=dtype).to(device)
    qkv[1, 4, 0, 1, 5] = torch.nan  # one query
    qkv[2, 3, 1, 0, 7] = torch.nan  # one key
    broken = axis_attention(qkv, 1).isnan().all(-1)
    want = torch.zeros(3, 8, 2, dtype=torch.bool, device=device)
    want[1, 4, 1] = True
    want[2, :, 0] = True
    assert torch.equal(broken, want)


@pytest.mark.parametrize("device", DEVICES)
def test_large_scores_do_not_overflow(device: str) -> None:
    qkv = draw(2, 8, 3, 2, 16, dtype=torch.float32).to(device)
    qkv[..., :2, :, :] *= 1e4
    out = axis_attention(qkv, 1)
    assert_no_worse(
        out, axis_attention_reference(qkv, 1, None, None, None, None), axis_attention(qkv.double(), 1)
    )


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("needs", ["qkv", "weights"])
def test_expanded_and_missing_gradients(needs: str, device: str) -> None:
    arguments = inputs_of(CALLS["stdit"], torch.float32, device=device)
    grads = []
    for op in (axis_attention, axis_attention_reference):
        leaves = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
        wanted = leaves[:1] if needs == "qkv" else leaves[3:5]
        for leaf in wanted:
            leaf.requires_grad_()
        op(*leaves).sum().backward()  # the gradient of sum is one number, expanded
        grads.append([leaf.grad for leaf in wanted])
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-4)


def test_rope_that_learns_and_mixed_weights_take_the_reference() -> None:
    qkv, axis, _, q_weight, k_weight, rope = inputs_of(CALLS["stdit-4"], torch.bfloat16)
    rope.requires_grad_()
    axis_attention(qkv, axis, None, q_weight, k_weight.bfloat16(), rope).sum().backward()
    assert rope.grad is not None


@pytest.mark.parametrize("shape", [(2, MAX_LENGTH + 1, 3, 1, 8), (1, 4, 3, 1, MAX_WIDTH + 8)], ids=str)
def test_beyond_the_native_sizes_the_reference_serves(shape: tuple[int, ...]) -> None:
    qkv = draw(*shape, dtype=torch.float32)
    assert_equation(axis_attention(qkv, 1), axis_attention_reference(qkv, 1, None, None, None, None))


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_with_gradients_as_one_graph(device: str) -> None:
    arguments = inputs_of(CALLS["ragged-pairs"], torch.float32, device=device)
    grad = draw(*CALLS["ragged-pairs"].shape, dtype=torch.float32, seed=5).to(device)
    compiled = torch.compile(axis_attention, fullgraph=True)
    pairs = zip(
        with_gradients(compiled, arguments, grad),
        with_gradients(axis_attention, arguments, grad),
        strict=True,
    )
    for got, want in pairs:
        assert_equation(got, want)


@CUDA
def test_cuda_uses_the_current_stream() -> None:
    arguments = inputs_of(CALLS["time"], torch.bfloat16, device="cuda")
    want = axis_attention(*arguments)
    stream = torch.cuda.Stream()
    late = torch.zeros_like(arguments[0])
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # some 50 ms: a launch on another stream would read zeros
        late.copy_(arguments[0])
        got = axis_attention(late, *arguments[1:])
    stream.synchronize()
    assert torch.equal(got, want)


@CUDA
@pytest.mark.parametrize("name", ["stdit", "projector"])
def test_cuda_graph_replays_forward_and_backward(name: str) -> None:
    arguments = inputs_of(CALLS[name], torch.bfloat16, device="cuda")
    leaf = arguments[0].clone().requires_grad_()
    grad = torch.randn_like(leaf[..., 0, :, :])

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(axis_attention(leaf, *arguments[1:]), leaf, grad)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        leaf.copy_(leaf.flip(0))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, step(), strict=True))


@CUDA
def test_cuda_refuses_a_weight_of_another_device() -> None:
    qkv, weight = torch.zeros(2, 4, 3, 2, 8, device="cuda"), torch.ones(8)
    with pytest.raises(RuntimeError, match="axis_attention: want q_weight on the device of its input"):
        torch.ops.pavdit.axis_attention(qkv, 1, None, weight, weight, None)


@pytest.mark.parametrize("device", DEVICES)
def test_two_threads_at_once(device: str) -> None:
    qkv = draw(50, 8, 3, 4, 64, dtype=torch.float32).to(device)
    want = axis_attention(qkv, 1)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: axis_attention(qkv, 1), range(32)))
    assert all(torch.equal(result, want) for result in results)


@needs_native
def test_has_no_second_derivative() -> None:
    qkv = draw(2, 4, 3, 2, 8, dtype=torch.float32).requires_grad_()
    (dqkv,) = torch.autograd.grad(axis_attention(qkv, 1).square().sum(), qkv, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dqkv.sum().backward()


RAW = torch.zeros(2, 4, 3, 2, 8)
RAW_ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "dtype": ({"qkv": RAW.double()}, "want the input in float32, bfloat16 or float16"),
    "packed": ({"qkv": RAW[:, :, :2]}, r"want \(...,3,A,E\) with 1..8 leading axes .*got \(2, 4, 2, 2, 8\)"),
    "rank": ({"qkv": RAW[0, 0]}, r"want \(...,3,A,E\) .*got \(3, 2, 8\)"),
    "axis": ({"axis": 2}, "want .* and axis = 2 one of them"),
    "negative axis": ({"axis": -1}, "want .* and axis = -1 one of them"),
    "long": ({"qkv": torch.zeros(1, 81, 3, 1, 8)}, "want 1..80 tokens .*got 81 and 8"),
    "empty": ({"qkv": RAW[:, :0]}, "want 1..80 tokens .*got 0 and 8"),
    "valid": ({"valid": torch.ones(3, dtype=torch.bool)}, r"want valid in bool, broadcastable .*got \(3\)"),
    "valid dtype": ({"valid": torch.ones(4)}, "want valid in bool"),
    "one weight": ({"q_weight": torch.ones(8)}, "want both of q_weight and k_weight or neither"),
    "weights": ({"q_weight": torch.ones(7), "k_weight": torch.ones(7)}, r"want q_weight and k_weight \(E,\)"),
    "rope": ({"rope": torch.ones(2, 5, 4)}, r"want rope \(2,L,E/2\) .*L = 4 and E = 8, got \(2, 5, 4\)"),
    "rope dtype": ({"rope": torch.ones(2, 4, 4).half()}, r"want rope \(2,L,E/2\) in float32"),
}


@needs_native
@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize(("change", "text"), RAW_ERRORS.values(), ids=RAW_ERRORS.keys())
def test_raw_error_text(change: dict[str, Any], text: str, backward: bool) -> None:
    names = ("qkv", "axis", "valid", "q_weight", "k_weight", "rope")
    arguments = [({"qkv": RAW, "axis": 1} | change).get(name) for name in names]
    with pytest.raises(RuntimeError, match=f"axis_attention: {text}"):
        if backward:
            torch.ops.pavdit.axis_attention_backward(RAW[:, :, 0], *arguments)
        else:
            torch.ops.pavdit.axis_attention(*arguments)


@needs_native
@pytest.mark.parametrize("grad", [RAW[:, :, 0, :1], RAW[:, :, 0].half(), RAW], ids=["shape", "dtype", "rank"])
def test_raw_backward_error_text(grad: Tensor) -> None:
    with pytest.raises(RuntimeError, match=r"axis_attention_backward: want grad \(...,A,E\) in the dtype"):
        torch.ops.pavdit.axis_attention_backward(grad, RAW, 1, None, None, None, None)


@needs_native
@pytest.mark.parametrize(
    "q",
    [RAW[:, :, :1], RAW[:1, :1, :1], RAW[:, :1, :2], RAW[:, :1, :1].half()],
    ids=["L", "B", "parts", "dtype"],
)
def test_raw_query_error_text(q: Tensor) -> None:
    with pytest.raises(RuntimeError, match=r"axis_query_attention: want q \(...,1,A,E\) of length 1"):
        torch.ops.pavdit.axis_query_attention(q, RAW[:, :, 1:], 1, None)


GOOD = torch.zeros(2, 4, 3, 2, 8)
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({"qkv": None}, TypeError, "want qkv a tensor, got NoneType"),
    "dtype": ({"qkv": GOOD.int()}, TypeError, "want qkv float32, .*got torch.int32"),
    "rank": ({"qkv": torch.zeros(3, 2, 8)}, ValueError, r"want qkv \(...,3,A,E\).*got \(3, 2, 8\)"),
    "packed": ({"qkv": torch.zeros(2, 4, 2, 2, 8)}, ValueError, r"want qkv .*got \(2, 4, 2, 2, 8\)"),
    "no width": ({"qkv": GOOD[..., :0]}, ValueError, r"want qkv .*got \(2, 4, 3, 2, 0\)"),
    "axis": ({"axis": 2}, ValueError, "want axis in 0..1 .*got 2"),
    "negative axis": ({"axis": -1}, ValueError, "want axis in 0..1 .*got -1"),
    "axis type": ({"axis": 1.0}, TypeError, "want axis an int, got float"),
    "valid dtype": (
        {"valid": torch.ones(4)},
        TypeError,
        "want valid a bool tensor or None, got torch.float32",
    ),
    "valid shape": (
        {"valid": torch.ones(3, dtype=torch.bool)},
        ValueError,
        r"want valid broadcastable to \(2, 4\), got \(3,\)",
    ),
    "valid device": (
        {"valid": torch.ones(4, dtype=torch.bool, device="meta")},
        ValueError,
        "want valid on cpu, got meta",
    ),
    "one weight": ({"q_weight": torch.ones(8)}, ValueError, "want both .* or neither, got only q_weight"),
    "weight shape": (
        {"q_weight": torch.ones(8), "k_weight": torch.ones(4)},
        ValueError,
        r"want k_weight \(8,\), got \(4,\)",
    ),
    "weight dtype": (
        {"q_weight": torch.ones(8).half(), "k_weight": torch.ones(8)},
        TypeError,
        "want q_weight float32, got torch.float16",
    ),
    "rope shape": ({"rope": torch.ones(2, 5, 4)}, ValueError, r"want rope \(2, 4, 4\), got \(2, 5, 4\)"),
    "rope dtype": ({"rope": torch.ones(2, 4, 4).half()}, TypeError, "want rope float32, got torch.float16"),
    "rope parity": (
        {"qkv": torch.zeros(2, 4, 3, 2, 7), "rope": torch.ones(2, 4, 3)},
        ValueError,
        "want an even head width E for rope, got 7",
    ),
}


@pytest.mark.parametrize(("change", "error", "text"), ERRORS.values(), ids=ERRORS.keys())
def test_error_text(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^axis_attention: {text}"):
        axis_attention(**{"qkv": GOOD, "axis": 1, **change})


QUERY_ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({"kv": None}, TypeError, "want kv a tensor, got NoneType"),
    "mixed dtypes": (
        {"kv": GOOD[:, :, 1:].half()},
        TypeError,
        "want kv torch.float32 as q, got torch.float16",
    ),
    "mixed devices": ({"kv": GOOD[:, :, 1:].to("meta")}, ValueError, "want kv on cpu as q, got meta"),
    "packed": ({"q": GOOD}, ValueError, r"want q \(...,1,A,E\) and kv \(...,2,A,E\).*got"),
    "length": ({"q": GOOD[:, :, :1]}, ValueError, r"want q \(2, 1, 1, 2, 8\), of length 1 along axis 1.*got"),
    "axis": ({"axis": 3}, ValueError, "want axis in 0..1 .*got 3"),
}


@pytest.mark.parametrize(("change", "error", "text"), QUERY_ERRORS.values(), ids=QUERY_ERRORS.keys())
def test_query_error_text(change: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=f"^axis_query_attention: {text}"):
        axis_query_attention(**{"q": GOOD[:, :1, :1], "kv": GOOD[:, :, 1:], "axis": 1, **change})
