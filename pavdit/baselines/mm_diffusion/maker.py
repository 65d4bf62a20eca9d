"""Trained weights of MM-Diffusion that make clips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from pavdit.baselines.mm_diffusion.config import MMDiffusionConfig, MMDiffusionRun, SamplingConfig
from pavdit.baselines.mm_diffusion.sampler import Network, Sampler
from pavdit.baselines.mm_diffusion.unet import CoupledUNet
from pavdit.baselines.promptless import PromptlessMaker, open_run, require_finite
from pavdit.batching import BatchSize, Request
from pavdit.clip import Clip, frames_to_volume, volume_to_frames
from pavdit.compile_cache import use_cache
from pavdit.config import parse_as
from pavdit.flow.sampler import Callback
from pavdit.generated import Generated
from pavdit.options import exactly
from pavdit.provenance import given_facts
from pavdit.runtime import DtypeName, Runtime
from pavdit.tasks import GIVEN, Stream, choose_task, require_sound, with_given
from pavdit.train.checkpoint import load_weights

TASKS = ("t2av", "v2a", "a2v")


class MMDiffusionMaker(PromptlessMaker[MMDiffusionRun]):
    """A `pavdit.baselines.system.ClipMaker`: clips without a prompt, or the other stream of a given one."""

    def __init__(
        self,
        run: MMDiffusionRun,
        unet: CoupledUNet,
        runtime: Runtime,
        *,
        model_hash: str = "",
        checkpoint: str = "",
        trained: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__(run, runtime, model_hash, checkpoint, trained)
        unet = unet.to(runtime.device, runtime.dtype).eval().requires_grad_(False)
        network: Network = unet
        if runtime.compile.on:
            use_cache()
            network = torch.compile(unet, dynamic=False)
        self.sampler = Sampler(run.model, unet, runtime.device, runtime.dtype, network)

    @property
    def config(self) -> MMDiffusionConfig:
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
        """As `pavdit.pipeline.Pipeline.stream`. `steps` are evaluations of the network.

        Raises:
            ValueError: there is a prompt, or the arguments do not fit each other.
            MemoryError: not even one clip fits into memory, or not the batch asked for.
            NonFiniteError: the weights give no number.
        """
        requests = self.requests(prompt, n, seed)
        task, given = self._task(task, video, audio)
        sampling = self._sampling(steps, guidance)

        def make(batch: list[Request]) -> list[tuple[Clip, Tensor, dict[str, str]]]:
            streams: dict[str, Tensor] = (
                {} if given is None else {GIVEN[task]: _stream_of(given, GIVEN[task])}
            )
            made = self.sampler.make([request.seed for request in batch], sampling, streams, callback)
            require_finite(made)
            return [
                (with_given(clip, given, task, None), latent, self._facts(request, task, sampling, given))
                for (clip, latent), request in zip(self._clips(made), batch, strict=True)
            ]

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
        task, given = self._task(task, video, audio)
        sampling = self._sampling(steps, guidance)
        return [self._facts(request, task, sampling, given) for request in self.requests(prompt, n, seed)]

    def _task(self, task: str, video: Clip | None, audio: Clip | None) -> tuple[str, Clip | None]:
        task = choose_task(task, video, audio)
        if task not in TASKS:
            raise ValueError(f"task: want {', '.join(TASKS)} of mm-diffusion, got {task}")
        if task == "a2v":
            require_sound(audio, self.config.mel)
        given = video if task == "v2a" else audio
        return task, None if given is None else given.require(self.config.clip)

    def _sampling(self, steps: int | None, guidance: float | None) -> SamplingConfig:
        """As configured, but for what a call chose."""
        chosen = self.run.sampling.model_dump()
        if guidance is not None and self.run.sampling.condition != "gradient":
            raise ValueError(
                f"guidance: want sampling.condition gradient, got {self.run.sampling.condition}, "
                "which has no scale"
            )
        chosen |= {} if steps is None else {"num_steps": steps}
        chosen |= {} if guidance is None else {"guidance_scale": guidance}
        return parse_as(SamplingConfig, chosen, "sampling")

    def _facts(
        self, request: Request, task: str, sampling: SamplingConfig, given: Clip | None
    ) -> dict[str, str]:
        """A clip's provenance, but for its place in a batch."""
        facts = self.described(request, task) | {
            "steps": str(sampling.num_steps),
            "method": sampling.method,
        }
        if sampling.method == "ddim":
            facts["eta"] = exactly(sampling.eta)
        else:
            facts["order"] = str(sampling.order)
        if given is not None:
            facts["condition"] = sampling.condition
            if sampling.condition == "gradient":
                facts["guidance"] = exactly(sampling.guidance_scale)
        return facts | given_facts(given)

    def _clips(self, made: dict[str, Tensor]) -> list[tuple[Clip, Tensor]]:
        """Clips, and what the sampler ended with; a stream that was not made is black or silent."""
        spec = self.config.clip
        first = next(iter(made.values())).cpu()
        batch = len(first)
        frames = torch.zeros(batch, spec.num_frames, 3, spec.height, spec.width, dtype=torch.uint8)
        if "video" in made:
            frames = volume_to_frames(made["video"]).cpu()
        wave = made["audio"][:, 0].cpu() if "audio" in made else torch.zeros(batch, spec.num_samples)
        return [
            (Clip(one, sound, spec.fps, spec.sample_rate), latent)
            for one, sound, latent in zip(frames, wave, first, strict=True)
        ]


def _stream_of(clip: Clip, stream: Stream) -> Tensor:
    """``(1, 3, T, H, W)`` or ``(1, 1, S)``."""
    return frames_to_volume(clip.frames)[None] if stream == "video" else clip.wave[None, None]


def load(
    path: Path,
    device: torch.device,
    assignments: Sequence[str] = (),
    *,
    dtype: DtypeName = "auto",
    compile: bool | None = None,
) -> MMDiffusionMaker:
    """See `pavdit.baselines.system.Load`."""
    runtime = Runtime.choose(device, dtype, compile=compile)
    saved, run = open_run(path, MMDiffusionRun, assignments)
    unet = CoupledUNet(run.model.unet, run.model.clip.num_frames)
    load_weights(unet, saved.tensors("ema"), saved.path / "ema.safetensors")
    return MMDiffusionMaker(
        run,
        unet,
        runtime,
        model_hash=saved.model_hash,
        checkpoint=str(path),
        trained=saved.training,
    )
