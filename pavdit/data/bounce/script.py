"""Drawing a scene: which object does what, when, and the words for it."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass

import numpy as np

from pavdit.data.bounce.scene import (
    FLOOR_HEIGHT,
    MATERIALS,
    MIN_EVENT_SPACING_SECONDS,
    RADII,
    Action,
    Bounce,
    Clock,
    Flash,
    Material,
    Wall,
)

VERBS = {
    "bounce": "bounces on the floor",
    "wall": "hits the walls",
    "clock": "ticks round like a clock hand",
    "flash": "lights up and rings",
}
CLASS_NAMES = tuple(sorted(f"{material}_{action}" for material in MATERIALS for action in VERBS))
LAST_FIRST_EVENT = 0.75
"""Every clip has an event, at the latest after this share of it, so that something is heard."""


@dataclass(frozen=True, slots=True)
class Scene:
    """One clip before it is seen or heard.

    Attributes:
        material: how the object looks and sounds.
        action: how it moves.
        radius: of the ball, in units of the box's shorter side.
        width: of the box.
        height: of the box.
        duration_seconds: of the clip.
        colour: ``(3,)`` of the ball, 0 to 1.
        background: ``(3,)`` of the wall behind, 0 to 1.
        label: class name, e.g. ``metal_bounce``.
        caption: a sentence.
    """

    material: Material
    action: Action
    radius: float
    width: float
    height: float
    duration_seconds: float
    colour: np.ndarray
    background: np.ndarray
    label: str
    caption: str


def _bounce(rng: np.random.Generator, radius: float, width: float, height: float, seconds: float) -> Bounce:
    apex = rng.uniform(0.3, height - FLOOR_HEIGHT - 2 * radius)
    gravity = rng.uniform(2.0, 6.0)
    fall = math.sqrt(2 * apex / gravity)
    x_from = rng.uniform(radius, width - radius)
    reach = 0.35 * seconds
    return Bounce(
        apex=apex,
        gravity=gravity,
        restitution=rng.uniform(0.68, 0.9),
        first_impact_seconds=rng.uniform(0.15, 0.95) * min(2 * fall, LAST_FIRST_EVENT * seconds),
        x_from=x_from,
        x_to=rng.uniform(max(radius, x_from - reach), min(width - radius, x_from + reach)),
        radius=radius,
        duration_seconds=seconds,
    )


def _wall(rng: np.random.Generator, radius: float, width: float, height: float, seconds: float) -> Wall:
    speed = rng.uniform(0.7, 1.6)
    crossing = (width - 2 * radius) / speed
    return Wall(
        speed=speed,
        first_impact_seconds=rng.uniform(0.15, 0.95) * min(crossing, LAST_FIRST_EVENT * seconds),
        first_wall_is_right=bool(rng.integers(2)),
        y=rng.uniform(FLOOR_HEIGHT + radius, height - radius),
        radius=radius,
        width=width,
        duration_seconds=seconds,
    )


def _clock(rng: np.random.Generator, width: float, height: float, seconds: float) -> Clock:
    period = rng.uniform(0.28, 0.55)
    return Clock(
        period_seconds=period,
        first_tick_seconds=rng.uniform(0.15, 0.95) * min(period, LAST_FIRST_EVENT * seconds),
        first_hour=int(rng.integers(12)),
        centre=(width / 2, height / 2),
        duration_seconds=seconds,
    )


def _flash(rng: np.random.Generator, radius: float, width: float, height: float, seconds: float) -> Flash:
    drawn = np.sort(rng.uniform(0.08, 0.85, size=rng.integers(1, 4))) * seconds
    times = [float(drawn[0])]
    for time in drawn[1:]:
        if time - times[-1] >= MIN_EVENT_SPACING_SECONDS:
            times.append(float(time))
    if times[0] > LAST_FIRST_EVENT * seconds:
        times[0] = LAST_FIRST_EVENT * seconds
    return Flash(
        tuple(times),
        x=rng.uniform(0.3, 0.7) * width,
        y=rng.uniform(FLOOR_HEIGHT + radius, height - radius),
    )


def draw_scene(rng: np.random.Generator, width: float, height: float, duration_seconds: float) -> Scene:
    """Draw one scene; materials, actions and sizes are equally likely.

    Args:
        rng: consumed in a fixed order, so a seed means a scene.
        width: of the box, at least 1.
        height: of the box, at least 1.
        duration_seconds: of the clip.
    """
    material = list(MATERIALS)[rng.integers(len(MATERIALS))]
    action = list(VERBS)[rng.integers(len(VERBS))]
    size = list(RADII)[rng.integers(len(RADII))]
    radius = RADII[size] * rng.uniform(0.93, 1.07)
    hue = (MATERIALS[material].hue + rng.uniform(-0.02, 0.02)) % 1.0
    background = np.array([0.12, 0.12, 0.16]) + rng.uniform(0, 0.12)
    motion: Action
    if action == "bounce":
        motion = _bounce(rng, radius, width, height, duration_seconds)
    elif action == "wall":
        motion = _wall(rng, radius, width, height, duration_seconds)
    elif action == "clock":
        motion = _clock(rng, width, height, duration_seconds)
    else:
        motion = _flash(rng, radius, width, height, duration_seconds)
    count = len(motion.events())
    return Scene(
        material=MATERIALS[material],
        action=motion,
        radius=radius,
        width=width,
        height=height,
        duration_seconds=duration_seconds,
        colour=np.array(colorsys.hsv_to_rgb(hue, 0.85, 0.95)),
        background=background,
        label=f"{material}_{action}",
        caption=f"a {size} {material} ball {VERBS[action]} {count} time{'' if count == 1 else 's'}",
    )
