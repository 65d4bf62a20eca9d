"""Class names and captions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from pavdit.data.bounce.materials import MATERIALS
from pavdit.data.bounce.scene import SHAPES, Body

SIMPLE_ACTIONS = ("bounce", "wall", "clock", "flash")
"""Of the simple part of the set: whose sounds are single hits."""
SIMPLE_CLASS_NAMES = tuple(
    sorted(f"{material}_{action}" for material in MATERIALS for action in SIMPLE_ACTIONS)
)
CLASS_NAMES = tuple(
    sorted(
        [f"{material}_{action}" for material in MATERIALS for action in SHAPES]
        + [f"{a}_and_{b}" for a, b in combinations(sorted(MATERIALS), 2)]
    )
)

VERBS = {
    "bounce": ("bounces on the floor", "bouncing on the floor"),
    "wall": ("hits the walls", "hitting the walls"),
    "clock": ("ticks", "ticking"),
    "flash": ("lights up and rings", "lighting up and ringing"),
    "roll": ("rolls along the floor", "rolling along the floor"),
    "slide": ("slides over the floor", "sliding over the floor"),
}
"""What each action is called, for a sentence and beside a noun."""
NOUNS = {"ball": "ball", "block": "block", "hand": "clock hand"}


def label(bodies: Sequence[Body]) -> str:
    """``<material>_<action>``, or for two objects ``<material>_and_<material>`` in order of the alphabet."""
    if len(bodies) == 1:
        return f"{bodies[0].material_name}_{bodies[0].action}"
    return "_and_".join(sorted(body.material_name for body in bodies))


def caption(bodies: Sequence[Body], rng: np.random.Generator) -> str:
    """One of several wordings for one object or two."""
    wordings = _one(bodies[0]) if len(bodies) == 1 else _two(*bodies)
    return wordings[rng.integers(len(wordings))]


def _one(body: Body) -> tuple[str, ...]:
    verb, doing = VERBS[body.action]
    thing = f"{body.material_name} {NOUNS[body.shape]}"
    return (
        f"a {body.size} {thing} {verb} {_times(body)}",
        f"a {body.size} {thing} {verb}",
        f"a {thing} {verb}",
        f"the sound of a {thing} {doing}",
        f"{body.size} {thing} {doing}",
        f"{body.material_name} {body.action}",
    )


def _two(a: Body, b: Body) -> tuple[str, ...]:
    (first, first_doing), (second, second_doing) = VERBS[a.action], VERBS[b.action]
    thing, other = (f"{body.material_name} {NOUNS[body.shape]}" for body in (a, b))
    return (
        f"a {a.size} {thing} {first} while a {b.size} {other} {second}",
        f"a {thing} {first} {_times(a)} while a {other} {second} {_times(b)}",
        f"a {thing} {first} and a {other} {second}",
        f"the sound of a {thing} {first_doing} and a {other} {second_doing}",
        f"{a.material_name} {a.action} and {b.material_name} {b.action}",
    )


def _times(body: Body) -> str:
    """How often it happens; of rolling, how often a wall is hit."""
    count = len(body.motion.events())
    if body.action == "roll":
        count -= 1
        return "and hits no wall" if count == 0 else f"and hits a wall {_number(count)}"
    return _number(count)


def _number(count: int) -> str:
    return f"{count} time{'' if count == 1 else 's'}"
