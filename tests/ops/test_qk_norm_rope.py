"""`qk_norm_rope` against its equation."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from attention_loops import angles, eager_norm_and_rotate, norm_and_rotate_vector
from interpreted import INTERPRETED, assert_passes_interpreted
from numerics import assert_equation, assert_no_worse, assert_rounded_once
from torch import Tensor

from pavdit.ops import qk_norm_rope
from pavdit.ops._library import native
from pavdit.ops.qk_norm_rope import _backward_raw

CUDA = pytest.mark.skipif(
    not torch.cuda.is_available() and "cuda" not in os.environ.get("PAVDIT_REQUIRE_KERNELS", ""),
    reason="no CUDA device",
)
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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


@dataclass(frozen=True)
class Case:
    """Shape of qkv (..., N, 3, A, E), and how it lies in memory."""

    shape: tuple[int, ...]
    layout: str = "contiguous"
    rope: bool = True
    programs: bool = True
    """Few enough of them for the interpreter."""


CASES = {
    "one": Case((1, 3, 1, 2)),
    "model": Case((2, 4, 3, 18, 64)),  # xl: temporal, four frames
    "small": Case((1, 36, 3, 3, 64)),
    "spatial": Case((4, 256, 3, 18, 64), programs=False),
    "norm-only": Case((2, 9, 3, 2, 48), rope=False),
    "ragged": Case((2, 7, 3, 3, 70)),
    "odd-width": Case((2, 7, 3, 3, 37), rope=False),
    "width-1": Case((2, 5, 3, 2, 1), rope=False),
    "widest": Case((2, 5, 3, 2, 128)),
    "beyond": Case((2, 5, 3, 2, 130)),
    "no-leading-axis": Case((11, 3, 2, 72)),
    "grid": Case((2, 2, 3, 3, 2, 96)),
    "head-major": Case((2, 9, 3, 4, 64), layout="head-major"),
    "transposed-grid": Case((3, 2, 7, 3, 2, 64), layout="transposed-grid"),
    "strided-width": Case((2, 9, 3, 2, 64), layout="strided-width"),
    "unaligned": Case((2, 9, 3, 2, 64), layout="unaligned"),
    "expanded": Case((3, 9, 3, 2, 64), layout="expanded"),
    "no-sequence": Case((0, 5, 3, 2, 8)),
    "no-token": Case((2, 0, 3, 2, 8)),
    "no-head": Case((2, 5, 3, 0, 8)),
    "70000-sequences": Case((70_000, 1, 3, 1, 8), programs=False),
}


def inputs_of(case: Case, dtype: torch.dtype, weights: torch.dtype, device: str) -> tuple[Tensor, ...]:
    """Draw qkv and the weights; qkv in the layout of the case."""
    qkv = draw(*case.shape) * (1 + draw(*case.shape[:-1], 1, seed=5).abs())
    qkv = qkv.to(dtype).to(device)
    if case.layout == "head-major":
        qkv = qkv.transpose(-2, -4).contiguous().transpose(-2, -4)
    if case.layout == "transposed-grid":
        qkv = qkv.transpose(0, 1).contiguous().transpose(0, 1)
    if case.layout == "strided-width":
        qkv = torch.stack((qkv, qkv), -1)[..., 0]
    if case.layout == "unaligned":
        qkv = torch.cat((qkv.flatten()[:1], qkv.flatten()))[1:].view_as(qkv)
    if case.layout == "expanded":
        qkv = qkv[:1].expand(case.shape)
    pair = (1 + 0.3 * draw(case.shape[-1], seed=seed) for seed in (1, 2))
    return qkv, *(weight.to(weights).to(device) for weight in pair)


def table_of(case: Case, device: str) -> Tensor | None:
    return angles(case.shape[-4], case.shape[-1]).to(device) if case.rope else None


def eager(qkv: Tensor, q_weight: Tensor, k_weight: Tensor, rope: Tensor | None) -> Tensor:
    """What one would write with PyTorch's own operators, every step rounded to the dtype of qkv."""
    q, k, v = qkv.unbind(-3)
    rope = None if rope is None else rope.to(qkv.dtype)
    q, k = eager_norm_and_rotate(q, q_weight, rope), eager_norm_and_rotate(k, k_weight, rope)
    return torch.stack((q, k, v), -3)


def gradients(
    op: Callable[..., Tensor], inputs: tuple[Tensor, ...], rope: Tensor | None, grad: Tensor
) -> tuple[Tensor, ...]:
    leaves = [t.detach().requires_grad_() for t in inputs]
    return torch.autograd.grad(op(*leaves, rope), leaves, grad)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weights", ["same", "fp32"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_accuracy(name: str, dtype: str, weights: str, device: str) -> None:
    case = CASES[name]
    if weights == "fp32" and dtype == "fp32":
        pytest.skip("the same as weights=same")
    if INTERPRETED and (not case.programs or (dtype == "fp16" and name != "ragged")):
        pytest.skip("too long in the interpreter")
    inputs = inputs_of(case, DTYPES[dtype], DTYPES["fp32" if weights == "fp32" else dtype], device)
    exact_inputs, rope = tuple(t.double() for t in inputs), table_of(case, device)
    with torch.no_grad():
        got = qk_norm_rope(*inputs, rope)
    exact = eager(*exact_inputs, rope)
    assert got.is_contiguous()
    assert torch.equal(got[..., 2, :, :], inputs[0][..., 2, :, :])
    assert_no_worse(got, eager(*inputs, rope), exact, what="forward")
    if got.numel() and dtype != "fp32" and not (INTERPRETED and dtype == "bf16"):
        assert_rounded_once(got, exact)  # the interpreter cuts float32 to bfloat16 instead of rounding

    grad = draw(*case.shape, seed=3).to(got)
    found = gradients(qk_norm_rope, inputs, rope, grad)
    plain = gradients(eager, inputs, rope, grad)
    exact_grads = gradients(eager, exact_inputs, rope, grad.double())
    for what, *tensors in zip(("dqkv", "dq_weight", "dk_weight"), found, plain, exact_grads, strict=True):
        assert_no_worse(*tensors, what=what)


def test_passes_interpreted() -> None:
    assert_passes_interpreted(__file__)


@pytest.mark.skipif(not INTERPRETED, reason="not interpreted")
def test_the_kernel_serves_here() -> None:
    assert native("qk_norm_rope", torch.empty(0))
    assert native("qk_norm_rope_backward", torch.empty(0))


@pytest.mark.parametrize("device", DEVICES)
def test_same_bits_in_every_run(device: str) -> None:
    inputs, rope = (
        inputs_of(CASES["grid"], torch.float32, torch.float32, device),
        table_of(CASES["grid"], device),
    )
    grad = draw(*CASES["grid"].shape, dtype=torch.float32, seed=3).to(device)
    first, second = (gradients(qk_norm_rope, inputs, rope, grad) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True)])
def test_expanded_and_missing_gradients(needs: tuple[bool, bool, bool], device: str) -> None:
    case = CASES["norm-only"]
    inputs = inputs_of(case, torch.float32, torch.float32, device)
    leaves = [t.clone().requires_grad_(need) for t, need in zip(inputs, needs, strict=True)]
    qk_norm_rope(*leaves).sum().backward()  # the gradient of sum is one number, expanded
    exact_inputs = tuple(t.double() for t in inputs)
    ones = torch.ones(case.shape, device=device)
    exact = gradients(eager, exact_inputs, None, ones.double())
    plain = gradients(eager, inputs, None, ones)
    for leaf, need, one, other in zip(leaves, needs, plain, exact, strict=True):
        assert (leaf.grad is not None) == need
        if leaf.grad is not None:
            assert_no_worse(leaf.grad, one, other)


@pytest.mark.parametrize("device", DEVICES)
def test_gradient_of_the_table(device: str) -> None:
    """Learned angles: the kernel has no such gradient, the reference serves."""
    case = CASES["grid"]
    inputs = inputs_of(case, torch.float32, torch.float32, device)
    rope = angles(case.shape[-4], 96).to(device).requires_grad_()
    (drope,) = torch.autograd.grad(qk_norm_rope(*inputs, rope).square().sum(), rope)
    assert bool((drope != 0).any())


@pytest.mark.parametrize("device", DEVICES)
def test_a_zero_vector_stays_zero(device: str) -> None:
    qkv = torch.zeros(1, 3, 1, 4, requires_grad=True, device=device)
    ones = torch.ones(4, device=device)
    out = qk_norm_rope(qkv, ones, ones, angles(1, 4).to(device))
    out.sum().backward()
    assert torch.equal(out, torch.zeros_like(out))
    assert qkv.grad is not None
    assert bool(qkv.grad.isfinite().all())


@pytest.mark.parametrize("device", DEVICES)
def test_a_broken_vector_breaks_no_other(device: str) -> None:
    inputs, rope = (
        inputs_of(CASES["ragged"], torch.float32, torch.float32, device),
        table_of(CASES["ragged"], device),
    )
    want = qk_norm_rope(*inputs, rope)
    inputs[0][1, 2, 0, 2] = torch.nan
    broken = qk_norm_rope(*inputs, rope)
    assert bool(broken[1, 2, 0, 2].isnan().all())
    broken[1, 2, 0, 2] = want[1, 2, 0, 2]
    assert torch.equal(broken, want)


@pytest.mark.parametrize("dtype", DTYPES)
def test_raw_reference_agrees_with_autograd(dtype: str) -> None:
    case = CASES["ragged"]
    inputs, rope = inputs_of(case, DTYPES[dtype], DTYPES[dtype], "cpu"), table_of(case, "cpu")
    grad = draw(*case.shape, seed=3).to(DTYPES[dtype])
    found = _backward_raw(grad, *inputs, rope)
    plain = gradients(eager, inputs, rope, grad)
    exact = gradients(eager, tuple(t.double() for t in inputs), rope, grad.double())
    for what, *tensors in zip(("dqkv", "dq_weight", "dk_weight"), found, plain, exact, strict=True):
        assert_no_worse(*tensors, what=what)


@pytest.mark.parametrize("device", DEVICES)
def test_raw_ops(device: str) -> None:
    case = CASES["head-major"]
    qkv, q_weight, k_weight = inputs_of(case, torch.bfloat16, torch.float32, device)
    rope, grad = table_of(case, device), torch.randn_like(qkv)
    for these in ((qkv, q_weight, k_weight, rope), (qkv[:0], q_weight, k_weight.bfloat16(), None)):
        torch.library.opcheck(torch.ops.pavdit.qk_norm_rope.default, these)
    backward = torch.ops.pavdit.qk_norm_rope_backward.default
    torch.library.opcheck(backward, (grad, qkv, q_weight, k_weight, rope))
    torch.library.opcheck(backward, (grad[:0], qkv[:0], q_weight, k_weight.bfloat16(), None))


QKV, WEIGHT = torch.zeros(2, 5, 3, 2, 8), torch.ones(8)
RAW_FAULTS: dict[str, tuple[tuple[Any, ...], type[Exception], str]] = {
    "qkv": ((QKV[0, 0], WEIGHT, WEIGHT, None), ValueError, r"want qkv \(...,N,3,A,E\)"),
    "weight": ((QKV, WEIGHT[:1], WEIGHT, None), ValueError, r"want q_weight \(8,\), got \(1,\)"),
    "rope": ((QKV, WEIGHT, WEIGHT, torch.ones(2, 1, 4)), ValueError, r"want rope \(2, 5, 4\)"),
    "grad": ((QKV[:1], QKV, WEIGHT, WEIGHT, None), ValueError, r"want grad \(2, 5, 3, 2, 8\) as qkv, got"),
    "grad dtype": ((QKV.half(), QKV, WEIGHT, WEIGHT, None), TypeError, "want grad torch.float32 as qkv, got"),
}


@pytest.mark.parametrize("name", RAW_FAULTS)
def test_raw_ops_check_themselves_on_cpu(name: str) -> None:
    arguments, error, text = RAW_FAULTS[name]
    backward = name.startswith("grad")
    op = torch.ops.pavdit.qk_norm_rope_backward if backward else torch.ops.pavdit.qk_norm_rope
    with pytest.raises(error, match=f"qk_norm_rope{'_backward' if backward else ''}: {text}"):
        op(*arguments)


def test_raw_op_refuses_gradients() -> None:
    weight = torch.ones(8, requires_grad=True)
    with pytest.raises(RuntimeError, match="want inputs that need no gradient.*call pavdit.ops.qk_norm_rope"):
        torch.ops.pavdit.qk_norm_rope(draw(5, 3, 2, 8), weight, weight, None)


def test_raw_backward_refuses_gradients() -> None:
    qkv, weight = draw(5, 3, 2, 8), torch.ones(8, requires_grad=True)
    with pytest.raises(RuntimeError, match="qk_norm_rope_backward: want inputs that need no gradient"):
        torch.ops.pavdit.qk_norm_rope_backward(qkv, qkv, weight, weight, None)


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_as_one_graph(device: str) -> None:
    """For every batch; where a kernel serves, with its backward."""
    compiled = torch.compile(qk_norm_rope, fullgraph=True)
    for batch in (2, 3):
        case = Case((batch, 5, 3, 2, 8))
        inputs, rope = inputs_of(case, torch.float32, torch.float32, device), table_of(case, device)
        torch._dynamo.mark_dynamic(inputs[0], 0)
        if not native("qk_norm_rope", inputs[0]):
            assert_equation(compiled(*inputs, rope), qk_norm_rope(*inputs, rope))
            continue
        grad = draw(*case.shape, dtype=torch.float32, seed=3).to(device)
        found, want = (gradients(op, inputs, rope, grad) for op in (compiled, qk_norm_rope))
        assert all(torch.equal(a, b) for a, b in zip(found, want, strict=True))


@CUDA
def test_cuda_graph_replays_forward_and_backward() -> None:
    case = CASES["small"]
    inputs, rope = inputs_of(case, torch.bfloat16, torch.float32, "cuda"), table_of(case, "cuda")
    assert native("qk_norm_rope", inputs[0])
    leaves = [t.clone().requires_grad_() for t in inputs]
    grad = torch.randn_like(inputs[0])

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(qk_norm_rope(*leaves, rope), leaves, grad)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        leaves[0].copy_(inputs[0].flip(1))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, step(), strict=True))


@CUDA
@pytest.mark.slow
def test_cuda_more_than_2_to_the_31_elements() -> None:
    shape = (87_500, 4, 3, 32, 64)  # 2.15e9 elements, 4.3 GB in and out
    qkv = torch.empty(shape, dtype=torch.bfloat16, device="cuda")
    qkv.normal_(generator=torch.Generator("cuda").manual_seed(1))
    weight, rope = torch.full((64,), 0.5, device="cuda"), angles(4, 64).cuda()
    out = qk_norm_rope(qkv, weight, weight, rope)
    for rows in (slice(0, 3), slice(43_000, 43_003), slice(87_497, 87_500)):
        some = qkv[rows]
        exact = eager(some.double(), weight.double(), weight.double(), rope)
        assert_no_worse(out[rows], eager(some, weight, weight, rope), exact)


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
