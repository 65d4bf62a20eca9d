"""AV-DiT from the command line: train beside frozen weights, go on, generate, and wrong use in one line."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import yaml
from av_dit_nano import MODEL, SPEC, write_frozen

from pavdit.baselines.av_dit.config import AVDiTRun
from pavdit.cli import main as cli
from pavdit.media import probe, read_clip
from pavdit.train.checkpoint import open_checkpoint

pytest.importorskip("diffusers", reason="diffusers is not installed")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 200 updates, interrupted at 120."""
    folder = tmp_path_factory.mktemp("av")
    tree = {
        "system": "av-dit",
        "model": MODEL,
        "frozen": write_frozen(folder / "frozen"),
        "sampling": {"num_steps": 3},
        "data": {"kind": "bounce", "scenes": "simple", "num_clips": 6, "held_out": 2},
        "train": {
            "run_dir": str(folder / "run"),
            "num_steps": 200,
            "batch_size": 2,
            "learning_rate": 5e-3,
            "ema_decay": 0.9,
            "log_every": 40,
            "show_every": 200,
            "checkpoint_every": 120,
            "device": "cpu",
        },
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(tree))
    assert cli.main(["train", str(folder / "run.yaml"), "--set", "train.num_steps=120"]) == 0
    assert cli.main(["train", str(folder / "run.yaml")]) == 0
    return folder


def test_the_loss_falls_and_a_run_is_taken_up(trained):
    log = [json.loads(line) for line in (trained / "run" / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert len(losses) == 5 and losses[-1] < 0.7 * losses[0]
    assert [e["step"] for e in log if e.get("event") == "start"] == [0, 120]
    saved = open_checkpoint(trained / "run", AVDiTRun)
    assert len(saved.config.model.frozen_digest) == 12 and not saved.has("autoencoder")
    assert (trained / "run" / "shown" / "step-00000200" / "seed-0.mp4").is_file()
    names = saved.tensors("model")
    assert not any("image" in name for name in names) and "blocks.0.fusion.q.lora.up" in names


def test_generate_makes_mp4_and_finds_them_again(trained, tmp_path):
    arguments = [
        "generate",
        "--checkpoint",
        str(trained / "run"),
        "--steps",
        "2",
        "--n",
        "2",
        "-o",
        str(tmp_path),
    ]
    assert cli.main(arguments) == 0
    first = tmp_path / "seed-0000.mp4"
    clip, about = read_clip(first, SPEC), probe(first).metadata
    assert clip.require(SPEC) and clip.wave.any()
    assert (about["system"], about["steps"], about["eta"]) == ("av-dit", "2", "1")
    written = first.stat().st_mtime_ns
    assert cli.main(arguments) == 0 and first.stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rain"], "prompt: want none, which av-dit has no use for, got 'rain'"),
        (["--task", "t2v"], "task: want t2av of av-dit, got t2v"),
        (
            ["--set", "model.adaptation.rank=8"],
            "want a denoiser with adaptation.rank 8, got adaptation.rank 4",
        ),
        (["--set", "frozen.image_dit=nowhere.pt"], "frozen.image_dit: want weights of yours, got nowhere.pt"),
        (["--adapter", "x"], "--adapter: want pavdit's own weights, got those of av-dit"),
    ],
)
def test_wrong_use_is_one_line(trained, tmp_path, capsys, arguments, words):
    code = cli.main(["generate", "--checkpoint", str(trained / "run"), "-o", str(tmp_path), *arguments])
    err = capsys.readouterr().err
    assert code in (2, 3) and words in err and err.count("\n") == 1, err


def test_other_frozen_weights_are_refused(trained, tmp_path, capsys):
    shutil.copytree(trained / "frozen", tmp_path / "frozen")
    stored = torch.load(tmp_path / "frozen" / "dit.pt")
    torch.save({name: 2 * value for name, value in stored.items()}, tmp_path / "frozen" / "dit.pt")
    place = f"frozen.image_dit={tmp_path / 'frozen' / 'dit.pt'}"
    run = ["generate", "--checkpoint", str(trained / "run"), "-o", str(tmp_path / "o"), "--set"]
    assert cli.main([*run, place]) == 3
    assert "want the frozen weights" in capsys.readouterr().err
    resume = ["train", str(trained / "run.yaml"), "--set", "train.num_steps=201", place]
    assert cli.main(resume) == 3
    assert "want a denoiser with frozen_digest" in capsys.readouterr().err
    swapped = f"frozen.mel_vae={tmp_path / 'frozen' / 'image_vae'}"
    assert (
        cli.main(["train", str(trained / "run.yaml"), "--set", f"train.run_dir={tmp_path / 'r'}", swapped])
        == 3
    )
    said = "want a VAE of (input channels, latent channels, ratio) (1, 8, 4), got (3, 4, 2)"
    assert said in capsys.readouterr().err
