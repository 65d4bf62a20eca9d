"""A run of MM-Diffusion: sizes of the coupled U-Nets, noise, sampling, training."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from pavdit.config import LoopConfig, SystemModel, SystemRun
from pavdit.config.schema import Model

AUDIO_STRIDE = 4
"""What a level divides the samples by; it halves the rows and columns of a frame."""


class UNetConfig(Model):
    """The coupled U-Nets (Ruan et al., arXiv 2212.09478, 3.2 and 4.1); defaults are theirs for 64 x 64."""

    width: int = Field(128, ge=8, multiple_of=2)
    """Channels at the full resolution, and of the time's embedding."""
    multipliers: tuple[int, ...] = Field((1, 2, 3, 4), min_length=1)
    """Of `width`, level by level."""
    num_blocks: int = Field(2, ge=1)
    """Residual blocks of a level on the way down; one more on the way up."""
    dropout: float = Field(0.1, ge=0, lt=1)
    groups: int = Field(32, ge=1)
    """Of every group normalisation."""
    dilation_cycle: int = Field(10, ge=1)
    """Audio convolutions dilate by ``2^(k mod dilation_cycle)``, k the number of the block from 1."""
    attention: tuple[int, ...] = (2, 4, 8)
    """Where the video net attends over space and time: factors that its frames are reduced by."""
    num_heads: int = Field(4, ge=1)
    cross_attention: dict[int, int] = {2: 1, 4: 4, 8: 8}
    """Where the streams attend to each other, and over how many frames: ``factor: window``."""
    cross_head_dim: int = Field(64, ge=1)

    @model_validator(mode="after")
    def _check(self) -> UNetConfig:
        factors = [2**level for level in range(len(self.multipliers))]
        for name, wanted in (("attention", self.attention), ("cross_attention", tuple(self.cross_attention))):
            if strange := sorted(set(wanted) - set(factors)):
                raise ValueError(f"unet: want {name} at factors of {factors}, got {strange}")
        for factor, multiplier in zip(factors, self.multipliers, strict=True):
            channels, deepest = multiplier * self.width, factor == factors[-1]
            wants = {"groups": self.groups}
            if factor in self.attention or deepest:
                wants["num_heads"] = self.num_heads
            if factor in self.cross_attention or deepest:
                wants["cross_head_dim"] = self.cross_head_dim
            for name, divisor in wants.items():
                if channels % divisor:
                    raise ValueError(
                        f"unet: want width * multiplier a multiple of {name} = {divisor}, got {channels} "
                        f"at factor {factor}"
                    )
        return self


class DiffusionConfig(Model):
    """The noise: variances that rise linearly, scaled to the number of steps (Ho et al., 2006.11239)."""

    num_timesteps: int = Field(1000, ge=21)


class SamplingConfig(Model):
    """How clips are made."""

    method: Literal["dpm-solver", "ddim"] = "dpm-solver"
    num_steps: int = Field(20, ge=1)
    """Evaluations of the network."""
    order: Literal[1, 2, 3] = 3
    """Of DPM-Solver."""
    eta: float = Field(0.0, ge=0, le=1)
    """Of DDIM: the share of fresh noise; 1 with every step is DDPM."""
    condition: Literal["replacement", "gradient"] = "replacement"
    """How a given stream conditions the other without training: it replaces the net's own at every step, or
    the made stream is pulled to where the net would predict it."""
    guidance_scale: float = Field(3.0, ge=0)
    """Of `condition: gradient`."""

    @model_validator(mode="after")
    def _check(self) -> SamplingConfig:
        if self.condition == "gradient" and self.method != "ddim":
            raise ValueError(f"sampling: want method ddim for condition gradient, got {self.method}")
        return self


class MMDiffusionConfig(SystemModel):
    """All sizes of MM-Diffusion."""

    unet: UNetConfig = UNetConfig()
    diffusion: DiffusionConfig = DiffusionConfig()

    def architecture(self, part: str) -> dict[str, Any]:
        """As for any system; `part` does not matter."""
        tree = self.model_dump(mode="json")
        del tree["unet"]["dropout"]
        sections = ("clip", "unet", "diffusion")
        return {f"{section}.{key}": value for section in sections for key, value in tree[section].items()}

    @model_validator(mode="after")
    def _check(self) -> MMDiffusionConfig:
        clip, levels = self.clip, len(self.unet.multipliers)
        factor, stride = 2 ** (levels - 1), AUDIO_STRIDE ** (levels - 1)
        if clip.height % factor or clip.width % factor:
            raise ValueError(
                f"clip: want height and width in multiples of 2^(levels - 1) = {factor}, "
                f"got {clip.height} x {clip.width}"
            )
        if clip.samples_per_frame % stride:
            raise ValueError(
                f"clip: want samples_per_frame a multiple of 4^(levels - 1) = {stride}, "
                f"got {clip.samples_per_frame}"
            )
        for window in self.unet.cross_attention.values():
            if not 1 <= window <= clip.num_frames:
                raise ValueError(
                    f"unet.cross_attention: want windows of 1 to {clip.num_frames} frames, got {window}"
                )
        return self


class MMDiffusionTrain(LoopConfig):
    """How MM-Diffusion trains."""

    stage: Literal["denoiser"] = "denoiser"


class MMDiffusionRun(SystemRun):
    """``system: mm-diffusion``."""

    system: Literal["mm-diffusion"] = "mm-diffusion"
    model: MMDiffusionConfig
    sampling: SamplingConfig = SamplingConfig()
    train: MMDiffusionTrain
