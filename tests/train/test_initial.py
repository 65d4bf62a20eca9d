"""A run that begins with the weights of another one, perhaps of another machine."""

from __future__ import annotations

import json

import pytest
import torch
from nano import EVERY_TASK, nano_run, quiet_console

from pavdit.train.autoencoder import AutoencoderStage
from pavdit.train.checkpoint import CheckpointError, open_checkpoint
from pavdit.train.export import export
from pavdit.train.generator import GeneratorStage
from pavdit.train.run import run_training
from pavdit.train.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture
def exported(nano_generator_run, tmp_path):
    return export(open_checkpoint(nano_generator_run), tmp_path / "exported")


def run_of(stage, tmp_path, exported, autoencoder, **more):
    generator = {"autoencoder": autoencoder, "tasks": EVERY_TASK} if stage == "generator" else {}
    return nano_run(tmp_path / stage, stage, initial=str(exported.path), **generator, **more)


@pytest.mark.parametrize(("stage", "file"), [("generator", "ema"), ("autoencoder", "autoencoder")])
def test_it_begins_with_the_average_and_moments_anew(stage, file, exported, nano_autoencoder_run, tmp_path):
    config = run_of(stage, tmp_path, exported, nano_autoencoder_run)
    build = GeneratorStage if stage == "generator" else AutoencoderStage
    trainer = Trainer(*build.open(config, CPU, quiet_console()))
    trainer.begin_with(exported)
    for model in (trainer.stage.model, trainer.averaged()):
        for name, weight in exported.tensors(file).items():
            assert weight.dtype == torch.bfloat16 and model.state_dict()[name].equal(weight.float())
    assert trainer.step == 0 and not trainer.descents["model"].optimizer.state


def test_the_log_names_it_and_the_run_goes_on_as_any(exported, nano_autoencoder_run, tmp_path):
    run_training(
        run_of("generator", tmp_path, exported, nano_autoencoder_run, num_steps=2), console=quiet_console()
    )
    console = quiet_console()
    run_training(run_of("generator", tmp_path, exported, nano_autoencoder_run), console=console)
    assert "resuming" in console.file.getvalue() and "beginning" not in console.file.getvalue()
    log = [json.loads(line) for line in (tmp_path / "generator" / "log.jsonl").read_text().splitlines()]
    starts = [event for event in log if event.get("event") == "start"]
    want = {"path": str(exported.path), "model": exported.model_hash}
    assert [start["initial"] for start in starts] == [want, want] and starts[1]["step"] == 2


def test_another_architecture_is_refused(exported, nano_autoencoder_run, tmp_path):
    config = run_of("autoencoder", tmp_path, exported, nano_autoencoder_run).model_dump()
    config["model"]["mdsa"]["encoder_depth"] += 1
    with pytest.raises(CheckpointError, match=r"want an autoencoder with mdsa\.encoder_depth"):
        run_training(type(exported.config).model_validate(config), console=quiet_console())
