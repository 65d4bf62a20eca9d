"""Make a generated clip again from what its file says, and say whether it is the same."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pavdit.clip import Clip
    from pavdit.provenance import Recipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pavdit replay``."""
    parser.add_argument("file", type=Path, metavar="FILE.mp4")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT.mp4", help="keep the new clip there")
    parser.add_argument(
        "--checkpoint", type=Path, help="its weights (default: where they were, or bundled ones)"
    )
    parser.add_argument("--video", type=Path, help="the clip whose frames it was given, if it has moved")
    parser.add_argument("--audio", type=Path, help="the clip whose sound it was given, if it has moved")
    parser.add_argument("--text-path", type=Path, help="the language model's folder, if it has moved")
    parser.add_argument("--device", default="auto")


def run(arguments: argparse.Namespace) -> int:
    """Replay one file."""
    import tempfile

    from rich.console import Console

    from pavdit.cli.main import OK
    from pavdit.cli.outputs import require_output
    from pavdit.clip import DataError
    from pavdit.media import read_clip
    from pavdit.pipeline import Pipeline
    from pavdit.progress import progress
    from pavdit.tasks import GIVEN
    from pavdit.train.models import choose_device

    path, output = arguments.file, arguments.output
    if output is not None:
        if output.suffix != ".mp4" or output.exists():
            raise ValueError(f"-o: want a new file that ends in .mp4, got {output}")
        require_output(output, 1)
    recipe = recipe_of(path)
    given_path = find_given(recipe, path, {s: getattr(arguments, s) for s in ("video", "audio")})
    device = choose_device(arguments.device)
    pipeline = Pipeline.from_pretrained(
        find_checkpoint(recipe, path, arguments.checkpoint),
        str(device),
        arguments.text_path,
        recipe.adapters,
        **recipe.settings_on(device.type),
    )
    if pipeline.model_hash != recipe.model:
        raise DataError(f"{path}: want the adapters of {recipe.model}, got those of {pipeline.model_hash}")
    given: dict[str, Any] = {}
    if given_path is not None and recipe.given is not None:
        stream = GIVEN[recipe.task]
        given[stream] = pipeline.read(given_path, recipe.given.start_seconds, stream)
    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    with progress(console, "sampling") as tell:
        clips = pipeline(  # a batch of the same size: the same products, to the last bit
            [recipe.prompt] * recipe.batch,
            **given,
            task=recipe.task,
            seed=[recipe.seed] * recipe.batch,
            batch_size=recipe.batch,
            callback=lambda step, total, _: tell(step, total),
            **recipe.choices,
        )
    with tempfile.TemporaryDirectory() as folder:
        target = output or Path(folder, "again.mp4")
        target.parent.mkdir(parents=True, exist_ok=True)
        clips[recipe.place].save(target)
        spec = pipeline.config.clip
        found = difference(read_clip(path, spec), read_clip(target, spec))
    if output is not None:
        print(output)
    here, there = device.type, recipe.device
    elsewhere = "" if here == there else f"; it was made on {there}, here on {here}"
    print(f"{path}: made again, {found or 'frames and sound are the same'}{elsewhere}")
    return OK


def recipe_of(path: Path) -> Recipe:
    """What the file says of its making.

    Raises:
        DataError: it is no media file, or says nothing of that.
    """
    from pavdit.clip import DataError
    from pavdit.media import probe
    from pavdit.provenance import Recipe

    facts = probe(path).metadata
    if system := facts.get("system"):
        raise DataError(f"{path}: want a clip of pavdit's own models, got one of {system}")
    try:
        return Recipe.of(facts)
    except KeyError as error:
        raise DataError(
            f"{path}: want a clip that pavdit generated, got one that says no {error.args[0]}"
        ) from None
    except ValueError as error:
        raise DataError(f"{path}: want a clip that pavdit generated, got in it: {error}") from None


def find_checkpoint(recipe: Recipe, path: Path, named: Path | None) -> str:
    """Where the weights are that the clip was made with.

    Raises:
        DataError: they are nowhere, or what was named are others.
    """
    from pavdit.clip import DataError
    from pavdit.train.checkpoint import open_checkpoint
    from pavdit.weights import bundled_names, find_weights

    others = []
    for place in dict.fromkeys([recipe.checkpoint, *bundled_names()] if named is None else [str(named)]):
        try:
            found = open_checkpoint(find_weights(place)).model_hash
        except DataError:
            if named is not None:
                raise
            continue
        if found == recipe.backbone:
            return place
        others.append(f"{found} in {place}")
    want = recipe.backbone
    raise DataError(
        f"{path}: want the weights {want} that it was made with (--checkpoint says where they are), "
        f"got {', '.join(others) or f'none in {recipe.checkpoint}'}"
    )


def find_given(recipe: Recipe, path: Path, named: dict[str, Path | None]) -> Path | None:
    """The file whose frames or sound the clip was given; None: it was given none.

    Raises:
        ValueError: one is named that the clip was not given.
        DataError: it is not there, or is another one.
    """
    from pavdit.clip import DataError
    from pavdit.files import file_record
    from pavdit.tasks import GIVEN

    stream = GIVEN.get(recipe.task)
    for other, file in named.items():
        if file is not None and other != stream:
            raise ValueError(f"--{other}: want none, as {path} is of task {recipe.task}, got {file}")
    if stream is None:
        return None
    if recipe.given is None:
        raise DataError(f"{path}: want a clip that was given {stream} of a file, got one given it in memory")
    origin = recipe.given
    beside = path.parent / Path(origin.path).name
    places = [Path(origin.path), beside] if named[stream] is None else [named[stream]]
    others = []
    for place in filter(None, places):
        try:
            found = file_record(place).sha256
        except OSError as error:
            others.append(f"{error.strerror} at {place}")
            continue
        if found == origin.sha256:
            return place
        others.append(f"{found[:12]}… in {place}")
    raise DataError(
        f"{path}: want the clip with sha256 {origin.sha256[:12]}… that was its {stream} "
        f"(--{stream} says where it is), got {', '.join(dict.fromkeys(others))}"
    )


def difference(one: Clip, other: Clip) -> str:
    """How far two clips of one size are apart, as their files decode; empty: not at all."""
    from pavdit.metrics.signal import psnr

    parts = []
    frames = (one.frames.int() - other.frames.int()).abs()
    if frames.any():
        db = float(psnr(one.frames.float()[None], other.frames.float()[None], peak=255.0))
        parts.append(f"frames differ by at most {int(frames.max())} of 255 ({db:.1f} dB PSNR)")
    wave = (one.wave - other.wave).abs().max()
    if wave:
        parts.append(f"sound differs by at most {float(wave):.2g} (full scale is 1)")
    return ", ".join(parts)
