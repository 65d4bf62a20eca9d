"""A clip before it is seen or heard: which objects there are, what each does, and the words for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pavdit.clip import Event
from pavdit.data.bounce.backdrop import Backdrop
from pavdit.data.bounce.materials import MATERIALS, Material
from pavdit.data.bounce.motion import Motion

SHAPES = {
    "bounce": "ball",
    "wall": "ball",
    "clock": "hand",
    "flash": "ball",
    "roll": "ball",
    "slide": "block",
}
"""What does each action; the keys are all actions."""


@dataclass(frozen=True, slots=True)
class Body:
    """One object.

    Attributes:
        material_name: a key of `MATERIALS`.
        action: a key of `SHAPES`.
        size: a key of `RADII`.
        radius: of a ball, half the side of a block, what a hand's measures follow; in box units.
        reach: how far the object extends from its centre, a hand from its pivot.
        colour: ``(3,)``, 0 to 1.
        motion: where it is when, and its events.
    """

    material_name: str
    action: str
    size: str
    radius: float
    reach: float
    colour: np.ndarray
    motion: Motion

    @property
    def material(self) -> Material:
        """How it looks and sounds."""
        return MATERIALS[self.material_name]

    @property
    def shape(self) -> str:
        """``ball``, ``block`` or ``hand``."""
        return SHAPES[self.action]

    @property
    def half_width(self) -> float:
        """Of a hand; of the others their radius."""
        return 0.012 + 0.35 * self.radius if self.shape == "hand" else self.radius


@dataclass(frozen=True, slots=True)
class Scene:
    """All that there is to know of a clip.

    Attributes:
        bodies: one object or two, from left to right.
        backdrop: what lies behind.
        width: of the box, whose shorter side is 1.
        height: of the box.
        duration_seconds: of the clip.
        label: class name: ``metal_bounce``, or ``glass_and_metal`` for two objects.
        caption: a sentence or a few words.
    """

    bodies: tuple[Body, ...]
    backdrop: Backdrop
    width: float
    height: float
    duration_seconds: float
    label: str
    caption: str

    def owned_events(self) -> tuple[tuple[Event, int], ...]:
        """The events of all objects in order of time, each with the place of its object in `bodies`."""
        owned = [(event, i) for i, body in enumerate(self.bodies) for event in body.motion.events()]
        return tuple(sorted(owned, key=lambda pair: pair[0].time_seconds))

    def events(self) -> tuple[Event, ...]:
        """The events of all objects in order of time."""
        return tuple(event for event, _ in self.owned_events())
