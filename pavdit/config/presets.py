"""The presets: functions that return the sizes of a system."""

from __future__ import annotations

from pavdit.clip import ClipSpec
from pavdit.config.model import DiscriminatorConfig, MDSAConfig, MelConfig, ModelConfig, STDiTConfig


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
            discriminator=DiscriminatorConfig(
                width=max(16, width // 48 * 8), depth=3 if clip.height > 64 else 2
            ),
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
