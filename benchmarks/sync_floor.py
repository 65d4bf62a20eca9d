"""What event_sync sees in clips whose events are known: ``python benchmarks/sync_floor.py [--size 64]``.

The detectors against the truth, by action; then sound against picture as they are, with the sound shifted,
and with another clip's sound. A shift has to move the signed offset by as much, and another clip's sound has
to be worse: only then do the same numbers of generated clips say something.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.harness import header, results_folder, write
from pavdit.clip import ClipSpec
from pavdit.data.bounce import BounceClips
from pavdit.metrics.event_sync import SyncScores, detect, floor, scores_of
from pavdit.metrics.onsets import sound_onsets

SEED = 20261
SHIFTS_MS = (-50, 50, 100, 200, 300)
NAMES = ("found", "wanted", "precision", "recall", "f1", "mean_offset_ms", "signed_offset_ms", "coverage")


def shifted(wave: np.ndarray, samples: int) -> np.ndarray:
    """The wave later by some samples, silence first; earlier where negative."""
    silence = np.zeros(abs(samples), wave.dtype)
    return np.concatenate([silence, wave[:-samples]] if samples > 0 else [wave[-samples:], silence])


def row(name: str, scores: SyncScores) -> str:
    """One line of the table."""
    facts = scores.as_dict()
    numbers = [f"{facts[n]:>10d}" if n in ("found", "wanted") else f"{facts[n]:>10.3f}" for n in NAMES[:5]]
    return f"{name:<22}" + "".join([*numbers, *(f"{facts[n]:>18.2f}" for n in NAMES[5:])])


def main() -> None:
    """Measure, print, write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num", type=int, default=500, help="clips (default: 500)")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side (default: 64)")
    parser.add_argument("--json", action="store_true", help="write benchmarks/results/<machine>/")
    options = parser.parse_args()
    if options.num < 2:
        parser.error(f"--num: want at least 2 clips, got {options.num}")
    torch.set_num_threads(1)
    spec = ClipSpec(num_frames=16, height=options.size, width=options.size)
    clips = BounceClips(options.num, spec, SEED)
    detected, truth, actions = [], [], []
    sounds: dict[int, list[np.ndarray]] = {shift: [] for shift in SHIFTS_MS}
    seconds = 0.0
    for i in range(len(clips)):
        clip, bodies = clips.read(i), clips.scene(i).bodies
        begin = time.process_time()
        detected.append(detect(clip))
        seconds += time.process_time() - begin
        truth.append(np.array([event.time_seconds for event in clip.events]))
        actions.append(bodies[0].action if len(bodies) == 1 else "two objects")
        for shift, onsets in sounds.items():
            moved = shifted(clip.wave.numpy(), shift * spec.sample_rate // 1000)
            onsets.append(sound_onsets(moved, spec.sample_rate))

    table: dict[str, SyncScores] = {}
    for action in ("all", *sorted(set(actions))):
        chosen = [i for i, a in enumerate(actions) if action in ("all", a)]
        own = floor([detected[i] for i in chosen], [truth[i] for i in chosen])
        table |= {f"{kind}, {action}": scores for kind, scores in own.items()}
    both = scores_of(detected)
    table |= {"exact pairs": both["pairs"]}
    for shift, onsets in sounds.items():
        moved = [type(d)(sound, d.picture) for d, sound in zip(detected, onsets, strict=True)]
        table[f"sound {shift:+d} ms"] = scores_of(moved)["pairs"]
    table["another clip's sound"] = both["shuffled"]

    rate = options.num / seconds
    print(f"{options.num} clips of seed {SEED}, {options.size} x {options.size}, {rate:.0f} clips/s")
    print(" " * 22 + "".join(f"{n:>10}" for n in NAMES[:5]) + "".join(f"{n:>18}" for n in NAMES[5:]))
    print("\n".join(row(name, scores) for name, scores in table.items()))
    if options.json:
        path = results_folder("cpu") / f"event-sync-{options.size}.json"
        facts = {"num_clips": options.num, "size": options.size, "seed": SEED, "clips_per_second": rate}
        write(path, header("cpu") | facts | {"scores": {name: s.as_dict() for name, s in table.items()}})
        print(path)


if __name__ == "__main__":
    main()
