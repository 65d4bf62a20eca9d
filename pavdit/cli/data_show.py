"""Write some clips of a procedural set to look at and listen to: one mp4, one picture, their captions."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pavdit.clip import Clip

NUM_FRAMES = 16
MIN_SIZE, MAX_SIZE = 16, 512
MAX_CLIPS = 64
"""At 512 x 512 and in a grid, what an H.264 decoder still takes."""
GAP = 4
"""Pixels around each clip of the grid; even, for 4:2:0."""
WAITING = 0.5
"""Brightness of a clip that does not play."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pavdit data show``."""
    parser.add_argument("set", choices=("bounce",), metavar="SET", help="bounce")
    parser.add_argument("--num", type=int, default=12, metavar="N", help="clips (default: 12)")
    parser.add_argument("--size", type=int, default=64, metavar="PIXELS", help="of a side (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="of the set (default: 0)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of bounce.mp4, bounce.png and bounce.txt (default: show)",
        default=Path("show"),
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the three files, and print the captions in the order of the grid."""
    from pavdit.cli.main import OK
    from pavdit.clip import ClipSpec
    from pavdit.config import MelConfig
    from pavdit.contact_sheet import contact_sheet
    from pavdit.data.bounce import BounceClips
    from pavdit.files import replace_with_text
    from pavdit.media import write_clip
    from pavdit.media.picture import write_png

    if not 1 <= arguments.num <= MAX_CLIPS:
        raise ValueError(f"--num: want 1 to {MAX_CLIPS} clips, got {arguments.num}")
    if not MIN_SIZE <= arguments.size <= MAX_SIZE or arguments.size % 2:
        raise ValueError(f"--size: want an even size from {MIN_SIZE} to {MAX_SIZE}, got {arguments.size}")
    if arguments.seed < 0:
        raise ValueError(f"--seed: want a whole number of at least 0, got {arguments.seed}")
    spec = ClipSpec(NUM_FRAMES, arguments.size, arguments.size)
    source = BounceClips(arguments.num, spec, arguments.seed)
    clips = [source.read(i) for i in range(len(source))]
    captions = [f"{i}\t{clip.label}\t{clip.caption}" for i, clip in enumerate(clips)]

    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    video, sheet, text = (output / f"bounce.{suffix}" for suffix in ("mp4", "png", "txt"))
    write_clip(one_after_another(clips), video)
    write_png(contact_sheet(clips, spec, MelConfig()), sheet)
    replace_with_text(text, "".join(f"{line}\n" for line in captions))
    print("\n".join([*captions, *map(str, (video, sheet, text))]))
    return OK


def one_after_another(clips: Sequence[Clip]) -> Clip:
    """A grid in which one clip after another plays with its sound, row by row; the others wait, darker.

    Mixed, their sounds could not be told apart.

    Args:
        clips: of one size, rate and length.
    """
    import torch

    from pavdit.clip import Clip

    num_frames, _, height, width = clips[0].frames.shape
    columns = next(n for n in range(1, len(clips) + 1) if n * n >= len(clips))
    rows = -(-len(clips) // columns)
    picture = torch.full(
        (3, rows * (height + GAP) + GAP, columns * (width + GAP) + GAP), 24, dtype=torch.uint8
    )
    places = []
    for i, clip in enumerate(clips):
        top, left = (
            GAP + n * (side + GAP) for n, side in zip(divmod(i, columns), (height, width), strict=True)
        )
        places.append((slice(None), slice(top, top + height), slice(left, left + width)))
        picture[places[i]] = (clip.frames[0] * WAITING).to(torch.uint8)
    frames = picture.repeat(len(clips) * num_frames, 1, 1, 1)  # (N T, 3, height, width)
    for i, (clip, place) in enumerate(zip(clips, places, strict=True)):
        frames[i * num_frames : (i + 1) * num_frames][(slice(None), *place)] = clip.frames
    return Clip(frames, torch.cat([c.wave for c in clips]), clips[0].fps, clips[0].sample_rate, name="grid")
