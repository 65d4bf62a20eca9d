"""Decode latents into a clip."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pavdit decode``."""
    parser.add_argument("latents", type=Path, metavar="LATENTS.safetensors")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="CLIP.mp4")
    parser.add_argument("--checkpoint", type=Path, required=True, help="a checkpoint or run directory")
    parser.add_argument("--device", default="auto")


def run(arguments: argparse.Namespace) -> int:
    """Decode one clip."""
    from pavdit.cli.latent_file import read_latents
    from pavdit.cli.main import OK
    from pavdit.media import write_clip
    from pavdit.pipeline import Pipeline

    pipeline = Pipeline.from_pretrained(arguments.checkpoint, arguments.device)
    video, audio = read_latents(arguments.latents, pipeline)
    [clip] = pipeline.decode(video, audio)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_clip(clip, arguments.output, metadata={"model": pipeline.model_hash})
    print(arguments.output)
    return OK
