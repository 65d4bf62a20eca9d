"""Is a flipped bit in a checkpoint found, the previous checkpoint used, and the loss said?

    python benchmarks/faults/bit_flips.py --flips 100

Each time, one random bit of a random file of the newest checkpoint is flipped (every file is equally likely,
so the small ones are hit as often as the weights), and the run is resumed.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.faults.runs import check, nano_run, run_jobs, work_folder
from pavdit.files import FileRecord
from pavdit.train.checkpoint import Checkpoint, CheckpointError, latest, open_checkpoint, step_directory

STEPS = 2


def flip(folder: Path, flips: int, seed: int = 0) -> list[str]:
    """Flip and resume; returns what is wrong, one line a flip."""
    pristine, draw = folder / "pristine", random.Random(seed)
    run_jobs([(nano_run(folder / "autoencoder", num_steps=1), "auto")])
    options = {"autoencoder": folder / "autoencoder", "num_steps": STEPS, "checkpoint_every": 1}
    run_jobs([(nano_run(pristine, "generator", **options), "auto")])
    newest = open_checkpoint(pristine)
    jobs, faults = [], []
    for number in range(flips):
        run_dir = folder / f"flip-{number}"
        shutil.copytree(pristine, run_dir)
        directory = step_directory(run_dir, STEPS)
        path = draw.choice(sorted(path for path in directory.iterdir() if path.is_file()))
        data = bytearray(path.read_bytes())
        place, bit = draw.randrange(len(data)), draw.randrange(8)
        data[place] ^= 1 << bit
        path.write_bytes(data)
        what = f"flip {number}: bit {bit} of byte {place} of {path.name}"
        try:
            open_checkpoint(directory)
            faults.append(f"{what}: not found")
        except CheckpointError:
            found, damaged = latest(run_dir)
            if found is None or found.step != STEPS - 1 or damaged != [directory]:
                faults.append(f"{what}: the previous checkpoint is not used")
            jobs.append((nano_run(run_dir, "generator", **options), "auto"))
    said = run_jobs(jobs)
    for config, _ in jobs:
        run_dir = config.train.run_dir
        lines = (
            f"{step_directory(run_dir, STEPS)}: damaged, set aside",
            f"resuming {step_directory(run_dir, STEPS - 1)} at step {STEPS - 1}",
        )
        if not all(line in said for line in lines):
            faults.append(f"{run_dir.name}: the loss is not said")
        elif _weights(open_checkpoint(run_dir)) != _weights(newest):
            faults.append(f"{run_dir.name}: what is trained again is not what was lost")
    return faults


def _weights(checkpoint: Checkpoint) -> dict[str, FileRecord]:
    return {name: r for name, r in checkpoint.files.items() if name.endswith(".safetensors")}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--flips", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; a temporary one by default")
    options = parser.parse_args()
    faults = flip(work_folder(options.folder), options.flips, options.seed)
    return check(
        faults, options.flips - len(faults), "flips are found, the previous checkpoint is used, the loss said"
    )


if __name__ == "__main__":
    sys.exit(main())
