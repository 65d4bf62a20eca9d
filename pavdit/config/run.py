"""A training run: its clips, and how it optimises."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from pavdit.config.adapter import AdapterConfig
from pavdit.config.model import ModelConfig, SystemModel
from pavdit.config.schema import Model


class DataConfig(Model):
    """The clips of a run."""

    kind: Literal["bounce", "folder"] = "bounce"
    scenes: Literal["all", "simple"] = "all"
    """For `kind: bounce`: `simple` has one object before a plain wall, no rolling and no sliding, for a small
    model to learn in minutes."""
    path: Path | None = None
    """For `kind: folder`: a folder of clips as it is, or a table (.csv, .tsv) with a column `path`."""
    layout: Literal["auto", "folders", "aist", "table"] = "auto"
    """What tells a file's class: the folder above it; AIST++'s genre in its name; a row of a table (VGGSound,
    AudioSet, Landscape or any csv). `auto` takes the table where there is one, and says what it found."""
    labels: Path | None = None
    """The table, where `path` is a folder; None: the only .csv or .tsv that lies in the folder itself."""
    captions: Literal["auto", "labels"] = "auto"
    """`auto`: the .txt beside the clip, else the table's, else "a video of <class>"; `labels`: only that."""
    splits: Literal["auto", "ignore"] = "auto"
    """`auto`: where the set has parts, train on `train` and hold out of the others. `ignore`: all are one."""
    bad_files: Literal["refuse", "skip"] = "refuse"
    """A file that cannot be used ends the run, or is left out and named; in training the next clip of the
    order stands in for one that does not decode, the same one in every run."""
    num_clips: int | None = Field(None, ge=1)
    """Clips to use; None is all of a folder (`bounce` needs a number)."""
    held_out: int = Field(0, ge=0)
    """Clips kept for validation, never trained on: of the set's own test part where it has one, else the last
    ones of `num_clips`."""
    segments: Literal["first", "all", "random"] = "all"
    """Which clip-long segments of a longer file are used."""
    resize: Literal["crop", "mmdiffusion"] = "crop"
    """`crop`: centre crop, antialiased. `mmdiffusion`: bicubic, whole picture, black borders."""
    channel: Literal["mean", "first"] = "mean"
    flip_probability: float = Field(0.0, ge=0, le=1)
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.kind == "folder" and self.path is None:
            raise ValueError("data: want path for kind 'folder', got none")
        if self.kind == "bounce" and self.num_clips is None:
            raise ValueError("data: want num_clips for kind 'bounce', got none")
        if self.labels is not None and self.layout not in ("auto", "table"):
            raise ValueError(f"data: want layout 'table' beside labels, got {self.layout!r}")
        if self.num_clips is not None and self.held_out >= self.num_clips:
            raise ValueError(f"data: want held_out < num_clips, got {self.held_out} >= {self.num_clips}")
        return self


class LoopConfig(Model):
    """How a run optimises: what the training loop asks, whatever it trains."""

    stage: str
    """What is trained."""
    run_dir: Path
    """Where checkpoints, the log and the resolved configuration go."""
    initial: str | None = None
    """Checkpoint, run directory or bundled weights whose averaged model this run begins with, for example an
    exported one of another machine. Steps and the optimiser's moments begin anew, so want `warmup_steps`."""
    num_steps: int = Field(..., ge=1)
    time_limit_seconds: float | None = Field(None, gt=0)
    """Stop (and save) after this long, if the steps are not done before."""
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    final_learning_rate: float | None = Field(None, gt=0)
    """Cosine decay to this rate at `num_steps`; None keeps `learning_rate`."""
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(0, ge=0)
    accumulate: int = Field(1, ge=1)
    """Equal parts of a batch that are computed one after another, where the whole takes too much memory."""
    sharded: bool = False
    """Split weights, optimiser and average over the ranks (FSDP2), where a GPU cannot hold all; for the
    generator."""
    adversary_learning_rate: float | None = Field(None, gt=0)
    """Of the discriminators; None is `learning_rate`."""
    graph: Literal["auto"] | bool = "auto"
    """Whether the generator's update is one CUDA graph, which spares a small batch the time of its launches.
    `auto`: where a run allows it (CUDA, one rank, no accumulation, at most 8 clips) it is tried after the
    first updates and kept where it is at least 5 % faster."""
    gradient_clip: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.9999, ge=0, lt=1)
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them: the same gradients, less memory."""
    checkpoint_every: int = Field(500, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    log_every: int = Field(10, ge=1)
    show_every: int | None = Field(None, ge=1)
    """Steps between what people look at: pictures and clips in ``RUN/shown``; None: never."""
    tensorboard: bool = False
    """Also write ``RUN/tensorboard``: scalars, pictures, sound (extra ``log``)."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Autocast dtype; weights and optimiser state stay float32. `auto`: bfloat16 where the device computes in
    it (elsewhere it is several times as slow), else float32."""
    device: str = "auto"
    num_workers: int = Field(0, ge=0)
    seed: int = 0

    @property
    def origin(self) -> Path | None:
        """The run that this one goes on from with its optimiser, which is part of what it is; None: none."""
        return None

    @model_validator(mode="after")
    def _check_loop(self) -> Self:
        if self.sharded and self.stage != "generator":
            raise ValueError(f"train: want stage 'generator' for sharded, got {self.stage!r}")
        if self.initial is not None and (self.origin is not None or self.sharded):
            raise ValueError("train: want initial alone, got it beside first_stage or sharded")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"train: want batch_size a multiple of accumulate = {self.accumulate}, got {self.batch_size}"
            )
        return self


class TrainConfig(LoopConfig):
    """How a run of ours optimises: an autoencoder's, a generator's, or a generator's adapters."""

    stage: Literal["autoencoder", "generator", "adapter"]
    autoencoder: Path | None = None
    """Checkpoint, run directory or bundled weights of the trained autoencoder, for `stage: generator`."""
    audio_autoencoder: Path | None = None
    """The same of the sound's own one, where `autoencoder` counts for the picture alone: the generator joins
    the latents of two frozen encoders that have never met. None: `autoencoder` is of both."""
    latent_cache: Path | None = None
    """Where the generator's clips lie encoded, for any number of runs; None: `latents` beside `run_dir`."""
    latent_dtype: Literal["float32", "float16"] = "float32"
    """Of the latents in the cache; half the disk at 1/2048 relative."""
    first_stage: Path | None = None
    """Checkpoint or run directory of an autoencoder's first stage: this run is its second (`model.mdsa.kl`,
    `model.mdsa.adversarial`), and begins with its weights, average and optimiser. None: a first stage."""
    disc_start: int = Field(0, ge=0)
    """Step of a second stage from which on the discriminators count and learn (eq. 12)."""
    perceptual_weight: float = Field(4.0, ge=0)
    lpips_trunk: Path | None = None
    """Weights of VGG16, AlexNet or SqueezeNet (torchvision's names) for the perceptual term; None is
    multi-scale gradient L1."""
    lpips_heads: Path | None = None
    """Weights of LPIPS' linear heads for that trunk; None weighs all channels alike."""
    l1_beta: float = Field(0.0, ge=0)
    """Pixel errors below this count quadratically; 0 is the paper's L1. Short runs on flat pictures want it:
    L1 spends itself on the last percent of a background before it learns a small moving object."""
    tasks: dict[Literal["t2av", "v2a", "a2v", "t2v", "t2a"], float] = {"t2av": 1.0}
    """Share of each task in generator training."""
    pair_clips: int = Field(0, ge=0)
    """Clips whose sound is made from their picture at every validation, to see whether it is nearer to theirs
    than to that of others; 0: none."""

    @property
    def origin(self) -> Path | None:
        """The first stage."""
        return self.first_stage

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.stage == "generator" and self.autoencoder is None:
            raise ValueError("train: want autoencoder (a checkpoint) for stage 'generator', got none")
        if self.stage == "adapter" and self.autoencoder is not None:
            raise ValueError(f"train: want no autoencoder for stage 'adapter', got {self.autoencoder}")
        if self.stage != "generator" and self.audio_autoencoder is not None:
            raise ValueError(
                f"train: want audio_autoencoder for stage 'generator' alone, got {self.audio_autoencoder}"
            )
        if self.stage != "autoencoder" and self.first_stage is not None:
            raise ValueError(f"train: want first_stage for stage 'autoencoder' alone, got {self.first_stage}")
        if self.disc_start and self.first_stage is None:
            raise ValueError(
                f"train: want first_stage (a checkpoint) beside disc_start, got {self.disc_start} alone"
            )
        if self.lpips_heads is not None and self.lpips_trunk is None:
            raise ValueError(f"train: want lpips_trunk beside lpips_heads, got {self.lpips_heads} alone")
        return self


class SystemRun(Model):
    """A whole training run of any system: what the trainer, its checkpoints and the data ask of it."""

    system: str | None = None
    """One of `pavdit.baselines.SYSTEMS`; None: ours."""
    model: SystemModel
    data: DataConfig
    train: LoopConfig


class RunConfig(SystemRun):
    """A whole training run of ours: ``pavdit train CONFIG.yaml``."""

    system: None = None
    model: ModelConfig
    train: TrainConfig
    adapter: AdapterConfig | None = None
    """What is trained of a generator in `train.stage: adapter`, which leaves `model` to the backbone."""

    @property
    def autoencoder(self) -> Path | None:
        """What makes the latents of a generator's or an adapter's run."""
        return self.train.autoencoder if self.adapter is None else self.adapter.backbone

    @model_validator(mode="after")
    def _check_adapter(self) -> RunConfig:
        if (self.train.stage == "adapter") != (self.adapter is not None):
            got = "none" if self.adapter is None else f"it for {self.train.stage!r}"
            raise ValueError(f"adapter: want a section adapter for train.stage 'adapter' alone, got {got}")
        return self

    @model_validator(mode="after")
    def _check_streams(self) -> RunConfig:
        streams, alone = self.model.mdsa.streams, self.train.audio_autoencoder is None
        if self.train.stage == "generator" and streams != "both" and (alone or streams == "audio"):
            raise ValueError(
                "train: want an autoencoder of the picture and an audio_autoencoder, or one of both streams, "
                f"got model.mdsa.streams {streams!r} and audio_autoencoder {self.train.audio_autoencoder}"
            )
        return self
