"""Generators with adapters: whose they are, found, put on, merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pavdit.config import AdapterConfig, ModelConfig
from pavdit.flow.step_cache import exactly
from pavdit.latents import PlaneLayout
from pavdit.nn.adapters import Adapters, Weighted, adapt, merge
from pavdit.nn.twin import twin
from pavdit.stdit.model import STDiT
from pavdit.train.checkpoint import Checkpoint, CheckpointError, load_weights, open_checkpoint
from pavdit.train.models import Generator
from pavdit.weights import find_weights


def with_adapters(backbone: Generator, adapters: Weighted) -> Generator:
    """A generator on the backbone's weights, which stay as they are."""
    adapted = twin(backbone)
    adapted.stdit = adapt(backbone.stdit, adapters)
    return adapted


def open_backbone(path: Path | str) -> Checkpoint:
    """The checkpoint of a generator, to be adapted.

    Raises:
        CheckpointError: nothing is there, it is damaged, or it is no generator's.
    """
    saved = open_checkpoint(find_weights(path))
    if saved.config.train.stage != "generator":
        raise CheckpointError(
            f"{path}: want a generator's checkpoint as backbone, got one of stage {saved.config.train.stage}"
        )
    return saved


def backbone_model(tree: Mapping[str, Any]) -> ModelConfig | None:
    """The sizes that an adapter's run leaves to its backbone; None where the tree is no such run."""
    train, adapter = tree.get("train"), tree.get("adapter")
    if not isinstance(train, dict) or train.get("stage") != "adapter":
        return None
    if not isinstance(adapter, dict) or not isinstance(adapter.get("backbone"), str):
        return None
    return open_backbone(adapter["backbone"]).config.model


def hashes(saved: Checkpoint) -> tuple[str, ...]:
    """The names of a generator's weights: its own, and of exported ones those that they were before."""
    exported = saved.state.get("exported", {}).get("model")
    return (saved.model_hash,) if exported is None else (saved.model_hash, exported)


def require_adapter(saved: Checkpoint, want: AdapterConfig) -> None:
    """Refuse to go on with adapters of another shape or backbone.

    Raises:
        CheckpointError: names every option that differs, with both values.
    """
    ours = want.model_dump(mode="json", exclude={"backbone"})
    theirs = {} if saved.config.adapter is None else saved.config.adapter.model_dump(mode="json")
    different = [key for key in ours if ours[key] != theirs.get(key)]
    if different:
        raise CheckpointError(
            f"{saved.path}: want {', '.join(f'adapter.{key} {ours[key]}' for key in different)}, "
            f"got {', '.join(f'{key} {theirs.get(key)}' for key in different)}"
        )


def load_adapters(path: str | Path, backbone: Checkpoint, stdit: STDiT) -> tuple[Adapters, str]:
    """Averaged adapters of a run, a checkpoint or an export, for the weights that they were trained on.

    Returns:
        The adapters, float32 on the CPU, and what names them.

    Raises:
        CheckpointError: nothing is there, it is damaged, holds no adapters, or those of another backbone.
    """
    saved = open_checkpoint(Path(path))
    shape = saved.config.adapter
    if shape is None:
        raise CheckpointError(
            f"{path}: want adapters (train.stage adapter), got weights of stage {saved.config.train.stage}"
        )
    if shape.backbone_hash not in hashes(backbone):
        raise CheckpointError(
            f"{path}: want adapters of the backbone {backbone.model_hash} in {backbone.path}, "
            f"got those of {shape.backbone_hash} ({shape.backbone})"
        )
    adapters = Adapters(stdit, shape)
    load_weights(adapters, saved.tensors("ema"), saved.path / "ema.safetensors")
    return adapters.requires_grad_(False).eval(), saved.model_hash


def adapted_hash(backbone: str, adapters: Sequence[tuple[str, float]]) -> str:
    """Names weights with adapters: ``BACKBONE+ADAPTERS*STRENGTH``."""
    return "+".join([backbone, *(f"{name}*{exactly(strength)}" for name, strength in adapters)])


def load_adapted(
    saved: Checkpoint, generator: Generator, adapters: Mapping[str, float]
) -> tuple[Generator, str]:
    """A generator with the adapters of some folders, each of some strength, and what names it.

    Raises:
        CheckpointError: as `load_adapters`.
        ValueError: two of them cannot be together.
    """
    loaded = [(*load_adapters(path, saved, generator.stdit), weight) for path, weight in adapters.items()]
    adapted = with_adapters(generator, [(one, weight) for one, _, weight in loaded])
    return adapted, adapted_hash(saved.model_hash, [(name, weight) for _, name, weight in loaded])


def merged_tensors(saved: Checkpoint, adapters: Mapping[str, float]) -> tuple[dict[str, Tensor], str]:
    """The averaged generator of a checkpoint with adapters merged into its weights, and what names them all.

    Raises:
        CheckpointError: as `load_adapters`.
        ValueError: an adapter is no update of weights.
    """
    tensors, model = saved.tensors("ema"), saved.config.model
    stdit = STDiT(model.stdit, PlaneLayout.choose(model.grid, model.stdit.layout), model.mdsa.latent_channels)
    prefix = "stdit."
    own = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    load_weights(stdit, own, saved.path / "ema.safetensors")
    loaded = [(*load_adapters(path, saved, stdit), weight) for path, weight in adapters.items()]
    merged = merge(stdit, [(one, weight) for one, _, weight in loaded])
    tensors |= {f"{prefix}{name}": t for name, t in merged.state_dict().items()}
    return tensors, adapted_hash(saved.model_hash, [(name, weight) for _, name, weight in loaded])
