"""Clips a second that one core decodes and analyses: ``python benchmarks/loader.py [FOLDER]``.

What a training step must wait for is batch size / (this rate x workers). Without a folder the clips are
procedural ones, written as `pavdit data prepare` writes them; with one, its own files as they are. ``decode``
is `FolderClips.read` (demux, H.264, resize, AAC, resample), ``mel`` the mel images of the sound.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.harness import header, results_folder
from pavdit.audio.mel import mel_images
from pavdit.config import PRESETS, DataConfig, ModelConfig
from pavdit.data.bounce import BounceClips
from pavdit.data.folder import FolderClips
from pavdit.media import write_clip

NUM_CLIPS = 8


def measure(config: ModelConfig, folder: Path, seconds: float) -> dict[str, float]:
    """Median milliseconds of each part, over as many clips as fit into `seconds`."""
    clips = FolderClips(DataConfig(kind="folder", path=folder), config.clip)
    times: dict[str, list[float]] = {"decode": [], "mel": []}
    mel_images(clips.read(0).wave[None], config.clip, config.mel)  # builds the filterbank
    end, index = time.perf_counter() + seconds, 0
    while time.perf_counter() < end or index < 3:
        begin = time.process_time()
        clip = clips.read(index % len(clips))
        decoded = time.process_time()
        mel_images(clip.wave[None], config.clip, config.mel)
        times["decode"].append(1e3 * (decoded - begin))
        times["mel"].append(1e3 * (time.process_time() - decoded))
        index += 1
    found = {f"{name}_ms": round(median(values), 3) for name, values in times.items()}
    mean = sum(map(sum, times.values())) / index
    return found | {"clips": float(index), "clips_per_second_per_core": round(1e3 / mean, 2)}


def main() -> int:
    """Print a row per preset."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--preset", nargs="+", default=["tiny", "small", "base"], choices=list(PRESETS))
    parser.add_argument("--seconds", type=float, default=10.0, help="for each row")
    parser.add_argument("--json", action="store_true", help="write benchmarks/results/<machine>/loader.json")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    facts, rows = header("cpu"), {}
    print(" | ".join(f"{name} {value}" for name, value in facts.items()))
    print(f"{'preset':8} {'clip':>16} {'decode ms':>10} {'mel ms':>8} {'clips/s/core':>13}")
    for name in arguments.preset:
        config = PRESETS[name]()
        with tempfile.TemporaryDirectory() as temporary:
            folder = arguments.folder or Path(temporary)
            if arguments.folder is None:
                bounce = BounceClips(NUM_CLIPS, config.clip)
                for k in range(NUM_CLIPS):
                    write_clip(bounce.read(k), folder / f"{k}.mp4")
            row = rows[name] = measure(config, folder, arguments.seconds)
        clip = f"{config.clip.num_frames}x{config.clip.height}x{config.clip.width}"
        print(
            f"{name:8} {clip:>16} {row['decode_ms']:10.2f} {row['mel_ms']:8.2f} "
            f"{row['clips_per_second_per_core']:13.1f}"
        )
    if arguments.json:
        path = results_folder("cpu") / "loader.json"
        path.write_text(
            json.dumps({"facts": facts, "folder": str(arguments.folder), "rows": rows}, indent=1) + "\n"
        )
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
