"""Whether FAD-YAMNet can be trusted: ``python benchmarks/fad.py FOLDER --yamnet yamnet_int8.npz``.

On real sound of a folder of clips, cut into pieces of 1.6 s: a set against itself has to be at 0; against
itself with noise it has to rise with the noise; and where two random halves of some pieces are compared with
the others, their 95 % intervals have to overlap, as both are of the same kind.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.harness import header, results_folder, write
from pavdit.clip import DataError
from pavdit.data.digests import FileDigests
from pavdit.evaluation.measures import Result, Sampling, frechet
from pavdit.evaluation.protocol import load_protocol
from pavdit.evaluation.sets import FolderSet
from pavdit.metrics.yamnet import SAMPLE_RATE, load_yamnet

NOISE = (0.001, 0.01, 0.05, 0.2)
SPLITS = 10
BATCH = 32


def main() -> int:
    """Measure, print, write JSON; 1 where one of the three does not hold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of clips with sound")
    parser.add_argument("--yamnet", type=Path, required=True)
    parser.add_argument("--bootstrap", type=int, default=200, help="draws of the intervals (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="write benchmarks/results/<machine>/")
    options = parser.parse_args()
    protocol, digest = load_protocol("clean")
    network = load_yamnet(options.yamnet, torch.device("cpu"))
    with tempfile.TemporaryDirectory() as folder:
        digests = FileDigests(Path(folder, "files.json"))
        clips = FolderSet(
            options.folder, protocol, protocol.spec(), "consecutive", 1 << 30, options.seed, digests
        )
    waves = heard(clips)
    generator = torch.Generator().manual_seed(options.seed)
    sampling = Sampling(options.bootstrap, options.seed)

    def embedded(waves: Tensor) -> Tensor:
        return torch.cat([network.run(part) for part in waves.split(BATCH)])  # (N, K, 1024)

    def distance(a: Tensor, b: Tensor) -> Result:
        return frechet("FAD-YAMNet", a, b, protocol, sampling, network)

    real = embedded(waves)
    print(f"{clips.about}; {len(real)} pieces of {real.shape[1]} patches", flush=True)
    same = frechet("FAD-YAMNet", real, real, protocol, Sampling(0, 0), network).value
    print(f"against itself: {same:.3g}", flush=True)
    noisy = {}
    for level in NOISE:
        noise = level * torch.randn(waves.shape, generator=generator)
        noisy[level] = distance(real, embedded(waves + noise))
        print(f"noise {level}: {described(noisy[level])}", flush=True)
    third = len(real) // 3
    others, rest = real[:third], real[third:]  # the windows are shuffled
    splits = []
    for _ in range(SPLITS):
        order = torch.randperm(len(rest), generator=generator)
        halves = [distance(rest[part], others) for part in order.chunk(2)]
        overlap = max(half.low for half in halves) <= min(half.high for half in halves)
        splits.append((halves, overlap))
        print(f"{'overlap' if overlap else 'APART'}: {' | '.join(map(described, halves))}", flush=True)
    holds = {
        "a set against itself is at 0": same < 1e-6 * max(result.value for result in noisy.values()),
        "rises with the noise": all(a.value < b.value for a, b in pairwise(noisy.values())),
        "intervals of halves overlap": sum(overlap for _, overlap in splits) >= 0.9 * SPLITS,
    }
    for name, holding in holds.items():
        print(f"{'ok' if holding else 'NOT':<4}{name}")
    if options.json:
        facts = header("cpu") | {
            "protocol": f"{protocol.name} {protocol.version} {digest}",
            "network": network.described(),
            "pieces": len(real),
            "draws": options.bootstrap,
            "itself": same,
            "noise": {str(level): triple(result) for level, result in noisy.items()},
            "splits": [
                {"halves": [triple(half) for half in halves], "overlap": overlap}
                for halves, overlap in splits
            ],
            "holds": holds,
        }
        write(results_folder("cpu") / "fad-yamnet.json", facts)
    return int(not all(holds.values()))


def heard(clips: FolderSet) -> Tensor:
    """The sound of every window that can be read, ``(N, S)``."""
    waves = []
    for i in range(len(clips)):
        try:
            waves.append(clips.wave(i, SAMPLE_RATE, "mean"))
        except DataError as error:
            print(f"left out: {error}")
    return torch.stack(waves)


def triple(result: Result) -> dict[str, float]:
    """Value and interval, for JSON."""
    return {"value": result.value, "low": result.low, "high": result.high}


def described(result: Result) -> str:
    """Value and interval, for people."""
    return f"{result.value:.2f} ({result.low:.2f} to {result.high:.2f})"


if __name__ == "__main__":
    sys.exit(main())
