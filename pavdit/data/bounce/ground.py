"""How objects move along the floor once they are pushed, and are heard as long as they move."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pavdit.clip import Event
from pavdit.data.bounce.motion import FLOOR_HEIGHT, FULL_SPEED, State


@dataclass(frozen=True, slots=True)
class Roll:
    """A ball lies still, is pushed, rolls and turns at the walls; friction slows it by `slowing`.

    Its way is ``v u - a u^2 / 2`` at u seconds after the push; it hits a wall wherever that way is the
    distance to the first wall and whole widths more.
    """

    x_from: float
    to_right: bool
    speed: float
    slowing: float
    push_seconds: float
    radius: float
    width: float
    duration_seconds: float

    def _way(self, t: np.ndarray) -> np.ndarray:
        """Length rolled until `t`."""
        u = np.clip(t - self.push_seconds, 0, self.speed / self.slowing)
        return u * (self.speed - 0.5 * self.slowing * u)

    def _first_way(self) -> float:
        """Length from the start to the first wall."""
        return (self.width - self.radius - self.x_from) if self.to_right else self.x_from - self.radius

    def ground_speed(self, t: np.ndarray) -> np.ndarray:
        """Box units per second."""
        u = t - self.push_seconds
        return np.where(u >= 0, np.maximum(0, self.speed - self.slowing * u), 0.0)

    def events(self) -> tuple[Event, ...]:
        """The push, and every wall."""
        found = [Event(self.push_seconds, "push", min(1.0, self.speed / FULL_SPEED))]
        way = self._first_way()
        while (square := self.speed**2 - 2 * self.slowing * way) > 0:
            time = self.push_seconds + (self.speed - math.sqrt(square)) / self.slowing
            if time >= self.duration_seconds:
                break
            found.append(Event(time, "wall", min(1.0, math.sqrt(square) / FULL_SPEED)))
            way += self.width - 2 * self.radius
        return tuple(found)

    def state(self, t: np.ndarray) -> State:
        """A triangle wave of the way; the ball turns with it."""
        span = self.width - 2 * self.radius
        way = self._way(t)
        phase = np.mod((way - self._first_way()) / span, 2.0)
        from_first_wall = span * np.minimum(phase, 2.0 - phase)
        x = self.radius + (span - from_first_wall if self.to_right else from_first_wall)
        return State(x, np.full_like(t, FLOOR_HEIGHT + self.radius), way / self.radius, np.ones_like(t))


@dataclass(frozen=True, slots=True)
class Push:
    """A block is pushed and comes to rest.

    Attributes:
        time_seconds: when.
        way: how far it slides, to the right where positive.
        slide_seconds: how long; friction is constant, so it starts at ``2 way / slide_seconds``.
    """

    time_seconds: float
    way: float
    slide_seconds: float


@dataclass(frozen=True, slots=True)
class Slide:
    """A block on the floor is pushed now and then; friction brings it to rest before the next push."""

    x_from: float
    pushes: tuple[Push, ...]
    radius: float

    def ground_speed(self, t: np.ndarray) -> np.ndarray:
        """Box units per second."""
        speed = np.zeros_like(t)
        for push in self.pushes:
            u = (t - push.time_seconds) / push.slide_seconds
            inside = (u >= 0) & (u < 1)
            speed += np.where(inside, 2 * abs(push.way) / push.slide_seconds * (1 - u), 0.0)
        return speed

    def events(self) -> tuple[Event, ...]:
        """Every push."""
        return tuple(
            Event(push.time_seconds, "push", min(1.0, 2 * abs(push.way) / push.slide_seconds / FULL_SPEED))
            for push in self.pushes
        )

    def state(self, t: np.ndarray) -> State:
        """Parabolas that end at rest."""
        x = np.full_like(t, self.x_from)
        for push in self.pushes:
            u = np.clip((t - push.time_seconds) / push.slide_seconds, 0, 1)
            x += push.way * u * (2 - u)
        return State(x, np.full_like(t, FLOOR_HEIGHT + self.radius), np.zeros_like(t), np.ones_like(t))
