"""Clips of the bundled weights: of prompts, a sound for a picture, a picture for a sound.

``python -m pavdit.cli.demo``; with ``--train``, or where no weights are bundled, the smallest system is first
trained on procedural clips, in minutes.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pavdit.clip import Clip
    from pavdit.pipeline import Pipeline

WEIGHTS = "bounce-64"
NUM_CLIPS = 4
UNSEEN_CLIPS = 400
STREAMS = ("video", "audio")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; a second run makes nothing again, or goes on with the training. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pavdit.cli.demo", description=__doc__)
    parser.add_argument("--train", action="store_true", help="train a tiny model and show its clips")
    parser.add_argument("--configs", type=Path, default=Path("configs"), help="where tiny-bounce*.yaml are")
    parser.add_argument("-o", "--output", type=Path, default=Path("out/demo"))
    arguments = parser.parse_args(argv)
    from pavdit.cli.main import INTERRUPTED_AND_SAVED, exit_code
    from pavdit.weights import bundled_names

    try:
        if WEIGHTS in bundled_names() and not arguments.train:
            return show(arguments.output)
        if not arguments.train:
            print(f"no weights {WEIGHTS} came along; training a tiny model instead")
        return train(arguments.configs, arguments.output)
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted; {arguments.output} keeps what is done, the same command goes on\n")
        return INTERRUPTED_AND_SAVED
    except Exception as error:
        if os.environ.get("PAVDIT_DEBUG") == "1":
            raise
        sys.stderr.write(f"demo: {' '.join(str(error).split())}\n")
        return exit_code(error)


def show(output: Path) -> int:
    """Generate with the bundled weights into `output`, and draw what came of it below what was given."""
    from pavdit.cli.main import OK
    from pavdit.cli.outputs import draw_sheet, place_clips, require_output, stem_of
    from pavdit.media import write_clip
    from pavdit.pipeline import Pipeline

    started = time.monotonic()
    require_output(output, NUM_CLIPS)
    pipeline = Pipeline.from_pretrained(WEIGHTS)
    output.mkdir(parents=True, exist_ok=True)
    drawn: list[Path] = []

    def make(prompt: str, stem: str, about: str = "", **given: Any) -> None:
        [place] = place_clips(output, [stem], pipeline.provenance(prompt, **given))
        if not place.is_done:
            pipeline(prompt, **given).save(place.path)
        print(f"{place.path}\n  {prompt}{about}", flush=True)
        drawn.append(place.path)

    unseen = unseen_clips(pipeline)
    for _, prompt in unseen[:NUM_CLIPS]:
        make(prompt, stem_of(prompt, 0))
    for stream, (clip, prompt) in zip(STREAMS, unseen[-len(STREAMS) :], strict=True):
        drawn.append(output / f"given-{stream}.mp4")
        write_clip(clip, drawn[-1])
        about = f" (made for the {stream} of {drawn[-1]})"
        make(prompt, f"made-for-{stream}", about, **{stream: pipeline.read(drawn[-1])})
    sheet = output / "contact-sheet.png"
    draw_sheet(drawn, pipeline.config, sheet)
    print(f"contact sheet\n  {sheet}\nin {time.monotonic() - started:.0f} s; make another one:")
    print(f'  {Path(sys.executable).parent / "pavdit"} generate "{prompt}" --seed 1')
    return OK


def unseen_clips(pipeline: Pipeline) -> list[tuple[Clip, str]]:
    """Procedural clips that no training has seen, with their prompts: of all actions and all materials."""
    from pavdit.config import DataConfig
    from pavdit.data.bounce import MATERIALS, BounceClips

    data, by_class = pipeline.data, bool(pipeline.config.text.class_names)
    data = data or DataConfig(num_clips=UNSEEN_CLIPS)
    clips = BounceClips(UNSEEN_CLIPS, pipeline.config.clip, data.seed + 1, data.scenes)
    chosen: dict[str, int] = {}
    materials: set[str] = set()
    for i, scene in enumerate(map(clips.scene, range(len(clips)))):
        material, _, action = scene.label.partition("_")
        is_one_sentence = scene.caption.startswith("a ") and "_" not in action
        is_new = action not in chosen and (material not in materials or len(materials) == len(MATERIALS))
        if is_one_sentence and is_new and scene.events():  # a clip of a blink may have none
            chosen[action] = i
            materials.add(material)
    return [(clip, clip.label if by_class else clip.caption) for clip in map(clips.read, chosen.values())]


def train(configs: Path, output: Path) -> int:
    """Train both stages into `output`, measure, generate, and say where everything is."""
    from pavdit.cli.main import INTERRUPTED_AND_SAVED, OK
    from pavdit.config import load_run
    from pavdit.contact_sheet import contact_sheet
    from pavdit.media.picture import write_png
    from pavdit.pipeline import Pipeline
    from pavdit.train.run import run_training

    started = time.monotonic()
    runs = [output / "autoencoder", output / "generator"]
    print("1/3 training the autoencoder")
    first = run_training(load_run(configs / "tiny-bounce.yaml", (f"train.run_dir={runs[0]}",)))
    if first.interrupted:
        print("interrupted and saved; run the demo again to continue")
        return INTERRUPTED_AND_SAVED
    print("2/3 training the generator")
    settings = (f"train.run_dir={runs[1]}", f"train.autoencoder={runs[0]}")
    second = run_training(load_run(configs / "tiny-bounce-generator.yaml", settings))
    if second.interrupted:
        print("interrupted and saved; run the demo again to continue")
        return INTERRUPTED_AND_SAVED
    print(f"trained in {time.monotonic() - started:.0f} s")

    print("3/3 generating")
    pipeline = Pipeline.from_pretrained(runs[1])
    names = pipeline.config.text.class_names
    spread = [names[i * len(names) // NUM_CLIPS] for i in range(NUM_CLIPS)]
    clips = [pipeline(name, seed=i)[0] for i, name in enumerate(spread)]
    paths = [
        clip.save(output / f"{i}-{clip.provenance['prompt'].replace(' ', '-')}.mp4")
        for i, clip in enumerate(clips)
    ]
    sheet = output / "contact-sheet.png"
    write_png(contact_sheet([c.clip for c in clips], pipeline.config.clip, pipeline.config.mel), sheet)

    print("\nreconstruction of held-out clips (PSNR)")
    for stream in ("video", "mel"):
        own = first.metrics[f"held_out_{stream}_psnr_db"]
        mean = first.metrics[f"held_out_mean_clip_{stream}_psnr_db"]
        print(f"  {stream:<5} {own:6.2f} dB   mean clip {mean:6.2f} dB   difference {own - mean:+.2f} dB")
    print("\nclips with sound")
    for path in paths:
        print(f"  {path}")
    print(f"contact sheet\n  {sheet}")
    return OK


if __name__ == "__main__":
    sys.exit(main())
