"""Trained adapters of AV-DiT that make clips with the frozen weights of their training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import torch

from pavdit.baselines.av_dit.coders import Coders, digest_of
from pavdit.baselines.av_dit.config import AVDiTConfig, AVDiTRun, AVDiTSampling
from pavdit.baselines.av_dit.network import AVDiT, AVDiTAdapters
from pavdit.baselines.av_dit.sampler import Network, Sampler
from pavdit.baselines.av_dit.stage import open_image_dit
from pavdit.batching import BatchSize, Request, in_batches, seeds_for
from pavdit.clip import Clip
from pavdit.compile_cache import use_cache
from pavdit.config import DataConfig, assign, parse_as
from pavdit.data.given import read_as_trained
from pavdit.flow.sampler import Callback
from pavdit.generated import Generated
from pavdit.options import exactly
from pavdit.runtime import DtypeName, Runtime
from pavdit.tasks import PromptKind, Stream
from pavdit.train.checkpoint import CheckpointError, load_weights, open_checkpoint, require_architecture
from pavdit.train.trainer import NonFiniteError
from pavdit.weights import find_weights


class AVDiTMaker:
    """A `pavdit.baselines.system.ClipMaker`: both streams at once, without a prompt."""

    prompts: PromptKind = "none"

    def __init__(
        self,
        run: AVDiTRun,
        network: AVDiT,
        coders: Coders,
        runtime: Runtime,
        *,
        model_hash: str = "",
        checkpoint: str = "",
        trained: Mapping[str, float] | None = None,
    ) -> None:
        self.trained = trained or {}
        self.run, self.coders, self.runtime = run, coders, runtime
        self.model_hash, self.checkpoint = model_hash, checkpoint
        whole = network.to(runtime.device, runtime.dtype).eval().requires_grad_(False)
        if runtime.compile.on:
            use_cache()
            whole = cast(AVDiT, torch.compile(whole, dynamic=False))
        made: Network = whole
        self.sampler = Sampler(run.model, made, runtime.device, runtime.dtype)

    @property
    def config(self) -> AVDiTConfig:
        """Sizes."""
        return self.run.model

    @property
    def data(self) -> DataConfig:
        """How the training's clips were read."""
        return self.run.data

    def read(
        self, path: str | Path, start_seconds: Fraction | float | None = None, only: Stream | None = None
    ) -> Clip:
        """As `pavdit.pipeline.Pipeline.read`."""
        return read_as_trained(path, self.config.clip, self.data, start_seconds, only)

    def stream(
        self,
        prompt: str | Sequence[str | None] | None = None,
        video: Clip | None = None,
        audio: Clip | None = None,
        task: str = "auto",
        n: int = 1,
        seed: int | Sequence[int] = 0,
        *,
        batch_size: BatchSize = "auto",
        callback: Callback | None = None,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Iterator[tuple[int, Generated]]:
        """As `pavdit.pipeline.Pipeline.stream`.

        Raises:
            ValueError: there is a prompt or a given stream, or the numbers do not fit.
            MemoryError: not even one clip fits into memory, or not the batch asked for.
            NonFiniteError: the weights give no number.
        """
        requests, sampling = self._work(prompt, video, audio, task, n, seed, steps, guidance)

        def make(batch: list[Request]) -> list[Generated]:
            made = self.sampler.make([request.seed for request in batch], sampling, callback)
            for name, latent in zip(("video", "audio"), made, strict=True):
                if not bool(latent.isfinite().all()):
                    raise NonFiniteError(f"sampling: want finite {name} latents, got NaN or infinity")
            clips = zip(self.coders.decode(*made), made[0].cpu(), batch, strict=True)
            return [
                Generated(clip, latent, self._facts(r, sampling) | {"batch": f"{place}/{len(batch)}"})
                for place, (clip, latent, r) in enumerate(clips, 1)
            ]

        made = in_batches(requests, batch_size, self.runtime.device, make)
        return ((request.index, clip) for request, clip in made)

    def provenance(
        self,
        prompt: str | Sequence[str | None] | None = None,
        video: Clip | None = None,
        audio: Clip | None = None,
        task: str = "auto",
        n: int = 1,
        seed: int | Sequence[int] = 0,
        *,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> list[dict[str, str]]:
        """As `pavdit.pipeline.Pipeline.provenance`."""
        requests, sampling = self._work(prompt, video, audio, task, n, seed, steps, guidance)
        return [self._facts(request, sampling) for request in requests]

    def _work(
        self,
        prompt: str | Sequence[str | None] | None,
        video: Clip | None,
        audio: Clip | None,
        task: str,
        n: int,
        seed: int | Sequence[int],
        steps: int | None,
        guidance: float | None,
    ) -> tuple[list[Request], AVDiTSampling]:
        """A call's arguments, checked."""
        prompts = [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)
        told = next((one for one in prompts if one is not None), None)
        for name, value in (("prompt", told), ("video", video), ("audio", audio), ("guidance", guidance)):
            if value is not None:
                got = value.name or "a clip" if isinstance(value, Clip) else repr(value)
                raise ValueError(f"{name}: want none, which av-dit has no use for, got {got}")
        if task not in ("auto", "t2av"):
            raise ValueError(f"task: want t2av of av-dit, got {task}")
        if n < 1:
            raise ValueError(f"n: want at least 1 clip, got {n}")
        chosen: dict[str, Any] = self.run.sampling.model_dump()
        chosen |= {} if steps is None else {"num_steps": steps}
        requests = [Request(i, None, own, 0) for i, own in enumerate(seeds_for(seed, n * len(prompts)))]
        return requests, parse_as(AVDiTSampling, chosen, "sampling")

    def _facts(self, request: Request, sampling: AVDiTSampling) -> dict[str, str]:
        """A clip's provenance, but for its place in a batch."""
        return {
            "system": self.run.system,
            "model": self.model_hash,
            "frozen": self.run.model.frozen_digest,
            "checkpoint": self.checkpoint,
            **self.runtime.described(),
            "prompt": "",
            "seed": str(request.seed),
            "task": "t2av",
            "steps": str(sampling.num_steps),
            "eta": exactly(sampling.eta),
        }


def load(
    path: Path,
    device: torch.device,
    assignments: Sequence[str] = (),
    *,
    dtype: DtypeName = "auto",
    compile: bool | None = None,
) -> AVDiTMaker:
    """See `pavdit.baselines.system.Load`; the frozen weights have to be where they were, or be assigned."""
    runtime = Runtime.choose(device, dtype, compile=compile)
    saved = open_checkpoint(find_weights(path), AVDiTRun)
    tree = saved.config.model_dump(mode="json")
    for assignment in assignments:
        assign(tree, assignment)
    run = parse_as(AVDiTRun, tree, "--set")
    require_architecture(saved, run.model, "denoiser")
    if (found := digest_of(run.frozen)) != (want := run.model.frozen_digest):
        raise CheckpointError(
            f"{saved.path}: want the frozen weights {want} that it was trained beside, got {found}"
        )
    image = open_image_dit(run)
    adapters = AVDiTAdapters(image, run.model)
    load_weights(adapters, saved.tensors("ema"), saved.path / "ema.safetensors")
    coders = Coders.load(run.model, run.frozen, runtime.device)
    where = {"model_hash": saved.model_hash, "checkpoint": str(path)}
    return AVDiTMaker(run, AVDiT(image, adapters), coders, runtime, **where, trained=saved.training)
