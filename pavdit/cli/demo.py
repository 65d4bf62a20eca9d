"""Train the smallest system on procedural clips and generate four new ones: ``python -m pavdit.cli.demo``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

NUM_CLIPS = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; a second run continues or reuses the first one's training. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m pavdit.cli.demo", description=__doc__)
    parser.add_argument("--configs", type=Path, default=Path("configs"), help="where tiny-bounce*.yaml are")
    parser.add_argument("-o", "--output", type=Path, default=Path("out/demo"))
    arguments = parser.parse_args(argv)
    from pavdit.cli.main import exit_code

    try:
        return demo(arguments.configs, arguments.output)
    except Exception as error:
        if os.environ.get("PAVDIT_DEBUG") == "1":
            raise
        sys.stderr.write(f"demo: {' '.join(str(error).split())}\n")
        return exit_code(error)


def demo(configs: Path, output: Path) -> int:
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
