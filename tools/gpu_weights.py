"""The bundled weights on a machine that is there for some minutes.

`make gpu-weights [SECONDS=520] [FROM=bounce-64]` trains, exports and measures within the time, and leaves at
most eight files of at most 16 MB in $OUT (out/gpu-weights where it is not set): the exported checkpoint, its
measures, the log. With FROM the generator goes on from exported weights and their autoencoder; without it
both stages begin anew. Installs nothing, as gpu_check.py.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
STAGES = {"autoencoder": "small-bounce", "generator": "small-bounce-generator"}
AUTOENCODER_SHARE = 0.35
"""Of the time for training, where both stages begin anew."""
AROUND_SECONDS = {"autoencoder": 25, "generator": 60}
"""Around the updates of a stage: imports, capture, latents of 16,384 clips, validation, checkpoint."""
MEASURE_SECONDS = 80
"""Export, and 500 held-out clips; as seen on an H100 with 16 cores: 45."""


def run(name: str, command: Sequence[str], seconds: float, log: Path) -> bool:
    """Run a command of this Python; its output goes to the log, its last lines are printed."""
    begin = time.monotonic()
    with log.open("a") as file:
        file.write(f"== {name}: {' '.join(command)}\n")
        file.flush()
        try:
            # SIGINT saves a checkpoint, which the next command takes up
            process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=file, stderr=file)
            code: int | None = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(2)
            try:
                code = process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                code = None
    print(f"{name}: exit code {code}, {time.monotonic() - begin:.0f} s", flush=True)
    print("\n".join("  " + line[:200] for line in log.read_text().splitlines()[-4:]), flush=True)
    return code == 0


def train_command(stage: str, seconds: float, initial: str | None) -> list[str]:
    """`pavdit train` of a stage for so long."""
    settings = [f"train.time_limit_seconds={max(5, round(seconds))}"]
    if stage == "generator" and initial is not None:
        settings += [f"train.initial={initial}", f"train.autoencoder={initial}"]
    return ["-m", "pavdit.cli", "train", f"configs/{STAGES[stage]}.yaml", "--set", *settings]


def plan(seconds: float, initial: str | None) -> dict[str, float]:
    """Seconds of updates of each stage.

    Raises:
        ValueError: there is no time for any.
    """
    around = AROUND_SECONDS["generator"] + (0 if initial else AROUND_SECONDS["autoencoder"])
    training = seconds - around - MEASURE_SECONDS
    if training < 30:
        raise ValueError(f"SECONDS: want at least {around + MEASURE_SECONDS + 30}, got {seconds:g}")
    if initial:
        return {"generator": training}
    return {"autoencoder": AUTOENCODER_SHARE * training, "generator": (1 - AUTOENCODER_SHARE) * training}


def main() -> int:
    """Train, export, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seconds", type=float, default=520)
    parser.add_argument("--initial", help="exported weights to go on from")
    parser.add_argument("--clips", type=int, default=500, help="held-out clips of the measurement")
    options = parser.parse_args()
    begin = time.monotonic()
    out = Path(os.environ.get("OUT", ROOT / "out" / "gpu-weights")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    log, exported = out / "log.txt", ROOT / "out" / "bounce-64"
    os.environ.update(PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    shutil.rmtree(exported, ignore_errors=True)
    try:
        seconds = plan(options.seconds, options.initial)
    except ValueError as error:
        sys.exit(f"gpu-weights: {error}")
    for stage, spend in seconds.items():
        limit = spend + AROUND_SECONDS[stage] + 15
        run(stage, train_command(stage, spend, options.initial), limit, log)
        trained = ROOT / "runs" / STAGES[stage]
        if (trained / "log.jsonl").is_file():
            shutil.copy(trained / "log.jsonl", out / f"{stage}.jsonl")
    export = ["-m", "pavdit.cli", "export", f"runs/{STAGES['generator']}", "-o", str(exported)]
    if not run("export", export, 40, log):
        return 1
    for file in exported.iterdir():
        shutil.copy(file, out / file.name)
    left = options.seconds - (time.monotonic() - begin)
    measure = ["benchmarks/bounce.py", "--checkpoint", str(exported), "--clips", str(options.clips)]
    os.environ["OMP_NUM_THREADS"] = "1"  # it works in many processes
    good = run("measure", [*measure, "--json", str(out / "bounce-64.json")], max(left, 20), log)
    for stage in seconds:  # at most eight files
        rows = out / f"{stage}.jsonl"
        if rows.is_file():
            with log.open("a") as file:
                file.write(f"== {stage}\n{rows.read_text()}")
            rows.unlink()
    files = sorted(path.name for path in out.iterdir())
    print(json.dumps({"seconds": round(time.monotonic() - begin), "files": files}))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
