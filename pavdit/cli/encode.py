"""Encode a clip into the latents of an autoencoder."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pavdit encode``."""
    parser.add_argument("clip", type=Path, metavar="CLIP.mp4")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="LATENTS.safetensors")
    parser.add_argument("--checkpoint", type=Path, required=True, help="a checkpoint or run directory")
    parser.add_argument("--start-seconds", type=float, help="where in the file the clip begins")
    parser.add_argument("--device", default="auto")


def run(arguments: argparse.Namespace) -> int:
    """Encode one clip, both streams jointly."""
    from pavdit.cli.latent_file import write_latents
    from pavdit.cli.main import OK
    from pavdit.pipeline import Pipeline

    pipeline = Pipeline.from_pretrained(arguments.checkpoint, arguments.device)
    video, audio = pipeline.encode(pipeline.read(arguments.clip, arguments.start_seconds))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_latents(arguments.output, video, audio, pipeline)
    print(arguments.output)
    return OK
