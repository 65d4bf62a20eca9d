"""What every configuration is: frozen, without unknown keys, refused in one line."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line."""


class Model(BaseModel):
    """Base of all configuration: frozen, unknown keys rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def one_line(error: ValidationError) -> str:
    """A pydantic report as ``key: what; key: what``."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg'].removeprefix('Value error, ')}"
        + (f" (got {e['input']!r})" if e["type"] not in ("value_error", "missing") else "")
        for e in error.errors()
    )
