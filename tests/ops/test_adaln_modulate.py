"""adaln_modulate: the equation, its errors against float64, autograd, compile, messages."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from numerics import assert_equation, assert_no_worse
from torch import Tensor

from pavdit.ops._library import build_facts, native
from pavdit.ops.adaln_modulate import _backward_raw, _forward_raw, adaln_modulate, adaln_modulate_reference

CUDA = pytest.mark.skipif(
    not torch.cuda.is_available() and "cuda" not in os.environ.get("PAVDIT_REQUIRE_KERNELS", ""),
    reason="no CUDA device",
)
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
EPS = 1e-6


@dataclass(frozen=True)
class Case:
    """Shapes of one call: x (B,F,N,D), modulation (modulation_batch,G,D)."""

    batch: int
    frames: int
    tokens: int
    width: int
    groups: int
    modulation_batch: int
    layout: str = "contiguous"


CASES = {
    "one": Case(1, 1, 1, 8, 1, 1),
    "model": Case(2, 4, 64, 1152, 4, 2),  # xl: concat4, a quarter of its tokens
    "small": Case(2, 6, 64, 192, 2, 2),
    "base": Case(1, 4, 16, 768, 1, 1),
    "widest": Case(1, 4, 2, 2048, 1, 1),
    "beyond": Case(1, 2, 3, 2056, 2, 1),
    "ragged": Case(3, 6, 5, 37, 6, 1),
    "ragged-half": Case(3, 6, 23, 131, 2, 3),
    "shared-batch": Case(3, 4, 40, 128, 4, 1),
    "expanded": Case(3, 4, 40, 128, 2, 3, layout="expanded"),
    "strided": Case(2, 6, 7, 72, 2, 2, layout="strided"),
    "unaligned": Case(2, 4, 9, 384, 4, 2, layout="unaligned"),
    "no-tokens": Case(2, 4, 0, 64, 2, 2),
    "no-batch": Case(0, 4, 3, 64, 2, 1),
    "no-rows-shared": Case(2, 4, 0, 64, 2, 1),
    "70000-rows": Case(1, 2, 35000, 16, 2, 1),
}


def draw(
    case: Case, dtype: torch.dtype, modulation: torch.dtype, device: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw x, shift and scale, in the layout of the case; every row has a mean and a spread of its own."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x_shape = (case.batch, case.frames, case.tokens, case.width)
    x = normal(*x_shape) * (1 + normal(*x_shape[:3], 1).abs()) + 30 * normal(*x_shape[:3], 1)
    m_shape = (1 if case.layout == "expanded" else case.modulation_batch, case.groups, case.width)
    x, shift, scale = x.to(dtype), normal(*m_shape).to(modulation), normal(*m_shape).to(modulation)
    x, shift, scale = x.to(device), shift.to(device), scale.to(device)
    if case.layout == "expanded":
        shift, scale = shift.expand(case.batch, -1, -1), scale.expand(case.batch, -1, -1)
    if case.layout == "strided":
        x = x.transpose(1, 2).contiguous().transpose(1, 2)
        shift = torch.stack([shift, shift], 2)[:, :, 0]  # as a view of one table with several modulations
        scale = torch.stack([scale, scale], -1)[..., 0]
    if case.layout == "unaligned":
        x, shift, scale = (
            torch.cat([t.flatten()[:1], t.flatten()])[1:].view_as(t) for t in (x, shift, scale)
        )
    return x, shift, scale


def eager(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """What one would write with PyTorch's own layer_norm."""
    groups = shift.shape[1]
    rows = x.unflatten(1, (groups, x.shape[1] // groups))  # (B, G, F/G, N, D)
    normal = F.layer_norm(rows, rows.shape[-1:], eps=EPS)
    return (normal * (1 + scale[:, :, None, None]) + shift[:, :, None, None]).flatten(1, 2).to(x.dtype)


def gradients(op: object, inputs: tuple[Tensor, ...], grad: Tensor) -> tuple[Tensor, ...]:
    leaves = [t.detach().requires_grad_() for t in inputs]
    return torch.autograd.grad(op(*leaves), leaves, grad)  # type: ignore[operator]


def equation(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """The definition, index by index."""
    out = torch.empty_like(x)
    batch, frames, tokens, width = x.shape
    for b in range(batch):
        for f in range(frames):
            g, m = f * shift.shape[1] // frames, b if shift.shape[0] > 1 else 0
            for n in range(tokens):
                row = [float(v) for v in x[b, f, n]]
                mean = sum(row) / width
                deviation = sqrt(sum((v - mean) ** 2 for v in row) / width + EPS)
                for d in range(width):
                    xhat = (row[d] - mean) / deviation
                    out[b, f, n, d] = xhat * (1 + scale[m, g, d]) + shift[m, g, d]
    return out


@pytest.mark.parametrize("groups", [1, 2, 4, 6])
@pytest.mark.parametrize("modulation_batch", [1, 2])
def test_reference_is_the_equation(groups: int, modulation_batch: int) -> None:
    case = Case(2, 12, 2, 5, groups, modulation_batch)
    x, shift, scale = draw(case, torch.float64, torch.float64, "cpu")
    assert_equation(adaln_modulate_reference(x, shift, scale), equation(x, shift, scale))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("modulation", ["same", "fp32"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_accuracy(name: str, dtype: str, modulation: str, device: str) -> None:
    if modulation == "fp32" and dtype == "fp32":
        pytest.skip("the same as modulation=same")
    case, x_dtype = CASES[name], DTYPES[dtype]
    inputs = draw(case, x_dtype, torch.float32 if modulation == "fp32" else x_dtype, device)
    exact_inputs = tuple(t.double() for t in inputs)
    with torch.no_grad():
        got = adaln_modulate(*inputs)
    assert got.is_contiguous()
    assert_no_worse(got, eager(*inputs), eager(*exact_inputs), what="forward")

    grad = torch.randn(got.shape, generator=torch.Generator().manual_seed(8)).to(got)
    found = gradients(adaln_modulate, inputs, grad)
    plain = gradients(eager, inputs, grad)
    exact = gradients(eager, exact_inputs, grad.double())
    for what, *tensors in zip(("dx", "dshift", "dscale"), found, plain, exact, strict=True):
        assert_no_worse(*tensors, what=what)


@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
def test_accuracy_with_less_capable_processors(capability: str) -> None:
    facts = build_facts()
    if facts is None or not native("adaln_modulate", torch.empty(0)):
        pytest.skip("no native library")
    if facts.cpu_capability() in ("baseline", capability):
        pytest.skip(f"this process runs {facts.cpu_capability()} already")
    tests = f"{Path(__file__)}::test_accuracy"
    environment = os.environ | {"PAVDIT_CPU_CAPABILITY": capability, "PAVDIT_REQUIRE_KERNELS": "cpu"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", "cpu", "-p", "no:cacheprovider", tests]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan"), 3e38, 1e-40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_special_values_pass_as_in_eager(dtype: str, value: float, device: str) -> None:
    x = torch.randn(1, 2, 3, 40, generator=torch.Generator().manual_seed(1)).to(DTYPES[dtype]).to(device)
    shift = torch.full((1, 1, 40), value).to(x)
    got, want = adaln_modulate(x, shift, torch.zeros_like(shift)), eager(x, shift, torch.zeros_like(shift))
    assert torch.equal(got.isnan(), want.isnan())
    assert torch.equal(got.isinf(), want.isinf())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("width", [7, 40, 1152])
def test_rows_far_from_zero(width: int, device: str) -> None:
    # A constant row has no spread at all, and its mean is not rounded to a float32 of its own by chance.
    x = torch.tensor([1.1e10, -3.3e4, 1 / 3], device=device).view(1, 1, 3, 1).expand(-1, -1, -1, width)
    zero = torch.zeros(1, 1, width, device=device)
    assert adaln_modulate(x, zero, zero).abs().max() == 0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("unlike", [1, 32])
@pytest.mark.parametrize("width", [40, 1152])
def test_rows_that_begin_far_from_their_mean(width: int, unlike: int, device: str) -> None:
    # The CPU kernel takes its moments around the first columns, which must not show where those stand alone.
    x = torch.randn(1, 1, 64, width, generator=torch.Generator().manual_seed(5))
    x[..., :unlike] += 3e4
    one = torch.ones(1, 1, width, device=device)
    exact = eager(x.double(), one.cpu().double(), one.cpu().double())[..., unlike:]
    got, plain = (op(x.to(device), one, one)[..., unlike:].cpu() for op in (adaln_modulate, eager))
    assert_no_worse(got, plain, exact)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bits", [0x7FFFFFFF, 0x7F800001, -1])
def test_every_nan_of_a_float32_modulation_stays_one(bits: int, device: str) -> None:
    x = torch.randn(1, 1, 2, 72, generator=torch.Generator().manual_seed(6)).to(device, torch.bfloat16)
    shift = torch.zeros(1, 1, 72, device=device)
    shift[..., ::3] = torch.tensor(bits, dtype=torch.int32).view(torch.float32)
    for modulation in ((shift, shift.new_zeros(shift.shape)), (shift.new_zeros(shift.shape), shift)):
        assert torch.equal(adaln_modulate(x, *modulation).isnan(), shift.isnan().expand(x.shape))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounds_like_torch(dtype: torch.dtype, device: str) -> None:
    # Constant rows give xhat = 0, so the float32 shift is all that is rounded: every exponent of normal
    # float32, ties, float16 subnormals. Processors with a bfloat16 instruction flush its subnormals to 0.
    bits = torch.arange(2**23, 2**31 - 2**23, 2**12 - 1, dtype=torch.int64).to(torch.int32)
    values = torch.cat([bits.view(torch.float32), -bits.view(torch.float32)])
    ties = torch.cat(
        [values.to(dtype).float(), (values.to(dtype).float().view(torch.int32) + 0x1000).view(torch.float32)]
    )
    shift = torch.cat([values, ties.nan_to_num()]).view(1, 1, -1).to(device)
    x = torch.zeros(1, 1, 1, shift.shape[-1], dtype=dtype, device=device)
    got = adaln_modulate(x, shift, torch.zeros_like(shift)).flatten()
    assert torch.equal(got, shift.flatten().to(dtype))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_reads_16_bit_like_torch(dtype: str, device: str) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16)
    every = (every if dtype == "fp16" else every.view(torch.bfloat16)).to(DTYPES[dtype])
    normal = every.isfinite() & (every.abs() >= (torch.finfo(torch.bfloat16).tiny if dtype == "bf16" else 0))
    every = every[normal].view(1, 1, -1).to(device)
    x = torch.zeros(1, 1, 1, every.shape[-1], dtype=DTYPES[dtype], device=device)
    assert torch.equal(adaln_modulate(x, every, torch.zeros_like(every)).flatten(), every.flatten())


@pytest.mark.parametrize("device", DEVICES)
def test_same_bits_in_every_run(device: str) -> None:
    inputs = draw(Case(2, 4, 301, 96, 2, 1), torch.float32, torch.float32, device)
    grad = torch.randn(2, 4, 301, 96, generator=torch.Generator().manual_seed(2)).to(device)
    first = gradients(adaln_modulate, inputs, grad)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        second = gradients(adaln_modulate, inputs, grad)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("needs", [(True, False, False), (False, True, False), (False, False, True)])
def test_expanded_and_missing_gradients(needs: tuple[bool, bool, bool], device: str) -> None:
    inputs = draw(CASES["shared-batch"], torch.float32, torch.float32, device)
    found, want = [], []
    for op, into in ((adaln_modulate, found), (adaln_modulate_reference, want)):
        leaves = [t.clone().requires_grad_(need) for t, need in zip(inputs, needs, strict=True)]
        op(*leaves).sum().backward()  # the gradient of sum is one number, expanded
        into.extend(leaf.grad for leaf in leaves)
    assert [g is None for g in found] == [not need for need in needs]
    # sum of xhat over a row is 0, so dx is rounding of terms that cancel: compare at the scale of the terms
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("modulation", ["same", "fp32"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: str, modulation: str, device: str) -> None:
    x_dtype = DTYPES[dtype]
    m_dtype = torch.float32 if modulation == "fp32" else x_dtype
    for case in (CASES["ragged"], CASES["strided"]):
        x, shift, scale = draw(case, x_dtype, m_dtype, device)
        torch.library.opcheck(torch.ops.pavdit.adaln_modulate, (x, shift, scale, EPS))
        stats = torch.ops.pavdit.adaln_modulate(x, shift, scale, EPS)[1]
        torch.library.opcheck(
            torch.ops.pavdit.adaln_modulate_backward, (torch.randn_like(x), x, scale, stats)
        )


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_into_one_graph(device: str) -> None:
    inputs = draw(CASES["ragged"], torch.bfloat16, torch.float32, device)
    compiled = torch.compile(adaln_modulate, fullgraph=True)
    grad = torch.randn_like(inputs[0])
    assert torch.equal(compiled(*inputs), adaln_modulate(*inputs))
    pairs = zip(gradients(compiled, inputs, grad), gradients(adaln_modulate, inputs, grad), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@CUDA
def test_cuda_uses_the_current_stream() -> None:
    x, shift, scale = draw(CASES["model"], torch.bfloat16, torch.float32, "cuda")
    want = adaln_modulate(x, shift, scale)
    stream = torch.cuda.Stream()
    late = torch.zeros_like(x)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)  # some 50 ms: a launch on another stream would read zeros
        late.copy_(x)
        got = adaln_modulate(late, shift, scale)
    stream.synchronize()
    assert torch.equal(got, want)


@CUDA
def test_cuda_graph_replays_forward_and_backward() -> None:
    x, shift, scale = draw(CASES["small"], torch.float32, torch.float32, "cuda")
    leaves = [t.clone().requires_grad_() for t in (x, shift, scale)]
    grad = torch.randn_like(x)

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(adaln_modulate(*leaves), leaves, grad)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        leaves[0].copy_(x.flip(0))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, step(), strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_two_threads_at_once(device: str) -> None:
    inputs = draw(CASES["small"], torch.float32, torch.float32, device)
    want = adaln_modulate(*inputs)
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: adaln_modulate(*inputs), range(32)))
    assert all(torch.equal(result, want) for result in results)


def test_meta_and_float64_take_the_reference() -> None:
    x, shift, scale = draw(CASES["ragged"], torch.float64, torch.float64, "cpu")
    assert not native("adaln_modulate", x, shift, scale)
    assert adaln_modulate(x, shift, scale).dtype == torch.float64
    assert adaln_modulate(x.to("meta"), shift.to("meta"), scale.to("meta")).shape == x.shape


@pytest.mark.parametrize("dtype", DTYPES)
def test_raw_reference_agrees_with_autograd(dtype: str) -> None:
    inputs = draw(CASES["shared-batch"], DTYPES[dtype], DTYPES[dtype], "cpu")
    exact_inputs = tuple(t.double() for t in inputs)
    grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(3)).to(inputs[0])
    stats = _forward_raw(*inputs, EPS)[1]
    found = _backward_raw(grad, inputs[0], inputs[2], stats)
    plain = gradients(eager, inputs, grad)
    exact = gradients(eager, exact_inputs, grad.double())
    for what, *tensors in zip(("dx", "dshift", "dscale"), found, plain, exact, strict=True):
        assert_no_worse(*tensors, what=what)


def test_raw_op_refuses_inputs_that_need_a_gradient() -> None:
    x, shift, scale = draw(CASES["one"], torch.float32, torch.float32, "cpu")
    with pytest.raises(
        RuntimeError, match=r"want inputs that need no gradient.*call pavdit\.ops\.adaln_modulate"
    ):
        torch.ops.pavdit.adaln_modulate(x.requires_grad_(), shift, scale, EPS)


def test_raw_backward_refuses_inputs_that_need_a_gradient() -> None:
    x, shift, scale = draw(CASES["one"], torch.float32, torch.float32, "cpu")
    stats = torch.ops.pavdit.adaln_modulate(x, shift, scale, EPS)[1]
    with pytest.raises(RuntimeError, match=r"adaln_modulate_backward: want inputs that need no gradient"):
        torch.ops.pavdit.adaln_modulate_backward(x.requires_grad_(), x, scale, stats)


def test_has_no_second_derivative() -> None:
    x, shift, scale = draw(CASES["one"], torch.float32, torch.float32, "cpu")
    if not native("adaln_modulate", x):
        pytest.skip("no native library: the reference has one")
    x.requires_grad_()
    (dx,) = torch.autograd.grad(adaln_modulate(x, shift, scale).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


X = torch.zeros(2, 4, 3, 8)
M = torch.zeros(2, 2, 8)
FAULTS = {
    "x-axes": (X[0], M, M, ValueError, r"want x \(B,F,N,D\), .* got \(4, 3, 8\), \(2, 2, 8\), \(2, 2, 8\)"),
    "width": (X, M[..., :4], M[..., :4], ValueError, r"got \(2, 4, 3, 8\), \(2, 2, 4\), \(2, 2, 4\)"),
    "batch": (X, M.repeat(2, 1, 1), M.repeat(2, 1, 1), ValueError, r"got .*\(4, 2, 8\), \(4, 2, 8\)"),
    "shapes-differ": (X, M, M[:1], ValueError, r"got .*\(2, 2, 8\), \(1, 2, 8\)"),
    "groups": (
        X,
        M.new_zeros(1, 3, 8),
        M.new_zeros(1, 3, 8),
        ValueError,
        r"want shift with G dividing F = 4, got G = 3",
    ),
    "no-group": (X, M[:, :0], M[:, :0], ValueError, r"want shift with G dividing F = 4, got G = 0"),
    "dtype": (X.long(), M, M, TypeError, r"want x float32, bfloat16, .* got torch\.int64"),
    "beside": (X, M.half(), M.half(), TypeError, r"want shift float32, got torch\.float16"),
    "dtypes-differ": (
        X.half(),
        M,
        M.half(),
        TypeError,
        r"want scale torch\.float32 as shift, got torch\.float16",
    ),
    "device": (X, M.to("meta"), M, ValueError, r"want shift on cpu, got meta"),
    "no-tensor": (X, 1.0, M, TypeError, r"want shift a tensor, got float"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_message(name: str) -> None:
    x, shift, scale, kind, text = FAULTS[name]
    with pytest.raises(kind, match=f"adaln_modulate: .*{text}"):
        adaln_modulate(x, shift, scale)


RAW_FAULTS = {
    "axes": ((X[0], M, M), r"want x \(B,F,N,D\), scale \(B or 1,G,D\), got \(4, 3, 8\), \(2, 2, 8\)"),
    "groups": (
        (X, M.new_zeros(1, 3, 8), M.new_zeros(1, 3, 8)),
        r"with G dividing F .* got \(1, 3, 8\), \(2, 4, 3, 8\)",
    ),
    "shift": ((X, M[:1], M), r"want shift with shape \(2, 2, 8\).* got shape \(1, 2, 8\)"),
    "dtype": ((X.double(), M.double(), M.double()), r"want x in float32, bfloat16 or float16"),
}


@pytest.mark.parametrize("name", RAW_FAULTS)
def test_raw_message(name: str) -> None:
    tensors, text = RAW_FAULTS[name]
    if not native("adaln_modulate", X):
        pytest.skip("no native library: the reference serves the raw op")
    with pytest.raises(RuntimeError, match=f"adaln_modulate: .*{text}"):
        torch.ops.pavdit.adaln_modulate(*tensors, EPS)
