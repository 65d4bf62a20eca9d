"""Adapters: which layers of a frozen transformer they sit on, how large they are, and whose they are."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, model_validator

from pavdit.config.schema import Model


class AdapterShape(Model):
    """Places and sizes of adapters. A place is the name of a module of the backbone or a pattern."""

    rank: int = Field(8, ge=1)
    """r of the low-rank updates (LoRA)."""
    alpha: float | None = Field(None, gt=0)
    """An update counts alpha / rank; None is rank, so that it counts whole."""
    targets: tuple[str, ...] = ("blocks.*",)
    """Linear layers that get a low-rank update; none: ()."""
    temporal: tuple[str, ...] = ()
    """Modules behind which attention across frames is added, for example ``blocks.*.attention``."""
    temporal_ratio: int = Field(8, ge=1)
    """Its queries and keys are narrower by this."""
    bottleneck: tuple[str, ...] = ()
    """Modules beside which a narrow MLP is added, for example ``blocks.*.mlp``."""
    bottleneck_ratio: int = Field(2, ge=1)
    """The width over that of its hidden layer."""

    @model_validator(mode="after")
    def _check_places(self) -> AdapterShape:
        if not self.targets + self.temporal + self.bottleneck:
            raise ValueError("adapter: want targets, temporal or bottleneck, got none of them")
        return self


class AdapterConfig(AdapterShape):
    """Adapters of a trained generator, for `train.stage: adapter`."""

    backbone: Path
    """Checkpoint, run directory or bundled weights of the generator that stays as it is."""
    backbone_hash: str = ""
    """Names its weights; filled in when training begins."""
