"""``pavdit replay``: the same clip to the byte, or one line that says what is missing or differs."""

import shutil
from dataclasses import replace

import pytest
from nano import nano

from pavdit.cli.main import main
from pavdit.data.bounce import BounceClips
from pavdit.media import probe, read_clip, write_clip
from pavdit.train.checkpoint import open_checkpoint
from pavdit.train.export import export


@pytest.fixture
def pavdit(capsys, monkeypatch, tmp_path):
    """Run a command line in `tmp_path`; returns (exit code, what was said last)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, (err if code else out).splitlines()[-1]

    return call


@pytest.fixture(scope="module")
def folder(nano_generator_run, tmp_path_factory):
    """Two clips with sound for a picture, by awkward options, and the picture."""
    folder = tmp_path_factory.mktemp("made")
    write_clip(BounceClips(1, nano().clip)[0], folder / "given.mp4")
    options = "--n 2 --steps 3 --guidance 1.234567891 --guidance-interval 0.00001 0.9 --video given.mp4 -o o"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["generate", "wood_wall", "--checkpoint", str(nano_generator_run), *options.split()]) == 0
    return folder


@pytest.fixture
def made(pavdit, folder, tmp_path):
    """The second of the two clips, in the working directory of `pavdit`."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    return tmp_path / "o" / "wood_wall-seed-0001.mp4"


def test_a_clip_is_made_again_to_the_byte(pavdit, made, tmp_path):
    assert probe(made).metadata["batch"] == "2/2"
    again = tmp_path / "again" / "x.mp4"
    assert pavdit("replay", made, "-o", again) == (0, f"{made}: made again, frames and sound are the same")
    assert again.read_bytes() == made.read_bytes()
    assert pavdit("replay", made, "-o", again) == (
        2,
        f"pavdit replay: -o: want a new file that ends in .mp4, got {again}",
    )
    assert len(list(made.parent.iterdir())) == 3


def test_a_clip_of_two_steps_is_made_again_in_two_steps(pavdit, nano_generator_run, tmp_path):
    fixed = ["generate", "wood_wall", "--checkpoint", nano_generator_run, "--steps", "2", "-o", "x.mp4"]
    assert pavdit(*fixed, "--pipeline", "two-step-sound-first")[0] == 0
    assert pavdit("replay", "x.mp4") == (0, "x.mp4: made again, frames and sound are the same")
    code, said = pavdit(*fixed)
    assert (code, said) == (
        2,
        "pavdit generate: -o: want a new file, or one that holds this very clip, got x.mp4",
    )


def test_a_file_that_was_changed_is_told_from_the_clip(pavdit, made, nano_generator_run, tmp_path):
    shown = BounceClips(2, nano().clip)[1]
    write_clip(shown, made, metadata=probe(made).metadata)
    code, said = pavdit("replay", made)
    assert code == 0 and said.startswith(f"{made}: made again, frames differ by at most ")
    assert "dB PSNR), sound differs by at most " in said


def test_a_clip_of_another_kind_of_device_is_made_as_this_one_can(pavdit, made):
    there = {"device": "cuda", "attention": "flash", "compile": "on"}
    write_clip(read_clip(made, nano().clip), made, metadata=probe(made).metadata | there)
    code, said = pavdit("replay", made)
    assert code == 0 and said.endswith("; it was made on cuda, here on cpu")


def test_what_was_given_is_found_beside_the_clip_or_named(pavdit, made, tmp_path):
    original = tmp_path / "given.mp4"
    moved = original.rename(made.parent / "given.mp4")
    assert pavdit("replay", made)[0] == 0
    moved = moved.rename(tmp_path / "elsewhere.mp4")
    code, said = pavdit("replay", made)
    assert code == 3 and "that was its video (--video says where it is), got No such file" in said
    assert pavdit("replay", made, "--video", moved)[0] == 0
    write_clip(replace(BounceClips(2, nano().clip)[1]), original)
    code, said = pavdit("replay", made)
    assert code == 3 and "… in given.mp4, No such file" in said
    assert pavdit("replay", made, "--audio", moved) == (
        2,
        f"pavdit replay: --audio: want none, as {made} is of task v2a, got {moved}",
    )


def test_the_weights_must_be_the_same(pavdit, made, nano_generator_run, monkeypatch, tmp_path):
    want = open_checkpoint(nano_generator_run).model_hash
    other = export(open_checkpoint(nano_generator_run), tmp_path / "weights" / "nano-16")
    said = (
        f"pavdit replay: {made}: want the weights {want} that it was made with "
        "(--checkpoint says where they are)"
    )
    assert pavdit("replay", made, "--checkpoint", other.path) == (
        3,
        f"{said}, got {other.model_hash} in {other.path}",
    )
    monkeypatch.setattr("pavdit.weights.FOLDER", tmp_path / "none")
    moved = shutil.copytree(open_checkpoint(nano_generator_run).path, tmp_path / "moved")
    facts = probe(made).metadata | {"checkpoint": "gone"}
    write_clip(BounceClips(1, nano().clip)[0], made, metadata=facts)
    assert pavdit("replay", made) == (3, f"{said}, got none in gone")
    monkeypatch.setattr("pavdit.weights.FOLDER", tmp_path / "weights")
    assert pavdit("replay", made) == (3, f"{said}, got {other.model_hash} in nano-16")
    shutil.rmtree(other.path)
    moved.rename(other.path)
    assert pavdit("replay", made)[0] == 0, "bundled weights are found by their hash"


def test_a_file_without_a_recipe_is_refused(pavdit, tmp_path):
    write_clip(BounceClips(1, nano().clip)[0], tmp_path / "a.mp4")
    said = "pavdit replay: a.mp4: want a clip that pavdit generated, got one that says no model"
    assert pavdit("replay", "a.mp4") == (3, said)
