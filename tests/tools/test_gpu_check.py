"""gpu-check's sanitizer part, with a program in the place of compute-sanitizer."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import gpu_check
import pytest

from benchmarks import harness

CLEAN = {
    "memcheck": "3 passed in 1s\n========= ERROR SUMMARY: 0 errors",
    "racecheck": "3 passed in 1s\n========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)",
    "initcheck": "3 passed in 1s\n========= ERROR SUMMARY: 0 errors",
}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the results go; its compute-sanitizer says what `words` holds for the tool, and ends so."""
    monkeypatch.setattr(harness, "header", lambda device="cuda": {"machine": "none"})
    monkeypatch.setattr(harness, "results_folder", lambda device="cuda": tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program = tmp_path / "compute-sanitizer"
    program.write_text('#!/bin/sh\ncat "$(dirname "$0")/${1#--tool=}"\nexit $(cat "$(dirname "$0")/code")\n')
    program.chmod(0o755)
    (tmp_path / "code").write_text("0")
    for name, words in CLEAN.items():
        (tmp_path / name).write_text(words + "\n")
    return tmp_path


def test_clean(machine: Path) -> None:
    assert gpu_check.sanitize()
    written = json.loads((machine / "gpu-sanitize.json").read_text())
    assert written["racecheck"] == {"errors": 0, "passed": 3, "exit_code": 0}
    assert set(written) == {"machine", "memcheck", "racecheck", "initcheck"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("memcheck", "3 passed in 1s\n========= ERROR SUMMARY: 2 errors"),
        (
            "racecheck",
            "3 passed in 1s\n========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)",
        ),
        ("initcheck", "3 deselected in 1s\n========= ERROR SUMMARY: 0 errors"),
        ("memcheck", "Device not supported"),
    ],
    ids=["error", "hazard", "no test", "no summary"],
)
def test_not_clean(name: str, words: str, machine: Path) -> None:
    (machine / name).write_text(words + "\n")
    assert not gpu_check.sanitize()


def test_a_failing_test_is_not_clean(machine: Path) -> None:
    (machine / "code").write_text("1")
    assert not gpu_check.sanitize()


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr(Path, "is_file", lambda self: False)
    with pytest.raises(SystemExit, match="want compute-sanitizer on PATH or in CUDA_HOME, got none"):
        gpu_check.sanitizer_or_exit()


def test_the_command() -> None:
    command = gpu_check.sanitizer_command("compute-sanitizer", "memcheck")
    assert command[:2] == ["compute-sanitizer", "--tool=memcheck"]
    assert command[-1] == "tests/ops"
    assert gpu_check.REDUCED in command


class Clock:
    """Runs no command, but says how long each takes and how it ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float, code: int = 0) -> None:
        self.now, self.seconds, self.code, self.ran = 0.0, seconds, code, []
        monkeypatch.setattr(gpu_check.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(gpu_check.subprocess, "run", self.run)

    def run(self, command: list[str], *, timeout: float, **_: object) -> subprocess.CompletedProcess:
        self.ran.append(command[2:])
        self.now += min(self.seconds, timeout)
        if self.seconds > timeout:
            raise subprocess.TimeoutExpired(command, timeout)
        return subprocess.CompletedProcess(command, self.code)


def test_the_samplers_part_runs_what_fits_into_eight_minutes(machine, monkeypatch, capsys) -> None:
    clock = Clock(monkeypatch, seconds=200)
    assert gpu_check.sampler()
    assert [command[0] for command in clock.ran] == [
        f"benchmarks.{name}" for name, *_ in gpu_check.SAMPLER[:3]
    ]
    assert clock.now == gpu_check.PART_SECONDS
    out = capsys.readouterr().out
    assert "time is over in sampler --preset xl --guidance 1" in out
    assert out.count("no time for ") == len(gpu_check.SAMPLER) - 3


def test_the_samplers_part_says_what_failed(machine, monkeypatch, capsys) -> None:
    clock = Clock(monkeypatch, seconds=1, code=3)
    assert not gpu_check.sampler()
    assert len(clock.ran) == len(gpu_check.SAMPLER)
    assert capsys.readouterr().out.count("exit code 3") == len(gpu_check.SAMPLER)


@pytest.mark.parametrize("commands", [gpu_check.SAMPLER, gpu_check.TRAINING])
def test_the_commands_exist(commands) -> None:
    for name, *options in commands:
        source = (gpu_check.ROOT / "benchmarks" / f"{name}.py").read_text()
        for option in options:
            assert not option.startswith("--") or f'"{option}"' in source


@pytest.mark.parametrize(("code", "ran"), [(0, 1 + len(gpu_check.TRAINING)), (1, 1)])
def test_training_is_timed_where_its_tests_pass(machine, monkeypatch, code, ran) -> None:
    clock = Clock(monkeypatch, seconds=1, code=code)
    assert gpu_check.training() == (code == 0)
    assert len(clock.ran) == ran and clock.ran[0][-1] == "tests/train/test_update.py"
