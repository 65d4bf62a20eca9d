"""MM-Diffusion from the command line: train, go on, generate, and wrong use in one line."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from mm_diffusion_nano import MODEL, SPEC, UNET

from pavdit.baselines.mm_diffusion.config import MMDiffusionRun
from pavdit.baselines.mm_diffusion.maker import load
from pavdit.cli import main as cli
from pavdit.media import probe, read_clip
from pavdit.train.checkpoint import open_checkpoint


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of 200 updates, interrupted at 150: (folder, its configuration)."""
    folder = tmp_path_factory.mktemp("mm")
    tree = {
        "system": "mm-diffusion",
        "model": MODEL | {"unet": UNET | {"attention": [], "cross_attention": {2: 3}}},
        "data": {"kind": "bounce", "scenes": "simple", "num_clips": 8, "held_out": 2},
        "train": {
            "run_dir": str(folder / "run"),
            "num_steps": 200,
            "batch_size": 1,
            "learning_rate": 3e-3,
            "ema_decay": 0.9,
            "log_every": 50,
            "checkpoint_every": 150,
            "device": "cpu",
        },
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(tree))
    assert cli.main(["train", str(folder / "run.yaml"), "--set", "train.num_steps=150"]) == 0
    assert cli.main(["train", str(folder / "run.yaml")]) == 0
    return folder


def test_the_loss_falls_and_a_run_is_taken_up(trained):
    log = [json.loads(line) for line in (trained / "run" / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in log if "loss" in entry]
    assert len(losses) == 4 and losses[-1] < losses[0] / 2
    starts = [entry["step"] for entry in log if entry.get("event") == "start"]
    assert starts == [0, 150]
    assert [e["held_out_noise_error"] < 1 for e in log if e.get("event") == "validation"] == [True, True]


def test_a_run_that_was_taken_up_is_the_run_without_a_break(trained, tmp_path):
    def train(name, *settings):
        arguments = ["train", trained / "run.yaml", "--set", f"train.run_dir={tmp_path / name}", *settings]
        assert cli.main([str(a) for a in arguments]) == 0
        return open_checkpoint(tmp_path / name, MMDiffusionRun)

    straight = train("a", "train.num_steps=4")
    train("b", "train.num_steps=2")
    resumed = train("b", "train.num_steps=4")
    assert straight.config.model.unet.dropout > 0
    for stem in ("ema", "model", "optimizer"):
        assert straight.files[f"{stem}.safetensors"] == resumed.files[f"{stem}.safetensors"]


def test_generate_makes_mp4_of_either_and_finds_them_again(trained, tmp_path, capsys):
    def generate(*arguments):
        fixed = ["generate", "--checkpoint", trained / "run", "--steps", "3", "-o", tmp_path]
        return cli.main([str(a) for a in [*fixed, *arguments]])

    assert generate("--n", 2) == 0
    first = tmp_path / "seed-0000.mp4"
    clip, about = read_clip(first, SPEC), probe(first).metadata
    assert clip.require(SPEC) and (about["system"], about["method"], about["steps"]) == (
        "mm-diffusion", "dpm-solver", "3",
    )  # fmt: skip
    written = first.stat().st_mtime_ns
    assert generate("--n", 2) == 0 and first.stat().st_mtime_ns == written
    for stream, task in (("video", "v2a"), ("audio", "a2v")):
        way = ["--set", "sampling.method=ddim", "sampling.condition=gradient", "--guidance", 2]
        assert generate(f"--{stream}", first, *(way if task == "v2a" else ["--task", task])) == 0
    assert cli.main(["replay", str(first)]) == 3
    assert "want a clip of pavdit's own models, got one of mm-diffusion" in capsys.readouterr().err
    made = {probe(path).metadata["task"]: probe(path).metadata for path in tmp_path.glob("*.mp4")}
    assert made["v2a"]["guidance"] == "2" and made["a2v"]["condition"] == "replacement"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a ball"], "prompt: want none, which mm-diffusion has no use for, got 'a ball'"),
        (["--task", "t2v"], "task: want t2av, v2a, a2v of mm-diffusion, got t2v"),
        (["--guidance", "3"], "guidance: want sampling.condition gradient, got replacement"),
        (["--pipeline", "two-step"], "--pipeline: want pavdit's own weights, got those of mm-diffusion"),
        (["--fp8"], "--fp8: want pavdit's own weights, got those of mm-diffusion"),
        (["--steps", "0"], "sampling: num_steps: Input should be greater than or equal to 1"),
        (["--set", "sampling.method=euler"], "--set: sampling.method: Input should be"),
        (["--set", "model.unet.width=16"], "want a denoiser with unet.width 16, got unet.width 8"),
        (["--set", "sampling.condition=gradient"], "want method ddim for condition gradient"),
    ],
)
def test_wrong_use_is_one_line(trained, tmp_path, capsys, arguments, words):
    code = cli.main(["generate", "--checkpoint", str(trained / "run"), "-o", str(tmp_path), *arguments])
    err = capsys.readouterr().err
    assert code in (2, 3) and words in err and err.count("\n") == 1


def test_weights_of_one_system_are_not_taken_for_anothers(trained, nano_autoencoder_run, capsys):
    assert cli.main(["decode", "x", "-o", "y.mp4", "--checkpoint", str(trained / "run")]) == 3
    assert "want weights of pavdit itself, got those of the system mm-diffusion" in capsys.readouterr().err
    with pytest.raises(ValueError, match="want weights of mm-diffusion, got those of the system pavdit"):
        load(nano_autoencoder_run, torch.device("cpu"))


def test_an_unknown_system_is_named(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("system: mmdiff\n")
    assert cli.main(["train", str(tmp_path / "a.yaml")]) == 2
    assert "system: want one of mm-diffusion" in capsys.readouterr().err
