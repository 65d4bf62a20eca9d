"""The scene as it is heard: every event starts damped partials at its exact time."""

from __future__ import annotations

import math

import numpy as np

from pavdit.clip import ClipSpec
from pavdit.data.bounce.scene import RADII
from pavdit.data.bounce.script import Scene

LOWEST_HZ = 220.0
"""Pitch of the largest radius in the list; a smaller ball is higher."""
ATTACK_SECONDS = 0.0008
CLICK_SECONDS = 0.004
PEAK = 0.8
AUDIBLE_DECAYS = 12
"""What is left of a partial after as many decays is 104 dB down and is cut."""


def pitch_hz(radius: float) -> float:
    """Lowest partial of a ball, ``220 (0.13 / R)^1.5`` Hz."""
    return LOWEST_HZ * (RADII["large"] / radius) ** 1.5


def render_wave(scene: Scene, spec: ClipSpec, rng: np.random.Generator) -> np.ndarray:
    """Add the sound of every event; before the first one there is silence.

    An event at time t, which lies between two samples as a rule, sounds as ``sum_i exp(-s / d_i) sin(2 pi
    f r_i s) / i`` at ``s = n / sample_rate - t``, plus a click of noise, faded in over `ATTACK_SECONDS`.
    Partials above 0.45 of the sample rate are left out.

    Args:
        scene: what happens.
        spec: sample rate and length.
        rng: for the noise of the clicks.

    Returns:
        ``(S,)`` float32, magnitude at most `PEAK`.
    """
    wave = np.zeros(spec.num_samples)
    pitch = pitch_hz(scene.radius)
    partials = [
        (2 * np.pi * pitch * ratio, decay, 1 / (i + 1))
        for i, (ratio, decay) in enumerate(
            zip(scene.material.mode_ratios, scene.material.decays_seconds, strict=True)
        )
        if pitch * ratio < 0.45 * spec.sample_rate
    ]
    for event in scene.action.events():
        start = math.ceil(event.time_seconds * spec.sample_rate)
        since = np.arange(start, spec.num_samples) / spec.sample_rate - event.time_seconds
        hit = np.zeros_like(since)
        for omega, decay, level in partials:
            s = since[: math.ceil(AUDIBLE_DECAYS * decay * spec.sample_rate)]
            hit[: len(s)] += level * np.exp(-s / decay) * np.sin(omega * s)
        s = since[: math.ceil(AUDIBLE_DECAYS * CLICK_SECONDS * spec.sample_rate)]
        hit[: len(s)] += scene.material.click * rng.standard_normal(len(s)) * np.exp(-s / CLICK_SECONDS)
        hit[: len(s)] *= 1 - np.exp(-s / ATTACK_SECONDS)
        wave[start:] += (0.3 + 0.7 * event.strength) * hit
    loudest = np.abs(wave).max(initial=0.0)
    return (wave * PEAK / max(1.0, loudest)).astype(np.float32)
