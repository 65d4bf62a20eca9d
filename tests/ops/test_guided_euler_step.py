"""`guided_euler_step_`, `fold` and `bounce_sign` against bouncing step by step."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from interpreted import INTERPRETED, assert_passes_interpreted
from numerics import assert_equation, assert_no_worse
from torch import Tensor

from pavdit.ops import bounce_sign, fold, guided_euler_step_
from pavdit.ops._library import native

CUDA = pytest.mark.skipif(
    not torch.cuda.is_available() and "cuda" not in os.environ.get("PAVDIT_REQUIRE_KERNELS", ""),
    reason="no CUDA device",
)
DEVICES = ["cpu", pytest.param("cuda", marks=CUDA)]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def bounce(z: float) -> tuple[float, int]:
    """Mirror a point at the wall it has passed until it is inside; return it and the number of bounces."""
    bounces = 0
    while not -1 <= z <= 1:
        z = 2 - z if z > 1 else -2 - z
        bounces += 1
    return z, bounces


def test_fold_is_bouncing() -> None:
    z = (
        torch.linspace(-7, 7, 2801, dtype=torch.float64)[1:-1] + 1e-4
    )  # off the walls, where parity is a choice
    places, bounces = zip(*(bounce(float(x)) for x in z), strict=True)
    assert set(bounces) == {0, 1, 2, 3}
    assert_equation(fold(z), torch.tensor(places, dtype=torch.float64))
    assert torch.equal(
        bounce_sign(z), torch.tensor([1.0 - 2.0 * (n % 2) for n in bounces], dtype=torch.float64)
    )


def test_the_slope_of_fold_is_the_bounce_sign() -> None:
    z = (torch.linspace(-7, 7, 2801, dtype=torch.float64)[1:-1] + 1e-4).requires_grad_()
    assert torch.equal(torch.autograd.grad(fold(z).sum(), z)[0], bounce_sign(z.detach()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_fold_keeps_the_inside_bit_for_bit_and_never_leaves_the_box(dtype: torch.dtype) -> None:
    limits = torch.tensor([-1.0, 1.0, 0.0, -0.0, 1e-30, -1e-7, 1e-7], dtype=dtype)
    inside = torch.cat((limits, torch.linspace(-1, 1, 999).to(dtype)))
    inside = inside[
        inside < 1 - torch.finfo(dtype).eps
    ]  # z + 1 rounds to 2 on the last places below the wall
    assert torch.equal(fold(inside), inside)
    walls = torch.arange(-9, 10, dtype=dtype)
    up, down = torch.nextafter(walls, walls + 1), torch.nextafter(walls, walls - 1)
    z = torch.cat((walls, up, down, 50 * draw(9999, dtype=dtype)))
    assert float(fold(z).abs().max()) <= 1.0


def loops(
    latent: Tensor, velocity: Tensor, dt: float, guidance_scale: float, target: Tensor | None, reflect: bool
) -> Tensor:
    """The step, one coordinate at a time, in Python's float64."""
    out = latent.double()
    batch = latent.shape[0]
    for index in itertools.product(*(range(n) for n in latent.shape)):
        if target is not None and not target.expand(batch, -1)[index[0], index[2]]:
            continue
        v = float(velocity[index])
        if velocity.shape[0] == 2 * batch:
            null = float(velocity[(index[0] + batch, *index[1:])])
            v = null + guidance_scale * (v - null)
        z = float(latent[index]) + dt * v
        out[index] = bounce(z)[0] if reflect else z
    return out


TARGETS = {
    "all": None,
    "frames": torch.tensor([True, False, True]),
    "clips": torch.tensor([[True, False, False], [False, True, True]]),
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS.keys())
@pytest.mark.parametrize(
    ("rows", "reflect"), [(2, True), (4, True), (4, False)], ids=["plain", "guided", "open"]
)
def test_step_is_the_equation(rows: int, reflect: bool, target: Tensor | None) -> None:
    latent = draw(2, 2, 3, 2, 3, dtype=torch.float32).clamp(-1, 1)
    velocity = 3 * draw(rows, 2, 3, 2, 3, dtype=torch.float32, seed=1)
    want = loops(latent, velocity, 0.3, 4.0, target, reflect)
    before = latent.clone()
    out = guided_euler_step_(latent, velocity, 0.3, 4.0, target, reflect)
    assert out is latent
    assert_equation(latent, want.float())
    if target is not None:
        kept = ~target.expand(2, 3)[:, None, :, None, None].expand_as(latent)
        assert torch.equal(latent[kept], before[kept])


@dataclass(frozen=True)
class Case:
    """Sizes of P, and how it lies in memory."""

    shape: tuple[int, int, int, int, int]
    strided: bool = False
    programs: bool = True
    """Few enough of them for the interpreter."""


CASES = {
    "one": Case((1, 1, 1, 1, 1)),
    "small": Case((1, 4, 6, 16, 16)),
    "xl": Case((1, 4, 4, 32, 32)),
    "xl-16": Case((16, 4, 4, 32, 32), programs=False),
    "ragged": Case((3, 3, 5, 7, 9)),
    "long-planes": Case((1, 1, 2, 31, 129)),
    "strided": Case((2, 3, 4, 6, 10), strided=True),
    "no-batch": Case((0, 4, 6, 2, 2)),
    "no-channels": Case((2, 0, 6, 2, 2)),
    "no-frames": Case((2, 4, 0, 2, 2)),
    "no-rows": Case((2, 4, 6, 0, 2)),
    "no-columns": Case((2, 4, 6, 2, 0)),
    "70000-planes": Case((70_000, 1, 1, 1, 2), programs=False),
}


def step_inputs(case: Case, rows: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """P in the box and a velocity of `rows` times its batch that crosses the box several times."""
    latent = draw(*case.shape, dtype=torch.float32).clamp(-1, 1)
    velocity = 4 * draw(rows * case.shape[0], *case.shape[1:], seed=1)
    if case.strided:
        latent, velocity = (t.transpose(1, 3).contiguous().transpose(1, 3) for t in (latent, velocity))
    return latent.to(device), velocity.to(dtype).to(device)


def eager_step(
    latent: Tensor, velocity: Tensor, dt: float, guidance_scale: float, target: Tensor | None, reflect: bool
) -> Tensor:
    """The step by another formula of the triangle wave, in the dtype of `latent`, velocity cast to it."""
    v = velocity.to(latent.dtype)
    if v.shape[0] > latent.shape[0]:
        conditional, null = v.chunk(2)
        v = null + guidance_scale * (conditional - null)
    z = latent + dt * v
    z = 1 - (torch.remainder(z + 1, 4) - 2).abs() if reflect else z
    return z if target is None else torch.where(target[..., None, :, None, None], z, latent)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("guided", [True, False], ids=["guided", "plain"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_accuracy(name: str, dtype: str, guided: bool, device: str) -> None:
    """The network's velocity may be of low precision; the arithmetic is float32 all the same."""
    case = CASES[name]
    if INTERPRETED and not case.programs:
        pytest.skip("too many programs for the interpreter")
    latent, velocity = step_inputs(case, 1 + guided, DTYPES[dtype], device)
    batch, _, frames, _, _ = case.shape
    masks = torch.arange(batch * frames, device=device).view(batch, frames) % 3 != 0
    targets = {"all": None, "frames": torch.arange(frames, device=device) % 2 == 0, "clips": masks}
    for what, target in targets.items():
        numbers = (0.4, 4.0, target, what != "frames")
        eager, exact = eager_step(latent, velocity, *numbers), eager_step(latent.double(), velocity, *numbers)
        got = latent.clone(memory_format=torch.preserve_format)
        place = got.data_ptr()
        assert guided_euler_step_(got, velocity, *numbers) is got
        assert got.data_ptr() == place
        assert_no_worse(got, eager, exact, what=what)
        if target is not None:
            kept = ~target[..., None, :, None, None].expand_as(latent)
            assert torch.equal(got[kept], latent[kept])


@pytest.mark.parametrize("device", DEVICES)
def test_every_number_of_bounces(device: str) -> None:
    """z in [-7, 7]: none, one, two and three mirrors on both sides, by the step that gets there."""
    z = torch.linspace(-7, 7, 2801, dtype=torch.float64)[1:-1] + 1e-4
    latent = torch.zeros(1, 1, 1, 1, z.numel(), device=device)
    guided_euler_step_(latent, z.float().view_as(latent).to(device), 1.0, 1.0)
    want, bounces = zip(*(bounce(float(x)) for x in z.float()), strict=True)
    assert set(bounces) == {0, 1, 2, 3}
    assert_equation(latent.cpu().flatten(), torch.tensor(want))


@pytest.mark.parametrize("device", DEVICES)
def test_the_inside_of_the_box_is_kept_bit_for_bit(device: str) -> None:
    inside = torch.cat((torch.linspace(-1, 1, 999), torch.tensor([-1.0, 0.0, -0.0, 1e-30, 1e-7])))
    inside = inside[inside < 1 - torch.finfo(torch.float32).eps].view(1, 1, 1, 1, -1).to(device)
    got = guided_euler_step_(inside.clone(), torch.zeros_like(inside), 0.1, 4.0)
    assert torch.equal(got, inside)
    walls = torch.arange(-9.0, 10.0)
    beyond = torch.cat((walls, walls.nextafter(walls + 1), walls.nextafter(walls - 1)))
    beyond = beyond.view(1, 1, 1, 1, -1).to(device)
    got = guided_euler_step_(torch.zeros_like(beyond), beyond, 1.0, 1.0)
    assert float(got.abs().max()) <= 1.0


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_a_broken_velocity_shows(value: float, device: str) -> None:
    latent = torch.zeros(1, 1, 1, 1, 3, device=device)
    velocity = torch.tensor([0.5, value, -0.5], device=device).view_as(latent)
    got = guided_euler_step_(latent, velocity, 1.0, 1.0).flatten()
    assert bool(got[1].isnan())
    assert torch.equal(got[::2], torch.tensor([0.5, -0.5], device=device))


def test_passes_interpreted() -> None:
    assert_passes_interpreted(__file__)


@pytest.mark.skipif(not INTERPRETED, reason="not interpreted")
def test_the_kernel_serves_here() -> None:
    assert native("guided_euler_step_", torch.empty(0))


@CUDA
def test_cuda_captured_step_reads_its_numbers_at_replay_and_never_waits() -> None:
    latent, velocity = step_inputs(CASES["small"], 2, torch.bfloat16, "cuda")
    dt, scale = torch.tensor(0.25, device="cuda"), torch.tensor(4.0, device="cuda")
    target = torch.tensor([True, True, False, True, False, True], device="cuda")
    assert native("guided_euler_step_", latent)
    static = latent.clone()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(stream):
            guided_euler_step_(static, velocity, dt, scale, target)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        guided_euler_step_(static, velocity, dt, scale, target)
    static.copy_(latent)
    dt.fill_(0.5)
    scale.fill_(-2.0)
    target.logical_not_()
    graph.replay()
    assert torch.equal(static, guided_euler_step_(latent.clone(), velocity, dt, scale, target))


@pytest.mark.parametrize("device", DEVICES)
def test_numbers_may_be_tensors(device: str) -> None:
    latent, velocity = step_inputs(CASES["ragged"], 2, torch.bfloat16, device)
    want = guided_euler_step_(latent.clone(), velocity, 0.25, 4.0)
    numbers = torch.tensor(0.25, device=device), torch.tensor(4.0, dtype=torch.float64, device=device)
    got = guided_euler_step_(latent.clone(), velocity, *numbers)
    assert got.dtype == torch.float32
    assert torch.equal(got, want)


@pytest.mark.parametrize("device", DEVICES)
def test_a_fault_in_other_frames_does_not_leak(device: str) -> None:
    latent = torch.zeros(1, 1, 2, 1, 1, device=device)
    velocity = torch.full_like(latent, torch.nan)
    guided_euler_step_(latent, velocity, 0.1, 1.0, torch.tensor([False, False], device=device))
    assert torch.equal(latent, torch.zeros_like(latent))


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_pass_through(device: str) -> None:
    """Training through a step is no use of ours, but it must not be cut without a word."""
    latent, velocity = step_inputs(CASES["ragged"], 2, torch.float32, device)
    leaf = velocity.requires_grad_()
    guided_euler_step_(latent.clone(), leaf, 0.4, 4.0).sum().backward()
    assert leaf.grad is not None
    assert bool((leaf.grad != 0).all())


@pytest.mark.parametrize("device", DEVICES)
def test_raw_op(device: str) -> None:
    latent, velocity = step_inputs(CASES["ragged"], 2, torch.bfloat16, device)
    numbers = torch.tensor(0.1, device=device), torch.tensor(4.0, device=device)
    target = torch.arange(5, device=device) % 2 == 0
    op = torch.ops.pavdit.guided_euler_step_.default
    torch.library.opcheck(op, (latent.clone(), velocity, *numbers, target, True))
    stepped = latent.clone()
    op(stepped, velocity, *numbers, None, True)
    assert torch.equal(stepped, guided_euler_step_(latent, velocity, *numbers))


RAW_FAULTS: dict[str, tuple[int, Any, type[Exception], str]] = {
    "latent": (0, torch.zeros(1, 2, 3, 4), ValueError, r"want latent \(B,C,G,H,W\)"),
    "velocity": (1, torch.zeros(3, 1, 2, 1, 1), ValueError, "want velocity of 1 or 2 rows, got 3"),
    "dt": (2, torch.ones(2), ValueError, "want dt a number or a floating-point 0-d tensor"),
    "guidance": (3, torch.ones((), dtype=torch.int64), ValueError, "want guidance_scale a number or"),
    "target": (4, torch.ones(3) > 0, ValueError, r"want target \(2,\) or \(1, 2\), got \(3,\)"),
}


@pytest.mark.parametrize("name", RAW_FAULTS)
def test_raw_op_checks_itself_on_cpu(name: str) -> None:
    place, wrong, error, text = RAW_FAULTS[name]
    latent, number = torch.zeros(1, 1, 2, 1, 1), torch.tensor(1.0)
    arguments = [latent, latent.clone(), number, number, None, True]
    arguments[place] = wrong
    with pytest.raises(error, match=f"guided_euler_step_: {text}"):
        torch.ops.pavdit.guided_euler_step_(*arguments)


def test_raw_op_refuses_gradients() -> None:
    velocity, number = torch.zeros(1, 1, 2, 1, 1, requires_grad=True), torch.tensor(1.0)
    with pytest.raises(RuntimeError, match="call pavdit.ops.guided_euler_step_ instead"):
        torch.ops.pavdit.guided_euler_step_(torch.zeros(1, 1, 2, 1, 1), velocity, number, number, None, True)


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_as_one_graph(device: str) -> None:
    """One graph, for every batch."""
    compiled = torch.compile(guided_euler_step_, fullgraph=True)
    target = torch.arange(6, device=device) < 2
    numbers = torch.tensor(0.3, device=device), torch.tensor(4.0, device=device)
    for batch in (2, 3):
        latent, velocity = step_inputs(Case((batch, 4, 6, 4, 4)), 2, torch.bfloat16, device)
        want = guided_euler_step_(latent.clone(), velocity, *numbers, target)
        torch._dynamo.mark_dynamic(latent, 0)
        torch._dynamo.mark_dynamic(velocity, 0)
        compiled(latent, velocity, *numbers, target)
        assert_equation(latent, want)


LATENT = torch.zeros(2, 4, 6, 2, 2)
ERRORS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "none": ({"latent": None}, TypeError, "want latent a float32 tensor, got NoneType"),
    "latent dtype": ({"latent": LATENT.half()}, TypeError, "want latent a float32 tensor, got torch.float16"),
    "velocity dtype": ({"velocity": LATENT.int()}, TypeError, "want velocity a float32, .*got torch.int32"),
    "shape": ({"velocity": LATENT[:, :2]}, ValueError, r"want latent \(B,C,G,H,W\) and velocity .*got"),
    "rows": ({"velocity": LATENT[:1]}, ValueError, "want velocity of 2 or 4 rows, got 1"),
    "device": ({"velocity": LATENT.to("meta")}, ValueError, "want velocity on cpu, got meta"),
    "dt": ({"dt": "1"}, TypeError, "want dt a number or a 0-d tensor, got str"),
    "dt shape": ({"dt": torch.ones(2)}, ValueError, r"want dt a number or .*got \(2,\) torch.float32"),
    "scale": ({"guidance_scale": None}, TypeError, "want guidance_scale a number or .*got NoneType"),
    "scale device": (
        {"guidance_scale": torch.ones((), device="meta")},
        ValueError,
        "want guidance_scale on cpu, got meta",
    ),
    "target dtype": (
        {"target": torch.ones(6)},
        TypeError,
        "want target a bool tensor or None, got torch.float32",
    ),
    "target shape": (
        {"target": torch.ones(4) > 0},
        ValueError,
        r"want target \(6,\) or \(2, 6\), got \(4,\)",
    ),
}


@pytest.mark.parametrize(("change", "error", "text"), ERRORS.values(), ids=ERRORS.keys())
def test_error_text(change: dict[str, Any], error: type[Exception], text: str) -> None:
    good = {"latent": LATENT, "velocity": LATENT, "dt": 0.1, "guidance_scale": 4.0}
    with pytest.raises(error, match=f"^guided_euler_step_: {text}"):
        guided_euler_step_(**{**good, **change})
