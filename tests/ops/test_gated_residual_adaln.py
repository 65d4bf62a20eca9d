"""gated_residual_adaln: the equation, its errors against float64, autograd, compile, messages."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from numerics import assert_equation, assert_no_worse, assert_rounded_once
from torch import Tensor

from pavdit.ops import gated_residual_adaln
from pavdit.ops._library import build_facts, native
from pavdit.ops.gated_residual_adaln import _backward_raw, _forward_raw, gated_residual_adaln_reference

CUDA = pytest.mark.skipif(
    not torch.cuda.is_available() and "cuda" not in os.environ.get("PAVDIT_REQUIRE_KERNELS", ""),
    reason="no CUDA device",
)
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
EPS = 1e-6


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def loops(
    x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The equation, one token at a time."""
    residual, modulated = torch.zeros_like(x), torch.zeros_like(x)
    b, f, n, d = x.shape
    groups = shift.shape[1]
    for i, frame, token in itertools.product(range(b), range(f), range(n)):
        row, group = i % shift.shape[0], frame * groups // f
        factor = 1.0 if gate is None else gate[i % gate.shape[0], frame * gate.shape[1] // f]
        h = x[i, frame, token] + factor * y[i, frame, token]
        mean = h.sum() / d
        normed = (h - mean) / torch.sqrt(((h - mean) ** 2).sum() / d + eps)
        residual[i, frame, token] = h
        modulated[i, frame, token] = normed * (1 + scale[row, group]) + shift[row, group]
    return residual, modulated


CASES: dict[str, tuple[tuple[int, ...], int, int, int | None]] = {
    # x's shape; rows and groups of shift and scale; groups of the gate
    "one": ((1, 1, 1, 2), 1, 1, 1),
    "no-gate": ((2, 4, 3, 6), 2, 2, None),
    "groups": ((2, 4, 3, 5), 2, 4, 4),
    "broadcast": ((3, 6, 2, 4), 1, 2, 3),
}


@pytest.mark.parametrize(("shape", "rows", "groups", "gated"), CASES.values(), ids=CASES.keys())
def test_reference_is_the_equation(shape: tuple[int, ...], rows: int, groups: int, gated: int | None) -> None:
    d = shape[-1]
    x, y = (draw(*shape, seed=s).requires_grad_() for s in (0, 1))
    shift, scale = (draw(rows, groups, d, seed=s).requires_grad_() for s in (2, 3))
    gate = None if gated is None else draw(rows, gated, d, seed=4).requires_grad_()
    got = gated_residual_adaln(x, y, gate, shift, scale, 1e-3)
    want = loops(x, y, gate, shift, scale, 1e-3)
    for what, one, other in zip(("residual", "modulated"), got, want, strict=True):
        assert_equation(one, other, what=what)
    inputs = [x, y, shift, scale] if gate is None else [x, y, shift, scale, gate]
    grads = [draw(*shape, seed=s) for s in (5, 6)]
    for one, other in zip(
        torch.autograd.grad(got, inputs, grads), torch.autograd.grad(want, inputs, grads), strict=True
    ):
        assert_equation(one, other, what="gradient")


@dataclass(frozen=True)
class Case:
    """Shapes of one call: x (B,F,N,D), modulation (modulation_batch,G,D), gate (gate_batch,gate_groups,D)."""

    batch: int
    frames: int
    tokens: int
    width: int
    groups: int
    modulation_batch: int
    gate_groups: int | None
    gate_batch: int = 1
    layout: str = "contiguous"


NATIVE_CASES = {
    "one": Case(1, 1, 1, 8, 1, 1, 1),
    "model": Case(2, 4, 64, 1152, 4, 2, 4, 2),  # xl: concat4, a quarter of its tokens
    "model-no-gate": Case(2, 4, 64, 1152, 4, 2, None),
    "small": Case(2, 6, 16, 192, 2, 2, 2, 2),
    "base": Case(1, 4, 16, 768, 1, 1, 1),
    "widest": Case(1, 4, 2, 2048, 1, 1, 4),
    "beyond": Case(1, 2, 3, 2056, 2, 1, 1),
    "ragged": Case(3, 6, 5, 37, 6, 1, 2, 3),
    "ragged-no-gate": Case(3, 6, 23, 131, 2, 3, None),
    "groups-cross": Case(2, 12, 7, 72, 4, 2, 6, 1),  # neither number of groups divides the other
    "gate-coarse": Case(3, 4, 40, 128, 4, 1, 1, 3),
    "expanded": Case(3, 4, 40, 128, 2, 3, 4, 3, layout="expanded"),
    "strided": Case(2, 6, 7, 72, 2, 2, 6, 2, layout="strided"),
    "unaligned": Case(2, 4, 9, 384, 4, 2, 2, 2, layout="unaligned"),
    "no-tokens": Case(2, 4, 0, 64, 2, 2, 4, 1),
    "no-batch": Case(0, 4, 3, 64, 2, 1, 4, 0),
    "no-width": Case(2, 4, 3, 0, 2, 1, 2, 1),
    "70000-rows": Case(1, 2, 35000, 16, 2, 1, 1),
}


Inputs = tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]


def draw_case(case: Case, dtype: torch.dtype, modulation: torch.dtype, device: str) -> Inputs:
    """Draw x, y, gate, shift and scale in the layout of the case; rows differ in mean and spread."""
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def table(batch: int, groups: int) -> Tensor:
        expanded = case.layout == "expanded"
        t = normal(1 if expanded else batch, groups, case.width).to(modulation).to(device)
        if case.layout == "strided":
            t = torch.stack([t, t], -1)[..., 0]
        return lay(t.expand(batch, -1, -1) if expanded else t)

    def lay(t: Tensor) -> Tensor:
        return torch.cat([t.flatten()[:1], t.flatten()])[1:].view_as(t) if case.layout == "unaligned" else t

    shape = (case.batch, case.frames, case.tokens, case.width)
    x, y = (normal(*shape) * (1 + normal(*shape[:3], 1).abs()) for _ in range(2))
    x = x + 30 * normal(*shape[:3], 1)
    x, y = x.to(dtype).to(device), y.to(dtype).to(device)
    if case.layout == "strided":
        x, y = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in (x, y))
    gate = None if case.gate_groups is None else table(case.gate_batch, case.gate_groups)
    shift, scale = (table(case.modulation_batch, case.groups) for _ in range(2))
    return lay(x), lay(y), gate, shift, scale


def eager(
    x: Tensor, y: Tensor, gate: Tensor | None, shift: Tensor, scale: Tensor, eps: float = EPS
) -> tuple[Tensor, Tensor]:
    """What one would write with PyTorch's own layer_norm."""

    def rows(m: Tensor) -> Tensor:
        return m.to(x.dtype).repeat_interleave(x.shape[1] // m.shape[1], 1).unsqueeze(2)  # (B or 1, F, 1, D)

    residual = x + (y if gate is None else rows(gate) * y)
    normed = residual  # layer_norm refuses rows without a column
    if residual.shape[-1] > 0:
        normed = torch.nn.functional.layer_norm(residual, residual.shape[-1:], eps=eps)
    return residual, normed * (1 + rows(scale)) + rows(shift)


NAMES = ("residual", "modulated", "dx", "dy", "dgate", "dshift", "dscale")
GRADIENTS = NAMES[2:]


def results(
    op: Callable[..., tuple[Tensor, Tensor]], inputs: Inputs, grads: list[Tensor], exact: bool = False
) -> dict[str, Tensor]:
    """Run forward and backward; float64 where `exact`."""
    leaves = [None if t is None else (t.double() if exact else t).detach().requires_grad_() for t in inputs]
    outs = op(*leaves)
    wanted = dict(zip(GRADIENTS, leaves, strict=True))
    wanted = {name: t for name, t in wanted.items() if t is not None}
    gradients = torch.autograd.grad(outs, list(wanted.values()), [g.to(outs[0].dtype) for g in grads])
    return dict(zip(("residual", "modulated", *wanted), (*outs, *gradients), strict=True))


def draw_gradients(x: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(8)
    return [torch.randn(x.shape, generator=generator).to(x) for _ in range(2)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("modulation", ["same", "fp32"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NATIVE_CASES)
def test_accuracy(name: str, dtype: str, modulation: str, device: str) -> None:
    if modulation == "fp32" and dtype == "fp32":
        pytest.skip("the same as modulation=same")
    x_dtype = DTYPES[dtype]
    inputs = draw_case(
        NATIVE_CASES[name], x_dtype, torch.float32 if modulation == "fp32" else x_dtype, device
    )
    grads = draw_gradients(inputs[0])
    found, plain = results(gated_residual_adaln, inputs, grads), results(eager, inputs, grads)
    exact = results(eager, inputs, grads, exact=True)
    for what in found:
        assert_no_worse(found[what], plain[what], exact[what], what=what)
    if x_dtype != torch.float32 and found["residual"].numel():
        assert_rounded_once(found["residual"], exact["residual"], what="residual")
    with torch.no_grad():
        outs = gated_residual_adaln(*inputs)
    assert all(out.is_contiguous() for out in outs)
    assert torch.equal(torch.stack(outs), torch.stack([found["residual"], found["modulated"]]))


@pytest.mark.parametrize("capability", ["baseline", "avx2", "avx512"])
def test_accuracy_with_less_capable_processors(capability: str) -> None:
    facts = build_facts()
    if facts is None or not native("gated_residual_adaln", torch.empty(0)):
        pytest.skip("no native library")
    if facts.cpu_capability() in ("baseline", capability):
        pytest.skip(f"this process runs {facts.cpu_capability()} already")
    tests = f"{Path(__file__)}::test_accuracy"
    environment = os.environ | {"PAVDIT_CPU_CAPABILITY": capability, "PAVDIT_REQUIRE_KERNELS": "cpu"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", "cpu", "-p", "no:cacheprovider", tests]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-2000:]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norm_is_that_of_the_rounded_residual(dtype: torch.dtype, device: str) -> None:
    # 256 + 1/4 rounds to 256, so every row is constant and its norm 0. Without the rounding the norm would be
    # that of the alternating quarters.
    x = torch.full((1, 1, 2, 64), 256.0 if dtype == torch.bfloat16 else 2048.0, dtype=dtype, device=device)
    y = torch.tensor([0.25, -0.25], dtype=dtype, device=device).repeat(32).expand_as(x)
    zero = torch.zeros(1, 1, 64, dtype=dtype, device=device)
    residual, modulated = gated_residual_adaln(x, y, None, zero, zero)
    assert torch.equal(residual, x)
    assert not modulated.any()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("width", [7, 40, 1152])
def test_rows_far_from_zero(width: int, device: str) -> None:
    # As for adaln_modulate; x + y is exact.
    x = torch.tensor([1.5e10, -3.25e4, 1 / 3], device=device).view(1, 1, 3, 1).expand(-1, -1, -1, width)
    zero = torch.zeros(1, 1, width, device=device)
    assert not gated_residual_adaln(x, x, None, zero, zero)[1].any()


@pytest.mark.parametrize("device", DEVICES)
def test_same_bits_in_every_run(device: str) -> None:
    inputs = draw_case(Case(2, 4, 301, 96, 2, 1, 4), torch.float32, torch.float32, device)
    grads = draw_gradients(inputs[0])
    first = results(gated_residual_adaln, inputs, grads)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        second = results(gated_residual_adaln, inputs, grads)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("gated", [True, False], ids=["gate", "no-gate"])
@pytest.mark.parametrize("used", ["residual", "modulated", "both", "neither"])
def test_expanded_and_missing_gradients(used: str, gated: bool, device: str) -> None:
    case = NATIVE_CASES["gate-coarse"] if gated else NATIVE_CASES["ragged-no-gate"]
    inputs = draw_case(case, torch.float32, torch.float32, device)
    gradients = []
    for op in (gated_residual_adaln, lambda *args: gated_residual_adaln_reference(*args, EPS)):
        leaves = [None if t is None else t.detach().clone().requires_grad_() for t in inputs]
        residual, modulated = op(*leaves)
        terms = {"residual": residual, "modulated": modulated, "both": residual + modulated}
        # the gradient of sum is one number, expanded
        terms.get(used, torch.zeros(1, device=device, requires_grad=True)).sum().backward()
        gradients.append([None if t is None else t.grad for t in leaves])
    # sum of xhat over a row is 0, so dx is rounding of terms that cancel: compare at the scale of the terms
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("needs", range(5), ids=["x", "y", "gate", "shift", "scale"])
def test_one_input_alone_needs_a_gradient(needs: int, device: str) -> None:
    inputs = draw_case(NATIVE_CASES["groups-cross"], torch.float32, torch.float32, device)
    grads = draw_gradients(inputs[0])
    leaves = [t if t is None else t.clone().requires_grad_(i == needs) for i, t in enumerate(inputs)]
    torch.autograd.backward(gated_residual_adaln(*leaves), grads)
    assert [t is not None and t.grad is not None for t in leaves] == [i == needs for i in range(5)]
    want = results(gated_residual_adaln, inputs, grads)[GRADIENTS[needs]]
    assert torch.equal(leaves[needs].grad, want)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("wide", ["gate", "shift"])
def test_gate_of_another_dtype_than_shift(wide: str, device: str) -> None:
    x, y, gate, shift, scale = draw_case(NATIVE_CASES["small"], torch.bfloat16, torch.bfloat16, device)
    assert gate is not None
    inputs = (
        (x, y, gate.float(), shift, scale) if wide == "gate" else (x, y, gate, shift.float(), scale.float())
    )
    grads = draw_gradients(x)
    found, plain = results(gated_residual_adaln, inputs, grads), results(eager, inputs, grads)
    exact = results(eager, inputs, grads, exact=True)
    for what in found:
        assert_no_worse(found[what], plain[what], exact[what], what=what)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("modulation", ["same", "fp32"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(dtype: str, modulation: str, device: str) -> None:
    m_dtype = torch.float32 if modulation == "fp32" else DTYPES[dtype]
    for name in ("ragged", "strided", "ragged-no-gate"):
        x, y, gate, shift, scale = draw_case(NATIVE_CASES[name], DTYPES[dtype], m_dtype, device)
        op = torch.ops.pavdit.gated_residual_adaln.default
        torch.library.opcheck(op, (x, y, gate, shift, scale, EPS))
        residual, _, stats = op(x, y, gate, shift, scale, EPS)
        grads = draw_gradients(x)
        if name == "ragged":
            grads[0] = None  # type: ignore[call-overload]
        torch.library.opcheck(
            torch.ops.pavdit.gated_residual_adaln_backward,
            (*grads, residual, None if gate is None else y, gate, scale, stats),
        )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["groups-cross", "ragged-no-gate"])
def test_raw_reference_agrees_with_autograd(name: str, dtype: str) -> None:
    inputs = draw_case(NATIVE_CASES[name], DTYPES[dtype], DTYPES[dtype], "cpu")
    grads = draw_gradients(inputs[0])
    residual, modulated, stats = _forward_raw(*inputs, EPS)
    _, y, gate, _, scale = inputs
    raw = _backward_raw(*grads, residual, None if gate is None else y, gate, scale, stats)
    dx, dy, dgate, dshift, dscale = raw if gate is not None else (raw[0], raw[0], raw[0], *raw[3:])
    found = dict(zip(NAMES, (residual, modulated, dx, dy, dgate, dshift, dscale), strict=True))
    plain, exact = results(eager, inputs, grads), results(eager, inputs, grads, exact=True)
    for what in plain:
        assert_no_worse(found[what], plain[what], exact[what], what=what)


def test_batch_stride_zero() -> None:
    x, y = draw(3, 2, 4, 8, dtype=torch.float32), draw(3, 2, 4, 8, dtype=torch.float32, seed=1)
    one = [draw(1, 2, 8, dtype=torch.float32, seed=s) for s in (2, 3, 4)]
    for got, want in zip(
        gated_residual_adaln(x, y, *(m.expand(3, 2, 8) for m in one)),
        gated_residual_adaln(x, y, *one),
        strict=True,
    ):
        assert_equation(got, want)


def test_raw_op_refuses_gradients() -> None:
    x, modulation = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="call pavdit.ops.gated_residual_adaln"):
        torch.ops.pavdit.gated_residual_adaln(x, x, None, modulation, modulation, 1e-6)


def test_raw_backward_refuses_gradients() -> None:
    x, scale, stats = (
        torch.zeros(1, 1, 2, 4),
        torch.zeros(1, 1, 4, requires_grad=True),
        torch.ones(1, 1, 2, 2),
    )
    with pytest.raises(
        RuntimeError, match="gated_residual_adaln_backward: want inputs that need no gradient"
    ):
        torch.ops.pavdit.gated_residual_adaln_backward(None, x, x, None, None, scale, stats)


def test_has_no_second_derivative() -> None:
    x, y, gate, shift, scale = draw_case(NATIVE_CASES["one"], torch.float32, torch.float32, "cpu")
    if not native("gated_residual_adaln", x):
        pytest.skip("no native library: the reference has one")
    x.requires_grad_()
    outs = gated_residual_adaln(x, y, gate, shift, scale)
    (dx,) = torch.autograd.grad(torch.stack(outs).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_as_one_graph(device: str) -> None:
    compiled = torch.compile(gated_residual_adaln, fullgraph=True)
    for name in ("ragged", "ragged-no-gate"):
        inputs = draw_case(NATIVE_CASES[name], torch.bfloat16, torch.float32, device)
        grads = draw_gradients(inputs[0])
        got, want = (results(op, inputs, grads) for op in (compiled, gated_residual_adaln))
        assert all(torch.equal(got[what], want[what]) for what in want)


@CUDA
def test_cuda_graph_replays_forward_and_backward() -> None:
    inputs = draw_case(NATIVE_CASES["small"], torch.float32, torch.float32, "cuda")
    leaves = [None if t is None else t.clone().requires_grad_() for t in inputs]
    grads = draw_gradients(inputs[0])

    def step() -> tuple[Tensor, ...]:
        return torch.autograd.grad(gated_residual_adaln(*leaves), leaves, grads)  # type: ignore[arg-type]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        leaves[0].copy_(inputs[0].flip(0))  # type: ignore[union-attr]
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, step(), strict=True))


def test_meta_and_float64_take_the_reference() -> None:
    inputs = draw_case(NATIVE_CASES["ragged"], torch.float64, torch.float64, "cpu")
    assert not native("gated_residual_adaln", inputs[0])
    assert gated_residual_adaln(*inputs)[1].dtype == torch.float64
    on_meta = [None if t is None else t.to("meta") for t in inputs]
    assert gated_residual_adaln(*on_meta)[1].shape == inputs[0].shape  # type: ignore[arg-type]


X, MODULATION = torch.zeros(2, 4, 3, 8), torch.zeros(2, 2, 8)
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({"y": None}, TypeError, "want y a tensor, got NoneType"),
    "dtype": ({"y": X.half()}, TypeError, "want y torch.float32 as x, got torch.float16"),
    "shape": ({"y": X[:1]}, ValueError, r"want x and y \(B,F,N,D\) of one shape, got"),
    "shift none": ({"shift": None}, TypeError, "want shift a tensor, got NoneType"),
    "shift dtype": ({"shift": MODULATION.half()}, TypeError, "want shift float32, got torch.float16"),
    "gate device": ({"gate": MODULATION.to("meta")}, ValueError, "want gate on cpu, got meta"),
    "gate shape": ({"gate": MODULATION[..., :4]}, ValueError, r"want gate \(2 or 1, G, 8\), got \(2, 2, 4\)"),
    "groups": ({"gate": torch.zeros(2, 3, 8)}, ValueError, "want gate with G dividing F = 4, got G = 3"),
    "no groups": ({"gate": torch.zeros(2, 0, 8)}, ValueError, "want gate with G dividing F = 4, got G = 0"),
    "scale": ({"scale": MODULATION[:1]}, ValueError, r"want scale \(2, 2, 8\) as shift, got \(1, 2, 8\)"),
}


@pytest.mark.parametrize(("change", "error", "text"), ERRORS.values(), ids=ERRORS.keys())
def test_error_text(change: dict[str, Any], error: type[Exception], text: str) -> None:
    good = {"x": X, "y": X, "gate": MODULATION, "shift": MODULATION, "scale": MODULATION}
    with pytest.raises(error, match=f"^gated_residual_adaln: {text}"):
        gated_residual_adaln(**{**good, **change})


STATS = torch.zeros(2, 4, 3, 2)
RAW_FAULTS: dict[str, tuple[str, tuple[Any, ...], str]] = {
    "axes": (
        "",
        (X[0], X[0], None, MODULATION, MODULATION, EPS),
        r"want x \(B,F,N,D\), scale \(B or 1,G,D\)",
    ),
    "y": ("", (X, X[:1], None, MODULATION, MODULATION, EPS), r"want y with shape \(2, 4, 3, 8\)"),
    "gate": ("", (X, X, torch.zeros(2, 3, 8), MODULATION, MODULATION, EPS), "want gate .* G dividing F"),
    "gate dtype": (
        "",
        (X.half(), X.half(), MODULATION.half(), MODULATION, MODULATION, EPS),
        "want gate .* the dtype of scale",
    ),
    "shift": ("", (X, X, None, MODULATION[:1], MODULATION, EPS), r"want shift with shape \(2, 2, 8\)"),
    "gate alone": (
        "_backward",
        (None, X, X, None, MODULATION, MODULATION, STATS),
        "want both of y and gate or neither, got only gate",
    ),
    "grad": ("_backward", (X[:1], X, X, None, None, MODULATION, STATS), "want grad_residual with shape"),
    "stats": ("_backward", (None, X, X, None, None, MODULATION, STATS[:1]), r"want stats \(B,F,N,2\)"),
}


@pytest.mark.parametrize("name", RAW_FAULTS)
def test_raw_message(name: str) -> None:
    suffix, arguments, text = RAW_FAULTS[name]
    if not native("gated_residual_adaln", X):
        pytest.skip("no native library: the reference serves the raw op")
    with pytest.raises(RuntimeError, match=f"gated_residual_adaln{suffix}: {text}"):
        getattr(torch.ops.pavdit, f"gated_residual_adaln{suffix}")(*arguments)
