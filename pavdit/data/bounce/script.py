"""Drawing a scene: which objects do what, when and where."""

from __future__ import annotations

import colorsys
import math
from typing import Literal

import numpy as np

from pavdit.data.bounce.backdrop import KINDS, draw_backdrop
from pavdit.data.bounce.ground import Push, Roll, Slide
from pavdit.data.bounce.materials import HUE_SPREAD, MATERIALS, RADII, RADIUS_SPREAD
from pavdit.data.bounce.motion import (
    FLOOR_HEIGHT,
    MIN_EVENT_SPACING_SECONDS,
    Bounce,
    Clock,
    Flash,
    Motion,
    Wall,
)
from pavdit.data.bounce.scene import SHAPES, Body, Scene
from pavdit.data.bounce.words import SIMPLE_ACTIONS, caption, label

Scenes = Literal["all", "simple"]
"""`simple`: one object before a plain wall, and single hits for sounds."""

LAST_FIRST_EVENT = 0.75
"""Every object has an event, at the latest after this share of the clip, so that something is heard."""
PAIR_SHARE = 0.2
PAIR_ACTIONS = ("bounce", "flash", "slide", "clock")
PAIR_SIZES = ("small", "medium")
MIN_PAIR_SPACING_SECONDS = 0.15
"""Between events of two objects."""
PAIR_TRIES = 60
"""Drawings of two objects until their events are far enough apart; then one object is drawn instead."""


def draw_scene(
    rng: np.random.Generator, width: float, height: float, duration_seconds: float, scenes: Scenes = "all"
) -> Scene:
    """Draw one scene; materials, actions, sizes and backdrops are equally likely.

    Args:
        rng: consumed in a fixed order, so a seed means a scene.
        width: of the box, at least 1.
        height: of the box, at least 1.
        duration_seconds: of the clip.
        scenes: which part of the set.
    """
    simple = scenes == "simple"
    backdrop = draw_backdrop(rng, KINDS[:1] if simple else KINDS)
    bodies: tuple[Body, ...] = ()
    if not simple and rng.uniform() < PAIR_SHARE:
        bodies = _pair(rng, width, height, duration_seconds)
    if not bodies:
        material = list(MATERIALS)[rng.integers(len(MATERIALS))]
        actions = SIMPLE_ACTIONS if simple else tuple(SHAPES)
        bodies = (_body(rng, material, actions, tuple(RADII), 0.0, width, height, duration_seconds),)
    return Scene(bodies, backdrop, width, height, duration_seconds, label(bodies), caption(bodies, rng))


def _pair(rng: np.random.Generator, width: float, height: float, seconds: float) -> tuple[Body, ...]:
    """Two objects of different materials, each in its own half of the box; none where the tries ran out."""
    first, second = rng.permutation(len(MATERIALS))[:2]
    names = list(MATERIALS)
    for _ in range(PAIR_TRIES):
        left = _body(rng, names[first], PAIR_ACTIONS, PAIR_SIZES, 0.0, width / 2, height, seconds)
        right = _body(rng, names[second], PAIR_ACTIONS, PAIR_SIZES, width / 2, width, height, seconds)
        times, others = (np.array([e.time_seconds for e in b.motion.events()]) for b in (left, right))
        if np.abs(times[:, None] - others).min(initial=np.inf) >= MIN_PAIR_SPACING_SECONDS:
            return left, right
    return ()


def _body(
    rng: np.random.Generator,
    material: str,
    actions: tuple[str, ...],
    sizes: tuple[str, ...],
    left: float,
    right: float,
    height: float,
    seconds: float,
) -> Body:
    """An object that stays between the walls (or the middle of the box) at `left` and `right`."""
    action = actions[rng.integers(len(actions))]
    size = sizes[rng.integers(len(sizes))]
    radius = RADII[size] * rng.uniform(1 - RADIUS_SPREAD, 1 + RADIUS_SPREAD)
    hue = (MATERIALS[material].hue + rng.uniform(-HUE_SPREAD, HUE_SPREAD)) % 1.0
    reach = radius
    motion: Motion
    if action == "bounce":
        motion = _bounce(rng, radius, left, right, height, seconds)
    elif action == "wall":
        motion = _wall(rng, radius, right, height, seconds)
    elif action == "clock":
        # As long as the half of a box allows it, whatever the size.
        reach = min(0.11 + 1.5 * radius, 0.48 * (right - left))
        motion = _clock(rng, reach, left, right, height, seconds)
    elif action == "flash":
        motion = _flash(rng, radius, left, right, height, seconds)
    elif action == "roll":
        motion = _roll(rng, radius, right, seconds)
    else:
        motion = _slide(rng, radius, left, right, seconds)
    return Body(material, action, size, radius, reach, np.array(colorsys.hsv_to_rgb(hue, 0.85, 0.95)), motion)


def _bounce(
    rng: np.random.Generator, radius: float, left: float, right: float, height: float, seconds: float
) -> Bounce:
    apex = rng.uniform(0.3, height - FLOOR_HEIGHT - 2 * radius)
    gravity = rng.uniform(2.0, 6.0)
    fall = math.sqrt(2 * apex / gravity)
    x_from = rng.uniform(left + radius, right - radius)
    reach = 0.35 * seconds
    return Bounce(
        apex=apex,
        gravity=gravity,
        restitution=rng.uniform(0.68, 0.9),
        first_impact_seconds=rng.uniform(0.15, 0.95) * min(2 * fall, LAST_FIRST_EVENT * seconds),
        x_from=x_from,
        x_to=rng.uniform(max(left + radius, x_from - reach), min(right - radius, x_from + reach)),
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


def _clock(
    rng: np.random.Generator, reach: float, left: float, right: float, height: float, seconds: float
) -> Clock:
    period = rng.uniform(0.28, 0.55)
    return Clock(
        period_seconds=period,
        first_tick_seconds=rng.uniform(0.15, 0.95) * min(period, LAST_FIRST_EVENT * seconds),
        first_hour=int(rng.integers(12)),
        pivot=(rng.uniform(left + reach, right - reach), rng.uniform(reach, height - reach)),
        duration_seconds=seconds,
    )


def _flash(
    rng: np.random.Generator, radius: float, left: float, right: float, height: float, seconds: float
) -> Flash:
    drawn = np.sort(rng.uniform(0.08, 0.85, size=rng.integers(1, 4))) * seconds
    times = [min(float(drawn[0]), LAST_FIRST_EVENT * seconds)]
    for time in drawn[1:]:
        if time - times[-1] >= MIN_EVENT_SPACING_SECONDS:
            times.append(float(time))
    return Flash(
        tuple(times),
        x=rng.uniform(left + radius, right - radius),
        y=rng.uniform(FLOOR_HEIGHT + radius, height - radius),
    )


def _roll(rng: np.random.Generator, radius: float, width: float, seconds: float) -> Roll:
    push, speed = rng.uniform(0.15, 0.5) * seconds, rng.uniform(0.6, 1.4)
    x_from = rng.uniform(radius, width - radius)
    return Roll(
        x_from=x_from,
        to_right=x_from < width / 2,  # so that a wall comes at least MIN_EVENT_SPACING_SECONDS after the push
        speed=speed,
        slowing=rng.uniform(0.1, 0.4) * speed / (seconds - push),
        push_seconds=push,
        radius=radius,
        width=width,
        duration_seconds=seconds,
    )


def _slide(rng: np.random.Generator, radius: float, left: float, right: float, seconds: float) -> Slide:
    x = x_from = rng.uniform(left + radius, right - radius)
    time, pushes = rng.uniform(0.15, 0.5) * seconds, []
    while time < seconds - MIN_EVENT_SPACING_SECONDS:
        to_left, to_right = x - radius - left, right - radius - x
        room = min(0.4, max(to_left, to_right))
        way = rng.uniform(min(0.12, room), room) * (1 if to_right > to_left else -1)
        slide = rng.uniform(0.35, 0.6)
        pushes.append(Push(time, way, slide))
        x += way
        time += slide + rng.uniform(0.12, 0.4)
    return Slide(x_from, tuple(pushes), radius)
