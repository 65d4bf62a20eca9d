"""A generator trained on what a language model says takes any prompt, from that model alone."""

import shutil

import pytest
import torch
from nano import nano, nano_run, quiet_console

from pavdit.clip import DataError
from pavdit.config import ConfigError
from pavdit.pipeline import Pipeline
from pavdit.text import EncoderFiles
from pavdit.train.checkpoint import CheckpointError, open_checkpoint
from pavdit.train.run import run_training


def run_of(run_dir, autoencoder, path, text_dim=32, **train):
    run = nano_run(run_dir, "generator", autoencoder=autoencoder, **train)
    text = {"encoder": "t5", "path": path, "dropout": 0.1}
    model = nano(stdit=run.model.stdit.model_copy(update={"text_dim": text_dim}), text=text)
    return run.model_copy(update={"model": model})


@pytest.fixture(scope="module")
def t5_run(tmp_path_factory, nano_autoencoder_run, tiny_t5):
    run_dir = tmp_path_factory.mktemp("t5") / "generator"
    run_training(run_of(run_dir, nano_autoencoder_run, tiny_t5, num_steps=2), console=quiet_console())
    return run_dir


def test_any_prompt_makes_its_own_clip(t5_run):
    pipeline = Pipeline.from_pretrained(t5_run, "cpu")
    prompts = ["a dog barks in the rain", "metal"]
    together = pipeline(prompts, seed=3, steps=2)
    assert not torch.equal(together[0].latent, together[1].latent)
    for prompt, clip in zip(prompts, together, strict=True):
        assert clip.provenance["prompt"] == prompt
    assert pipeline(None, steps=1)[0].provenance["prompt"] == ""


def test_a_prompt_that_is_too_long_is_said(t5_run):
    with pytest.raises(ValueError, match="^prompt: want at most 300 tokens, got 401$"):
        Pipeline.from_pretrained(t5_run, "cpu")("rain " * 400)


def test_neither_the_language_model_nor_a_clip_is_read_again(
    t5_run, nano_autoencoder_run, tiny_t5, monkeypatch
):
    monkeypatch.setattr(EncoderFiles, "load", None)
    monkeypatch.setattr("pavdit.data.bounce.BounceClips.read", None)
    config = run_of(t5_run, nano_autoencoder_run, tiny_t5, num_steps=4, show_every=4)
    outcome = run_training(config, console=quiet_console())
    assert outcome.step == 4
    assert (t5_run / "shown" / "step-00000004" / "t2av-0.mp4").is_file()


def test_checkpoints_name_the_language_model_and_do_not_carry_it(t5_run, tiny_t5):
    saved = open_checkpoint(t5_run)
    assert saved.config.model.text.weights == EncoderFiles.find(saved.config.model.text).weights
    assert all(name.startswith("stdit.") for name in saved.tensors("ema"))


def test_another_language_model_is_refused_and_the_same_one_elsewhere_is_not(t5_run, tiny_t5, tmp_path):
    from tiny_t5 import write_tiny_t5

    moved = shutil.copytree(tiny_t5, tmp_path / "moved")
    Pipeline.from_pretrained(t5_run, "cpu", text_path=moved)
    other = write_tiny_t5(tmp_path / "other", seed=1)
    with pytest.raises(CheckpointError, match="want the t5 model [0-9a-f]{12} that it was trained with, got"):
        Pipeline.from_pretrained(t5_run, "cpu", text_path=other)


def test_a_run_is_not_continued_with_another_language_model(t5_run, nano_autoencoder_run, tmp_path, tiny_t5):
    from tiny_t5 import write_tiny_t5

    config = run_of(t5_run, nano_autoencoder_run, write_tiny_t5(tmp_path / "other", seed=1), num_steps=9)
    with pytest.raises(DataError, match="want an generator with text.weights"):
        run_training(config, console=quiet_console())


def test_a_width_that_is_not_the_language_models_is_named(tmp_path, nano_autoencoder_run, tiny_t5):
    config = run_of(tmp_path / "run", nano_autoencoder_run, tiny_t5, text_dim=16)
    with pytest.raises(
        ConfigError, match="^model.stdit.text_dim: want 32, the width of t5.s tokens, got 16$"
    ):
        run_training(config, console=quiet_console())
