"""The loop: resuming is bit-equal, signals save, what is not finite is not applied, a run has one trainer."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from nano import EVERY_TASK, nano, nano_run, quiet_console

from pavdit import files
from pavdit.config import ConfigError, RunConfig, load_run
from pavdit.data.bounce import BounceClips
from pavdit.train import checkpoint as checkpoints
from pavdit.train import loop
from pavdit.train.checkpoint import CheckpointError, open_checkpoint
from pavdit.train.lock import RunLockedError, run_lock
from pavdit.train.parallel import WHOLE
from pavdit.train.run import run_training
from pavdit.train.shown import Shown
from pavdit.train.trainer import MAX_REFUSED, MAX_ROLL_BACKS, NonFiniteError, Trainer


def train(config, resume="auto"):
    console = quiet_console()
    return run_training(config, resume, console), console.file.getvalue()


def log_of(run_dir):
    return [json.loads(line) for line in (run_dir / "log.jsonl").read_text().splitlines()]


def assert_same_checkpoint(one, other):
    for name in ("model", "ema", "optimizer"):
        a, b = one.tensors(name), other.tensors(name)
        assert a.keys() == b.keys()
        different = [key for key in a if not torch.equal(a[key], b[key])]
        assert not different, f"{name}: {different}"


@pytest.mark.parametrize("stage", ["autoencoder", "generator"])
def test_resuming_equals_not_stopping_to_the_bit(tmp_path, nano_autoencoder_run, stage):
    options = {"final_learning_rate": 1e-4, "warmup_steps": 2}
    if stage == "generator":
        options |= {"autoencoder": nano_autoencoder_run, "tasks": EVERY_TASK}
    straight, broken = nano_run(tmp_path / "a", stage, **options), nano_run(tmp_path / "b", stage, **options)
    train(straight)
    train(broken)
    newest = checkpoints.step_directory(broken.train.run_dir, 4)
    (newest / "manifest.json").write_text("killed")  # as if the run had ended at step 2
    _, text = train(broken)
    assert "step-00000004: damaged, set aside" in text and "step-00000002 at step 2" in text
    assert_same_checkpoint(open_checkpoint(tmp_path / "a"), open_checkpoint(tmp_path / "b"))


def test_a_run_writes_its_configuration_and_its_log(nano_autoencoder_run):
    assert load_run(nano_autoencoder_run / "config.yaml") == nano_run(nano_autoencoder_run)
    log = log_of(nano_autoencoder_run)
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2, 3, 4]
    assert {"seconds", "learning_rate", "gradient_norm", "video_l1", "audio_l1"} <= log[1].keys()
    validation = [entry for entry in log if entry.get("event") == "validation"][-1]
    assert {"held_out_video_psnr_db", "held_out_mean_clip_mel_psnr_db"} <= validation.keys()


def test_only_the_newest_checkpoints_stay(tmp_path):
    train(nano_run(tmp_path / "a", checkpoint_every=1, keep_checkpoints=3))
    assert sorted(p.name for p in (tmp_path / "a").glob("step-*")) == [f"step-0000000{i}" for i in (2, 3, 4)]


def test_a_finished_run_is_not_trained_on(nano_autoencoder_run):
    before = (open_checkpoint(nano_autoencoder_run).path / "manifest.json").read_text()
    outcome, _ = train(nano_run(nano_autoencoder_run))
    assert outcome.step == 4 and "held_out_video_psnr_db" in outcome.metrics
    assert (open_checkpoint(nano_autoencoder_run).path / "manifest.json").read_text() == before


def test_never_refuses_a_run_directory_with_checkpoints(nano_autoencoder_run):
    with pytest.raises(ConfigError, match="--resume never: want a run directory without later checkpoints"):
        train(nano_run(nano_autoencoder_run), "never")


def test_a_path_is_resumed_into_another_run_directory(tmp_path, nano_autoencoder_run):
    start = checkpoints.step_directory(nano_autoencoder_run, 2)
    outcome, text = train(nano_run(tmp_path / "b"), str(start))
    assert outcome.step == 4 and f"resuming {start} at step 2" in text
    assert_same_checkpoint(open_checkpoint(nano_autoencoder_run), open_checkpoint(tmp_path / "b"))


def test_another_architecture_is_not_resumed(nano_autoencoder_run):
    config = nano_run(nano_autoencoder_run).model_dump()
    config["model"]["mdsa"]["projector_depth"] = 2
    written = (nano_autoencoder_run / "config.yaml").read_text()
    with pytest.raises(CheckpointError, match=r"want an autoencoder with mdsa\.projector_depth 2, got .* 1$"):
        train(RunConfig.model_validate(config))
    assert (nano_autoencoder_run / "config.yaml").read_text() == written


def test_another_autoencoder_is_not_slipped_under_a_run(tmp_path, nano_autoencoder_run, nano_generator_run):
    train(nano_run(tmp_path / "other", seed=1, num_steps=1))
    with pytest.raises(ConfigError, match="want the autoencoder that this run began with"):
        train(nano_run(nano_generator_run, "generator", autoencoder=tmp_path / "other"))


def test_a_generator_wants_an_autoencoder_of_its_architecture(tmp_path, nano_autoencoder_run):
    config = nano_run(tmp_path / "g", "generator", autoencoder=nano_autoencoder_run).model_dump()
    config["model"]["mdsa"]["gcm_attn"] = False
    with pytest.raises(CheckpointError, match=r"mdsa\.gcm_attn False, got mdsa\.gcm_attn True$"):
        train(RunConfig.model_validate(config))
    assert not (tmp_path / "g").exists()


def test_the_time_limit_ends_a_run_that_is_saved(tmp_path):
    outcome, _ = train(
        nano_run(tmp_path / "a", num_steps=10**6, time_limit_seconds=0.01, checkpoint_every=10**6)
    )
    assert outcome.step < 10 and not outcome.interrupted
    assert open_checkpoint(tmp_path / "a").step == outcome.step


class Poisoned:
    """A stage whose loss or gradient is not finite at some steps."""

    def __init__(self, bad, what):
        self.model, self.adversary, self.frozen = torch.nn.Linear(2, 1), None, {}
        self.bad, self.what = bad, what

    def loss(self, step, part=WHOLE):
        out = self.model(torch.ones(1, 2)).square().sum()
        bad = step in self.bad
        if bad and self.what == "gradient":
            weight = self.model.weight
            out = out + (weight - weight.detach()).abs().sqrt().sum()
        if bad and self.what == "loss":
            out = out * float("nan")
        return {"loss": out, "term": out.detach()}

    def adversary_loss(self, step, part=WHOLE):
        return {}

    def clip_names(self, step):
        return (f"clip-{step}",)

    def validate(self, model):
        return {}

    def show(self, model):
        return Shown()


def poisoned(tmp_path, bad, what, steps, **train):
    trainer = Trainer(nano_run(tmp_path, num_steps=steps, **train), Poisoned(bad, what))
    tmp_path.mkdir(exist_ok=True)
    return trainer


@pytest.mark.parametrize(("what", "tensor"), [("loss", "term"), ("gradient", "gradient of model.weight")])
def test_an_update_that_is_not_finite_is_not_applied_and_is_named_one_step_later(tmp_path, what, tensor):
    trainer = poisoned(tmp_path / "a", {1}, what, 3)
    trainer.update()
    before = [p.detach().clone() for p in trainer.stage.model.parameters()]
    average = [p.clone() for p in trainer.ema.model.parameters()]
    moments = {name: value.clone() for name, value in trainer.descents["model"].tensors().items()}
    _, refused = trainer.update()
    assert refused == 1 and not list(trainer.refusals())
    assert all(map(torch.equal, before, trainer.stage.model.parameters()))
    assert all(map(torch.equal, average, trainer.ema.model.parameters())) and trainer.ema.num_updates == 1
    assert all(torch.equal(value, moments[key]) for key, value in trainer.descents["model"].tensors().items())
    trainer.update()
    assert not torch.equal(before[0], trainer.stage.model.weight)
    [said] = trainer.refusals()
    assert (said.step, said.tensor, said.clips) == (2, tensor, ("clip-1",))


def test_a_skipped_update_is_logged_and_in_no_mean(tmp_path):
    trainer = poisoned(tmp_path / "a", {1}, "loss", 4, log_every=2)
    loop.fit(trainer, quiet_console())
    log = log_of(tmp_path / "a")
    assert {"event": "skipped", "step": 2, "tensor": "term", "clips": ["clip-1"]} in log
    assert [entry["step"] for entry in log if "loss" in entry] == [2, 4]
    assert all(torch.tensor(entry["loss"]).isfinite() for entry in log if "loss" in entry)


def test_a_few_in_a_row_go_back_to_the_last_checkpoint_and_then_on_past_the_clips(tmp_path):
    trainer = poisoned(tmp_path / "a", range(3, 3 + MAX_REFUSED), "loss", 20, checkpoint_every=2)
    weights = []
    loss = trainer.objective
    trainer.objective = lambda *a: weights.append(trainer.stage.model.weight.detach().clone()) or loss(*a)
    loop.fit(trainer, quiet_console())
    skipped = [entry["step"] for entry in log_of(tmp_path / "a") if entry.get("event") == "skipped"]
    assert skipped == list(range(4, 4 + MAX_REFUSED)) and trainer.step == 20
    # Steps 4 to 8 were refused; at 4, 6 and 8 the weights of step 3 were saved.
    assert all(torch.equal(weights[3], w) for w in weights[4:9]) and not torch.equal(weights[9], weights[8])
    assert trainer.roll_backs == 0 and trainer.ema.num_updates == 20 - MAX_REFUSED


def test_what_stays_infinite_ends_the_run(tmp_path):
    trainer = poisoned(tmp_path / "a", range(1, 100), "gradient", 100, checkpoint_every=1000)
    trainer.update()
    trainer.save()
    with pytest.raises(
        NonFiniteError, match=r"gradient of model\.weight not finite and 5 .* going back 2 times"
    ):
        loop.fit(trainer, quiet_console())
    assert trainer.step == 2 + MAX_REFUSED * (1 + MAX_ROLL_BACKS)
    assert all(p.isfinite().all() for p in trainer.stage.model.parameters())


def test_what_is_infinite_before_any_checkpoint_ends_the_run(tmp_path):
    trainer = poisoned(tmp_path / "a", range(100), "loss", 100, checkpoint_every=1000)
    with pytest.raises(NonFiniteError, match="got term not finite and 5 updates in a row refused"):
        loop.fit(trainer, quiet_console())


def test_what_a_stage_shows_becomes_files_and_a_board(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    clip = BounceClips(1, nano().clip)[0]
    picture = torch.randint(256, (4, 6, 3), dtype=torch.uint8)
    trainer = poisoned(tmp_path / "a", {}, "loss", 4, show_every=2, tensorboard=True)
    trainer.stage.show = lambda model: Shown({"sheet": picture}, {"clip": clip})
    loop.fit(trainer, quiet_console())
    shown = sorted(
        str(p.relative_to(tmp_path / "a" / "shown")) for p in (tmp_path / "a" / "shown").rglob("*.*")
    )
    assert shown == [f"step-0000000{n}/{name}" for n in (2, 4) for name in ("clip.mp4", "sheet.png")]
    board = EventAccumulator(str(tmp_path / "a" / "tensorboard")).Reload()
    losses = [entry["loss"] for entry in log_of(tmp_path / "a") if "loss" in entry]
    assert [s.value for s in board.Scalars("train/loss")] == pytest.approx(losses)
    assert (
        [i.step for i in board.Images("clip/frames")] == [2, 4] == [a.step for a in board.Audio("clip/sound")]
    )
    assert (board.Images("sheet")[0].width, board.Images("sheet")[0].height) == (6, 4)


def test_a_run_directory_has_one_trainer(tmp_path):
    config = nano_run(tmp_path / "a")
    with run_lock(tmp_path / "a"), pytest.raises(RunLockedError, match=f"held by process {os.getpid()}$"):
        train(config)
    assert train(config)[0].step == 4


def test_a_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    write = files.write_durably

    def full(path, chunks):
        if "step-00000004" in str(path) and path.name == "optimizer.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, chunks)

    monkeypatch.setattr(files, "write_durably", full)
    with pytest.raises(OSError, match="No space left"):
        train(nano_run(tmp_path / "a"))
    assert open_checkpoint(tmp_path / "a").step == 2
    assert not list((tmp_path / "a").glob(".tmp-*"))
    monkeypatch.undo()
    assert train(nano_run(tmp_path / "a"))[0].step == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_run_goes_on_later(tmp_path, number):
    config = nano_run(tmp_path / "a", num_steps=10**6, checkpoint_every=10**6)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    process = subprocess.Popen(
        [sys.executable, "-m", "pavdit.cli", "train", str(path)],
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    log = tmp_path / "a" / "log.jsonl"
    while process.poll() is None and not (log.exists() and '"loss"' in log.read_text()):
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(timeout=60) == 75
    saved = open_checkpoint(tmp_path / "a")
    assert saved.step >= 1
    assert log_of(tmp_path / "a")[-1] == {"event": "interrupted", "step": saved.step}
    config = config.model_copy(
        update={"train": config.train.model_copy(update={"num_steps": saved.step + 1})}
    )
    assert train(config)[0].step == saved.step + 1
