"""Exported weights are a small checkpoint that every reader of checkpoints takes, and tell no places."""

import pytest
import torch
from nano import nano, nano_run, quiet_console

from pavdit.cli.main import main
from pavdit.config import ConfigError
from pavdit.pipeline import Pipeline
from pavdit.train.checkpoint import CheckpointError, open_checkpoint
from pavdit.train.export import export
from pavdit.train.models import load_autoencoder
from pavdit.train.run import run_training

PART = 24_000


@pytest.fixture(scope="module")
def exported(nano_generator_run, tmp_path_factory):
    """Of the nano generator, in several files."""
    return export(
        open_checkpoint(nano_generator_run), tmp_path_factory.mktemp("export") / "deep" / "e", file_bytes=PART
    )


def test_it_holds_the_averages_in_bfloat16_in_small_files(exported, nano_generator_run):
    source = open_checkpoint(nano_generator_run)
    for stem in ("autoencoder", "ema"):
        assert len(exported.parts(stem)) > 1
        got, want = exported.tensors(stem), source.tensors(stem)
        assert list(got) == list(want)
        for name, tensor in want.items():
            assert torch.equal(got[name], tensor.bfloat16() if tensor.is_floating_point() else tensor), name
    assert all(record.size <= PART for record in exported.files.values())
    assert exported.step == source.step
    assert exported.state["exported"] == {"model": source.model_hash, "dtype": "bfloat16"}
    assert not exported.has("model") and not exported.has("optimizer")


def test_it_names_no_place_of_the_training_machine(exported, nano_generator_run):
    texts = [path.read_text() for path in exported.path.glob("*.json")]
    assert len(texts) == 3 and not any(str(nano_generator_run.parent) in text for text in texts)
    assert exported.config.train.run_dir.name == nano_generator_run.name
    assert exported.config.model == open_checkpoint(nano_generator_run).config.model


def test_it_generates_as_the_rounded_weights_do_wherever_it_lies(exported, nano_generator_run, tmp_path):
    (exported.path / "README.md").write_text("# a card\n")
    moved = exported.path.rename(tmp_path / "moved")
    pipeline, rounded = (Pipeline.from_pretrained(p, device="cpu") for p in (moved, nano_generator_run))
    moved.rename(exported.path)
    for model in (rounded.generator, rounded.autoencoder):
        for tensor in model.state_dict().values():
            tensor.copy_(tensor.bfloat16())
    assert next(pipeline.autoencoder.parameters()).dtype == torch.float32
    [got], [want] = pipeline("wood_wall", steps=2), rounded("wood_wall", steps=2)
    assert torch.equal(got.latent, want.latent) and torch.equal(got.clip.wave, want.clip.wave)


@pytest.mark.parametrize("stem", ["ema", "autoencoder"])
def test_a_missing_part_is_named(exported, tmp_path, stem):
    part = exported.path / exported.parts(stem)[1]
    part.rename(tmp_path / "aside")
    with pytest.raises(CheckpointError, match=rf"{part}: want the file of the manifest, got No such file"):
        open_checkpoint(exported.path)
    (tmp_path / "aside").rename(part)


def test_an_autoencoder_in_float32_is_the_same_to_every_run(nano_autoencoder_run, tmp_path, capsys):
    arguments = ["export", str(nano_autoencoder_run), "-o", str(tmp_path / "ae"), "--dtype", "float32"]
    assert main(arguments) == 0
    source, made = open_checkpoint(nano_autoencoder_run), open_checkpoint(tmp_path / "ae")
    said = capsys.readouterr().out.splitlines()
    assert said[0] == str(tmp_path / "ae") and said[1].startswith(f"step 4, model {source.model_hash}, ")
    assert made.model_hash == source.model_hash and made.parts("ema") == ["ema.safetensors"]
    load_autoencoder(made, nano())
    before = (made.path / "manifest.json").read_text()
    assert main(arguments) == 2
    assert capsys.readouterr().err == (
        f"pavdit export: -o: want a folder that does not exist yet (none is overwritten), got {made.path}\n"
    )
    assert (made.path / "manifest.json").read_text() == before and len(list(tmp_path.iterdir())) == 1


def test_it_is_no_checkpoint_to_train_on_from(exported, nano_autoencoder_run, tmp_path):
    config = nano_run(tmp_path / "run", "generator", autoencoder=nano_autoencoder_run)
    with pytest.raises(ConfigError, match="want a run's own checkpoint, got exported weights"):
        run_training(config, str(exported.path), console=quiet_console())


def test_what_a_checkpoint_does_not_hold_is_named(exported):
    with pytest.raises(
        CheckpointError, match="want a checkpoint with optimizer.safetensors, got one of auto"
    ):
        exported.tensors("optimizer")
