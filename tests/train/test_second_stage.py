"""MDSA's second stage: where it begins, what its switches add, that it resumes, what it shows."""

import json

import pytest
import torch
from nano import nano, nano_run, quiet_console
from safetensors.torch import save_file

from pavdit.clip import ClipSpec
from pavdit.config import ConfigError, RunConfig, parse_run
from pavdit.data.bounce import BounceClips
from pavdit.nn.lpips import TRUNKS
from pavdit.train import checkpoint as checkpoints
from pavdit.train.autoencoder import AutoencoderStage
from pavdit.train.checkpoint import CheckpointError, open_checkpoint
from pavdit.train.parallel import Part
from pavdit.train.run import run_training
from pavdit.train.trainer import Trainer

CPU = torch.device("cpu")


def second(run_dir, first, mdsa=None, **train):
    """A second stage on `first`; `mdsa` replaces fields of the autoencoder's configuration."""
    config = nano_run(run_dir, first_stage=first, **train).model_dump()
    config["model"]["mdsa"] |= mdsa or {}
    config["model"]["mdsa"]["discriminator"] = {"width": 8, "depth": 1}
    return RunConfig.model_validate(config)


def stage_of(config):
    torch.manual_seed(0)
    return AutoencoderStage(config, BounceClips(4, nano().clip), BounceClips(2, nano().clip, 1), CPU)


def train(config):
    console = quiet_console()
    run_training(config, console=console)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def second_run(nano_autoencoder_run, tmp_path_factory):
    """A finished second stage."""
    config = second(tmp_path_factory.mktemp("second") / "run", nano_autoencoder_run, show_every=4)
    train(config)
    return config


def test_it_begins_with_the_first_stage_as_it_is(tmp_path, nano_autoencoder_run):
    first = open_checkpoint(nano_autoencoder_run)
    config = second(tmp_path / "run", nano_autoencoder_run)
    trainer = Trainer(config, stage_of(config))
    trainer.begin_second_stage(first)
    assert trainer.step == 0 and int(trainer.ema.num_updates) == first.state["ema_updates"] == 4
    for module, name in ((trainer.stage.model, "model"), (trainer.ema.model, "ema")):
        own, saved = module.state_dict(), first.tensors(name)
        assert [key for key in own if not torch.equal(own[key], saved[key])] == []
    own, saved = trainer.descents["model"].tensors(), first.tensors("optimizer")
    assert own.keys() == saved.keys() and all(torch.equal(own[key], saved[key]) for key in own)


def test_a_run_says_where_it_began(second_run, nano_autoencoder_run):
    first = open_checkpoint(nano_autoencoder_run)
    log = [json.loads(line) for line in (second_run.train.run_dir / "log.jsonl").read_text().splitlines()]
    want = {"path": str(first.path), "model": first.model_hash}
    assert log[0]["event"] == "start" and log[0]["first_stage"] == want
    assert open_checkpoint(second_run.train.run_dir).state["first_stage"] == want
    health = {f"clip_{what}" for what in ("real", "fake", "accuracy", "hinge_real", "hinge_fake")}
    assert health | {"adversary_gradient_norm", "frame_feature_matching", "audio_kl"} <= log[1].keys()


def test_resuming_equals_not_stopping_to_the_bit(tmp_path, second_run, nano_autoencoder_run):
    config = second(tmp_path / "run", nano_autoencoder_run)
    train(config)
    newest = checkpoints.step_directory(config.train.run_dir, 4)
    (newest / "manifest.json").write_text("killed")  # as if the run had ended at step 2
    assert "step-00000002 at step 2" in train(config)
    one, other = open_checkpoint(second_run.train.run_dir), open_checkpoint(config.train.run_dir)
    for name in ("model", "ema", "optimizer", "adversary", "adversary_optimizer"):
        a, b = one.tensors(name), other.tensors(name)
        assert a.keys() == b.keys() and [key for key in a if not torch.equal(a[key], b[key])] == []
    assert other.state["first_stage"] == one.state["first_stage"]


@pytest.mark.parametrize(
    ("mdsa", "terms"),
    [
        ({}, {"kl", "adversarial"}),
        ({"kl": False}, {"adversarial"}),
        ({"adversarial": False}, {"kl"}),
        ({"kl_target": "output"}, {"kl", "adversarial"}),
    ],
    ids=["both", "no_kl", "no_adversarial", "kl_of_the_output"],
)
def test_a_switch_decides_terms_and_sampling(tmp_path, nano_autoencoder_run, mdsa, terms):
    stage = stage_of(second(tmp_path, nano_autoencoder_run, mdsa))
    first = stage_of(nano_run(tmp_path))
    got, plain = stage.loss(0), first.loss(0)
    assert ("video_kl" in got) == ("kl" in terms) and ("adversarial" in got) == ("adversarial" in terms)
    assert (stage.adversary is not None) == ("adversarial" in terms)
    samples = mdsa.get("kl", True) and mdsa.get("kl_target") != "output"
    assert (got["video_l1"].item() == plain["video_l1"].item()) != samples
    added = got.get("adversarial", torch.zeros(()))
    for stream in ("video", "audio"):
        added = added + 0.5 * (4 * got[f"{stream}_l1"] + 4 * got[f"{stream}_perceptual"])
        added = added + 0.5 * 6e-6 * got.get(f"{stream}_kl", torch.zeros(()))
    assert got["loss"].item() == pytest.approx(added.item(), rel=1e-5)


def test_the_discriminators_wait_for_disc_start(tmp_path, nano_autoencoder_run):
    config = second(tmp_path / "run", nano_autoencoder_run, disc_start=2)
    trainer = Trainer(config, stage_of(config))
    before = {name: t.clone() for name, t in trainer.stage.adversary.state_dict().items()}
    for step in range(4):
        terms, _ = trainer.update()
        same = all(torch.equal(before[n], t) for n, t in trainer.stage.adversary.state_dict().items())
        assert ("adversarial" in terms) == ("clip_accuracy" in terms) == (step >= 2)
        assert same == (step < 2)


def test_each_side_learns_through_its_own_loss_alone(tmp_path, nano_autoencoder_run):
    stage = stage_of(second(tmp_path, nano_autoencoder_run))
    stage.adversary.requires_grad_(False)
    stage.loss(0)["loss"].backward()
    stage.adversary.requires_grad_(True)
    assert all(p.grad is None for p in stage.adversary.parameters())
    stage.model.zero_grad()
    stage.adversary_loss(0)["loss"].backward()
    assert all(p.grad is None for p in stage.model.parameters())
    learns = {name: p.grad.any() for name, p in stage.adversary.named_parameters()}
    # Within the hinge a logit's bias raises the loss of one side by what it lowers the other's.
    assert [name for name, moved in learns.items() if not moved and name.endswith("weight")] == []


def test_a_missing_stream_has_no_adversary(tmp_path, nano_autoencoder_run):
    video_alone = {"stream_dropout": {"video_alone": 1.0, "audio_alone": 0.0, "crossed": 0.0}}
    stage = stage_of(second(tmp_path, nano_autoencoder_run, video_alone))
    terms = stage.loss(0)
    assert terms["spectrogram_hinge"] == terms["spectrogram_feature_matching"] == terms["audio_kl"] == 0
    stage.adversary_loss(0)["loss"].backward()
    assert not any(p.grad.any() for p in stage.adversary.spectrogram.parameters())
    assert any(p.grad.any() for p in stage.adversary.clip.parameters())


def test_parts_of_a_batch_are_the_batch(tmp_path, nano_autoencoder_run):
    def mean_terms(accumulate):
        stage = stage_of(second(tmp_path, nano_autoencoder_run, batch_size=4))
        parts = [Part(index, accumulate) for index in range(accumulate)]
        losses = [stage.loss(1, part) for part in parts]
        losses = [
            one | {"d": stage.adversary_loss(1, p)["loss"]} for one, p in zip(losses, parts, strict=True)
        ]
        return {name: sum(one[name].item() for one in losses) / accumulate for name in losses[0]}

    assert mean_terms(2) == pytest.approx(mean_terms(1), rel=1e-4)


def test_what_is_no_first_stage_is_refused(tmp_path, second_run, nano_autoencoder_run, nano_generator_run):
    for first, what in (
        (second_run.train.run_dir, "a second stage's"),
        (nano_generator_run, "a generator's"),
    ):
        with pytest.raises(CheckpointError, match=f"autoencoder's first stage, got {what}$"):
            train(second(tmp_path / what, first))
    with pytest.raises(CheckpointError, match=r"mdsa\.gcm_attn False, got mdsa\.gcm_attn True$"):
        train(second(tmp_path / "other", nano_autoencoder_run, {"gcm_attn": False}))


def test_a_run_stays_the_stage_and_has_the_discriminators_that_it_began_with(
    second_run, nano_autoencoder_run
):
    run_dir = second_run.train.run_dir
    with pytest.raises(CheckpointError, match=r"began with train\.first_stage None, got "):
        train(nano_run(run_dir))
    with pytest.raises(CheckpointError, match=r"want no discriminators \(model\.mdsa\.adversarial\)"):
        train(second(run_dir, nano_autoencoder_run, {"adversarial": False}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"stage": "generator", "autoencoder": "a", "first_stage": "b"},
            "want first_stage for stage 'autoenc",
        ),
        ({"disc_start": 5}, "want first_stage (a checkpoint) beside disc_start, got 5"),
        ({"lpips_heads": "heads.pth"}, "want lpips_trunk beside lpips_heads, got heads.pth"),
    ],
)
def test_options_that_do_not_fit_each_other(tmp_path, options, message):
    tree = nano_run(tmp_path).model_dump(mode="json")
    tree["train"] |= options
    with pytest.raises(ConfigError) as caught:
        parse_run(tree)
    assert message in str(caught.value)


def test_what_it_shows_is_clips_beside_their_reconstructions(second_run):
    folder = second_run.train.run_dir / "shown" / "step-00000004"
    assert sorted(path.name for path in folder.iterdir()) == [
        *("clip-0-reconstruction.mp4", "clip-0.mp4", "clip-0.png"),
        *("clip-1-reconstruction.mp4", "clip-1.mp4", "clip-1.png"),
    ]
    stage = stage_of(second_run)
    shown = stage.show(stage.model)
    scale = 96 // 16
    picture = shown.pictures["clip-1"].reshape(4, 16, scale, 4, 16, scale, 3)  # (row, H, ·, frame, W, ·, 3)
    clip = shown.clips["clip-1"]
    assert torch.equal(picture[0, :, 0, 3, :, 0].movedim(2, 0), clip.frames[3])
    assert torch.equal(
        picture[1, :, 0, 3, :, 0].movedim(2, 0), shown.clips["clip-1-reconstruction"].frames[3]
    )
    assert shown.clips["clip-1-reconstruction"].wave.shape == clip.wave.shape


def test_a_trunk_replaces_the_gradients_of_both_streams(tmp_path):
    torch.manual_seed(0)
    weights = torch.nn.Sequential(*TRUNKS["alexnet"].layers()).state_dict()
    save_file({f"features.{key}": t for key, t in weights.items()}, tmp_path / "alexnet.safetensors")
    run = nano_run(tmp_path / "run", lpips_trunk=tmp_path / "alexnet.safetensors", num_steps=1)
    run = run.model_copy(update={"model": nano(clip=ClipSpec(4, 32, 32))})
    assert "perceptual loss: LPIPS, alexnet of " in train(run)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert 0 < log[1]["video_perceptual"] < 4 and 0 < log[1]["audio_perceptual"] < 4
