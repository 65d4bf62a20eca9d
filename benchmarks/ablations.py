"""MDSA without one part at a time, as PAV-DiT's Table 5, and PVDM on one stream, as its Table 6.

Every variant trains its two stages on the same clips with the same draws, then is measured on the held-out
ones. Variants that differ in the second stage alone share their first. Runs lie in ``--output`` and go on
where they stopped when the command is repeated: python benchmarks/ablations.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.harness import header
from pavdit.config import load_run
from pavdit.train.run import run_training

FIRST_STAGE = ("mt_self_attn", "gcm_attn", "bi_block_attn")
"""Switches that change the network, and so both stages."""

SECOND_STAGE = ("kl", "adversarial")
WHOLE = "whole"
PVDM = {"pvdm-video": "video", "pvdm-audio": "audio"}
"""Rows of Table 6, and the stream that they have."""
WITHOUT = ("hw_self_attn", "mt_self_attn", "gcm_attn", "bi_block_attn", "kl")
"""What PVDM does not have."""
VARIANTS = (WHOLE, *FIRST_STAGE, *SECOND_STAGE, *PVDM)
MEASURES = ("held_out_video_psnr_db", "held_out_mel_psnr_db")


class InterruptedRunError(Exception):
    """A signal ended a run, which is saved."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train what is not trained yet and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--first", type=Path, default=Path("configs/tiny-bounce.yaml"))
    parser.add_argument("--second", type=Path, default=Path("configs/tiny-bounce-stage2.yaml"))
    parser.add_argument("--steps", type=int, default=200, help="of either stage")
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="key=value", help="for all runs"
    )
    parser.add_argument("--only", nargs="+", choices=VARIANTS)
    parser.add_argument("-o", "--output", type=Path, default=Path("out/ablations"))
    parser.add_argument("--json", type=Path, help="also write the rows here")
    arguments = parser.parse_args(argv)
    print(" | ".join(f"{name} {value}" for name, value in header("cpu").items()), flush=True)
    rows: dict[str, dict[str, float]] = {}
    for name in arguments.only or VARIANTS:
        try:
            rows[name] = variant(name, arguments)
        except InterruptedRunError as run:
            print(f"interrupted and saved in {run}; repeat the command to go on")
            return 75
    print_table(rows)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"header": header("cpu"), "rows": rows}, indent=1) + "\n")
    return 0


def changes(name: str) -> list[str]:
    """What a variant changes."""
    if name in PVDM:
        return [f"model.mdsa.streams={PVDM[name]}", *(f"model.mdsa.{part}=false" for part in WITHOUT)]
    return [] if name == WHOLE else [f"model.mdsa.{name}=false"]


def variant(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """PSNR in dB of its streams after each stage of a variant."""
    changed = changes(name)
    first_name = WHOLE if name in SECOND_STAGE else name
    first_run, second_run = arguments.output / f"{first_name}-1", arguments.output / f"{name}-2"
    steps = f"train.num_steps={arguments.steps}"
    common = [*arguments.set, steps, "train.time_limit_seconds=null", "train.show_every=null"]
    of_first = [] if name in SECOND_STAGE else changed
    before = trained(arguments.first, [*common, *of_first, f"train.run_dir={first_run}"])
    second = [*common, *changed, f"train.first_stage={first_run}", f"train.run_dir={second_run}"]
    after = trained(arguments.second, second)
    stages = ((1, before), (2, after))
    return {f"stage {i}: {m}": found[m] for i, found in stages for m in MEASURES if m in found}


def trained(config: Path, assignments: list[str]) -> dict[str, float]:
    """Measures of a run, trained as far as it is not."""
    run = load_run(config, tuple(assignments))
    print(f"{run.train.run_dir} …", flush=True)
    outcome = run_training(run, console=Console(quiet=True))
    if outcome.interrupted:
        raise InterruptedRunError(run.train.run_dir)
    return outcome.metrics


def print_table(rows: dict[str, dict[str, float]]) -> None:
    """PSNR in dB, and what is lost against the whole model."""
    print(f"\n{'':<18}{'stage 1':^18}{'stage 2':^18}{'stage 2 - whole':^18}")
    print(f"{'without':<18}" + f"{'video':>9}{'mel':>9}" * 3)
    whole = rows.get(WHOLE, {})
    for name, row in rows.items():
        line = [row.get(f"stage {i}: {m}") for i in (1, 2) for m in MEASURES]
        after = [f"stage 2: {m}" for m in MEASURES]
        line += [row[key] - whole[key] if key in row and key in whole else None for key in after]
        print(f"{name:<18}" + "".join(f"{'':9}" if value is None else f"{value:9.2f}" for value in line))


if __name__ == "__main__":
    sys.exit(main())
