"""The smallest system that has every part, for tests that train."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from pavdit.clip import ClipSpec
from pavdit.config import (
    TASKS,
    DataConfig,
    FlowConfig,
    MDSAConfig,
    MelConfig,
    ModelConfig,
    RunConfig,
    STDiTConfig,
    TextConfig,
    TrainConfig,
)

NUM_CLIPS = 6
EVERY_TASK = dict.fromkeys(TASKS, 1.0)


def quiet_console() -> Console:
    """A console that keeps what is printed: ``console.file.getvalue()``."""
    return Console(file=io.StringIO(), width=1000)


def nano(**over: object) -> ModelConfig:
    """16 x 16 pixels, 4 frames, 4 x 4 tokens a frame; layout `six`."""
    mdsa = MDSAConfig(
        patch_size=4,
        width=32,
        encoder_depth=1,
        decoder_depth=1,
        num_heads=2,
        head_dim=16,
        mlp_ratio=2,
        projector_depth=1,
        projector_num_heads=2,
        projector_head_dim=16,
        projector_mlp_dim=32,
        fusion_num_heads=2,
        fusion_head_dim=16,
    )
    parts: dict[str, object] = {
        "name": "nano",
        "clip": ClipSpec(num_frames=4, height=16, width=16),
        "mel": MelConfig(n_mels=16),
        "mdsa": mdsa,
        "stdit": STDiTConfig(width=32, depth=1, num_heads=2, mlp_ratio=2, text_dim=16),
        "flow": FlowConfig(num_steps=3),
        "text": TextConfig(),
    }
    return ModelConfig(**(parts | over))


def nano_run(run_dir: Path, stage: str = "autoencoder", **train: object) -> RunConfig:
    """A run on a few procedural clips."""
    options: dict[str, object] = {
        "stage": stage,
        "run_dir": run_dir,
        "num_steps": 4,
        "batch_size": 2,
        "learning_rate": 1e-3,
        "checkpoint_every": 2,
        "log_every": 1,
        "device": "cpu",
    }
    return RunConfig(
        model=nano(),
        data=DataConfig(kind="bounce", num_clips=NUM_CLIPS, held_out=2),
        train=TrainConfig(**(options | train)),
    )
