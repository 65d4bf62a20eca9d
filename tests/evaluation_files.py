"""What tests of the evaluation read: the smallest protocol, folders of the smallest clips, a YAMNet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from pavdit.clip import ClipSpec
from pavdit.data.bounce import BounceClips
from pavdit.evaluation.protocol import FOLDER
from pavdit.media import write_clip
from pavdit.metrics.yamnet import LAYERS

SPEC = ClipSpec(num_frames=4, height=16, width=16)


def small_protocol(folder: Path) -> Path:
    """A protocol of 4 frames of 16 x 16."""
    tree = yaml.safe_load((FOLDER / "clean.yaml").read_text())
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(tree | {"name": "small", "num_frames": 4, "resolutions": [16]}))
    return path


def clip_folder(folder: Path, seed: int, num_clips: int = 4) -> Path:
    """A new folder of procedural clips."""
    folder.mkdir()
    clips = BounceClips(num_clips, SPEC, seed)
    for i in range(num_clips):
        write_clip(clips.read(i), folder / f"{i}.mp4")
    return folder


def noise_yamnet(path: Path) -> Path:
    """A file of YAMNet's format with weights that mean nothing."""
    rng = np.random.default_rng(0)
    widths = [32, *(width for _, width in LAYERS)]
    shapes = {"c0": (32, 3, 3, 1), "fc": (521, 1024)}
    shapes |= {f"dw{i}": (1, 3, 3, widths[i]) for i in range(13)}
    shapes |= {f"pw{i}": (widths[i + 1], 1, 1, widths[i]) for i in range(13)}
    stored = {}
    for name, shape in shapes.items():
        axis = 3 if name.startswith("dw") else 0
        stored[f"{name}.w"] = rng.integers(-127, 128, shape, dtype=np.int8)
        stored[f"{name}.w.scale"] = rng.uniform(0.5, 1, shape[axis]).astype(np.float32) / 500
        stored[f"{name}.w.axis"] = np.int8(axis)
        stored[f"{name}.b"] = rng.normal(size=shape[axis]).astype(np.float32)
    np.savez(path, **stored)
    return path
