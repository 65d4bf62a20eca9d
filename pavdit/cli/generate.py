"""Generate clips with a trained generator."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pavdit generate``."""
    parser.add_argument(
        "prompt", nargs="?", help="a class or 'a video of <class>'; without one: no condition"
    )
    parser.add_argument(
        "--checkpoint", type=Path, required=True, help="a generator's checkpoint or run directory"
    )
    parser.add_argument("--n", type=int, default=1, help="clips")
    parser.add_argument("--seed", type=int, default=0, help="of the first clip; the next has the next seed")
    parser.add_argument("--steps", type=int, help="of the sampler (default: as configured)")
    parser.add_argument("--guidance", type=float, help="guidance scale (default: as configured)")
    parser.add_argument("--task", default="auto", help="auto, t2av, v2a, a2v, t2v or t2a")
    parser.add_argument("--video", type=Path, help="clip whose frames are given; its sound is made")
    parser.add_argument("--audio", type=Path, help="clip whose sound is given; its frames are made")
    parser.add_argument(
        "--batch-size", type=_batch_size, default="auto", help="clips at a time (default: auto)"
    )
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--device", default="auto")
    switch = argparse.BooleanOptionalAction
    parser.add_argument("--graph", action=switch, help="steps and decoding as CUDA graphs (default: on CUDA)")
    parser.add_argument("--compile", action=switch, help="compiled blocks (default: on CUDA)")
    parser.add_argument(
        "--attention", default="auto", help="inside a frame: auto (as measured), block, sdpa or flash"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUT", help="a folder, or one .mp4"
    )


def run(arguments: argparse.Namespace) -> int:
    """Generate and save."""
    from rich.console import Console
    from rich.progress import Progress

    from pavdit.cli.main import OK
    from pavdit.pipeline import Pipeline

    paths = output_paths(arguments.output, arguments.n, arguments.seed)
    pipeline = Pipeline.from_pretrained(
        arguments.checkpoint,
        arguments.device,
        dtype=arguments.dtype,
        graph=arguments.graph,
        compile=arguments.compile,
        attention=arguments.attention,
    )
    video, audio = (
        None if path is None else pipeline.read(path) for path in (arguments.video, arguments.audio)
    )
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("sampling", total=arguments.n)
        steps = progress.add_task("steps")
        clips = pipeline.stream(
            arguments.prompt,
            video,
            audio,
            task=arguments.task,
            n=arguments.n,
            seed=arguments.seed,
            steps=arguments.steps,
            guidance=arguments.guidance,
            batch_size=arguments.batch_size,
            callback=lambda step, total, _: progress.update(steps, completed=step, total=total),
        )
        for index, clip in clips:  # each is saved when it is done, so an interruption loses none before it
            paths[index].parent.mkdir(parents=True, exist_ok=True)
            print(clip.save(paths[index]))
            progress.advance(bar)
    return OK


def _batch_size(text: str) -> int | str:
    return text if text == "auto" else int(text)


def output_paths(output: Path, n: int, seed: int) -> list[Path]:
    """Where the clips go: `output` itself if it is an .mp4, else ``OUTPUT/seed-<seed>.mp4``.

    Raises:
        ValueError: `n` is below 1, or several clips shall go into one file.
    """
    if n < 1:
        raise ValueError(f"--n: want at least 1 clip, got {n}")
    if output.suffix != ".mp4":
        return [output / f"seed-{seed + i:04d}.mp4" for i in range(n)]
    if n > 1:
        raise ValueError(f"-o: want a folder for {n} clips, got the file {output}")
    return [output]
