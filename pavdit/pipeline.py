"""The whole way, one line per arrow: clip → planes → clip, and noise → P → planes → clip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pavdit.batching import BatchSize, Request, in_batches
from pavdit.clip import Clip
from pavdit.codec import Codec
from pavdit.config import DataConfig, ModelConfig
from pavdit.flow.graph import StepGraphs
from pavdit.flow.path import draw_noise
from pavdit.flow.sampler import Callback
from pavdit.flow.schedule import time_grid
from pavdit.latents import PlaneLayout, Planes
from pavdit.mdsa.autoencoder import MDSA
from pavdit.media import read_clip, write_clip
from pavdit.sampling import BoundVelocity, Captions, sample_batch
from pavdit.tasks import GIVEN, MADE_ALONE, Stream, choose_task, with_given
from pavdit.text import bucket_of, to_bucket
from pavdit.train.checkpoint import open_checkpoint
from pavdit.train.models import Generator, choose_device, load_autoencoder, load_generator
from pavdit.train.trainer import NonFiniteError

DtypeName = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated clip.

    Attributes:
        clip: frames and sound. The given stream is as it was given; a stream neither given nor made is black
            or silent.
        latent: P, ``(C, G, rows, columns)`` float32 on the CPU.
        provenance: model hash, prompt, seed, steps, guidance, task: what the file's metadata say.
    """

    clip: Clip
    latent: Tensor
    provenance: dict[str, str]

    def save(self, path: str | Path) -> Path:
        """Write an mp4 with its provenance; a file at `path` is replaced as a whole or not at all."""
        write_clip(self.clip, Path(path), metadata=self.provenance)
        return Path(path)


class Pipeline:
    """Encode, decode and generate clips with trained weights.

    Args:
        config: sizes.
        mdsa: the autoencoder.
        generator: STDiT and its text encoder; None where only the autoencoder is trained yet.
        device: where the models run.
        dtype: of the weights and of what passes between layers; P and the sound's inverse stay float32.
            ``auto``: bfloat16 on CUDA, else float32.
        graph: whether a step is one CUDA graph; None: where there is CUDA.
        compile: whether STDiT's blocks are compiled; None: where there is CUDA. On a CPU it gains nothing.
        model_hash: names the weights, for provenance.
        data: how the training's clips were read; None: as by default.
    """

    def __init__(
        self,
        config: ModelConfig,
        mdsa: MDSA,
        generator: Generator | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: DtypeName = "auto",
        graph: bool | None = None,
        compile: bool | None = None,
        model_hash: str = "",
        data: DataConfig | None = None,
    ) -> None:
        self.config, self.device, self.model_hash = config, torch.device(device), model_hash
        on_cuda = self.device.type == "cuda"
        if graph and not on_cuda:
            raise ValueError(f"graph: want a CUDA device for CUDA graphs, got {self.device}")
        self.dtype = _dtype(dtype, self.device)
        self.codec = Codec(config, mdsa.to(self.device, self.dtype).eval(), self.device, self.dtype)
        self.generator = None if generator is None else generator.to(self.device, self.dtype).eval()
        self.graphs = StepGraphs() if (on_cuda if graph is None else graph) else None
        self.compiled = on_cuda if compile is None else compile
        if self.compiled and self.generator is not None:
            self.generator.stdit.compile_blocks()
        self.data = data
        self.layout = PlaneLayout.choose(config.grid, config.stdit.layout)

    @property
    def mdsa(self) -> MDSA:
        """The autoencoder."""
        return self.codec.mdsa

    @property
    def stats(self) -> dict[str, str]:
        """How samples are made, for people: dtype, and whether graphs and compiled blocks serve, and why."""
        if self.graphs is not None:
            kept = f"on: {self.graphs.captures} captured, {len(self.graphs)} kept"
            graph = kept if self.config.flow.method == "euler" else "off: method heun"
        else:
            graph = "off: no CUDA" if self.device.type != "cuda" else "off: as asked"
        return {
            "dtype": str(self.dtype).removeprefix("torch."),
            "graph": graph,
            "compile": "on" if self.compiled else "off",
        }

    @property
    def autoencoder_hash(self) -> str:
        """Names the autoencoder's weights, in a run of either stage."""
        return self.model_hash.partition("+")[0]

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str = "auto",
        dtype: DtypeName = "auto",
        graph: bool | None = None,
        compile: bool | None = None,
    ) -> Pipeline:
        """Load averaged weights from a checkpoint or a run directory of either stage.

        Args:
            path: the checkpoint or run directory.
            device: ``auto`` is CUDA where there is one.
            dtype: as for the class, like the others.
            graph: see there.
            compile: see there.

        Raises:
            CheckpointError: nothing is there, it is damaged, or its weights do not fit its configuration.
            ConfigError: there is no such device.
        """
        saved = open_checkpoint(Path(path))
        generator = load_generator(saved) if saved.config.train.stage == "generator" else None
        return cls(
            saved.config.model,
            load_autoencoder(saved),
            generator,
            device=choose_device(device),
            dtype=dtype,
            graph=graph,
            compile=compile,
            model_hash=saved.model_hash,
            data=saved.config.data,
        )

    def read(self, path: str | Path, start_seconds: float | None = None) -> Clip:
        """Read a file as the training's clips were read.

        Args:
            path: any media file with picture and sound.
            start_seconds: where the clip begins; None: where both begin.

        Raises:
            DataError: the file cannot be used.
        """
        spec = self.config.clip
        if self.data is None:
            return read_clip(path, spec, start_seconds=start_seconds)
        return read_clip(
            path, spec, start_seconds=start_seconds, resize=self.data.resize, channel=self.data.channel
        )

    def encode(self, clip: Clip) -> tuple[Planes, Planes]:
        """A clip to the joint latent planes of its frames and its sound, one batch row each.

        Raises:
            ValueError: the clip has other sizes or rates than the models.
        """
        video, audio = self.codec.encode(clip, "video", "audio")
        return video, audio

    def encode_alone(self, clip: Clip, stream: Stream) -> Planes:
        """One stream of a clip to its latent planes, which know nothing of the other stream.

        Raises:
            ValueError: the clip has other sizes or rates than the models.
        """
        [planes] = self.codec.encode(clip, stream)
        return planes

    def decode(self, video: Planes | None, audio: Planes | None) -> list[Clip]:
        """Latent planes to clips, one per batch row; a stream without planes is black or silent.

        Raises:
            ValueError: both are None, or a plane has another shape than the model's.
        """
        return self.codec.decode(video, audio)

    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        video: Clip | None = None,
        audio: Clip | None = None,
        task: str = "auto",
        n: int = 1,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        batch_size: BatchSize = "auto",
        callback: Callback | None = None,
    ) -> list[Generated]:
        """Generate `n` clips of every prompt. Clip ``i`` depends on ``seed + i`` and on no other clip.

        Args:
            prompt: a class or ``a video of <class>``, or several; None: no condition (with one known class:
                that one).
            video: the clip whose frames are given, for ``v2a``.
            audio: the clip whose sound is given, for ``a2v``.
            task: one of `pavdit.config.TASKS`; ``auto``: v2a or a2v where a stream is given, else t2av.
            n: clips of a prompt; they follow each other.
            seed: of the first clip; the next has the next one.
            steps: of the sampler; None: as configured.
            guidance: scale s of ``v_null + s (v_cond - v_null)``; None: as configured.
            batch_size: clips at a time; ``auto``: fewer where the memory does not suffice.
            callback: ``callback(step, num_steps, latent)`` after each step of each batch; an exception from
                it ends the work.

        Raises:
            ValueError: the arguments do not fit each other or the model.
            MemoryError: not even one clip fits into memory, or not the batch asked for.
            NonFiniteError: the weights give no number.
        """
        clips = self.stream(
            prompt, video, audio, task, n, seed, steps, guidance, batch_size=batch_size, callback=callback
        )
        return [clip for _, clip in sorted(clips, key=lambda pair: pair[0])]

    def stream(
        self,
        prompt: str | Sequence[str] | None = None,
        video: Clip | None = None,
        audio: Clip | None = None,
        task: str = "auto",
        n: int = 1,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        batch_size: BatchSize = "auto",
        callback: Callback | None = None,
    ) -> Iterator[tuple[int, Generated]]:
        """As calling the pipeline, but every clip comes with its index as soon as its batch is done."""
        generator, flow = self._require_generator(), self.config.flow
        task = choose_task(task, video, audio)
        if n < 1:
            raise ValueError(f"n: want at least 1 clip, got {n}")
        time_grid(flow.num_steps if steps is None else steps)  # raises where there is no step
        order = _Order(
            task,
            video if task == "v2a" else audio,
            flow.num_steps if steps is None else steps,
            flow.guidance_scale if guidance is None else guidance,
        )
        requests = self._requests(generator, prompt, n, seed)
        made = in_batches(
            requests, batch_size, self.device, lambda batch: self._make(generator, order, batch, callback)
        )
        return ((request.index, clip) for request, clip in made)

    def _requests(
        self, generator: Generator, prompt: str | Sequence[str] | None, n: int, seed: int
    ) -> list[Request]:
        """One per clip, with the bucket that its prompt falls into."""
        names = generator.text.class_names
        if prompt is None and len(names) == 1:
            prompt = names[0]
        prompts = [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise ValueError("prompt: want at least one, got none")
        longest = self.config.stdit.max_text_length
        buckets = {}
        for one in dict.fromkeys(prompts):
            if one is not None and not isinstance(one, str):
                raise TypeError(f"prompt: want text, got {type(one).__name__}")
            tokens = 0 if one is None else generator.text.encode([one]).lengths[0]
            buckets[one] = 0 if one is None else bucket_of(tokens, longest)
        each = [one for one in prompts for _ in range(n)]
        return [Request(i, one, seed + i, buckets[one]) for i, one in enumerate(each)]

    @torch.no_grad()
    def _make(
        self, generator: Generator, order: _Order, batch: list[Request], callback: Callback | None
    ) -> list[Generated]:
        """Noise to clips, for one batch."""
        flow, task = self.config.flow, order.task
        random = [torch.Generator().manual_seed(request.seed) for request in batch]
        noise = draw_noise(self._latent_shape(), random, flow.prior)  # (B, C, G, rows, columns)
        latent, target = self._place_given(noise.to(self.device), order.given, task)
        captions = self._captions(generator, batch)
        scale = order.guidance if captions.known else 1.0
        velocity = BoundVelocity(
            generator.stdit,
            captions,
            task=task,
            fps=float(self.config.clip.fps),
            num_steps=order.steps,
            guided=scale != 1.0,
        )
        latent = sample_batch(
            velocity,
            latent,
            flow,
            num_steps=order.steps,
            guidance_scale=scale,
            target=target,
            graphs=self.graphs,
            callback=callback,
        )
        self._require_finite(latent, generator)
        planes_v, planes_a = self.layout.unstack(latent)
        clips = self.decode(None if task == "t2a" else planes_v, None if task == "t2v" else planes_a)
        return [
            Generated(
                with_given(clip, order.given, task, request.prompt),
                row,
                {
                    "model": self.model_hash,
                    "prompt": request.prompt or "",
                    "seed": str(request.seed),
                    "steps": str(order.steps),
                    "guidance": f"{order.guidance:g}",
                    "task": task,
                },
            )
            for clip, row, request in zip(clips, latent.cpu(), batch, strict=True)
        ]

    def _require_finite(self, latent: Tensor, generator: Generator) -> None:
        if bool(latent.isfinite().all()):
            return
        bad = (name for name, p in generator.named_parameters() if not bool(p.isfinite().all()))
        where = next(bad, None)
        raise NonFiniteError(
            "sampling: want finite latents, got NaN or infinity"
            + (f"; so has the weight {where}" if where else "; the weights are finite")
        )

    def _require_generator(self) -> Generator:
        if self.generator is None:
            raise ValueError(
                "checkpoint: want a generator's, got an autoencoder's, which only encodes and decodes"
            )
        return self.generator

    def _latent_shape(self) -> tuple[int, int, int, int]:
        layout = self.layout
        return self.config.mdsa.latent_channels, layout.num_frames, layout.rows, layout.columns

    def _place_given(self, noise: Tensor, given: Clip | None, task: str) -> tuple[Tensor, Tensor | None]:
        """Put the given stream's own latent into P; returns P and the ``(G,)`` mask of the frames to make."""
        if given is None:
            made = MADE_ALONE.get(task)
            return noise, None if made is None else self.layout.frames_of(made).to(self.device)
        clean = self.layout.frames_of(GIVEN[task]).to(self.device)  # (G,)
        planes = self.encode_alone(given, GIVEN[task])
        data = self.layout.stack(planes, planes)  # only the given stream's frames are taken
        return torch.where(clean[:, None, None], data, noise), ~clean

    def _captions(self, generator: Generator, batch: list[Request]) -> Captions:
        """The batch's tokens; the null caption is as long as the shortest bucket."""
        stdit = self.config.stdit
        prompts = [request.prompt for request in batch if request.prompt is not None]
        if not prompts:
            shape = len(batch), self.config.text.tokens_per_class, stdit.text_dim
            return Captions(torch.zeros(shape, device=self.device), None, known=False)
        return Captions(*to_bucket(generator.text.encode(prompts), stdit.max_text_length), known=True)


@dataclass(frozen=True, slots=True)
class _Order:
    """What all clips of a call share."""

    task: str
    given: Clip | None
    steps: int
    guidance: float


def _dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    if name not in ("auto", "float32", "bfloat16"):
        raise ValueError(f"dtype: want auto, float32 or bfloat16, got {name!r}")
    if name == "auto":
        name = "bfloat16" if device.type == "cuda" else "float32"
    return torch.bfloat16 if name == "bfloat16" else torch.float32
