"""Every tolerance of the tests, with its reason. No test holds a number of its own.

Errors are largest absolute differences; a NaN or an infinity that is not wanted fails every assertion here.
"""

from __future__ import annotations

import torch
from torch import Tensor

EQUATION = {torch.float64: 1e-11, torch.float32: 1e-5}
"""Relative to max|want|: two float64 (float32) evaluations of one equation that differ in the order of
summation only. Sums here have up to some hundred terms, so float64 rounding reaches about 1e-14; 1e-11 still
catches every wrong term."""

ROUNDING = 1e-6
"""Relative to max|exact|: what a few float32 operations add to the last rounding, about 8 of their units."""

FEW = 16
"""Units in the last place: with some tens of elements the largest error of eager PyTorch is often far below
what is usual for the op. A wrong element is off by some millions of them."""

BATCH = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}
"""Relative to max|want|: a whole model on a batch of two against two batches of one. A GEMM splits its sums
by shape, so the results differ by rounding, amplified by depth; about 200 (float32) or 5 (low precision)
units in the last place."""

LATENTS = 1e-4
"""Absolute, float32: latents in [-1, 1] after 30 Euler steps of `tiny` (DESIGN section 4)."""


def error(got: Tensor, exact: Tensor) -> float:
    """max|got - exact| in float64; a NaN on either side counts as infinite, an empty tensor as 0."""
    if got.shape != exact.shape:
        raise AssertionError(f"shape: want {tuple(exact.shape)}, got {tuple(got.shape)}")
    if got.numel() == 0:
        return 0.0
    difference = (got.detach().double() - exact.detach().double()).abs()
    return float(difference.nan_to_num(nan=float("inf")).max())


def magnitude(exact: Tensor) -> float:
    """max|exact|, 0 for empty tensors."""
    return float(exact.detach().double().abs().max()) if exact.numel() else 0.0


def assert_no_worse(got: Tensor, eager: Tensor, exact: Tensor, *, what: str = "result") -> None:
    """A kernel may err twice as much as eager PyTorch of the same dtype does, plus one unit of the dtype.

    ``error(got) <= 2 * error(eager) + eps(dtype) * max|exact|``, both errors against float64.

    Args:
        got: what the code under test returned.
        eager: the same by plain PyTorch calls in the dtype of `got`.
        exact: the same in float64, computed from the same (already rounded) inputs.
        what: name for the message.
    """
    if got.dtype != eager.dtype or exact.dtype != torch.float64:
        raise AssertionError(
            f"{what}: want one dtype for got and eager and float64 for exact, "
            f"got {got.dtype}, {eager.dtype}, {exact.dtype}"
        )
    bound = 2 * error(eager, exact) + torch.finfo(got.dtype).eps * magnitude(exact)
    found = error(got, exact)
    if not found <= bound:
        raise AssertionError(
            f"{what}: want error <= {bound:.3e} (eager {error(eager, exact):.3e}), got {found:.3e}"
        )


def assert_not_wrong(got: Tensor, eager: Tensor, exact: Tensor, *, what: str = "result") -> None:
    """The same numbers but for rounding, of inputs so few that `assert_no_worse` would be a matter of luck.

    ``error(got) <= 2 * error(eager) + FEW * eps(dtype) * max|exact|`` where both eager PyTorch and
    float64 are finite; NaN and infinities stand in the same places.
    """
    finite = eager.isfinite() & exact.isfinite()
    if bool((got.isfinite() != eager.isfinite())[eager.isfinite() == exact.isfinite()].any()):
        raise AssertionError(f"{what}: want NaN and infinities where the reference has them, got others")
    found, plain, wanted = got[finite], eager[finite], exact[finite]
    bound = 2 * error(plain, wanted) + FEW * torch.finfo(got.dtype).eps * magnitude(wanted)
    if not error(found, wanted) <= bound:
        raise AssertionError(f"{what}: want error <= {bound:.3e}, got {error(found, wanted):.3e}")


def assert_equation(got: Tensor, want: Tensor, *, what: str = "result") -> None:
    """Two evaluations of one equation in one dtype (float64, or float32 where the code admits no other)."""
    if got.dtype != want.dtype:
        raise AssertionError(f"{what}: want {want.dtype}, got {got.dtype}")
    bound = EQUATION[got.dtype] * max(magnitude(want), 1.0)
    found = error(got, want)
    if not found <= bound:
        raise AssertionError(f"{what}: want error <= {bound:.3e}, got {found:.3e}")


def assert_rounded_once(got: Tensor, exact: Tensor, *, what: str = "result") -> None:
    """A bfloat16 or float16 result was computed in float32 and rounded once: half a unit off at most.

    ``|got - exact| <= eps(dtype) / 2 * |exact| + ROUNDING * max|exact|``, the second for float32's own error.
    """
    bound = torch.finfo(got.dtype).eps / 2 * exact.double().abs() + ROUNDING * magnitude(exact)
    excess = (got.detach().double() - exact.detach().double()).abs() - bound.detach()
    if not float(excess.max()) <= 0:
        raise AssertionError(f"{what}: want one rounding to {got.dtype}, got {float(excess.max()):.3e} more")


def assert_fp8_rows(values: Tensor, scale: Tensor, exact: Tensor, *, what: str = "rows") -> None:
    """Rows became e4m3 by one rounding of numbers that were computed in float32.

    The scale is ``max|exact row| / 448`` but for float32's own error; ``|values * scale - exact|`` is at most
    half a unit of e4m3: 2^-4 of the number, or 2^-10 scales where it is subnormal.
    """
    facts = values.dtype, scale.dtype, values.shape, scale.shape
    if facts != (torch.float8_e4m3fn, torch.float32, exact.shape, (*exact.shape[:-1], 1)):
        raise AssertionError(f"{what}: want e4m3 {tuple(exact.shape)} with float32 scales, got {facts}")
    if exact.numel() == 0:
        return
    got, exact, scale = values.double(), exact.double(), scale.double()
    want = exact.abs().amax(-1, keepdim=True).clamp(min=1e-12) / 448
    if not bool(((scale - want).abs() <= ROUNDING * want.clamp(min=float(want.max()) * 1e-3)).all()):
        raise AssertionError(f"{what}: want scales max|row| / 448, got {error(scale, want):.3e} off")
    bound = torch.maximum(exact.abs() / 16, scale / 1024) + ROUNDING * magnitude(exact)
    excess = float(((got * scale - exact).abs() - bound).nan_to_num(nan=float("inf")).max())
    if not excess <= 0:
        raise AssertionError(f"{what}: want one rounding to e4m3, got {excess:.3e} more")


def assert_batch_of_two(together: Tensor, apart: Tensor, *, what: str = "result") -> None:
    """A batch of two equals two batches of one, up to rounding.

    Args:
        together: result of the batch.
        apart: results of the single runs, concatenated along the batch.
        what: name for the message.
    """
    if together.dtype != apart.dtype:
        raise AssertionError(f"{what}: want {apart.dtype}, got {together.dtype}")
    bound = BATCH[together.dtype] * max(magnitude(apart), 1.0)
    found = error(together, apart)
    if not found <= bound:
        raise AssertionError(f"{what}: batch of two against two of one: want <= {bound:.3e}, got {found:.3e}")


def assert_same_latents(got: Tensor, want: Tensor, *, what: str = "latents") -> None:
    """Float32 latents after 30 steps of `tiny` agree to 1e-4."""
    found = error(got, want)
    if not found <= LATENTS:
        raise AssertionError(f"{what}: want error <= {LATENTS:.0e}, got {found:.3e}")
