"""The scene as it is heard: hits ring from their exact time on, what moves over the floor is heard meanwhile.

Everything is a function of the scene's time that is sampled last, so the sample rate moves nothing: partials
are damped sines, noise is a sum of sines, too, and both end below `BAND` of the sample rate.
"""

from __future__ import annotations

import math

import numpy as np

from pavdit.clip import ClipSpec
from pavdit.data.bounce.ground import Roll, Slide
from pavdit.data.bounce.materials import pitch_hz
from pavdit.data.bounce.scene import Body, Scene

ATTACK_SECONDS = 0.0008
CLICK_SECONDS = 0.004
PEAK = 0.8
AUDIBLE_DECAYS = 12
"""What is left of a partial after as many decays is 104 dB down and is cut."""
BAND = 0.45
"""Highest partial over the sample rate."""
NOISE_BAND_HZ = 7200.0
"""Noise has no more at any sample rate, so that it is the same."""
MIN_SAMPLE_RATE = 8000
"""Below it the highest pitch, 2.8 kHz, comes near `BAND`."""
GROUND_LEVEL = 0.16
"""Root mean square of the sound of rolling or sliding at `FULL_GROUND_SPEED`."""
FULL_GROUND_SPEED = 1.5
GROUND_ATTACK_SECONDS = 0.002
BLOCK = 128


def render_wave(scene: Scene, spec: ClipSpec, rng: np.random.Generator) -> np.ndarray:
    """Add the sounds of all objects; before the first event there is silence.

    Args:
        scene: what happens.
        spec: sample rate and length.
        rng: for the noise; consumed alike for every sample rate.

    Returns:
        ``(S,)`` float32, magnitude at most `PEAK`.
    """
    wave = np.zeros(spec.num_samples)
    clicks = _noise(rng, scene.duration_seconds, spec)
    for body in scene.bodies:
        _add_hits(wave, body, clicks, spec)
        if isinstance(body.motion, Roll | Slide):
            wave += _ground(body, body.motion, scene, spec, rng)
    loudest = np.abs(wave).max(initial=0.0)
    return (wave * PEAK / max(1.0, loudest)).astype(np.float32)


def _add_hits(wave: np.ndarray, body: Body, clicks: np.ndarray, spec: ClipSpec) -> None:
    """Add the sound of every impact.

    One at time t, which lies between two samples as a rule, sounds as ``sum_i exp(-s / d_i) sin(2 pi f r_i
    s) / i`` at ``s = n / sample_rate - t``, plus a click of noise, faded in over `ATTACK_SECONDS`: the
    factor ``1 - exp(-s / attack)`` makes two damped sines of one.
    """
    pitch, material = pitch_hz(body.material, body.radius), body.material
    partials = [
        (2j * np.pi * pitch * ratio - 1 / decay, 1 / (i + 1))
        for i, (ratio, decay) in enumerate(zip(material.mode_ratios, material.decays_seconds, strict=True))
        if pitch * ratio < BAND * spec.sample_rate
    ]
    poles = np.array([p - fade for fade in (0, 1 / ATTACK_SECONDS) for p, _ in partials])
    levels = np.array([sign * level for sign in (1, -1) for _, level in partials])
    ring = math.ceil(AUDIBLE_DECAYS * max(material.decays_seconds) * spec.sample_rate)
    click = math.ceil(AUDIBLE_DECAYS * CLICK_SECONDS * spec.sample_rate)
    for event in body.motion.events():
        if event.kind == "push":
            continue
        start = math.ceil(event.time_seconds * spec.sample_rate)
        since = start / spec.sample_rate - event.time_seconds
        strength = 0.3 + 0.7 * event.strength
        tail = wave[start : start + ring]
        tail += strength * _damped(poles, levels * np.exp(poles * since), len(tail), spec.sample_rate)
        tail = wave[start : start + click]
        s = since + np.arange(len(tail)) / spec.sample_rate
        envelope = np.exp(-s / CLICK_SECONDS) * (1 - np.exp(-s / ATTACK_SECONDS))
        tail += strength * material.click * envelope * clicks[start : start + click]


def _damped(poles: np.ndarray, levels: np.ndarray, count: int, sample_rate: int) -> np.ndarray:
    """``Im sum_i levels_i exp(poles_i n / sample_rate)`` for n < count, as a product of two short tables."""
    blocks = -(-count // BLOCK)
    coarse = levels * np.exp(np.arange(blocks)[:, None] * (BLOCK / sample_rate) * poles)  # (blocks, poles)
    fine = np.exp(np.arange(BLOCK)[:, None] / sample_rate * poles)  # (BLOCK, poles)
    product = coarse.imag @ fine.real.T + coarse.real @ fine.imag.T
    return product.reshape(-1)[:count]


def _noise(
    rng: np.random.Generator, duration_seconds: float, spec: ClipSpec, body: Body | None = None
) -> np.ndarray:
    """Gaussian noise of unit variance: sines of random amplitude at multiples of the clip's inverse length.

    Args:
        rng: consumed alike for every sample rate.
        duration_seconds: of the clip.
        spec: sample rate and length.
        body: whose resonances shape the noise; None: it is white.
    """
    period = math.ceil(duration_seconds)  # a whole number of samples, whatever the sample rate
    frequency = np.arange(1, math.floor(NOISE_BAND_HZ * period) + 1) / period
    real, imaginary = rng.standard_normal((2, len(frequency)))
    weight = np.ones_like(frequency) if body is None else _resonances(body, frequency)
    amplitude = weight / math.sqrt(4 * np.square(weight).sum())
    spectrum = np.zeros(spec.sample_rate * period // 2 + 1, complex)
    held = int(np.searchsorted(frequency, BAND * spec.sample_rate, side="right"))
    spectrum[1 : held + 1] = ((real + 1j * imaginary) * amplitude)[:held]
    wave = np.fft.irfft(spectrum, n=spec.sample_rate * period, norm="forward")
    return np.asarray(wave[: spec.num_samples])


def _resonances(body: Body, frequency: np.ndarray) -> np.ndarray:
    """How strong the sound of the object on the floor is at each frequency: its partials, made wide.

    A sliding block is brighter than a rolling ball: more of what lies between and above the partials.
    """
    pitch = pitch_hz(body.material, body.radius)
    weight = np.full_like(frequency, 0.2 if body.action == "slide" else 0.03)
    for i, ratio in enumerate(body.material.mode_ratios):
        centre = pitch * ratio
        weight += 1 / ((i + 1) * (1 + np.square((frequency - centre) / (0.15 * centre + 30))))
    return weight


def _ground(
    body: Body, motion: Roll | Slide, scene: Scene, spec: ClipSpec, rng: np.random.Generator
) -> np.ndarray:
    """The sound of rolling or sliding: as loud as it is fast, from the instant of the push to rest."""
    t = np.arange(spec.num_samples) / spec.sample_rate
    level = GROUND_LEVEL * np.minimum(1, motion.ground_speed(t) / FULL_GROUND_SPEED)
    for event in motion.events():
        if event.kind == "push":
            first = math.ceil(event.time_seconds * spec.sample_rate)
            faded = slice(first, first + math.ceil(AUDIBLE_DECAYS * GROUND_ATTACK_SECONDS * spec.sample_rate))
            level[faded] *= 1 - np.exp(-(t[faded] - event.time_seconds) / GROUND_ATTACK_SECONDS)
    if isinstance(motion, Roll):
        level *= 1 + 0.3 * np.sin(2 * motion.state(t).angle)  # a ball is never quite round
    return level * _noise(rng, scene.duration_seconds, spec, body)
