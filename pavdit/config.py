"""Every option of the package as typed, frozen models, and the presets.

A YAML file and the command line fill the same models. An unknown key is an error. A run writes its resolved
configuration beside its output.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pavdit.clip import ClipSpec

TASKS = ("t2av", "v2a", "a2v", "t2v", "t2a")
"""text → both, video → audio, audio → video, text → video, text → audio; the index is the embedding's row."""

Layout = Literal["auto", "six", "concat4", "fold"]


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one line."""


class Model(BaseModel):
    """Base of all configuration: frozen, unknown keys rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MelConfig(Model):
    """Mel images of the sound. Amplitude Slaney mel, a full-scale sine is 0 dB."""

    n_mels: int = Field(256, ge=8)
    """M, rows of a mel image."""
    n_fft: int = Field(2048, ge=16)
    """Samples of the FFT; the window is zero-padded to it."""
    win_length: int = Field(512, ge=16)
    """Samples of the Hann window."""
    f_min_hz: float = Field(0.0, ge=0)
    f_max_hz: float = Field(8000.0, gt=0)
    floor_db: float = Field(-100.0, lt=0)
    """Level that maps to -1; 0 dB maps to +1."""

    @model_validator(mode="after")
    def _check(self) -> MelConfig:
        if self.win_length > self.n_fft:
            raise ValueError(f"mel: want win_length <= n_fft, got {self.win_length} > {self.n_fft}")
        if self.f_min_hz >= self.f_max_hz:
            raise ValueError(f"mel: want f_min_hz < f_max_hz, got {self.f_min_hz} >= {self.f_max_hz}")
        return self


class StreamDropoutConfig(Model):
    """Probabilities, per sample, that one stream is trained alone or decoded beside a joint latent."""

    video_alone: float = Field(0.1, ge=0, le=1)
    audio_alone: float = Field(0.1, ge=0, le=1)
    crossed: float = Field(0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _check(self) -> StreamDropoutConfig:
        total = self.video_alone + self.audio_alone + self.crossed
        if total > 1:
            raise ValueError(f"stream_dropout: want video_alone + audio_alone + crossed <= 1, got {total}")
        return self


class MDSAConfig(Model):
    """The autoencoder (PAV-DiT 3.1, A.2)."""

    patch_size: int = Field(8, ge=1)
    """d, pixels of a token's side: H' = H / d, W' = W / d."""
    width: int = Field(384, ge=16)
    """D."""
    encoder_depth: int = Field(8, ge=1)
    decoder_depth: int = Field(8, ge=1)
    num_heads: int = Field(8, ge=1)
    """Heads of the TimeSformers, `head_dim` wide."""
    head_dim: int = Field(64, ge=4, multiple_of=4)
    mlp_ratio: int = Field(4, ge=1)
    projector_depth: int = Field(4, ge=1)
    projector_num_heads: int = Field(4, ge=1)
    projector_head_dim: int = Field(48, ge=4, multiple_of=4)
    projector_mlp_dim: int = Field(512, ge=1)
    fusion_num_heads: int = Field(6, ge=1)
    """Heads of spatial, multi-scale, group cross-modal and block attention, 64 wide."""
    fusion_head_dim: int = Field(64, ge=4, multiple_of=4)
    latent_channels: int = Field(4, ge=1)
    """C."""
    share_scales: bool = True
    """One Attn_t for the three scales of eq. 5; False gives each scale its own QKV."""
    bi_block: tuple[int, int, int] | None = None
    """(bt, bh, bw) of Bi-Block CrossAttn; None is one frame, (1, H', W')."""
    mt_self_attn: bool = True
    gcm_attn: bool = True
    bi_block_attn: bool = True
    kl: bool = True
    """Sample z = tanh(mu + sigma * eps) and regularise it in stage 2; False keeps z = tanh(mu)."""
    kl_target: Literal["latent", "output"] = "latent"
    adversarial: bool = True
    stream_dropout: StreamDropoutConfig = StreamDropoutConfig()


class STDiTConfig(Model):
    """The generator (PAV-DiT 3.2, after Open-Sora 1.2's STDiT3)."""

    width: int = Field(1152, ge=16)
    """D."""
    depth: int = Field(16, ge=1)
    """Pairs of one spatial and one temporal block."""
    num_heads: int = Field(18, ge=1)
    mlp_ratio: int = Field(4, ge=1)
    text_dim: int = Field(4096, ge=1)
    """Width of the condition's tokens."""
    max_text_length: int = Field(300, ge=1)
    plane_rope: bool = False
    """Rotary positions over the frames of P in temporal blocks."""
    layout: Layout = "auto"

    @property
    def head_dim(self) -> int:
        """E."""
        return self.width // self.num_heads

    @model_validator(mode="after")
    def _check(self) -> STDiTConfig:
        if self.width % self.num_heads or self.head_dim % 4:
            raise ValueError(
                f"stdit: want width = num_heads * a multiple of 4, got width {self.width}, "
                f"num_heads {self.num_heads}"
            )
        return self


class FlowConfig(Model):
    """Reflected flow (PAV-DiT 4.2; arXiv 2405.16577); `prior="normal", reflect=False` is rectified flow."""

    prior: Literal["truncated_normal", "normal"] = "truncated_normal"
    reflect: bool = True
    time_distribution: Literal["logit_normal", "uniform"] = "logit_normal"
    method: Literal["euler", "heun"] = "euler"
    num_steps: int = Field(30, ge=1)
    guidance_scale: float = Field(4.0, ge=0)
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Times t in which guidance is applied."""


class TextConfig(Model):
    """Where the condition comes from."""

    encoder: Literal["classes"] = "classes"
    class_names: tuple[str, ...] = ()
    """Filled from the training set."""
    tokens_per_class: int = Field(8, ge=1)
    """Learned tokens of a class; 8 fills the smallest text bucket."""
    dropout: float = Field(0.1, ge=0, le=1)
    """Probability that the condition is replaced by the null caption in training."""


class ModelConfig(Model):
    """All sizes of a system: clip, mel images, autoencoder, generator, flow, condition."""

    name: str = "custom"
    clip: ClipSpec
    mel: MelConfig = MelConfig()
    mdsa: MDSAConfig = MDSAConfig()
    stdit: STDiTConfig = STDiTConfig()
    flow: FlowConfig = FlowConfig()
    text: TextConfig = TextConfig()

    @property
    def grid(self) -> tuple[int, int, int]:
        """(T, H', W'), the token grid that both streams share."""
        d = self.mdsa.patch_size
        return self.clip.num_frames, self.clip.height // d, self.clip.width // d

    @property
    def mel_patch(self) -> tuple[int, int]:
        """(mel bins, mel columns) of one token of a mel image."""
        _, rows, columns = self.grid
        return self.mel.n_mels // rows, self.clip.columns_per_frame // columns

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        clip, d = self.clip, self.mdsa.patch_size
        if clip.height % (2 * d) or clip.width % (2 * d):
            raise ValueError(
                f"clip: want height and width in multiples of 2 * patch_size = {2 * d}, "
                f"got {clip.height} x {clip.width}"
            )
        frames, rows, columns = self.grid
        if frames % 4:
            raise ValueError(f"clip: want num_frames in multiples of 4 (temporal pooling), got {frames}")
        if self.mel.n_mels % rows or clip.columns_per_frame % columns:
            raise ValueError(
                f"mel: want n_mels a multiple of H' = {rows} and columns_per_frame a multiple of "
                f"W' = {columns}, got {self.mel.n_mels} and {clip.columns_per_frame}"
            )
        if self.mel.f_max_hz > clip.sample_rate / 2:
            raise ValueError(
                f"mel: want f_max_hz <= sample_rate / 2 = {clip.sample_rate / 2:g}, got {self.mel.f_max_hz:g}"
            )
        if (self.mel.n_fft - clip.hop_length) % 2:
            raise ValueError(f"mel: want n_fft - hop_length even, got {self.mel.n_fft} - {clip.hop_length}")
        block = self.mdsa.bi_block
        if block is not None and any(n % b for n, b in zip(self.grid, block, strict=True)):
            raise ValueError(f"mdsa: want bi_block to divide the grid {self.grid}, got {block}")
        return self


class DataConfig(Model):
    """The clips of a run."""

    kind: Literal["bounce", "folder"] = "bounce"
    path: Path | None = None
    """Folder of clips, for `kind: folder`; class names are the folders' names."""
    num_clips: int | None = Field(None, ge=1)
    """Clips to use; None is all of a folder (`bounce` needs a number)."""
    held_out: int = Field(0, ge=0)
    """Clips kept for validation, never trained on (the last ones of `num_clips`)."""
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
        if self.num_clips is not None and self.held_out >= self.num_clips:
            raise ValueError(f"data: want held_out < num_clips, got {self.held_out} >= {self.num_clips}")
        return self


class TrainConfig(Model):
    """How a run optimises."""

    stage: Literal["autoencoder", "generator"]
    run_dir: Path
    """Where checkpoints, the log and the resolved configuration go."""
    autoencoder: Path | None = None
    """Checkpoint or run directory of the trained autoencoder, for `stage: generator`."""
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
    gradient_clip: float = Field(1.0, gt=0)
    ema_decay: float = Field(0.9999, ge=0, lt=1)
    perceptual_weight: float = Field(4.0, ge=0)
    l1_beta: float = Field(0.0, ge=0)
    """Pixel errors below this count quadratically; 0 is the paper's L1. Short runs on flat pictures want it:
    L1 spends itself on the last percent of a background before it learns a small moving object."""
    tasks: dict[Literal["t2av", "v2a", "a2v", "t2v", "t2a"], float] = {"t2av": 1.0}
    """Share of each task in generator training."""
    checkpoint_every: int = Field(500, ge=1)
    keep_checkpoints: int = Field(2, ge=1)
    log_every: int = Field(10, ge=1)
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Autocast dtype; weights and optimiser state stay float32."""
    device: str = "auto"
    num_workers: int = Field(0, ge=0)
    seed: int = 0

    @model_validator(mode="after")
    def _check(self) -> TrainConfig:
        if self.stage == "generator" and self.autoencoder is None:
            raise ValueError("train: want autoencoder (a checkpoint) for stage 'generator', got none")
        return self


class RunConfig(Model):
    """A whole training run: ``pavdit train CONFIG.yaml``."""

    model: ModelConfig
    data: DataConfig
    train: TrainConfig


def _system(
    name: str,
    clip: ClipSpec,
    *,
    n_mels: int,
    patch_size: int,
    mdsa: tuple[int, int],
    stdit: tuple[int, int],
    text_dim: int,
) -> ModelConfig:
    """Build a preset from (width, depth) pairs; head counts follow the width."""
    width, depth = mdsa
    return ModelConfig(
        name=name,
        clip=clip,
        mel=MelConfig(n_mels=n_mels),
        mdsa=MDSAConfig(
            patch_size=patch_size,
            width=width,
            encoder_depth=depth,
            decoder_depth=depth,
            num_heads=max(2, width // 48),
            projector_num_heads=max(1, width // 96),
            projector_mlp_dim=4 * width // 3,
            fusion_num_heads=width // 64,
        ),
        stdit=STDiTConfig(width=stdit[0], depth=stdit[1], num_heads=stdit[0] // 64, text_dim=text_dim),
    )


def tiny() -> ModelConfig:
    """Tests and CPU training: 32 x 32, 8 frames, 8 x 8 tokens a frame."""
    clip = ClipSpec(num_frames=8, height=32, width=32)
    return _system("tiny", clip, n_mels=64, patch_size=4, mdsa=(128, 3), stdit=(128, 3), text_dim=128)


def small() -> ModelConfig:
    """64 x 64, 16 frames: the bundled weights."""
    clip = ClipSpec(num_frames=16, height=64, width=64)
    return _system("small", clip, n_mels=128, patch_size=4, mdsa=(128, 4), stdit=(192, 4), text_dim=384)


def medium() -> ModelConfig:
    """64 x 64, 16 frames: the CPU speed benchmarks."""
    clip = ClipSpec(num_frames=16, height=64, width=64)
    return _system("medium", clip, n_mels=128, patch_size=4, mdsa=(192, 4), stdit=(384, 6), text_dim=384)


def base() -> ModelConfig:
    """256 x 256, 16 frames, 233 M generator."""
    clip = ClipSpec(num_frames=16, height=256, width=256)
    return _system("base", clip, n_mels=256, patch_size=8, mdsa=(384, 8), stdit=(768, 12), text_dim=4096)


def xl() -> ModelConfig:
    """The paper's size: 256 x 256, 16 frames, 697.5 M generator."""
    clip = ClipSpec(num_frames=16, height=256, width=256)
    return _system("xl", clip, n_mels=256, patch_size=8, mdsa=(384, 8), stdit=(1152, 16), text_dim=4096)


PRESETS = {f.__name__: f for f in (tiny, small, medium, base, xl)}


def one_line(error: ValidationError) -> str:
    """A pydantic report as ``key: what; key: what``."""
    return "; ".join(
        f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg'].removeprefix('Value error, ')}"
        + (f" (got {e['input']!r})" if e["type"] not in ("value_error", "missing") else "")
        for e in error.errors()
    )


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _set(tree: dict[str, Any], assignment: str) -> None:
    key, equals, value = assignment.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set: want key.key=value, got {assignment!r}")
    *parents, last = key.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {assignment}: {parent} is a value, not a section")
        node = child
    node[last] = yaml.safe_load(value)


def parse_run(tree: dict[str, Any], source: str = "config") -> RunConfig:
    """Validate a configuration tree; ``model.preset: NAME`` fills what ``model`` leaves out.

    Raises:
        ConfigError: unknown key or preset, wrong type, or values that exclude each other; names `source`.
    """
    tree = dict(tree)
    model = tree.get("model")
    if isinstance(model, dict) and "preset" in model:
        model = dict(model)
        preset = model.pop("preset")
        if preset not in PRESETS:
            raise ConfigError(f"{source}: model.preset: want one of {', '.join(PRESETS)}, got {preset!r}")
        tree["model"] = _merge(PRESETS[preset]().model_dump(mode="json"), model)
    try:
        return RunConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(f"{source}: {one_line(error)}") from None


def load_run(path: Path, assignments: tuple[str, ...] = ()) -> RunConfig:
    """Read a YAML run configuration and apply ``key.key=value`` assignments.

    Raises:
        ConfigError: the file is missing, is not YAML, or does not validate.
    """
    try:
        tree = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: want a YAML file, got no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: want a readable YAML file, got {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: want a mapping at the top, got {type(tree).__name__}")
    for assignment in assignments:
        _set(tree, assignment)
    return parse_run(tree, str(path))
