"""What a clip shows and sounds like, in the words of its caption: by colour, by way of moving, by pitch.

Rules over the measures of `pavdit.metrics`, with the numbers that the set is drawn from; nothing is learned.
They are right of true clips as far as `benchmarks/bounce.py` says, which is the ceiling of what they find in
generated ones.
"""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np

from pavdit.data.bounce.materials import MATERIALS, RADII, RADIUS_SPREAD, pitch_hz
from pavdit.metrics.onsets import sound_onsets
from pavdit.metrics.partials import strongest_partials
from pavdit.metrics.picture_events import MIN_FLASH, STANDS
from pavdit.metrics.tracks import Track, find_tracks, hue_of

RESTS = 0.2
"""A step from frame to frame that is a rest, over the largest."""
LEVEL = 0.05
"""Rise of a way along the floor or between walls."""
SLOWS = 0.25
"""Mean of two steps after the first motion under which friction has stopped it, over the largest."""

HUES = {name: hue_of(np.array(colorsys.hsv_to_rgb(m.hue, 0.85, 0.95))) for name, m in MATERIALS.items()}
PITCHES_HZ = {
    name: (
        pitch_hz(material, RADII["large"] * (1 + RADIUS_SPREAD)),
        pitch_hz(material, RADII["small"] * (1 - RADIUS_SPREAD)),
    )
    for name, material in MATERIALS.items()
}
"""Lowest and highest pitch of each."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An object in the picture.

    Attributes:
        material: whose colour is nearest.
        action: how it moves; empty: in no way of the set.
    """

    material: str
    action: str


def seen(frames: np.ndarray) -> tuple[Seen, ...]:
    """The objects of a clip's frames ``(T, 3, H, W)`` uint8, that of most colour first."""
    side = min(frames.shape[2:])
    return tuple(Seen(material_of_hue(track.hue), action_of(track, side)) for track in find_tracks(frames))


def material_of_hue(hue: float) -> str:
    """The material whose colour is nearest on the circle."""
    return min(HUES, key=lambda name: abs(math.remainder(hue - HUES[name], 2 * math.pi)))


def action_of(track: Track, side: float) -> str:
    """The action that moves like this; empty where nothing moves nor lights up.

    Args:
        track: of the object.
        side: the picture's shorter side, pixels.
    """
    x, y = track.x / side, track.y / side
    if track.spread < STANDS * side:
        return "flash" if np.diff(track.light).max() > MIN_FLASH else ""
    steps = np.hypot(np.diff(x), np.diff(y))
    moves = steps > RESTS * steps.max()
    if _longest(moves) <= 2 and not moves.all():
        return "clock"
    if np.ptp(y) > LEVEL:
        return "bounce"
    if moves[:2].any():
        return "wall"
    after = steps[int(moves.argmax()) + 1 :]
    slowest = (after[1:] + after[:-1]).min(initial=math.inf) / 2
    return "slide" if slowest < SLOWS * steps.max() else "roll"


def _longest(flags: np.ndarray) -> int:
    """Length of the longest stretch that is set."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(int), [0]))))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def heard(wave: np.ndarray, sample_rate: int) -> tuple[str, ...]:
    """The materials that the onsets of a wave ``(S,)`` sound like, the loudest first."""
    onsets = sound_onsets(wave, sample_rate)
    loudness: dict[str, float] = {}
    for hz, power in strongest_partials(wave, sample_rate, onsets):
        name = material_of_pitch(hz)
        loudness[name] = loudness.get(name, 0.0) + math.sqrt(power)
    return tuple(sorted(loudness, key=lambda name: -loudness[name]))


def material_of_pitch(hz: float) -> str:
    """The material in whose range of pitches a frequency lies, or whose range is nearest."""

    def octaves_off(name: str) -> float:
        low, high = PITCHES_HZ[name]
        return max(0.0, math.log2(low / hz), math.log2(hz / high))

    return min(PITCHES_HZ, key=octaves_off)
