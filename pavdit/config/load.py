"""From a YAML file and the command line to a validated run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from pavdit.config.model import ModelConfig
from pavdit.config.presets import PRESETS
from pavdit.config.run import RunConfig
from pavdit.config.schema import ConfigError, Model, one_line


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def assign(tree: dict[str, Any], assignment: str) -> None:
    """Apply ``key.key=value``, its value YAML, to a configuration tree.

    Raises:
        ConfigError: it is no assignment, or goes into a value.
    """
    key, equals, value = assignment.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set: want key.key=value, got {assignment!r}")
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {assignment}: {parent} is a value, not a section")
        node = child
    node[last] = yaml.safe_load(value)


Kind = TypeVar("Kind", bound=Model)


def parse_as(kind: type[Kind], tree: dict[str, Any], source: str) -> Kind:
    """Validate a configuration tree of any kind.

    Raises:
        ConfigError: unknown key, wrong type, or values that exclude each other; names `source`.
    """
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{source}: {one_line(error)}") from None


def parse_run(tree: dict[str, Any], source: str = "config", model: ModelConfig | None = None) -> RunConfig:
    """Validate a configuration tree; ``model.preset: NAME`` fills what ``model`` leaves out.

    Args:
        tree: as read.
        source: for messages.
        model: fills it where no preset is named.

    Raises:
        ConfigError: unknown key or preset, wrong type, or values that exclude each other; names `source`.
    """
    tree = dict(tree)
    own = tree.get("model", {} if model is not None else None)
    if isinstance(own, dict) and "preset" in own:
        own = dict(own)
        preset = own.pop("preset")
        if preset not in PRESETS:
            raise ConfigError(f"{source}: model.preset: want one of {', '.join(PRESETS)}, got {preset!r}")
        tree["model"] = _merge(PRESETS[preset]().model_dump(mode="json"), own)
    elif isinstance(own, dict) and model is not None:
        tree["model"] = _merge(model.model_dump(mode="json"), own)
    return parse_as(RunConfig, tree, source)


def read_run(path: Path, assignments: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a YAML run configuration of any system and apply ``key.key=value`` assignments.

    Raises:
        ConfigError: the file is missing, or is not YAML.
    """
    try:
        tree = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: want a YAML file, got no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: want a readable YAML file, got {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: want a mapping at the top, got {type(tree).__name__}")
    for assignment in assignments:
        assign(tree, assignment)
    return tree


def load_run(path: Path, assignments: tuple[str, ...] = ()) -> RunConfig:
    """A run of ours from a YAML file and ``key.key=value`` assignments.

    Raises:
        ConfigError: the file is missing, is not YAML, or does not validate.
    """
    return parse_run(read_run(path, assignments), str(path))
