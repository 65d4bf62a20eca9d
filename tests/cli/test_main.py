"""The command line: what it does, and for every mistake one line and its exit code."""

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from nano import nano, nano_run
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pavdit.cli import main as cli
from pavdit.clip import Clip
from pavdit.data.bounce import BounceClips
from pavdit.media import probe, read_clip, write_clip
from pavdit.ops._library import report
from pavdit.train.checkpoint import open_checkpoint
from pavdit.train.lock import run_lock

ROOT = Path(__file__).parents[2]


@pytest.fixture
def pavdit(capsys):
    """Run a command line; returns (exit code, stdout, stderr)."""

    def call(*arguments):
        try:
            code = cli.main([str(a) for a in arguments])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture(scope="module")
def clip_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_clip(BounceClips(1, nano().clip)[0], path)
    return path


@pytest.fixture
def config_path(tmp_path):
    def write(config):
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
        return path

    return write


def assert_one_line(result, code, *words):
    got, out, err = result
    assert got == code, err
    line = err.splitlines()[-1]
    assert len(err.splitlines()) == 1 and "Traceback" not in err, err
    for word in words:
        assert str(word) in line, line
    assert out == ""


# what it does


def test_help_is_quick_and_needs_no_torch():
    code = "import sys, pavdit.cli.main as m; m.build_parser(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_every_command_says_what_it_is(pavdit):
    code, out, _ = pavdit("--help")
    assert code == 0
    for command in cli.COMMANDS:
        assert command in out
        assert pavdit(command, "--help")[0] == 0


def test_train_then_train_on(pavdit, tmp_path, config_path):
    path = config_path(nano_run(tmp_path / "run", num_steps=100))
    code, _, err = pavdit(
        "train", path, "--set", "train.num_steps=2", "train.log_every=1", "--set", "train.seed=3"
    )
    assert code == 0 and "validation at step 2" in err
    assert open_checkpoint(tmp_path / "run").config.train.seed == 3
    code, _, err = pavdit("train", path, "--set", "train.num_steps=3", "train.seed=3", "--resume", "auto")
    assert code == 0 and "at step 2" in err
    assert open_checkpoint(tmp_path / "run").step == 3


def test_encode_then_decode(pavdit, tmp_path, clip_path, nano_autoencoder_run):
    latents, back = tmp_path / "a.safetensors", tmp_path / "b.mp4"
    assert pavdit("encode", clip_path, "-o", latents, "--checkpoint", nano_autoencoder_run)[:2] == (
        0,
        f"{latents}\n",
    )
    with safe_open(latents, "pt") as file:
        assert json.loads(file.metadata()["pavdit"]).keys() == {"format", "config_hash", "autoencoder"}
        assert set(file.keys()) == {f"{s}.{p}" for s in ("video", "audio") for p in ("hw", "tw", "th")}
    code, out, err = pavdit("decode", latents, "-o", back, "--checkpoint", nano_autoencoder_run)
    assert (code, out, err) == (0, f"{back}\n", "")
    assert read_clip(back, nano().clip).require(nano().clip)


def test_a_generators_checkpoint_encodes_and_decodes_too(
    pavdit, tmp_path, clip_path, nano_generator_run, nano_autoencoder_run
):
    for name, run in (("g", nano_generator_run), ("a", nano_autoencoder_run)):
        assert pavdit("encode", clip_path, "-o", tmp_path / name, "--checkpoint", run)[0] == 0
    one, other = load_file(tmp_path / "g"), load_file(tmp_path / "a")
    assert all(torch.equal(one[key], other[key]) for key in one)
    code, _, err = pavdit(
        "decode", tmp_path / "a", "-o", tmp_path / "b.mp4", "--checkpoint", nano_generator_run
    )
    assert code == 0 and err == ""


def test_latents_of_other_weights_give_a_warning(pavdit, tmp_path, clip_path, nano_autoencoder_run):
    newer, older = open_checkpoint(nano_autoencoder_run), nano_autoencoder_run / "step-00000002"
    pavdit("encode", clip_path, "-o", tmp_path / "a", "--checkpoint", older)
    code, _, err = pavdit(
        "decode", tmp_path / "a", "-o", tmp_path / "b.mp4", "--checkpoint", nano_autoencoder_run
    )
    assert code == 0 and f"decoded with {newer.model_hash}" in err


def test_encode_a_set_as_training_does(pavdit, tmp_path, config_path, nano_autoencoder_run):
    options = {"autoencoder": nano_autoencoder_run, "latent_cache": tmp_path / "cache"}
    config = config_path(nano_run(tmp_path / "run", "generator", **options))
    code, out, err = pavdit("encode", config, "--set", "data.num_clips=5")
    [folder] = (tmp_path / "cache").glob("latents-*")
    assert (code, out) == (0, f"{folder}\n") and "3 clips to train on, 2 held out" in err
    made = sorted(folder.iterdir())
    assert pavdit("train", config, "--set", "data.num_clips=5", "train.num_steps=1")[0] == 0
    assert sorted(folder.iterdir()) == made


def test_encode_wants_a_generators_run_or_a_clip(pavdit, tmp_path, config_path):
    result = pavdit("encode", config_path(nano_run(tmp_path / "run")))
    assert_one_line(result, 2, "want train.stage generator or adapter, got autoencoder")


def test_generate_many(pavdit, tmp_path, nano_generator_run):
    code, out, _ = pavdit(
        "generate", "--checkpoint", nano_generator_run, "--n", 2, "--seed", 4, "-o", tmp_path / "o"
    )
    assert code == 0
    assert out.split() == [str(tmp_path / "o" / f"seed-000{seed}.mp4") for seed in (4, 5)]
    tags = probe(out.split()[1]).metadata
    assert (tags["seed"], tags["prompt"], tags["task"], tags["steps"]) == ("5", "", "t2av", "3")
    assert read_clip(out.split()[0], nano().clip).require(nano().clip)


def test_generate_one_sound_for_a_video(pavdit, tmp_path, clip_path, nano_generator_run):
    target = tmp_path / "one.mp4"
    arguments = ("--video", clip_path, "--steps", 2, "--guidance", 2, "-o", target)
    code, out, _ = pavdit("generate", "wood_wall", "--checkpoint", nano_generator_run, *arguments)
    assert (code, out) == (0, f"{target}\n")
    tags = probe(target).metadata
    assert (tags["task"], tags["prompt"], tags["guidance"]) == ("v2a", "wood_wall", "2")


def test_doctor_lists_every_op(pavdit):
    code, out, _ = pavdit("doctor", "--json")
    facts = json.loads(out)
    of_machine = {"pavdit", "weights", "python", "torch", "cpu", "cuda", "av"}
    of_pipeline = {"graph", "compile", "cache", "attention", "flash", "fp8"}
    assert code == 0 and facts.keys() == of_machine | of_pipeline | {"ops"}
    assert {(op["op"], op["device"]) for op in facts["ops"]} == {(s.op, s.device) for s in report()}
    assert all(op["implementation"] in ("native", "reference") and op["reason"] for op in facts["ops"])
    assert pavdit("doctor")[1].count("\n") == len(facts["ops"]) + len(facts) - 1


# usage: exit code 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["COMMAND"]),
        (["fly"], ["invalid choice: 'fly'", "train"]),
        (["train"], ["CONFIG.yaml"]),
        (["train", "none.yaml"], ["none.yaml: want a YAML file, got no such file"]),
        (["encode", "a.mp4"], ["-o", "--checkpoint"]),
        (["generate", "--n", "two", "--checkpoint", "c", "-o", "o"], ["--n", "invalid int value: 'two'"]),
        (["generate", "--n", "0", "--checkpoint", "c", "-o", "o"], ["--n: want at least 1 clip, got 0"]),
        (
            ["generate", "--n", "2", "--checkpoint", "c", "-o", "o.mp4"],
            ["want a folder for 2 clips, got the file o.mp4"],
        ),
    ],
)
def test_usage(pavdit, arguments, words):
    assert_one_line(pavdit(*arguments), 2, *words)


def test_unknown_key(pavdit, tmp_path, config_path):
    path = config_path(nano_run(tmp_path / "run"))
    assert_one_line(pavdit("train", path, "--set", "train.colour=red"), 2, path, "train.colour", "red")
    assert_one_line(
        pavdit("train", path, "--set", "train.device=tpu9"), 2, "device: want auto, cpu or cuda, got 'tpu9'"
    )


def test_never_over_a_run(pavdit, config_path, nano_autoencoder_run):
    path = config_path(nano_run(nano_autoencoder_run))
    code, _, err = pavdit("train", path, "--resume", "never")
    assert code == 2 and "--resume never: want" in err.splitlines()[-1] and "step-00000004" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["yodelling"], ["prompt: want", "got 'yodelling'"]),
        (["--task", "v2a"], ["task v2a: want video to be given, got neither stream"]),
        (["--steps", "0"], ["want num_steps >= 1, got 0"]),
    ],
)
def test_generate_usage(pavdit, tmp_path, nano_generator_run, arguments, words):
    output = tmp_path / "o"
    assert_one_line(
        pavdit("generate", *arguments, "--checkpoint", nano_generator_run, "-o", output), 2, *words
    )
    assert not output.exists()


def test_an_autoencoder_does_not_generate(pavdit, tmp_path, nano_autoencoder_run):
    result = pavdit("generate", "--checkpoint", nano_autoencoder_run, "-o", tmp_path / "o")
    assert_one_line(result, 2, "want a generator's, got an autoencoder's")


# data: exit code 3


def test_no_checkpoint(pavdit, tmp_path):
    result = pavdit("generate", "--checkpoint", tmp_path / "none", "-o", tmp_path / "o")
    assert_one_line(result, 3, tmp_path / "none", "want a checkpoint or run directory, or bundled weights")


def test_a_clip_that_cannot_be_used(pavdit, tmp_path, clip_path, nano_autoencoder_run):
    bad, latents = tmp_path / "bad.mp4", tmp_path / "a.safetensors"
    bad.write_bytes(clip_path.read_bytes()[:500])
    for path in (bad, tmp_path / "none.mp4"):
        assert_one_line(pavdit("encode", path, "-o", latents, "--checkpoint", nano_autoencoder_run), 3, path)
    late = pavdit(
        "encode", clip_path, "--start-seconds", 5, "-o", latents, "--checkpoint", nano_autoencoder_run
    )
    assert_one_line(late, 3, clip_path, "want")
    assert not latents.exists()


def test_training_data_that_cannot_be_used(pavdit, tmp_path, config_path):
    config = nano_run(tmp_path / "run")
    path = config_path(config)
    settings = (
        "data.kind=folder",
        f"data.path={tmp_path / 'none'}",
        "data.num_clips=null",
        "data.held_out=0",
    )
    assert_one_line(pavdit("train", path, "--set", *settings), 3, tmp_path / "none", "want a folder")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_architecture(pavdit, config_path, nano_autoencoder_run):
    path = config_path(nano_run(nano_autoencoder_run))
    result = pavdit("train", path, "--set", "model.mdsa.decoder_depth=2", "train.num_steps=9")
    assert result[0] == 3
    assert result[2].splitlines()[-1].endswith("mdsa.decoder_depth 2, got mdsa.decoder_depth 1")


@pytest.mark.parametrize(
    "what", ["no such file", "another safetensors file", "safetensors file", "architecture"]
)
def test_latents_that_cannot_be_used(pavdit, tmp_path, nano_autoencoder_run, what):
    path = tmp_path / "a.safetensors"
    if what == "another safetensors file":
        save_file({"x": torch.zeros(1)}, path)
    elif what == "safetensors file":
        path.write_bytes(b"no tensors")
    elif what == "architecture":
        about = {"format": "pavdit-latents/1", "config_hash": "0" * 12, "autoencoder": "m"}
        planes = {f"{s}.{p}": torch.zeros(1, 4, 4, 4) for s in ("video", "audio") for p in ("hw", "tw", "th")}
        save_file(planes, path, {"pavdit": json.dumps(about)})
    result = pavdit("decode", path, "-o", tmp_path / "o.mp4", "--checkpoint", nano_autoencoder_run)
    assert_one_line(result, 3, path, "want", what)
    assert not (tmp_path / "o.mp4").exists()


# resources: exit code 4; non-finite: 5; our own faults: 1


def test_a_held_run_directory(pavdit, tmp_path, config_path):
    with run_lock(tmp_path / "run"):
        code, _, err = pavdit("train", config_path(nano_run(tmp_path / "run")))
    assert code == 4 and "want a run directory that no one trains in" in err.splitlines()[-1]


def test_a_full_disk(pavdit, tmp_path, config_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pavdit.files.write_durably", full)
    code, _, err = pavdit("train", config_path(nano_run(tmp_path / "run")))
    assert code == 4 and "No space left on device" in err.splitlines()[-1]


def test_a_full_disk_under_a_clip(pavdit, tmp_path, nano_generator_run, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pavdit.media.writer._encode", full)
    result = pavdit("generate", "--checkpoint", nano_generator_run, "-o", tmp_path / "o.mp4")
    assert_one_line(result, 4, "o.mp4")


def test_training_that_diverges(pavdit, tmp_path, config_path, monkeypatch):
    import pavdit.train.autoencoder as module

    loss = module.mdsa_loss
    monkeypatch.setattr(module, "mdsa_loss", lambda *a, **k: {"loss": loss(*a, **k)["loss"] * torch.nan})
    code, _, err = pavdit("train", config_path(nano_run(tmp_path / "run", num_steps=20)))
    last = err.splitlines()[-1]
    assert code == 5 and "want a finite loss and gradient" in last and "5 updates in a row refused" in last


def test_a_fault_of_our_own(pavdit, monkeypatch):
    def fail():
        raise KeyError("oops")

    monkeypatch.setattr("pavdit.cli.doctor.report", fail)
    assert_one_line(pavdit("doctor"), 1, "oops", "a fault of pavdit: PAVDIT_DEBUG=1 shows where")
    monkeypatch.setenv("PAVDIT_DEBUG", "1")
    with pytest.raises(KeyError):
        pavdit("doctor")


def test_a_clip_without_sound(pavdit, tmp_path, nano_autoencoder_run):
    import av

    path = tmp_path / "mute.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "yuv420p"
        clip: Clip = BounceClips(1, nano().clip)[0]
        for picture in clip.frames.permute(0, 2, 3, 1).numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture.copy(), format="rgb24")))
        container.mux(stream.encode(None))
    result = pavdit("encode", path, "-o", tmp_path / "a", "--checkpoint", nano_autoencoder_run)
    assert_one_line(result, 3, path, "audio stream")
