"""`guided_euler_step_`, `fold` and `bounce_sign` against bouncing step by step."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from numerics import assert_equation, assert_no_worse
from torch import Tensor

from pavdit.ops import bounce_sign, fold, guided_euler_step_


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_no_worse_than_eager(dtype: torch.dtype) -> None:
    """The network's velocity may be of low precision; the arithmetic is float32 all the same."""
    latent = draw(2, 4, 6, 8, 8, dtype=torch.float32).clamp(-1, 1)
    velocity = draw(4, 4, 6, 8, 8, dtype=dtype, seed=1)
    exact = loops(latent, velocity, 1 / 30, 4.0, None, True)
    conditional, null = velocity.float().chunk(2)
    z = latent + (null + 4.0 * (conditional - null)) / 30
    eager = 1 - (torch.remainder(z + 1, 4) - 2).abs()
    assert_no_worse(guided_euler_step_(latent, velocity, 1 / 30, 4.0), eager, exact)


def test_numbers_may_be_tensors() -> None:
    latent, velocity = draw(1, 2, 2, 2, 2, dtype=torch.float32), draw(2, 2, 2, 2, 2, dtype=torch.bfloat16)
    want = guided_euler_step_(latent.clone(), velocity, 0.25, 4.0)
    got = guided_euler_step_(
        latent.clone(), velocity, torch.tensor(0.25), torch.tensor(4.0, dtype=torch.float64)
    )
    assert got.dtype == torch.float32
    assert torch.equal(got, want)


def test_a_fault_in_other_frames_does_not_leak() -> None:
    latent, velocity = torch.zeros(1, 1, 2, 1, 1), torch.full((1, 1, 2, 1, 1), torch.nan)
    guided_euler_step_(latent, velocity, 0.1, 1.0, torch.tensor([False, False]))
    assert torch.equal(latent, torch.zeros_like(latent))


def test_strided_and_empty_latents() -> None:
    base = draw(2, 3, 2, 2, 2, dtype=torch.float32)
    velocity = draw(3, 2, 2, 2, 2, dtype=torch.float32, seed=1)
    want = guided_euler_step_(base.transpose(0, 1).contiguous(), velocity, 0.5, 1.0)
    guided_euler_step_(base.transpose(0, 1), velocity, 0.5, 1.0)
    assert torch.equal(base.transpose(0, 1), want)
    assert guided_euler_step_(torch.zeros(0, 4, 6, 2, 2), torch.zeros(0, 4, 6, 2, 2), 0.5, 1.0).numel() == 0


def test_raw_op() -> None:
    latent, velocity = draw(2, 2, 3, 2, 2, dtype=torch.float32), draw(4, 2, 3, 2, 2, dtype=torch.bfloat16)
    numbers = torch.tensor(0.1), torch.tensor(4.0)
    op = torch.ops.pavdit.guided_euler_step_.default
    torch.library.opcheck(op, (latent, velocity, *numbers, torch.tensor([True, False, True]), True))
    stepped = latent.clone()
    op(stepped, velocity, *numbers, None, True)
    assert torch.equal(stepped, guided_euler_step_(latent, velocity, *numbers))


def test_raw_op_refuses_gradients() -> None:
    velocity, number = torch.zeros(1, 1, 2, 1, 1, requires_grad=True), torch.tensor(1.0)
    with pytest.raises(RuntimeError, match="call pavdit.ops.guided_euler_step_ instead"):
        torch.ops.pavdit.guided_euler_step_(torch.zeros(1, 1, 2, 1, 1), velocity, number, number, None, True)


def test_compiles_as_one_graph() -> None:
    compiled = torch.compile(guided_euler_step_, fullgraph=True)
    latent, velocity = (
        draw(2, 2, 4, 2, 2, dtype=torch.float32),
        draw(4, 2, 4, 2, 2, dtype=torch.float32, seed=1),
    )
    target, numbers = torch.arange(4) < 2, (torch.tensor(0.3), torch.tensor(4.0))
    want = guided_euler_step_(latent.clone(), velocity, *numbers, target)
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
