"""The ways to make a sample that the sampler's benchmarks compare, on equal random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from benchmarks.counting import now
from pavdit.config import ModelConfig
from pavdit.latents import PlaneLayout
from pavdit.ops import _library
from pavdit.options import SamplingOptions
from pavdit.pipeline import Pipeline
from pavdit.runtime import DtypeName, Runtime, Settings
from pavdit.sampling import BoundVelocity, Captions, sample_batch
from pavdit.train.models import Generator, build_autoencoder

TEXT_TOKENS = 32
STAGES = ("generator", "decode", "inverse", "end to end")


@contextmanager
def plain_pytorch() -> Iterator[None]:
    """Every op by its reference, as where nothing was built."""
    served = dict(_library._native)
    _library._native.update(dict.fromkeys(served, frozenset()))
    try:
        yield
    finally:
        _library._native.update(served)


@dataclass(frozen=True)
class Column:
    """One way to make a sample."""

    pipe: Pipeline
    ops: Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Job:
    """What every column makes."""

    config: ModelConfig
    batch: int
    options: SamplingOptions
    device: torch.device
    text: int = TEXT_TOKENS

    def noise(self) -> Tensor:
        """P of noise, the same for all columns."""
        layout = PlaneLayout.choose(self.config.grid, self.config.stdit.layout)
        shape = self.batch, self.config.mdsa.latent_channels, layout.num_frames, layout.rows, layout.columns
        return (torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1).to(self.device)

    def captions(self) -> Captions:
        """Random text of one bucket."""
        shape = self.batch, self.text, self.config.stdit.text_dim
        tokens = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        return Captions(tokens.to(self.device), None, known=True)


def nowhere_zero(module: nn.Module) -> None:
    """Small random numbers in place of weights that begin at zero, which are multiplied faster."""
    for parameter in module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)


def random_pipeline(job: Job, **settings: Unpack[Settings]) -> Pipeline:
    """A pipeline whose weights are random and nowhere zero."""
    torch.manual_seed(0)
    config = job.config.model_copy(
        update={"text": job.config.text.model_copy(update={"class_names": ("benchmark",)})}
    )
    autoencoder, generator = build_autoencoder(config), Generator(config)
    for module in (autoencoder, generator):
        nowhere_zero(module)
        module.requires_grad_(False)
    return Pipeline(config, autoencoder, generator, runtime=Runtime.choose(job.device, **settings))


def columns(job: Job, dtype: DtypeName) -> dict[str, Column]:
    """The three ways, on equal weights."""
    eager = random_pipeline(job, dtype=dtype, graph=False, compile=False)
    peer = random_pipeline(job, dtype=dtype, graph=False, compile=False)
    mode = "max-autotune" if job.device.type == "cuda" else "default"
    for block in peer.generator.stdit.blocks:  # type: ignore[union-attr]
        block.compile(fullgraph=True, mode=mode)
    peer.autoencoder.decode = torch.compile(peer.autoencoder.decode, mode=mode)  # type: ignore[method-assign]
    ours = random_pipeline(job, dtype=dtype)
    return {
        "eager": Column(eager, plain_pytorch),
        "peer": Column(peer, plain_pytorch),
        "ours": Column(ours, nullcontext),
    }


def bind(column: Column, job: Job) -> BoundVelocity:
    """The column's network with the job's condition."""
    return BoundVelocity(
        column.pipe.networks.for_text(job.text),  # type: ignore[union-attr]
        job.captions(),
        job.options,
        fps=float(job.config.clip.fps),
    )


def generate(column: Column, job: Job, noise: Tensor) -> Tensor:
    """P of the batch."""
    return sample_batch(bind(column, job), noise, target=None, graphs=column.pipe.graphs)


@torch.no_grad()
def run(column: Column, job: Job, noise: Tensor) -> dict[str, float]:
    """Seconds of each stage of one sample of the batch."""
    marks = [now(job.device)]
    with column.ops():
        latent = generate(column, job, noise)
        marks.append(now(job.device))
        frames, images = column.pipe.codec.to_frames(*column.pipe.layout.unstack(latent))
        marks.append(now(job.device))
        assert frames is not None and images is not None  # noqa: S101 (both streams were given)
        column.pipe.codec.to_waves(images)
        marks.append(now(job.device))
    parts = [later - earlier for earlier, later in zip(marks[:-1], marks[1:], strict=True)]
    return dict(zip(STAGES, [*parts, marks[-1] - marks[0]], strict=True))
