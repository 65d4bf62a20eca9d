"""What objects are made of: how that looks and sounds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Material:
    """How an object looks and sounds.

    Attributes:
        pitch_hz: lowest partial of an object of the largest radius in `RADII`.
        mode_ratios: frequencies of the partials over the lowest.
        decays_seconds: time in which each partial falls to 1/e.
        click: level of the noise at the impact.
        hue: 0 to 1.
    """

    pitch_hz: float
    mode_ratios: tuple[float, ...]
    decays_seconds: tuple[float, ...]
    click: float
    hue: float


MATERIALS = {
    "rubber": Material(250.0, (1.0, 1.59), (0.06, 0.03), 0.10, 0.98),
    "wood": Material(450.0, (1.0, 2.57, 4.24), (0.09, 0.05, 0.03), 0.25, 0.13),
    "metal": Material(850.0, (1.0, 2.76, 5.40, 8.93), (0.45, 0.35, 0.22, 0.15), 0.08, 0.60),
    "glass": Material(1700.0, (1.0, 2.32, 4.25, 6.63), (0.22, 0.16, 0.10, 0.07), 0.05, 0.43),
    "drum": Material(140.0, (1.0, 1.59, 2.14, 2.65), (0.18, 0.12, 0.10, 0.08), 0.35, 0.80),
}
"""Partials as of a wooden bar, a free metal bar, the rim of a glass, a round membrane. Neither the pitches of
two materials overlap, whatever the size, nor are their hues nearer than a tenth of the circle."""
HUE_SPREAD = 0.02

RADII = {"small": 0.05, "medium": 0.085, "large": 0.13}
"""Of a ball, half the side of a block, in units of the box's shorter side."""
RADIUS_SPREAD = 0.07


def pitch_hz(material: Material, radius: float) -> float:
    """Lowest partial: higher by the square root of how much smaller the object is, 1.6 times over `RADII`."""
    return material.pitch_hz * (RADII["large"] / radius) ** 0.5
