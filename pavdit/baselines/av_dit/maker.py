"""Trained adapters of AV-DiT that make clips with the frozen weights of their training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from pavdit.baselines.av_dit.coders import Coders, digest_of
from pavdit.baselines.av_dit.config import AVDiTConfig, AVDiTRun, AVDiTSampling
from pavdit.baselines.av_dit.network import AVDiT, AVDiTAdapters
from pavdit.baselines.av_dit.sampler import Network, Sampler
from pavdit.baselines.av_dit.stage import open_image_dit
from pavdit.baselines.promptless import PromptlessMaker, open_run, require_finite
from pavdit.batching import BatchSize, Request
from pavdit.clip import Clip
from pavdit.compile_cache import use_cache
from pavdit.config import parse_as
from pavdit.flow.sampler import Callback
from pavdit.generated import Generated
from pavdit.options import exactly
from pavdit.runtime import DtypeName, Runtime
from pavdit.train.checkpoint import CheckpointError, load_weights


class AVDiTMaker(PromptlessMaker[AVDiTRun]):
    """A `pavdit.baselines.system.ClipMaker`: both streams at once, without a prompt."""

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
        super().__init__(run, runtime, model_hash, checkpoint, trained)
        self.coders = coders
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

        def make(batch: list[Request]) -> list[tuple[Clip, Tensor, dict[str, str]]]:
            made = self.sampler.make([request.seed for request in batch], sampling, callback)
            require_finite({"video latents": made[0], "audio latents": made[1]})
            facts = [self._facts(request, sampling) for request in batch]
            return list(zip(self.coders.decode(*made), made[0].cpu(), facts, strict=True))

        return self.in_batches(requests, batch_size, make)

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
        requests = self.requests(prompt, n, seed)
        for name, value in (("video", video), ("audio", audio), ("guidance", guidance)):
            if value is not None:
                got = value.name or "a clip" if isinstance(value, Clip) else repr(value)
                raise ValueError(f"{name}: want none, which av-dit has no use for, got {got}")
        if task not in ("auto", "t2av"):
            raise ValueError(f"task: want t2av of av-dit, got {task}")
        chosen: dict[str, Any] = self.run.sampling.model_dump()
        chosen |= {} if steps is None else {"num_steps": steps}
        return requests, parse_as(AVDiTSampling, chosen, "sampling")

    def _facts(self, request: Request, sampling: AVDiTSampling) -> dict[str, str]:
        """A clip's provenance, but for its place in a batch."""
        return self.described(request, "t2av") | {
            "frozen": self.run.model.frozen_digest,
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
    saved, run = open_run(path, AVDiTRun, assignments)
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
