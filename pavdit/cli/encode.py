"""Encode a clip into the latents of an autoencoder, or all clips of a generator's run into its cache."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pavdit encode``."""
    parser.add_argument("source", type=Path, metavar="CLIP.mp4|CONFIG.yaml")
    clip = parser.add_argument_group("a clip")
    clip.add_argument("-o", "--output", type=Path, metavar="LATENTS.safetensors")
    clip.add_argument("--checkpoint", type=Path, help="a checkpoint or run directory")
    clip.add_argument("--start-seconds", type=float, help="where in the file the clip begins")
    clip.add_argument("--device", default="auto")
    run = parser.add_argument_group(
        "a generator's run",
        "fills train.latent_cache, as training would do; under torchrun each takes a share",
    )
    run.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="key=value",
        help="change the configuration: --set data.path=clips",
    )


def run(arguments: argparse.Namespace) -> int:
    """Encode one clip, both streams jointly, or a whole set."""
    if arguments.source.suffix in (".yaml", ".yml"):
        return _encode_set(arguments)
    return _encode_clip(arguments)


def _encode_clip(arguments: argparse.Namespace) -> int:
    from pavdit.cli.latent_file import write_latents
    from pavdit.cli.main import OK
    from pavdit.pipeline import Pipeline

    if arguments.output is None or arguments.checkpoint is None:
        raise ValueError(f"{arguments.source}: want -o and --checkpoint for a clip, got not both")
    pipeline = Pipeline.from_pretrained(arguments.checkpoint, arguments.device)
    video, audio = pipeline.encode(pipeline.read(arguments.source, arguments.start_seconds))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    write_latents(arguments.output, video, audio, pipeline)
    print(arguments.output)
    return OK


def _encode_set(arguments: argparse.Namespace) -> int:
    from pavdit.cli.main import OK
    from pavdit.config import ConfigError, parse_run, read_run
    from pavdit.train.adapted import backbone_model
    from pavdit.train.latents import encode_run
    from pavdit.train.log import progress_console
    from pavdit.train.models import choose_device
    from pavdit.train.ranks import is_first, joined

    tree = read_run(arguments.source, tuple(arguments.set))
    config = parse_run(tree, str(arguments.source), backbone_model(tree))
    if config.train.stage == "autoencoder":
        raise ConfigError(f"{arguments.source}: want train.stage generator or adapter, got autoencoder")
    with joined(choose_device(config.train.device)) as device:
        run = encode_run(config, device, progress_console())
        if is_first():
            print(run.cache.shards.directory)
    return OK
