"""A run of AV-DiT: sizes of the image DiT and its adapters, frozen weights, sampling, training."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pavdit.baselines.mm_diffusion.config import DiffusionConfig
from pavdit.config import LoopConfig, SystemModel, SystemRun
from pavdit.config.schema import Model
from pavdit.stdit.embed import PATCH


class DiTConfig(Model):
    """The image DiT (Peebles & Xie, arXiv 2212.09748); defaults are DiT-XL/2's."""

    width: int = Field(1152, ge=16, multiple_of=4)
    """D."""
    depth: int = Field(28, ge=1)
    num_heads: int = Field(16, ge=1)
    mlp_ratio: int = Field(4, ge=1)
    num_classes: int = Field(1000, ge=1)
    """Of its training set; one more stands for no class, which is what AV-DiT asks for."""

    @model_validator(mode="after")
    def _check(self) -> DiTConfig:
        if self.width % self.num_heads:
            raise ValueError(f"dit: want width a multiple of num_heads {self.num_heads}, got {self.width}")
        return self


class AdaptationConfig(Model):
    """What is trained (AV-DiT, arXiv 2406.07686, 2 and table 4)."""

    rank: int = Field(76, ge=1)
    """Of the low-rank updates of q, k, v and output, for the sound and for the fusion. The paper calls it a
    ratio of 2, which would be 418 M parameters; 76 is what its 159.91 M leave."""
    temporal_ratio: int = Field(8, ge=1)
    """Queries and keys of the temporal adapter are narrower by this."""
    bottleneck_ratio: int = Field(2, ge=1)
    """The width over that of the hidden layer beside the sound's MLP."""


class LatentConfig(Model):
    """What a frozen VAE makes."""

    channels: int = Field(ge=1)
    ratio: int = Field(ge=1)
    """Values of its input over those of the latent, in either direction."""


class SoundConfig(Model):
    """The mel spectrogram that mel VAE and vocoder were trained on; defaults are AudioLDM's and Tango's."""

    n_mels: int = Field(64, ge=4)
    n_fft: int = Field(1024, ge=16)
    hop_length: int = Field(160, ge=1)


class FrozenConfig(Model):
    """Weights that are yours: none of them comes with pavdit, none is trained."""

    image_dit: Path
    """A file of the image DiT, names as in facebookresearch/DiT or in diffusers."""
    image_vae: Path
    """Folder of an ``AutoencoderKL`` of diffusers, for pictures."""
    mel_vae: Path
    """Folder of an ``AutoencoderKL`` of diffusers, for mel spectrograms (time down, bins right)."""
    vocoder: Path
    """Folder of a ``SpeechT5HifiGan`` of transformers."""


class AVDiTConfig(SystemModel):
    """All sizes of AV-DiT."""

    dit: DiTConfig = DiTConfig()
    adaptation: AdaptationConfig = AdaptationConfig()
    picture: LatentConfig = LatentConfig(channels=4, ratio=8)
    sound: LatentConfig = LatentConfig(channels=8, ratio=4)
    spectrogram: SoundConfig = SoundConfig()
    diffusion: DiffusionConfig = DiffusionConfig()
    frozen_digest: str = ""
    """Names the frozen weights; filled in when training begins."""

    @property
    def picture_shape(self) -> tuple[int, int, int, int]:
        """(C, T, rows, columns) of the frames' latents."""
        clip, ratio = self.clip, self.picture.ratio
        return self.picture.channels, clip.num_frames, clip.height // ratio, clip.width // ratio

    @property
    def sound_shape(self) -> tuple[int, int, int, int]:
        """(C, 1, rows in time, columns in frequency) of the sound's latent."""
        columns, ratio = self.clip.num_samples // self.spectrogram.hop_length, self.sound.ratio
        return self.sound.channels, 1, columns // ratio, self.spectrogram.n_mels // ratio

    def architecture(self, part: str) -> dict[str, Any]:
        """As for any system; `part` does not matter."""
        tree = self.model_dump(mode="json")
        whole = ("clip", "dit", "adaptation", "picture", "sound", "spectrogram", "diffusion")
        flat = {f"{section}.{key}": value for section in whole for key, value in tree[section].items()}
        return flat | {"frozen_digest": self.frozen_digest}

    @model_validator(mode="after")
    def _check(self) -> AVDiTConfig:
        clip, hop = self.clip, self.spectrogram.hop_length
        for name, value, unit in (
            ("height", clip.height, PATCH * self.picture.ratio),
            ("width", clip.width, PATCH * self.picture.ratio),
            ("num_samples", clip.num_samples, PATCH * self.sound.ratio * hop),
            ("n_mels", self.spectrogram.n_mels, PATCH * self.sound.ratio),
        ):
            if value % unit:
                raise ValueError(
                    f"model: want {name} in multiples of {unit}, which makes a token, got {value}"
                )
        return self


class AVDiTSampling(Model):
    """How clips are made: DDIM (Song et al., arXiv 2010.02502), which is DDPM at eta 1."""

    num_steps: int = Field(250, ge=1)
    eta: float = Field(1.0, ge=0, le=1)


class AVDiTTrain(LoopConfig):
    """How AV-DiT trains; defaults are the paper's."""

    stage: Literal["denoiser"] = "denoiser"
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    latent_cache: Path | None = None
    """Where the clips lie encoded, for any number of runs; None: `latents` beside `run_dir`."""


class AVDiTRun(SystemRun):
    """``system: av-dit``."""

    system: Literal["av-dit"] = "av-dit"
    model: AVDiTConfig
    frozen: FrozenConfig
    sampling: AVDiTSampling = AVDiTSampling()
    train: AVDiTTrain

    @model_validator(mode="after")
    def _check(self) -> AVDiTRun:
        data = self.data
        if data.flip_probability or data.segments == "random":
            raise ValueError(
                "data: want flip_probability 0 and segments first or all for av-dit, which encodes each clip "
                f"once, got {data.flip_probability:g} and {data.segments}"
            )
        return self
