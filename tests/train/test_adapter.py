"""Adapters of a trained generator: they alone learn and are stored, for one backbone, wherever it runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nano import nano_run, quiet_console
from numerics import assert_same_latents

from pavdit.cli.generate import _adapter
from pavdit.config import AdapterConfig, ConfigError, RunConfig
from pavdit.files import tensors_record
from pavdit.flow.graph import Graphs
from pavdit.pipeline import Pipeline
from pavdit.train.adapted import backbone_model, load_adapters, merged_tensors
from pavdit.train.adapter import AdapterStage
from pavdit.train.checkpoint import CheckpointError, open_checkpoint
from pavdit.train.export import export, export_merged
from pavdit.train.run import run_training
from pavdit.train.trainer import Trainer

CPU = torch.device("cpu")
CHOICES = {"seed": [3, 4], "steps": 2}


def adapter_run(run_dir: Path, backbone: Path, shape: dict[str, object] | None = None, **train: object):
    run = nano_run(run_dir, "autoencoder", **train).model_dump()
    run["train"]["stage"] = "adapter"
    run["adapter"] = {"backbone": backbone, "rank": 2} | (shape or {})
    run["model"] = open_checkpoint(backbone).config.model
    return RunConfig.model_validate(run)


@pytest.fixture(scope="module")
def adapters_run(nano_generator_run, tmp_path_factory):
    """Some updates, in two goes."""
    run_dir = tmp_path_factory.mktemp("adapters") / "run"
    options = {"learning_rate": 0.02, "ema_decay": 0.5, "checkpoint_every": 15, "keep_checkpoints": 3}
    for steps in (15, 30):
        console = quiet_console()
        run_training(adapter_run(run_dir, nano_generator_run, num_steps=steps, **options), console=console)
    assert "resuming" in console.file.getvalue()
    return run_dir


def latents(pipe: Pipeline) -> torch.Tensor:
    return torch.stack([clip.latent for clip in pipe(["drum_bounce"] * 2, **CHOICES)])


def test_only_what_learns_is_stored_and_the_backbone_is_what_it_was(adapters_run, nano_generator_run):
    saved, backbone = open_checkpoint(adapters_run), open_checkpoint(nano_generator_run)
    assert saved.config.adapter.backbone_hash == backbone.model_hash
    stems = {name for name in saved.files if name.endswith(".safetensors")}
    assert stems == {"ema.safetensors", "model.safetensors", "optimizer.safetensors"}
    for stem in ("ema", "model", "optimizer"):
        assert all(".lora." in name for name in saved.tensors(stem))
    config = adapter_run(adapters_run, nano_generator_run)
    _, stage = AdapterStage.open(config, CPU, quiet_console())
    before = tensors_record(stage.backbone.state_dict())
    before_error = stage.validate(stage.adapters)
    averaged, _ = load_adapters(adapters_run, backbone, stage.backbone.stdit)
    after_error = stage.validate(averaged)
    trainer = Trainer(config, stage)
    for _ in range(2):
        trainer.update()
    assert all(name.startswith("blocks.") for name in trainer.descents["model"].names)
    assert all(p.grad is None for p in stage.backbone.parameters())
    assert before == tensors_record(stage.backbone.state_dict()) == backbone.files["ema.safetensors"]
    assert after_error["held_out_velocity_error"] < before_error["held_out_velocity_error"]


def test_resuming_gives_what_one_go_gives(adapters_run, nano_generator_run, tmp_path):
    step = next(adapters_run.glob("step-*15"))
    config = open_checkpoint(adapters_run).config
    train = config.train.model_copy(update={"run_dir": tmp_path / "again"})
    run_training(config.model_copy(update={"train": train}), str(step), quiet_console())
    last = [open_checkpoint(run).files["ema.safetensors"] for run in (adapters_run, tmp_path / "again")]
    assert last[0] == last[1]


def test_a_pipeline_has_them_with_their_strengths(adapters_run, nano_generator_run, tmp_path):
    load = lambda **more: Pipeline.from_pretrained(nano_generator_run, "cpu", **more)  # noqa: E731
    plain, adapted = load(), load(adapters={str(adapters_run): 0.5})
    without, with_them = latents(plain), latents(adapted)
    assert not torch.equal(without, with_them)
    assert torch.equal(latents(load(adapters={str(adapters_run): 0})), without)
    adapted.graphs = Graphs(capture=lambda function: function() or function)
    assert torch.equal(latents(adapted), with_them)
    saved = open_checkpoint(nano_generator_run)
    merged = export_merged(saved, {str(adapters_run): 0.5}, tmp_path / "merged", "float32")
    assert_same_latents(latents(Pipeline.from_pretrained(merged.path, "cpu")), with_them)
    [facts, _] = adapted.provenance([None, None], **CHOICES)
    assert facts["model"] == f"{saved.model_hash}+{open_checkpoint(adapters_run).model_hash}*0.5"
    assert json.loads(facts["adapters"]) == {str(adapters_run): 0.5}


def test_the_command_line_makes_and_replays_adapted_clips(adapters_run, nano_generator_run, tmp_path, capsys):
    from pavdit.cli.main import main

    options = ["--checkpoint", str(nano_generator_run), "--device", "cpu", "--steps", "1"]
    clip, arguments = tmp_path / "one.mp4", ["generate", *options, "--adapter", f"{adapters_run}:0.5"]
    assert main([*arguments, "-o", str(clip)]) == 0
    assert main(["replay", str(clip), "--device", "cpu"]) == 0
    assert "frames and sound are the same" in capsys.readouterr().out
    merged = tmp_path / "merged"
    assert main(["export", str(nano_generator_run), "--adapter", str(adapters_run), "-o", str(merged)]) == 0
    assert open_checkpoint(merged).has("autoencoder")
    assert [_adapter(text) for text in ("a", "a:2", "C:a", "a:b:-0.5")] == [
        ("a", 1.0), ("a", 2.0), ("C:a", 1.0), ("a:b", -0.5),
    ]  # fmt: skip


def test_exported_ones_fit_exported_weights(adapters_run, nano_generator_run, tmp_path):
    backbone = export(open_checkpoint(nano_generator_run), tmp_path / "backbone")
    alone = export(open_checkpoint(adapters_run), tmp_path / "adapters")
    assert [name for name in alone.files if name.endswith(".safetensors")] == ["ema.safetensors"]
    latents(Pipeline.from_pretrained(backbone.path, "cpu", adapters={str(alone.path): 1.0}))


def test_what_does_not_fit_is_named(adapters_run, nano_generator_run, nano_autoencoder_run, tmp_path):
    saved = open_checkpoint(nano_generator_run)
    other = replace(saved, files=saved.files | {"ema.safetensors": saved.files["model.safetensors"]})
    of_another = f"want adapters of the backbone {other.model_hash} in .*, got those of {saved.model_hash} "
    with pytest.raises(CheckpointError, match=of_another.replace("+", r"\+")):
        merged_tensors(other, {str(adapters_run): 1.0})
    with pytest.raises(
        CheckpointError, match=r"want adapters \(train.stage adapter\), got weights of stage gen"
    ):
        merged_tensors(saved, {str(nano_generator_run): 1.0})
    with pytest.raises(
        CheckpointError, match="want an autoencoder's or a generator's checkpoint, got adapters"
    ):
        Pipeline.from_pretrained(adapters_run, "cpu")
    with pytest.raises(CheckpointError, match="as backbone, got one of stage autoencoder"):
        backbone_model({"train": {"stage": "adapter"}, "adapter": {"backbone": str(nano_autoencoder_run)}})
    with pytest.raises(CheckpointError, match="want adapter.rank 3, got rank 2"):
        run_training(adapter_run(adapters_run, nano_generator_run, {"rank": 3}), console=quiet_console())
    with pytest.raises(ConfigError, match="adapter.backbone_hash: want .*, got beef"):
        run_training(
            adapter_run(tmp_path / "a", nano_generator_run, {"backbone_hash": "beef"}),
            console=quiet_console(),
        )
    with pytest.raises(ConfigError, match=r"adapter.targets: want names of linear layers .*, got 'attn.\*'"):
        run_training(
            adapter_run(tmp_path / "a", nano_generator_run, {"targets": ("attn.*",)}), console=quiet_console()
        )
    with pytest.raises(ValueError, match="want a section adapter for train.stage 'adapter' alone"):
        RunConfig(**nano_run(tmp_path).model_dump() | {"adapter": AdapterConfig(backbone=tmp_path)})


def test_captions_with_unknown_words_are_left_out(nano_generator_run, tmp_path):
    config = adapter_run(tmp_path / "run", nano_generator_run)
    _, stage = AdapterStage.open(config, CPU, quiet_console())
    known = stage.train.labels
    stage.train = replace(stage.train, labels=("a dog barks", *known[1:]))
    assert stage.drop_unknown_captions() == ["a dog barks"]
    assert stage.train.labels == ("", *known[1:])
    dropped = stage.matching.inputs(stage.generator.text, stage.train, stage._draws(torch.tensor([0, 1]), 0))
    assert dropped["drop_text"][0]
