"""What a language model says of the captions of a run, to be carried to a machine that has no such model.

``python tools/caption_table.py CONFIG`` writes e4m3 rows (3 % off), short captions with short ones, to where
the run looks for them (runs/latents/captions-...): a sixth of what training itself would keep.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))


def main() -> None:
    """Encode, then write what is not there yet."""
    from pavdit.config import load_run
    from pavdit.data.caption_cache import CaptionTable
    from pavdit.data.clips import open_clips
    from pavdit.data.shards import content_key
    from pavdit.progress import progress
    from pavdit.text import EncoderFiles
    from pavdit.train.latents import cache_folder, caption_of

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("config", type=Path)
    parser.add_argument("--root", type=Path, help="folder of caches (default: the run's)")
    options = parser.parse_args()
    run = load_run(options.config)
    files = EncoderFiles.find(run.model.text)
    parts = open_clips(run.data, run.model.clip)
    captions = {caption_of(part, i) for part in parts for i in range(len(part))}
    ordered = sorted(captions, key=lambda caption: (len(caption.split()), caption))
    table = CaptionTable(options.root or cache_folder(run), files)

    with tempfile.TemporaryDirectory() as folder, progress(Console(stderr=True), "encoding captions") as tell:
        whole = CaptionTable(Path(folder), files)
        whole.fill(ordered, torch.device("cpu"), say=print, progress=tell)

        def rows(places: Sequence[int]) -> Iterator[tuple[int, dict[str, Tensor]]]:
            text = whole.encode([ordered[i] for i in places])
            small = text.tokens.to(torch.float8_e4m3fn)
            for place, tokens, length in zip(places, small, text.lengths, strict=True):
                yield place, {"tokens": tokens, "length": torch.tensor(length)}

        def encode(shards: Sequence[Sequence[int]]) -> Iterator[Iterator[tuple[int, dict[str, Tensor]]]]:
            return (rows(places) for places in shards)

        table.shards.fill([content_key(c) for c in ordered], encode, say=print, progress=tell)
    size = sum(file.stat().st_size for file in table.shards.directory.iterdir())
    print(f"{table.shards.directory}: {len(ordered)} captions, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
