"""Training state split over the ranks (FSDP2): each keeps a shard of weights, optimiser and average.

Source: ZeRO (Rajbhandari et al., arXiv 1910.02054), in torch's form: `fully_shard`, DTensor and
`torch.distributed.checkpoint`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, distributed, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from pavdit.config import ConfigError
from pavdit.stdit.block import Mlp, SpatialAttention, TemporalAttention
from pavdit.train.ranks import is_parallel

FOLDER = "sharded"
"""Of a checkpoint: what `torch.distributed.checkpoint` writes."""

_UNITS = (SpatialAttention, TemporalAttention, Mlp)  # nobody reads their weights but their own forward


def shard(objective: nn.Module, device: torch.device) -> None:
    """Split the parameters of a module; its forward pass gathers them, unit by unit.

    Raises:
        ConfigError: there is one rank.
    """
    if not is_parallel():
        raise ConfigError("train.sharded: want several ranks (torchrun), got one")
    # A warning about writing into what a unit returns, which nothing here does.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view")
    mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
    for part in objective.modules():
        if isinstance(part, _UNITS):
            fully_shard(part, mesh=mesh)
    fully_shard(objective, mesh=mesh)


def local(tensor: Tensor) -> Tensor:
    """What this rank has of a tensor; the same memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(own: Tensor, whole: Tensor) -> Tensor:
    """This rank's shard of something of the shape of `whole` as one tensor of all ranks."""
    if not isinstance(whole, DTensor) or own.shape != whole.to_local().shape:
        return own
    return DTensor.from_local(
        own, whole.device_mesh, whole.placements, run_check=False, shape=whole.shape, stride=whole.stride()
    )


def gathered(tensor: Tensor) -> Tensor:
    """The whole tensor, on every rank."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def save_shards(directory: Path, state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Every rank writes what it has into ``directory/sharded``, fsynced.

    Raises:
        OSError: the disk of one of them is full.
    """
    with _one_cause():
        dcp.save({name: dict(named) for name, named in state.items()}, checkpoint_id=directory / FOLDER)


def load_shards(directory: Path, state: Mapping[str, Mapping[str, Tensor]]) -> None:
    """Fill the tensors of `state`, whatever number of ranks saved them."""
    dcp.load({name: dict(named) for name, named in state.items()}, checkpoint_id=directory / FOLDER)


@contextmanager
def _one_cause() -> Iterator[None]:
    """Of an exception that lists those of all ranks, the first."""
    try:
        yield
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from None
