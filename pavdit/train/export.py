"""A checkpoint for others to use: the averaged weights alone, small, without the places of their training.

It is a checkpoint directory like any other, under a name of its own, but without optimiser and trained copy,
in bfloat16, and in files small enough for a repository.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pavdit.train.adapted import merged_tensors
from pavdit.train.checkpoint import Checkpoint, Run, open_checkpoint, publish, temporary_beside

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}

FILE_BYTES = 16_000_000
"""What a file may have."""
HEADER_BYTES = 160
"""What the header of a safetensors file says of one tensor besides its name, and a share of the rest."""


def export(
    saved: Checkpoint[Run], folder: Path, dtype: str = "bfloat16", file_bytes: int = FILE_BYTES
) -> Checkpoint[Run]:
    """Write the averaged weights of a checkpoint of either stage as a checkpoint of their own.

    Args:
        saved: a verified checkpoint; a generator's carries its autoencoder.
        folder: the new checkpoint; nothing is there yet.
        dtype: of the weights in the files; models are loaded in float32.
        file_bytes: what lies in one file at most; a tensor beyond that fills its own.

    Returns:
        The new checkpoint, read back.

    Raises:
        ValueError: there is no such dtype, or `folder` exists.
        OSError: the disk is full; nothing is left.
    """
    stems = [stem for stem in ("autoencoder", "ema") if saved.has(stem)]
    return _publish(
        saved, {stem: saved.tensors(stem) for stem in stems}, saved.model_hash, folder, dtype, file_bytes
    )


def export_merged(
    saved: Checkpoint,
    adapters: Mapping[str, float],
    folder: Path,
    dtype: str = "bfloat16",
    file_bytes: int = FILE_BYTES,
) -> Checkpoint:
    """Write a generator whose weights have adapters merged into them, as a checkpoint of its own.

    Args:
        saved: the backbone.
        adapters: where they lie, with the strength that each counts with.
        folder, dtype, file_bytes: as for `export`.

    Raises:
        CheckpointError: adapters are damaged, none, or of another backbone.
        ValueError: as for `export`, or an adapter is no update of weights.
        OSError: the disk is full; nothing is left.
    """
    ema, name = merged_tensors(saved, adapters)
    weights = {"autoencoder": saved.tensors("autoencoder"), "ema": ema}
    return _publish(saved, weights, name, folder, dtype, file_bytes)


def _publish(
    saved: Checkpoint[Run],
    weights: Mapping[str, Mapping[str, Tensor]],
    model_hash: str,
    folder: Path,
    dtype: str,
    file_bytes: int,
) -> Checkpoint[Run]:
    if dtype not in DTYPES:
        raise ValueError(f"--dtype: want {' or '.join(DTYPES)}, got {dtype!r}")
    if folder.exists():
        raise ValueError(f"-o: want a folder that does not exist yet (none is overwritten), got {folder}")
    tensors: dict[str, Mapping[str, Tensor]] = {}
    for stem, named in weights.items():
        tensors |= _in_parts(stem, _cast(named, DTYPES[dtype]), file_bytes)
    folder = publish(
        temporary_beside(folder),
        folder,
        saved.step,
        tensors=tensors,
        state={
            "seconds": saved.state.get("seconds"),
            "exported": {"model": model_hash, "dtype": dtype},
        },
        config=without_places(saved.config),
    )
    return open_checkpoint(folder, type(saved.config))


def _cast(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Numbers with a point in `dtype`, all others as they are."""
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}


def _in_parts(stem: str, tensors: Mapping[str, Tensor], file_bytes: int) -> dict[str, dict[str, Tensor]]:
    """File stems to tensors, in their order: `stem` itself, or numbered parts where that were too large."""
    parts: list[dict[str, Tensor]] = []
    room = 0
    for name, tensor in tensors.items():
        size = tensor.nbytes + len(name) + HEADER_BYTES
        if not parts or size > room:
            parts.append({})
            room = file_bytes
        parts[-1][name] = tensor
        room -= size
    if len(parts) == 1:
        return {stem: parts[0]}
    return {f"{stem}-{i:05d}-of-{len(parts):05d}": part for i, part in enumerate(parts, 1)}


def without_places(config: Run) -> Run:
    """The same run with the last name in place of every absolute path, which means nothing elsewhere."""
    return type(config).model_validate(_without_places(config.model_dump()))


def _without_places(value: Any) -> Any:  # noqa: ANN401 (a tree of anything)
    if isinstance(value, dict):
        return {key: _without_places(inner) for key, inner in value.items()}
    return Path(value.name) if isinstance(value, Path) and value.is_absolute() else value
