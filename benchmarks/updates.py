"""The ways to make an update that the benchmark of training compares, on the same random weights."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import process_time

import torch
from torch import Tensor, nn

from benchmarks.columns import nowhere_zero, plain_pytorch
from benchmarks.counting import now
from pavdit.config import ModelConfig, RunConfig
from pavdit.data.bounce import BounceClips
from pavdit.data.latent_cache import LatentSet
from pavdit.data.shards import Rows, Shards, content_key
from pavdit.latents import PlaneLayout
from pavdit.mdsa.attention import CrossStreamAttention, PlaneSelfAttention
from pavdit.mdsa.projection import Projector
from pavdit.mdsa.timesformer import TimeSformerLayer
from pavdit.stdit.block import Block
from pavdit.train.autoencoder import AutoencoderStage
from pavdit.train.generator import GeneratorStage
from pavdit.train.models import build_autoencoder
from pavdit.train.stage import Stage
from pavdit.train.trainer import Trainer

COMPILED = (Block, TimeSformerLayer, Projector, PlaneSelfAttention, CrossStreamAttention)
"""What Inductor compiles, of one kind and shape once; all of MDSA at once takes it more than five minutes."""


@dataclass(frozen=True)
class Column:
    """One way to make an update."""

    trainer: Trainer
    around: Callable[[], AbstractContextManager[None]]

    def updates(self, count: int) -> None:
        """Queue some, as the training loop does; one that is refused would be no work."""
        with self.around():
            for _ in range(count):
                self.trainer.update()
                for refused in self.trainer.refusals():
                    sys.exit(f"training: want finite updates to time, got {refused.tensor} not finite")

    def seconds(self, count: int, device: torch.device) -> float:
        """Of one update; one CPU thread is timed by the processor time that it used, as ops are."""
        alone = device.type == "cpu" and torch.get_num_threads() == 1
        begin = process_time() if alone else now(device)
        self.updates(count)
        return ((process_time() if alone else now(device)) - begin) / count


def random_latents(config: ModelConfig, count: int, folder: Path) -> LatentSet:
    """Latents as a cache holds them, on the disk, of no clip."""
    layout = PlaneLayout.choose(config.grid, config.stdit.layout)
    shape = (config.mdsa.latent_channels, layout.num_frames, layout.rows, layout.columns)
    random, keys = torch.Generator().manual_seed(0), tuple(content_key(str(i)) for i in range(count))

    def row() -> dict[str, Tensor]:
        return {way: torch.randn(shape, generator=random).tanh() for way in ("joint", "alone")}

    def encode(missing: Sequence[Sequence[int]]) -> Iterator[Rows]:
        yield from (((place, row()) for place in places) for places in missing)

    shards = Shards(folder)
    shards.fill(keys, encode, say=print, progress=lambda done, total: None)
    return LatentSet(shards, keys, (), ("benchmark",) * count, ("",) * count, keys)


def stage_of(config: RunConfig, device: torch.device, folder: Path) -> Stage:
    """The stage, its weights random and nowhere zero."""
    torch.manual_seed(0)
    stage: Stage
    if config.train.stage == "generator":
        latents = random_latents(config.model, 2 * config.train.batch_size, folder / "latents")
        stage = GeneratorStage(config, latents, None, build_autoencoder(config.model), device)
    else:
        clips = BounceClips(2 * config.train.batch_size, config.model.clip)  # decoded once and kept
        stage = AutoencoderStage(config, clips, clips, device)
    nowhere_zero(stage.model)
    return stage


def columns(config: RunConfig, stage: Stage, peer: bool) -> dict[str, Column]:
    """The ways, `peer` if wanted. They share weights; ours has moments and an average of its own."""
    off = config.model_copy(update={"train": config.train.model_copy(update={"graph": False})})
    plain = Trainer(off, stage)
    found = {"eager": Column(plain, plain_pytorch)}
    if peer:
        found["peer"] = Column(plain, Tuned(stage.model))
    return found | {"ours": Column(Trainer(config, stage), nullcontext)}


class Tuned:
    """Lets Inductor's code serve in place of a model's parts, in plain PyTorch."""

    def __init__(self, model: nn.Module) -> None:
        self.on_cuda = next(model.parameters()).is_cuda
        mode = "max-autotune" if self.on_cuda else "default"
        parts = [part for part in model.modules() if isinstance(part, COMPILED)]
        self.parts = [(part, torch.compile(part.forward, mode=mode, dynamic=False)) for part in parts]
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, len(parts))

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if self.on_cuda:
            torch.compiler.cudagraph_mark_step_begin()
        for part, compiled in self.parts:
            part.forward = compiled
        try:
            with plain_pytorch():
                yield
        finally:
            for part, _ in self.parts:
                del part.forward
