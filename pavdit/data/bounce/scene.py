"""What happens in a clip of the procedural set: motion and events in closed form.

A ball moves in a box whose shorter side is 1, x to the right, y up, time in seconds. Everything follows
from a few numbers by formula, so an event has an exact real time that no frame rate, sample rate or
picture size enters. Picture and sound are two views of the same motion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pavdit.clip import Event

FLOOR_HEIGHT = 0.12
MIN_EVENT_SPACING_SECONDS = 0.25
FULL_SPEED = 3.0
"""Impact speed, in box units per second, of strength 1."""


@dataclass(frozen=True, slots=True)
class Material:
    """How an object looks and sounds.

    Attributes:
        mode_ratios: frequencies of the partials over the lowest.
        decays_seconds: time in which each partial falls to 1/e.
        click: level of the noise at the impact.
        hue: 0 to 1.
    """

    mode_ratios: tuple[float, ...]
    decays_seconds: tuple[float, ...]
    click: float
    hue: float


MATERIALS = {
    "rubber": Material((1.0, 1.59), (0.06, 0.03), 0.10, 0.00),
    "wood": Material((1.0, 2.57, 4.24), (0.09, 0.05, 0.03), 0.25, 0.09),
    "metal": Material((1.0, 2.76, 5.40, 8.93), (0.45, 0.35, 0.22, 0.15), 0.08, 0.60),
    "glass": Material((1.0, 2.32, 4.25, 6.63), (0.22, 0.16, 0.10, 0.07), 0.05, 0.45),
    "drum": Material((1.0, 1.59, 2.14, 2.65), (0.18, 0.12, 0.10, 0.08), 0.35, 0.80),
}
"""Partials as of a wooden bar, a free metal bar, the rim of a glass, a round membrane."""

RADII = {"small": 0.05, "medium": 0.085, "large": 0.13}
"""Of the ball, in box units."""


class Action(Protocol):
    """A way to move and sound; all times are seconds from the start of the clip."""

    def events(self) -> tuple[Event, ...]:
        """What is heard, in order of time."""

    def state(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """x, y of the ball's centre and its brightness (0 to 1) at the times `t`, arrays of one shape."""


@dataclass(frozen=True, slots=True)
class Bounce:
    """A ball falls and bounces on the floor.

    Impact k comes at ``first_impact + 2 v / g (e + … + e^k)`` with speed ``v e^k``, where ``v = sqrt(2 g
    apex)`` and e is the restitution. The ball lies still after an impact whose flight would be shorter
    than `MIN_EVENT_SPACING_SECONDS`. It drifts sideways from `x_from` to `x_to` and reaches no wall.
    """

    apex: float
    gravity: float
    restitution: float
    first_impact_seconds: float
    x_from: float
    x_to: float
    radius: float
    duration_seconds: float

    def impacts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Times of the impacts in the clip, the speeds just before and just after them."""
        time, speed = self.first_impact_seconds, math.sqrt(2 * self.gravity * self.apex)
        hits: list[tuple[float, float, float]] = []
        rebound = math.inf
        while time < self.duration_seconds and rebound > 0:
            rebound = speed * self.restitution
            flight = 2 * rebound / self.gravity
            rebound = rebound if flight >= MIN_EVENT_SPACING_SECONDS else 0.0
            hits.append((time, speed, rebound))
            time, speed = time + flight, rebound
        times, before, after = np.array(hits).reshape(-1, 3).T
        return times, before, after

    def events(self) -> tuple[Event, ...]:
        """Every impact, as hard as it is fast."""
        times, speeds, _ = self.impacts()
        return tuple(
            Event(float(t), "floor", min(1.0, float(v) / FULL_SPEED))
            for t, v in zip(times, speeds, strict=True)
        )

    def state(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Parabolas between the impacts."""
        times, _, rebounds = self.impacts()
        # The flight under way at t = 0 began as long before its apex as it lands after it.
        fall = math.sqrt(2 * self.apex / self.gravity)
        starts = np.concatenate(([self.first_impact_seconds - 2 * fall], times))
        speeds = np.concatenate(([self.gravity * fall], rebounds))
        flight = np.searchsorted(starts, t, side="right") - 1
        since = t - starts[flight]
        height = np.maximum(0.0, since * (speeds[flight] - 0.5 * self.gravity * since))
        x = self.x_from + (self.x_to - self.x_from) * t / self.duration_seconds
        return x, FLOOR_HEIGHT + self.radius + height, np.ones_like(t)


@dataclass(frozen=True, slots=True)
class Wall:
    """A ball flies to and fro between two walls without loss, at one height."""

    speed: float
    first_impact_seconds: float
    first_wall_is_right: bool
    y: float
    radius: float
    width: float
    duration_seconds: float

    def events(self) -> tuple[Event, ...]:
        """One impact each time that the ball has crossed the box."""
        crossing = (self.width - 2 * self.radius) / self.speed
        times = np.arange(self.first_impact_seconds, self.duration_seconds, crossing)
        return tuple(Event(float(t), "wall", min(1.0, self.speed / FULL_SPEED)) for t in times)

    def state(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A triangle wave with its corners at the impacts."""
        span = self.width - 2 * self.radius
        phase = np.mod(self.speed * (t - self.first_impact_seconds) / span, 2.0)
        from_first_wall = span * np.minimum(phase, 2.0 - phase)
        x = self.radius + (span - from_first_wall if self.first_wall_is_right else from_first_wall)
        return x, np.full_like(t, self.y), np.ones_like(t)


@dataclass(frozen=True, slots=True)
class Clock:
    """A ball jumps by a twelfth of a turn round the centre at every tick."""

    period_seconds: float
    first_tick_seconds: float
    first_hour: int
    centre: tuple[float, float]
    duration_seconds: float

    def events(self) -> tuple[Event, ...]:
        """Every tick."""
        times = np.arange(self.first_tick_seconds, self.duration_seconds, self.period_seconds)
        return tuple(Event(float(t), "tick", 0.6) for t in times)

    def state(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Still between the ticks."""
        ticks = np.floor((t - self.first_tick_seconds) / self.period_seconds) + 1
        angle = 2 * np.pi * (self.first_hour + np.maximum(0, ticks)) / 12
        return self.centre[0] + 0.3 * np.sin(angle), self.centre[1] + 0.3 * np.cos(angle), np.ones_like(t)


@dataclass(frozen=True, slots=True)
class Flash:
    """A ball stands still, lights up and glows out (0.12 s to 1/e)."""

    times_seconds: tuple[float, ...]
    x: float
    y: float

    def events(self) -> tuple[Event, ...]:
        """Every flash."""
        return tuple(Event(t, "flash", 0.8) for t in self.times_seconds)

    def state(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Dim before the first flash and long after one."""
        age = t[..., None] - np.array(self.times_seconds)
        glow = np.where(age >= 0, np.exp(-np.maximum(age, 0) / 0.12), 0.0).max(axis=-1)
        return np.full_like(t, self.x), np.full_like(t, self.y), 0.25 + 0.75 * glow
