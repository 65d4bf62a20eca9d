"""One sampling step: guidance, Euler, fold into the box."""

from __future__ import annotations

import torch
from torch import Tensor

from pavdit.ops._checks import FLOATING, check_floating, check_tensor, check_writable, refuse_gradients
from pavdit.ops._library import native, serve_by_triton
from pavdit.ops._raw import register_fake

FLOAT32_MAX = torch.finfo(torch.float32).max

torch.library.define(
    "pavdit::guided_euler_step_",
    "(Tensor(a!) latent, Tensor velocity, Tensor dt, Tensor guidance_scale, Tensor? target, bool reflect) "
    "-> ()",
)


def fold(z: Tensor) -> Tensor:
    r"""Fold a straight line back into the box [-1, 1] by mirrors at -1 and 1: a triangle wave of period 4.

    ``b = floor((z + 1) / 2)`` is the number of mirrors passed; ``fold(z) = (z - 2b) * (1 - 2 (b & 1))``.
    Values inside the box come back bit for bit.    Source: Xie et al., arXiv 2405.16577 (reflection on a
    hypercube).

    Args:
        z: any shape, floating point.

    Returns:
        Shape and dtype of `z`, in [-1, 1].
    """
    check_floating("fold", z=z)
    bounces = _bounces(z)
    return (z - 2.0 * bounces) * (1.0 - 2.0 * _parity(bounces))


def bounce_sign(z: Tensor) -> Tensor:
    r"""Sign that a velocity has after the bounces that `fold` applies to `z`.

    ``1 - 2 (floor((z + 1) / 2) & 1)``: -1 after an odd number of bounces.    Source: Xie et al., arXiv
    2405.16577.

    Args:
        z: any shape, floating point.

    Returns:
        Shape and dtype of `z`, each element 1 or -1.
    """
    check_floating("bounce_sign", z=z)
    return 1.0 - 2.0 * _parity(_bounces(z))


def _bounces(z: Tensor) -> Tensor:
    return torch.floor((z + 1.0) * 0.5)


def _parity(bounces: Tensor) -> Tensor:
    """0 or 1, also for negative counts, where a truncating `%` would give -1."""
    return bounces - 2.0 * torch.floor(bounces * 0.5)


def guided_euler_step_(
    latent: Tensor,
    velocity: Tensor,
    dt: float | Tensor,
    guidance_scale: float | Tensor,
    target: Tensor | None = None,
    reflect: bool = True,
) -> Tensor:
    r"""Mix the guidance halves, take one Euler step and fold, in place and on target frames only.

    ``v = v_null + guidance_scale * (v_cond - v_null)``, ``latent = fold(latent + dt * v)``.    Source:
    reflected flow, Xie et al., arXiv 2405.16577, the sampler of PAV-DiT 4.2; classifier-free guidance, Ho &
    Salimans, arXiv 2207.12598.

    Nothing is read back to the host: `dt` and `guidance_scale` may be 0-d tensors on the device.

    Args:
        latent: ``(B, C, G, H, W)`` float32; overwritten.
        velocity: ``(2B, C, G, H, W)``, the conditional half, then the null half; or ``(B, C, G, H, W)``, used
            as it is, without guidance. Float32, bfloat16 or float16.
        dt: length of the step.
        guidance_scale: 1 is the conditional velocity, 0 the null velocity; not used without a null half.
        target: bool ``(G,)`` or ``(B, G)``; other frames keep every bit. None: all frames.
        reflect: fold into [-1, 1]; False leaves the plain Euler step.

    Returns:
        `latent`.

    Raises:
        ValueError: a shape or a device does not fit.
        TypeError: a dtype or a type is none of the above.
    """
    _check(latent, velocity, dt, guidance_scale, target, reflect)
    numbers = [t for t in (latent, velocity, dt, guidance_scale) if isinstance(t, Tensor)]
    wants_gradient = torch.is_grad_enabled() and any(t.requires_grad for t in numbers)
    if wants_gradient or not native("guided_euler_step_", latent, velocity):
        return latent.copy_(
            guided_euler_step_reference(latent, velocity, dt, guidance_scale, target, reflect)
        )
    dt, guidance_scale = _on_device(dt, latent), _on_device(guidance_scale, latent)
    torch.ops.pavdit.guided_euler_step_(latent, velocity, dt, guidance_scale, target, reflect)
    return latent


def _check(
    latent: Tensor,
    velocity: Tensor,
    dt: float | Tensor,
    guidance_scale: float | Tensor,
    target: Tensor | None,
    reflect: bool,
) -> None:
    op = "guided_euler_step_"
    if not isinstance(latent, Tensor) or latent.dtype != torch.float32:
        got = latent.dtype if isinstance(latent, Tensor) else type(latent).__name__
        raise TypeError(f"{op}: want latent a float32 tensor, got {got}")
    if not isinstance(velocity, Tensor) or velocity.dtype not in FLOATING[:3]:
        got = velocity.dtype if isinstance(velocity, Tensor) else type(velocity).__name__
        raise TypeError(f"{op}: want velocity a float32, bfloat16 or float16 tensor, got {got}")
    check_tensor(op, "latent", latent)
    check_tensor(op, "velocity", velocity)
    if latent.ndim != 5 or velocity.ndim != 5 or velocity.shape[1:] != latent.shape[1:]:
        raise ValueError(
            f"{op}: want latent (B,C,G,H,W) and velocity (B|2B,C,G,H,W), "
            f"got {tuple(latent.shape)} and {tuple(velocity.shape)}"
        )
    check_writable(op, "latent", latent)
    if not isinstance(reflect, bool):
        raise TypeError(f"{op}: want reflect True or False, got {reflect!r}")
    batch, frames = latent.shape[0], latent.shape[2]
    if velocity.shape[0] not in (batch, 2 * batch):
        raise ValueError(f"{op}: want velocity of {batch} or {2 * batch} rows, got {velocity.shape[0]}")
    if velocity.device != latent.device:
        raise ValueError(f"{op}: want velocity on {latent.device}, got {velocity.device}")
    _check_scalar(op, "dt", dt, latent.device)
    _check_scalar(op, "guidance_scale", guidance_scale, latent.device)
    if target is not None:
        if not isinstance(target, Tensor) or target.dtype != torch.bool:
            got = target.dtype if isinstance(target, Tensor) else type(target).__name__
            raise TypeError(f"{op}: want target a bool tensor or None, got {got}")
        check_tensor(op, "target", target)
        if target.device != latent.device:
            raise ValueError(f"{op}: want target on {latent.device}, got {target.device}")
        if target.shape not in ((frames,), (batch, frames)):
            raise ValueError(
                f"{op}: want target ({frames},) or ({batch}, {frames}), got {tuple(target.shape)}"
            )


def _check_scalar(op: str, name: str, value: float | Tensor, device: torch.device) -> None:
    if not isinstance(value, Tensor):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{op}: want {name} a number or a 0-d tensor, got {type(value).__name__}")
        if FLOAT32_MAX < abs(value) < float("inf"):
            raise ValueError(f"{op}: want {name} in the range of float32, got {value}")
        return
    if value.ndim or not value.is_floating_point():
        raise ValueError(
            f"{op}: want {name} a number or a floating-point 0-d tensor, "
            f"got {tuple(value.shape)} {value.dtype}"
        )
    if value.device != device:
        # a 0-d CPU tensor would be read when the step is launched, not when a captured step is replayed
        raise ValueError(f"{op}: want {name} on {device}, got {value.device}")


def _on_device(value: float | Tensor, like: Tensor) -> Tensor:
    """A number as the kernel reads it, ``()`` float32; a tensor goes without a look from the host."""
    if isinstance(value, Tensor):
        return value.to(torch.float32)
    return torch.full((), value, dtype=torch.float32, device=like.device)


def guided_euler_step_reference(
    latent: Tensor,
    velocity: Tensor,
    dt: float | Tensor,
    guidance_scale: float | Tensor,
    target: Tensor | None,
    reflect: bool,
) -> Tensor:
    """The op in plain PyTorch, out of place."""
    velocity = velocity.to(latent.dtype)
    if velocity.shape[0] != latent.shape[0]:
        conditional, null = velocity.chunk(2)
        velocity = null + guidance_scale * (conditional - null)
    stepped = latent + dt * velocity
    if reflect:
        stepped = fold(stepped)
    if target is not None:
        stepped = torch.where(target[..., None, :, None, None], stepped, latent)  # (.., 1, G, 1, 1)
    return stepped


def _raw(
    latent: Tensor, velocity: Tensor, dt: Tensor, guidance_scale: Tensor, target: Tensor | None, reflect: bool
) -> None:
    refuse_gradients("guided_euler_step_", latent, velocity, dt, guidance_scale)
    _check(latent, velocity, dt, guidance_scale, target, reflect)
    latent.copy_(guided_euler_step_reference(latent, velocity, dt, guidance_scale, target, reflect))


def _triton(
    latent: Tensor, velocity: Tensor, dt: Tensor, guidance_scale: Tensor, target: Tensor | None, reflect: bool
) -> None:
    from pavdit.kernels.guided_euler_step import guided_euler_step

    refuse_gradients("guided_euler_step_", latent, velocity, dt, guidance_scale)
    _check(latent, velocity, dt, guidance_scale, target, reflect)
    dense = latent.contiguous()
    numbers = [_on_device(number, latent) for number in (dt, guidance_scale)]
    mask = None if target is None else target.contiguous()
    guided_euler_step(dense, velocity.contiguous(), *numbers, mask, reflect)
    if dense is not latent:
        latent.copy_(dense)


torch.library.impl("pavdit::guided_euler_step_", "CompositeExplicitAutograd", _raw)
serve_by_triton("guided_euler_step_", _triton)


@register_fake("pavdit::guided_euler_step_")
def _(
    latent: Tensor, velocity: Tensor, dt: Tensor, guidance_scale: Tensor, target: Tensor | None, reflect: bool
) -> None:
    return None
