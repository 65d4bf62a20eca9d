"""The picture at the top of the README: clips of the bundled weights, drawn below each other.

``python benchmarks/samples.py``. Prompts and seeds are fixed beforehand: what is shown is not chosen.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from pavdit.contact_sheet import contact_sheet
from pavdit.media.picture import write_png
from pavdit.pipeline import Pipeline

PROMPTS = (
    "a small metal ball bounces on the floor",
    "a glass ball hits the walls",
    "a large drum ball lights up and rings",
    "a medium wood ball rolls along the floor",
    "a rubber block slides over the floor",
)


def main() -> None:
    """Generate and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--checkpoint", default="bounce-64", help="weights (default: bounce-64)")
    parser.add_argument("-o", "--output", type=Path, default=Path("benchmarks/results/samples.png"))
    options = parser.parse_args()
    pipe = Pipeline.from_pretrained(options.checkpoint)
    clips = [pipe(prompt, seed=seed)[0].clip for seed, prompt in enumerate(PROMPTS)]
    write_png(contact_sheet(clips, pipe.config.clip, pipe.config.mel), options.output)
    print(options.output)


if __name__ == "__main__":
    main()
