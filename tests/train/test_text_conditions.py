"""A generator trained on what a language model says takes any prompt, from that model alone."""

import shutil
from dataclasses import replace

import pytest
import torch
from nano import nano, nano_run, quiet_console

from pavdit.clip import DataError
from pavdit.config import ConfigError
from pavdit.pipeline import Pipeline
from pavdit.text import EncoderFiles
from pavdit.train.checkpoint import CheckpointError, open_checkpoint
from pavdit.train.examples import batch_indices
from pavdit.train.generator import GeneratorStage
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
    with pytest.raises(DataError, match="want a generator with text.weights"):
        run_training(config, console=quiet_console())


def test_a_width_that_is_not_the_language_models_is_named(tmp_path, nano_autoencoder_run, tiny_t5):
    config = run_of(tmp_path / "run", nano_autoencoder_run, tiny_t5, text_dim=16)
    with pytest.raises(
        ConfigError, match="^model.stdit.text_dim: want 32, the width of t5.s tokens, got 16$"
    ):
        run_training(config, console=quiet_console())


def test_words_and_a_language_model_together(nano_autoencoder_run, tiny_t5, tmp_path):
    """Half of the prompts are read by each; known words then need no model, others do; a graph holds it."""
    run = run_of(tmp_path / "generator", nano_autoencoder_run, tiny_t5, num_steps=4)
    text = run.model.text.model_copy(update={"encoder": "words", "language": "t5"})
    run = run.model_copy(update={"model": run.model.model_copy(update={"text": text})})
    run_training(run, console=quiet_console())
    saved = open_checkpoint(tmp_path / "generator")
    about = saved.config.model.text
    assert about.weights == EncoderFiles.find(about).weights and "ball" in about.vocabulary
    stage = GeneratorStage.open(run, torch.device("cpu"), quiet_console())[1]
    shown = [stage.inputs(step) for step in range(8)]
    assert {bool(x) for s in shown for x in s["spoken"]} == {True, False}
    for step, s in enumerate(shown):
        known = stage.model.text(s["rows"])
        chosen = stage.model.text.encode([stage.train.captions[i] for i in batch_of(stage, step)])
        for row, spoken in enumerate(s["spoken"]):
            assert bool(s["text"][row].any()) == bool(spoken)
            if not spoken:
                n = chosen.lengths[row]
                assert known[row, :n].equal(chosen.tokens[row, :n])
    silent = replace(stage.train, labels=("",) * len(stage.train), captions=("",) * len(stage.train))
    draws = stage._draws(torch.arange(3), 0)
    draws.spoken.fill_(True)
    dropped = stage.matching.inputs(stage.model.text, silent, draws)
    assert dropped["drop_text"].all() and not dropped["spoken"].any()
    stage.model.text.language = EncoderFiles.find(about).load(torch.device("cpu"))
    other = replace(stage.train, captions=("a dog barks",) * len(stage.train))  # as adapters may meet
    said = stage.matching.inputs(stage.model.text, other, stage._draws(torch.arange(3), 0))
    assert said["spoken"].all() and said["text"].any(-1).any(-1).all()
    pipeline = Pipeline.from_pretrained(tmp_path / "generator", "cpu", text_path=tmp_path / "gone")
    pipeline("a metal ball", steps=1)
    with pytest.raises(ValueError, match="for other words"):
        pipeline("a dog", steps=1)
    Pipeline.from_pretrained(tmp_path / "generator", "cpu")("a dog", steps=1)


def batch_of(stage, step):
    train = stage.config.train
    return batch_indices(len(stage.train), train.batch_size, train.seed, step).tolist()
