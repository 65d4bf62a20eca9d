"""How the time of gpu-weights is dealt out, and what it runs."""

from __future__ import annotations

import gpu_weights
import pytest

from pavdit.config import load_run


def test_the_time_is_dealt_out() -> None:
    anew, further = gpu_weights.plan(520, None), gpu_weights.plan(520, "bounce-64")
    assert anew["generator"] > anew["autoencoder"] > 100 and set(further) == {"generator"}
    around = sum(gpu_weights.AROUND_SECONDS.values()) + gpu_weights.MEASURE_SECONDS
    assert sum(anew.values()) + around == 520 == further["generator"] + around - 25
    with pytest.raises(ValueError, match="want at least 170, got 100"):
        gpu_weights.plan(100, "bounce-64")


@pytest.mark.parametrize("initial", [None, "bounce-64"])
@pytest.mark.parametrize("stage", gpu_weights.STAGES)
def test_the_commands_are_those_of_the_recipe(stage, initial) -> None:
    *_, config, _, limit = gpu_weights.train_command(stage, 100.4, None)
    assert limit == "train.time_limit_seconds=100"
    settings = gpu_weights.train_command(stage, 100.4, initial)[5:]
    run = load_run(gpu_weights.ROOT / config, tuple(settings))
    assert run.train.stage == stage and run.train.graph is True
    assert run.train.initial == (initial if stage == "generator" else None)


def test_a_command_is_logged_and_stopped(tmp_path, capsys) -> None:
    log = tmp_path / "log.txt"
    assert gpu_weights.run("good", ["-c", "print('made')"], 20, log)
    assert not gpu_weights.run("long", ["-c", "import time; time.sleep(60)"], 0.5, log)
    out = capsys.readouterr().out
    assert "good: exit code 0" in out and "  made" in out and "long: exit code" in out
