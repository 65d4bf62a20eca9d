"""The frozen ways between clips and latents: image VAE, mel VAE and vocoder, from folders of the user's."""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pavdit.audio.mel_forms import hifigan_form, log_floored, mel_spectrogram
from pavdit.baselines.av_dit.config import AVDiTConfig, FrozenConfig, LatentConfig
from pavdit.clip import Clip, DataError, frames_to_volume, volume_to_frames
from pavdit.config import ConfigError
from pavdit.files import file_record

EXTRA = "av-dit"
FRAMES_AT_ONCE = 16
"""Pictures that go through the image VAE together."""


@dataclass(frozen=True, slots=True)
class Coders:
    """Clips to latents of about unit variance, and back.

    Attributes:
        config: sizes.
        image_vae, mel_vae: ``AutoencoderKL`` of diffusers.
        vocoder: ``SpeechT5HifiGan`` of transformers: log-mel ``(B, columns, M)`` to wave.
        device: where they run, in float32.
    """

    config: AVDiTConfig
    image_vae: Any
    mel_vae: Any
    vocoder: Any
    device: torch.device

    @classmethod
    def load(cls, config: AVDiTConfig, frozen: FrozenConfig, device: torch.device) -> Coders:
        """Read all three.

        Raises:
            ConfigError: a library is not installed, or a folder is none.
            DataError: a folder holds something else, or a coder of other sizes than the configuration's.
        """
        for package in ("diffusers", "transformers"):
            if importlib.util.find_spec(package) is None:
                raise ConfigError(
                    f"system av-dit: want the package {package}, got none; pip install 'pavdit[{EXTRA}]'"
                )
        import diffusers
        import transformers

        diffusers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        loaded = {
            name: _load(kind, getattr(frozen, name), name, device)
            for name, kind in (
                ("image_vae", diffusers.AutoencoderKL),
                ("mel_vae", diffusers.AutoencoderKL),
                ("vocoder", transformers.SpeechT5HifiGan),
            )
        }
        _require_vae(loaded["image_vae"], frozen.image_vae, 3, config.picture)
        _require_vae(loaded["mel_vae"], frozen.mel_vae, 1, config.sound)
        about, sound = loaded["vocoder"].config, config.spectrogram
        hop = 1
        for rate in about.upsample_rates:
            hop *= rate
        want = (sound.n_mels, sound.hop_length, config.clip.sample_rate)
        if (got := (about.model_in_dim, hop, about.sampling_rate)) != want:
            raise DataError(
                f"{frozen.vocoder}: want a vocoder of (n_mels, hop_length, sample_rate) {want}, got {got}"
            )
        return cls(config, **loaded, device=device)

    @torch.no_grad()
    def encode(self, frames: Tensor, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Means of the latents.

        Args:
            frames: ``(B, T, 3, H, W)`` uint8.
            wave: ``(B, S)``.

        Returns:
            ``(B, C, T, rows, columns)`` and ``(B, C_a, 1, rows, columns)`` float32 on the CPU.
        """
        volume = frames_to_volume(frames).transpose(1, 2).flatten(0, 1)  # (B * T, 3, H, W)
        pictures = [self._latent(self.image_vae, some) for some in volume.split(FRAMES_AT_ONCE)]
        video = torch.cat(pictures).unflatten(0, frames.shape[:2]).transpose(1, 2)
        sound = self.config.spectrogram
        form = hifigan_form(self.config.clip.sample_rate, sound.n_fft, sound.hop_length, sound.n_mels)
        mel = log_floored(mel_spectrogram(wave.to(self.device), form)).transpose(1, 2)[:, None]
        return video.contiguous(), self._latent(self.mel_vae, mel)[:, :, None]

    def _latent(self, vae: Any, pictures: Tensor) -> Tensor:  # noqa: ANN401 (of an optional library)
        return (vae.encode(pictures.to(self.device)).latent_dist.mode() * vae.config.scaling_factor).cpu()

    @torch.no_grad()
    def decode(self, video: Tensor, audio: Tensor) -> list[Clip]:
        """Latents, as `encode` gives them, to clips."""
        spec = self.config.clip
        pictures = video.transpose(1, 2).flatten(0, 1) / self.image_vae.config.scaling_factor
        frames = torch.cat(
            [self.image_vae.decode(some.to(self.device)).sample for some in pictures.split(FRAMES_AT_ONCE)]
        ).unflatten(0, (len(video), -1))  # (B, T, 3, H, W)
        latent = (audio[:, :, 0] / self.mel_vae.config.scaling_factor).to(self.device)
        mel = self.mel_vae.decode(latent).sample[:, 0]  # (B, columns, M)
        # the public vocoder's transposed convolutions make some samples more than a hop a column
        wave = self.vocoder(mel).float().cpu().view(len(video), -1)[:, : spec.num_samples].clamp(-1.0, 1.0)
        return [
            Clip(one, sound, spec.fps, spec.sample_rate).require(spec)
            for one, sound in zip(volume_to_frames(frames.transpose(1, 2)).cpu(), wave, strict=True)
        ]


def digest_of(frozen: FrozenConfig) -> str:
    """12 hex digits that name all frozen weights.

    Raises:
        ConfigError: a path does not exist.
    """
    digest = hashlib.sha256()
    for name in ("image_dit", "image_vae", "mel_vae", "vocoder"):
        path: Path = getattr(frozen, name)
        files = [path] if path.is_file() else sorted(p for p in path.glob("*") if p.is_file())
        if not files:
            raise ConfigError(f"frozen.{name}: want weights of yours, got {path}, where there are none")
        for file in files:
            digest.update(f"{name} {file_record(file).sha256}\n".encode())
    return digest.hexdigest()[:12]


def _load(kind: Any, path: Path, name: str, device: torch.device) -> Any:  # noqa: ANN401 (optional libraries)
    if not path.is_dir():
        raise ConfigError(f"frozen.{name}: want a folder with a {kind.__name__}, got {path}, which is none")
    try:
        model = kind.from_pretrained(path, local_files_only=True)
    except Exception as error:  # whatever a library says of a damaged file
        said = " ".join(str(error).split())[:200]
        raise DataError(f"{path}: want a {kind.__name__} for frozen.{name}, got {said}") from None
    return model.to(device, torch.float32).eval().requires_grad_(False)


def _require_vae(vae: Any, path: Path, channels: int, want: LatentConfig) -> None:  # noqa: ANN401
    about = vae.config
    ratio = 2 ** (len(about.block_out_channels) - 1)
    got = (about.in_channels, about.latent_channels, ratio)
    if got != (channels, want.channels, want.ratio):
        raise DataError(
            f"{path}: want a VAE of (input channels, latent channels, ratio) "
            f"{(channels, want.channels, want.ratio)}, got {got}"
        )
