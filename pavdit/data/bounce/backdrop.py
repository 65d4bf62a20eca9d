"""What lies behind the objects: walls and a floor of hardly any colour, so objects stand out by theirs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from pavdit.clip import ClipSpec
from pavdit.data.bounce.motion import FLOOR_HEIGHT

Kind = Literal["plain", "gradient", "two-tone", "stripes", "faint"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True)
class Backdrop:
    """A wall and a floor.

    Attributes:
        kind: `plain` is one tone; `gradient` goes to `other` at the ceiling; `two-tone` is `other` below
            `split`; `stripes` go softly to `other` and back; `faint` has a floor of nearly the wall's tone.
        wall: ``(3,)``, 0 to 1.
        other: ``(3,)``, the wall's second tone.
        floor: ``(3,)``.
        split: height of the border of two tones, in box units above the floor.
        period: width of a stripe and its gap, in box units.
        phase: of the stripes, 0 to 1.
    """

    kind: Kind
    wall: np.ndarray
    other: np.ndarray
    floor: np.ndarray
    split: float
    period: float
    phase: float

    def paint(self, width: float, height: float, spec: ClipSpec) -> np.ndarray:
        """``(H, W, 3)`` float32 picture of a box of these sides; borders are antialiased."""
        pixel = height / spec.height
        y = height - (np.arange(spec.height)[:, None] + 0.5) * pixel  # (H, 1)
        x = (np.arange(spec.width) + 0.5) * width / spec.width  # (W,)
        if self.kind == "gradient":
            share = np.clip((y - FLOOR_HEIGHT) / (height - FLOOR_HEIGHT), 0, 1)
        elif self.kind == "two-tone":
            share = np.clip((FLOOR_HEIGHT + self.split - y) / pixel + 0.5, 0, 1)
        elif self.kind == "stripes":
            share = 0.5 - 0.5 * np.cos(2 * np.pi * (x / self.period + self.phase)) + 0 * y
        else:
            share = np.zeros_like(y)
        wall = self.wall + (self.other - self.wall) * share[..., None]
        below = np.clip((FLOOR_HEIGHT - y) / pixel + 0.5, 0, 1)[..., None]
        rows = wall + (self.floor - wall) * below  # (H, 1 or W, 3)
        return np.broadcast_to(rows.astype(np.float32), (spec.height, spec.width, 3))


def draw_backdrop(rng: np.random.Generator, kinds: tuple[Kind, ...] = KINDS) -> Backdrop:
    """Draw one; kinds are equally likely, and the same numbers are drawn for each."""
    kind = kinds[rng.integers(len(kinds))]
    tone, step, floor, split, period, phase = rng.uniform(size=6)
    tint = rng.uniform(-0.015, 0.015, size=3)
    wall = 0.12 + 0.22 * tone + tint
    other = wall + (0.08 + 0.10 * step) * (1 if tone < 0.6 else -1)
    lighter = 1.4 + 0.2 * floor if tone < 0.6 else 0.5 + 0.1 * floor
    if kind == "faint":
        lighter = 1.15
    beside = other if kind in ("two-tone", "stripes") else wall  # the tone next to the floor, or the nearest
    return Backdrop(kind, wall, other, beside * lighter, 0.2 + 0.4 * split, 0.15 + 0.25 * period, phase)
