"""How objects move, in closed form: balls that bounce and hit walls, a clock's hand, a lamp.

An object moves in a box whose shorter side is 1, x to the right, y up, time in seconds. Everything follows
from a few numbers by formula, so an event has an exact real time that no frame rate, sample rate or
picture size enters. Picture and sound are two views of the same motion.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from pavdit.clip import Event

FLOOR_HEIGHT = 0.12
MIN_EVENT_SPACING_SECONDS = 0.25
"""Between events of one object."""
FULL_SPEED = 3.0
"""Impact speed, in box units per second, of strength 1."""
GLOW_SECONDS = 0.12
"""Time in which a flash falls to 1/e."""
DIM = 0.25
"""Brightness without a flash."""


class State(NamedTuple):
    """An object at some instants, arrays of one shape.

    Attributes:
        x: of its centre, or of a hand's pivot.
        y: likewise.
        angle: radians clockwise, of a hand from noon, of a ball since it began to roll.
        light: brightness, 0 to 1.
    """

    x: np.ndarray
    y: np.ndarray
    angle: np.ndarray
    light: np.ndarray


class Motion(Protocol):
    """A way to move and sound; all times are seconds from the start of the clip."""

    def events(self) -> tuple[Event, ...]:
        """What is heard to begin, in order of time."""

    def state(self, t: np.ndarray) -> State:
        """Where the object is at the times `t`."""


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

    def state(self, t: np.ndarray) -> State:
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
        return State(x, FLOOR_HEIGHT + self.radius + height, np.zeros_like(t), np.ones_like(t))


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

    def state(self, t: np.ndarray) -> State:
        """A triangle wave with its corners at the impacts."""
        span = self.width - 2 * self.radius
        phase = np.mod(self.speed * (t - self.first_impact_seconds) / span, 2.0)
        from_first_wall = span * np.minimum(phase, 2.0 - phase)
        x = self.radius + (span - from_first_wall if self.first_wall_is_right else from_first_wall)
        return State(x, np.full_like(t, self.y), np.zeros_like(t), np.ones_like(t))


@dataclass(frozen=True, slots=True)
class Clock:
    """A hand jumps by a twelfth of a turn round its pivot at every tick."""

    period_seconds: float
    first_tick_seconds: float
    first_hour: int
    pivot: tuple[float, float]
    duration_seconds: float

    def events(self) -> tuple[Event, ...]:
        """Every tick."""
        times = np.arange(self.first_tick_seconds, self.duration_seconds, self.period_seconds)
        return tuple(Event(float(t), "tick", 0.6) for t in times)

    def state(self, t: np.ndarray) -> State:
        """Still between the ticks."""
        times = [event.time_seconds for event in self.events()]
        ticks = np.searchsorted(times, t, side="right")
        angle = 2 * np.pi * (self.first_hour + ticks) / 12
        return State(np.full_like(t, self.pivot[0]), np.full_like(t, self.pivot[1]), angle, np.ones_like(t))


@dataclass(frozen=True, slots=True)
class Flash:
    """A ball stands still, lights up and glows out."""

    times_seconds: tuple[float, ...]
    x: float
    y: float

    def events(self) -> tuple[Event, ...]:
        """Every flash."""
        return tuple(Event(t, "flash", 0.8) for t in self.times_seconds)

    def state(self, t: np.ndarray) -> State:
        """Dim before the first flash and long after one."""
        age = t[..., None] - np.array(self.times_seconds)
        glow = np.where(age >= 0, np.exp(-np.maximum(age, 0) / GLOW_SECONDS), 0.0).max(axis=-1)
        return State(
            np.full_like(t, self.x), np.full_like(t, self.y), np.zeros_like(t), DIM + (1 - DIM) * glow
        )
