"""Trained weights of MM-Diffusion that make clips."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import torch
from torch import Tensor

from pavdit.baselines.mm_diffusion.config import MMDiffusionConfig, MMDiffusionRun, SamplingConfig
from pavdit.baselines.mm_diffusion.sampler import Network, Sampler
from pavdit.baselines.mm_diffusion.unet import CoupledUNet
from pavdit.batching import BatchSize, Request, in_batches, seeds_for
from pavdit.clip import Clip, frames_to_volume, volume_to_frames
from pavdit.compile_cache import use_cache
from pavdit.config import DataConfig, assign, parse_as
from pavdit.data.given import read_as_trained
from pavdit.flow.sampler import Callback
from pavdit.generated import Generated
from pavdit.options import exactly
from pavdit.provenance import given_facts
from pavdit.runtime import DtypeName, Runtime
from pavdit.tasks import GIVEN, PromptKind, Stream, choose_task, require_sound, with_given
from pavdit.train.checkpoint import load_weights, open_checkpoint, require_architecture
from pavdit.train.trainer import NonFiniteError
from pavdit.weights import find_weights

TASKS = ("t2av", "v2a", "a2v")


class MMDiffusionMaker:
    """A `pavdit.baselines.system.ClipMaker`: clips without a prompt, or the other stream of a given one."""

    prompts: PromptKind = "none"

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
        self.run, self.runtime, self.model_hash, self.checkpoint = run, runtime, model_hash, checkpoint
        self.trained = trained or {}
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
        """As `pavdit.pipeline.Pipeline.stream`. `steps` are evaluations of the network.

        Raises:
            ValueError: there is a prompt, or the arguments do not fit each other.
            MemoryError: not even one clip fits into memory, or not the batch asked for.
            NonFiniteError: the weights give no number.
        """
        requests = _requests(prompt, n, seed)
        task, given = self._task(task, video, audio)
        sampling = self._sampling(steps, guidance)

        def make(batch: list[Request]) -> list[Generated]:
            streams: dict[str, Tensor] = (
                {} if given is None else {GIVEN[task]: _stream_of(given, GIVEN[task])}
            )
            made = self.sampler.make([request.seed for request in batch], sampling, streams, callback)
            for name, value in made.items():
                if not bool(value.isfinite().all()):
                    raise NonFiniteError(f"sampling: want finite {name}, got NaN or infinity")
            facts = [self._facts(request, task, sampling, given) for request in batch]
            places = [{"batch": f"{place}/{len(batch)}"} for place in range(1, len(batch) + 1)]
            return [
                Generated(with_given(clip, given, task, None), latent, fact | place)
                for (clip, latent), fact, place in zip(self._clips(made), facts, places, strict=True)
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
        task, given = self._task(task, video, audio)
        sampling = self._sampling(steps, guidance)
        return [self._facts(request, task, sampling, given) for request in _requests(prompt, n, seed)]

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
        facts = {
            "system": self.run.system,
            "model": self.model_hash,
            "checkpoint": self.checkpoint,
            **self.runtime.described(),
            "prompt": "",
            "seed": str(request.seed),
            "task": task,
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


def _requests(prompt: str | Sequence[str | None] | None, n: int, seed: int | Sequence[int]) -> list[Request]:
    """One for each clip.

    Raises:
        ValueError: a prompt is given, or the numbers do not fit.
    """
    prompts = [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)
    if n < 1:
        raise ValueError(f"n: want at least 1 clip, got {n}")
    if told := next((one for one in prompts if one is not None), None):
        raise ValueError(f"prompt: want none, which mm-diffusion has no use for, got {told!r}")
    seeds = seeds_for(seed, n * len(prompts))
    return [Request(i, None, own, 0) for i, own in enumerate(seeds)]


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
    saved = open_checkpoint(find_weights(path), MMDiffusionRun)
    tree = saved.config.model_dump(mode="json")
    for assignment in assignments:
        assign(tree, assignment)
    run = parse_as(MMDiffusionRun, tree, "--set")
    require_architecture(saved, run.model, "denoiser")
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
