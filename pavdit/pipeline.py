"""The whole way, one line per arrow: clip → planes → clip, and noise → P → planes → clip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pavdit.audio.invert import invert_mel
from pavdit.audio.mel import mel_images
from pavdit.clip import Clip, frames_to_volume, volume_to_frames
from pavdit.config import TASKS, DataConfig, ModelConfig
from pavdit.flow.path import draw_noise
from pavdit.flow.sampler import Callback
from pavdit.latents import PlaneLayout, Planes
from pavdit.mdsa.autoencoder import MDSA
from pavdit.media import read_clip, write_clip
from pavdit.sampling import GIVEN, MADE_ALONE, BoundVelocity, Captions, Stream, sample_batch
from pavdit.text import to_bucket
from pavdit.train.checkpoint import open_checkpoint
from pavdit.train.models import Generator, choose_device, load_autoencoder, load_generator


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
        model_hash: str = "",
        data: DataConfig | None = None,
    ) -> None:
        self.config, self.device, self.model_hash = config, torch.device(device), model_hash
        self.mdsa = mdsa.to(self.device).eval()
        self.generator = None if generator is None else generator.to(self.device).eval()
        self.data = data
        self.layout = PlaneLayout.choose(config.grid, config.stdit.layout)

    @property
    def autoencoder_hash(self) -> str:
        """Names the autoencoder's weights, in a run of either stage."""
        return self.model_hash.partition("+")[0]

    @classmethod
    def from_pretrained(cls, path: str | Path, device: str = "auto") -> Pipeline:
        """Load averaged weights from a checkpoint or a run directory of either stage.

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
        video, audio = self._encode(clip, "video", "audio")
        return video, audio

    def encode_alone(self, clip: Clip, stream: Stream) -> Planes:
        """One stream of a clip to its latent planes, which know nothing of the other stream.

        Raises:
            ValueError: the clip has other sizes or rates than the models.
        """
        [planes] = self._encode(clip, stream)
        return planes

    @torch.no_grad()
    def _encode(self, clip: Clip, *streams: Stream) -> list[Planes]:
        clip.require(self.config.clip)
        volume = frames_to_volume(clip.frames[None].to(self.device))  # (1, 3, T, H, W)
        wave = clip.wave[None].to(self.device)  # (1, S)
        images = mel_images(wave, self.config.clip, self.config.mel)  # (1, 1, T, M, L)
        posteriors = self.mdsa.encode(
            volume if "video" in streams else None, images if "audio" in streams else None
        )
        return [posterior.mode() for posterior in posteriors if posterior is not None]

    @torch.no_grad()
    def decode(self, video: Planes | None, audio: Planes | None) -> list[Clip]:
        """Latent planes to clips, one per batch row; a stream without planes is black or silent.

        Raises:
            ValueError: both are None, or a plane has another shape than the model's.
        """
        spec, mel = self.config.clip, self.config.mel
        volume, images = self.mdsa.decode(video, audio)
        batch = (video or audio).hw.shape[0]  # type: ignore[union-attr]
        frames = torch.zeros(batch, spec.num_frames, 3, spec.height, spec.width, dtype=torch.uint8)
        waves = torch.zeros(batch, spec.num_samples)
        if volume is not None:
            frames = volume_to_frames(volume).cpu()
        if images is not None:
            waves = invert_mel(images.clamp(-1, 1), spec, mel).cpu()
        return [
            Clip(frames=f, wave=w, fps=spec.fps, sample_rate=spec.sample_rate)
            for f, w in zip(frames, waves, strict=True)
        ]

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | None = None,
        video: Clip | None = None,
        audio: Clip | None = None,
        task: str = "auto",
        n: int = 1,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        callback: Callback | None = None,
    ) -> list[Generated]:
        """Generate `n` clips. Clip ``i`` depends on ``seed + i`` and not on `n`.

        Args:
            prompt: a class or ``a video of <class>``; None: no condition (of one known class: that one).
            video: the clip whose frames are given, for ``v2a``.
            audio: the clip whose sound is given, for ``a2v``.
            task: one of `pavdit.config.TASKS`; ``auto``: v2a or a2v where a stream is given, else t2av.
            n: clips.
            seed: of the first clip.
            steps: of the sampler; None: as configured.
            guidance: scale s of ``v_null + s (v_cond - v_null)``; None: as configured.
            callback: ``callback(step, num_steps, latent)`` after each step.

        Raises:
            ValueError: the arguments do not fit each other or the model.
        """
        generator, flow = self._require_generator(), self.config.flow
        task = _choose_task(task, video, audio)
        if n < 1:
            raise ValueError(f"n: want at least 1 clip, got {n}")
        steps = flow.num_steps if steps is None else steps
        guidance = flow.guidance_scale if guidance is None else guidance
        if prompt is None and len(generator.text.class_names) == 1:
            prompt = generator.text.class_names[0]
        given = video if task == "v2a" else audio
        seeds = range(seed, seed + n)
        random = [torch.Generator().manual_seed(s) for s in seeds]

        latent = draw_noise(self._latent_shape(), random, flow.prior).to(
            self.device
        )  # (B, C, G, rows, columns)
        latent, target = self._place_given(latent.to(self.device), given, task)
        captions = self._captions(generator, prompt, n)
        velocity = BoundVelocity(
            generator.stdit,
            captions,
            task=task,
            fps=float(self.config.clip.fps),
            num_steps=steps,
            guided=captions.known and guidance != 1.0,
        )
        latent = sample_batch(
            velocity,
            latent,
            flow,
            num_steps=steps,
            guidance_scale=guidance if captions.known else 1.0,
            target=target,
            callback=callback,
        )
        planes_v, planes_a = self.layout.unstack(latent)
        clips = self.decode(None if task == "t2a" else planes_v, None if task == "t2v" else planes_a)

        generated = []
        for one, row, clip_seed in zip(clips, latent.cpu(), seeds, strict=True):
            provenance = {
                "model": self.model_hash,
                "prompt": prompt or "",
                "seed": str(clip_seed),
                "steps": str(steps),
                "guidance": f"{guidance:g}",
                "task": task,
            }
            generated.append(Generated(_with_given(one, given, task, prompt), row, provenance))
        return generated

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

    def _captions(self, generator: Generator, prompt: str | None, n: int) -> Captions:
        """The prompt's tokens for `n` clips; the null caption is as long as the shortest bucket."""
        stdit = self.config.stdit
        if prompt is None:
            shape = n, self.config.text.tokens_per_class, stdit.text_dim
            return Captions(torch.zeros(shape, device=self.device), None, known=False)
        tokens, mask = to_bucket(generator.text.encode([prompt]), stdit.max_text_length)
        return Captions(tokens.expand(n, -1, -1), None if mask is None else mask.expand(n, -1), known=True)


def _choose_task(task: str, video: Clip | None, audio: Clip | None) -> str:
    if task == "auto":
        if video is not None and audio is not None:
            raise ValueError("task: want video or audio to be given, got both, and nothing is left to make")
        task = "v2a" if video is not None else "a2v" if audio is not None else "t2av"
    if task not in TASKS:
        raise ValueError(f"task: want auto, {', '.join(TASKS)}, got {task!r}")
    got = [name for name, clip in (("video", video), ("audio", audio)) if clip is not None]
    want = [GIVEN[task]] if task in GIVEN else []
    if got != want:
        raise ValueError(f"task {task}: want {_names(want)} to be given, got {_names(got)}")
    return task


def _names(streams: Sequence[str]) -> str:
    return " and ".join(streams) or "neither stream"


def _with_given(made: Clip, given: Clip | None, task: str, prompt: str | None) -> Clip:
    """The clip with the given stream as it was given."""
    frames = given.frames if given is not None and task == "v2a" else made.frames
    wave = given.wave if given is not None and task == "a2v" else made.wave
    return replace(made, frames=frames, wave=wave, label=prompt or "")
