"""The matrix products of an STDiT block, by each library: python benchmarks/gemms.py --json.

They decide what the sampler can reach. Inputs are random: zeros are faster than anything real.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.floor import linear_ways
from benchmarks.harness import copy_bandwidth, header, matmul_speed, measure, results_folder, write
from pavdit.config import PRESETS

ROWS = (1024, 2048, 16384)
"""Tokens of a clip of `xl`, of a guided clip, of a batch of 8 guided ones."""


def main() -> None:
    """Measure, print, and with --json write after every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--preset", choices=PRESETS, default="xl")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--json", action="store_true", help="write benchmarks/results/<machine>/gemms.json")
    options = parser.parse_args()
    config, device = PRESETS[options.preset]().stdit, torch.device(options.device)
    width, hidden = config.width, config.mlp_ratio * config.width
    layers = {
        "qkv": (width, 3 * width),
        "proj": (width, width),
        "cross q": (width, width),
        "cross proj": (width, width),
        "fc1": (width, hidden),
        "fc2": (hidden, width),
    }
    peak = matmul_speed(options.device, torch.bfloat16)
    facts = header(options.device) | {
        "preset": options.preset,
        "dtype": "bfloat16",
        "matmul_gflop_per_s": round(peak / 1e9, 1),
        "copy_gb_per_s": round(copy_bandwidth(options.device) / 1e9, 1),
    }
    print(" | ".join(f"{key} {value}" for key, value in facts.items()), flush=True)
    rows: list[dict[str, object]] = []
    for count in options.rows:
        for name, (terms, columns) in layers.items():
            ways = linear_ways(count, terms, columns, torch.bfloat16, device)
            times = measure(ways, options.device)
            best = min(times, key=lambda way: times[way].median_ms)
            reached = 2 * count * terms * columns / times[best].median_ms * 1e3 / peak
            ms = {way: [t.median_ms, t.p10_ms, t.p90_ms] for way, t in times.items()}
            rows.append(
                {
                    "layer": name,
                    "shape": [count, terms, columns],
                    "ms": ms,
                    "best": best,
                    "of_peak": round(reached, 4),
                }
            )
            print(" | ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
            if options.json:
                write(results_folder(options.device) / "gemms.json", {**facts, "rows": rows})


if __name__ == "__main__":
    main()
