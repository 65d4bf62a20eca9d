"""Reflected sampling: Euler or Heun along the learned velocity, folded back into the box after every step.

Xie et al., Reflected Flow Matching, arXiv 2405.16577, section 3 (only the sampler reflects); PAV-DiT 4.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from pavdit.flow.schedule import time_grid
from pavdit.ops import bounce_sign, fold, guided_euler_step_
from pavdit.spans import span

Velocity = Callable[[Tensor, float, bool], Tensor]
"""``velocity(latent (B, ...), t, guided)`` gives ``(B, ...)``, or, where `guided`, ``(2B, ...)``: the half
of the condition, then the half of the null condition."""

EulerStep = Callable[[Tensor, float, float, bool], None]
"""``euler_step(latent, t, dt, guided)`` does in place what the network, the guidance, the step and the fold
would do one after the other."""

Callback = Callable[[int, int, Tensor], None]
"""``callback(step, num_steps, latent)`` after each step; an exception from it ends the sampling."""


def mix_guidance(velocity: Tensor, guidance_scale: float) -> Tensor:
    """``v_null + s (v_cond - v_null)`` from the two halves of a guided batch."""
    conditional, null = velocity.chunk(2)
    return null + guidance_scale * (conditional - null)


@torch.no_grad()
def sample(
    velocity: Velocity,
    noise: Tensor,
    *,
    num_steps: int = 30,
    guidance_scale: float = 1.0,
    guidance_interval: tuple[float, float] = (0.0, 1.0),
    method: Literal["euler", "heun"] = "euler",
    reflect: bool = True,
    time_shift: float = 1.0,
    target: Tensor | None = None,
    callback: Callback | None = None,
    euler_step: EulerStep | None = None,
) -> Tensor:
    """Carry `noise` to data in `num_steps` steps.

    Guidance is on where ``guidance_scale != 1`` and the step's time lies in `guidance_interval`. Mixing comes
    first, then the step, then the fold. P stays float32 throughout.

    Args:
        velocity: the network with its condition bound.
        noise: ``(B, C, G, rows, columns)`` float32; on frames that are given, the data. Not changed.
        num_steps: steps, of one network call (``euler``) or two (``heun``).
        guidance_scale: s of ``v_null + s (v_cond - v_null)``.
        guidance_interval: times with guidance.
        method: integrator.
        reflect: fold into [-1, 1] after each step; with ``heun`` also the stage point, whose velocity changes
            sign on coordinates that bounced an odd number of times.
        time_shift: steps lie that much closer to noise, see `pavdit.flow.schedule.shifted`.
        target: ``(G,)`` bool, the frames to generate; None is all. The others are neither moved nor folded.
        callback: called after each step.
        euler_step: replaces the steps of method ``euler``, for example by graph replays.

    Returns:
        ``(B, C, G, rows, columns)`` float32.

    Raises:
        ValueError: `method` is unknown, `num_steps` < 1, or `noise` is not float32.
    """
    if method not in ("euler", "heun"):
        raise ValueError(f"sample: want method euler or heun, got {method!r}")
    if noise.dtype != torch.float32:
        raise ValueError(f"sample: want float32 noise, got {noise.dtype}")

    def euler(latent: Tensor, t: float, dt: float, guided: bool) -> None:
        scale = guidance_scale if guided else 1.0
        guided_euler_step_(latent, velocity(latent, t, guided), dt, scale, target, reflect=reflect)

    def heun(latent: Tensor, t: float, dt: float, guided: bool) -> None:
        def mixed(point: Tensor, t: float) -> Tensor:
            v = velocity(point, t, guided)
            return mix_guidance(v, guidance_scale) if guided else v

        v = mixed(latent, t)
        stage = guided_euler_step_(latent.clone(), v, dt, 1.0, target, reflect=False)
        sign = bounce_sign(stage) if reflect else torch.ones_like(stage)
        stage = torch.where(_spread(target, stage), fold(stage), stage) if reflect else stage
        v = (v + sign * mixed(stage, following[t])) / 2
        guided_euler_step_(latent, v, dt, 1.0, target, reflect=reflect)

    times = time_grid(num_steps, time_shift)
    following = dict(zip(times[:-1], times[1:], strict=True))
    step_once = heun if method == "heun" else euler_step or euler
    latent = noise.clone()
    low, high = guidance_interval
    for step, (t, t_next) in enumerate(following.items(), start=1):
        with span("step"):
            step_once(latent, t, t_next - t, guidance_scale != 1.0 and low <= t <= high)
        if callback is not None:
            callback(step, num_steps, latent)
    return latent


def _spread(target: Tensor | None, latent: Tensor) -> Tensor:
    """`target` with the axes of P, True everywhere where it is None."""
    if target is None:
        return torch.ones((), dtype=torch.bool, device=latent.device)
    return target.to(latent.device).reshape(1, 1, -1, 1, 1)
