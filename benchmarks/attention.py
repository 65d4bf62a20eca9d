"""Attention inside a frame, backend by backend: python benchmarks/attention.py --json.

The rows go into pavdit/measured.json, from which a pipeline chooses. QK-norm and rotary positions are part
of every backend's time.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.harness import header, measure, results_folder
from pavdit.nn.flash import find_flash
from pavdit.nn.frame_attention import BACKENDS, FrameAttention
from pavdit.nn.rope import axial_rope_table

SHAPES = {
    "step": (2, 4, 16, 16, 18),
    "step x16": (32, 4, 16, 16, 18),
    "decode": (1, 16, 32, 32, 8),
}
"""Clips, frames, rows, columns, heads: a guided step and a decoding of `xl`. The last batch decides."""
HEAD_DIM = 64


@torch.no_grad()
def row(stage: str, dtype: torch.dtype, device: str) -> dict[str, object]:
    """Median milliseconds of every backend that is there."""
    batch, frames, rows, columns, heads = SHAPES[stage]
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(batch, frames, rows * columns, 3, heads, HEAD_DIM, generator=generator)
    qkv = qkv.to(device, dtype)
    weight = torch.ones(HEAD_DIM, device=device, dtype=dtype)
    norms = {} if stage == "decode" else {"q_weight": weight, "k_weight": weight}
    rope = {"rope": axial_rope_table(rows, columns, HEAD_DIM).to(device)} if stage == "decode" else {}
    calls = {}
    for backend in BACKENDS:
        if backend == "flash" and (device != "cuda" or find_flash() is None):
            continue
        attention = FrameAttention()
        attention.backend = backend
        calls[backend] = lambda attention=attention: attention(qkv, **norms, **rope)
    ms = {name: times.median_ms for name, times in measure(calls, device).items()}
    return {
        "dtype": str(dtype).removeprefix("torch."),
        "num_tokens": rows * columns,
        "head_dim": HEAD_DIM,
        "stage": stage,
        "fastest": min(ms, key=ms.__getitem__),
        "ms": ms,
    }


def main() -> None:
    """Measure, print, and with --json write after every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument(
        "--json", action="store_true", help="write benchmarks/results/<machine>/attention.json"
    )
    options = parser.parse_args()
    facts, rows = header(options.device), []
    for stage in SHAPES:
        rows.append({"machine": facts["machine"], **row(stage, torch.bfloat16, options.device)})
        print(" | ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
        if options.json:
            path = results_folder(options.device) / "attention.json"
            path.write_text(json.dumps({**facts, "attention": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
