"""Sibling systems on the same data, trainer, checkpoints and command line: one folder each.

A run's YAML names its system with the top-level key ``system``; without it the run is ours. To add one: a
package with a ``SYSTEM`` of type `pavdit.baselines.system.System`, and its name below. Nothing but
`pavdit.cli` imports this package.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from pavdit.config import ConfigError

if TYPE_CHECKING:
    from pavdit.baselines.system import System

SYSTEMS: dict[str, str] = {
    "mm-diffusion": "pavdit.baselines.mm_diffusion",
    "av-dit": "pavdit.baselines.av_dit",
}
"""The module of each system by name; imported when a run or a checkpoint names it."""


def find_system(name: str, source: str) -> System:
    """The system of a name.

    Args:
        name: one of `SYSTEMS`.
        source: what names it, for the message.

    Raises:
        ConfigError: there is none.
    """
    if name not in SYSTEMS:
        known = ", ".join(SYSTEMS)
        raise ConfigError(f"{source}: system: want one of {known} (none: pavdit's own), got {name!r}")
    system: System = importlib.import_module(SYSTEMS[name]).SYSTEM
    return system
