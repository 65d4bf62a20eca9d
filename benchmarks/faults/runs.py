"""Runs of the smallest system for the fault scripts: in a process of their own, alone or as several ranks."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from pavdit.config import RunConfig

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from nano import EVERY_TASK, nano_run, quiet_console  # noqa: E402

Job = tuple[RunConfig, str]
"""A run, and what it resumes: ``auto``, ``never`` or a path."""

__all__ = ["EVERY_TASK", "Job", "check", "nano_run", "run_jobs", "start", "work_folder"]


def _run(jobs: Sequence[Job], rank: int, ranks: int, port: int, said: Path) -> None:
    from pavdit.train.ranks import joined
    from pavdit.train.run import run_training

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    console = quiet_console()
    try:
        with joined(torch.device("cpu")):
            for config, resume in jobs:
                run_training(config, resume, console)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    finally:
        if rank == 0:
            said.write_text(console.file.getvalue())  # type: ignore[attr-defined] (a StringIO)


def start(jobs: Sequence[Job], ranks: int = 1, said: Path | None = None) -> list[BaseProcess]:
    """Begin training, one run after another, in `ranks` new processes.

    They are forked: they begin with everything imported, in a tenth of a second. The caller must not have
    used torch's threads.

    Args:
        jobs: the runs.
        ranks: processes, as torchrun would start them.
        said: file for what the first rank prints.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("fork")
    processes: list[BaseProcess] = []
    for rank in range(ranks):
        arguments = (jobs, rank, ranks, port, said or Path(os.devnull))
        processes.append(context.Process(target=_run, args=arguments))
        processes[-1].start()
    return processes


def run_jobs(jobs: Sequence[Job], ranks: int = 1) -> str:
    """Train to the end; returns what the first rank printed.

    Raises:
        RuntimeError: a process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        said = Path(folder) / "said"
        processes = start(jobs, ranks, said)
        for process in processes:
            process.join()
        codes = [process.exitcode for process in processes]
        if any(codes):
            raise RuntimeError(f"want {ranks} processes that end with 0, got {codes}")
        return said.read_text()


def work_folder(where: Path | None) -> Path:
    """An empty folder: `where`, or a temporary one."""
    if where is None:
        return Path(tempfile.mkdtemp(prefix="pavdit-faults-"))
    where.mkdir(parents=True)
    return where


def check(faults: Sequence[str], passed: int, what: str) -> int:
    """Print the count and every fault; returns the exit code."""
    for fault in faults:
        print(fault)
    print(f"{passed} of {passed + len(faults)} {what}")
    return 1 if faults else 0
