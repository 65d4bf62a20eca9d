"""``pavdit evaluate``: folders and models, what is left out and why, and wrong use in one line."""

from __future__ import annotations

import json

import pytest
import torch
from evaluation_files import SPEC, clip_folder, noise_yamnet, small_protocol
from mm_diffusion_nano import write_weights
from safetensors.torch import save_file

from pavdit.cli import main as cli
from pavdit.cli.makers import load_maker
from pavdit.cli.sampling_processes import Order, make_in_processes
from pavdit.clip import Clip
from pavdit.media import probe, read_clip, write_clip
from pavdit.metrics import i3d
from pavdit.metrics.networks import Network


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate")
    small_protocol(root)
    noise_yamnet(root / "yamnet.npz")
    for name, seed in (("a", 0), ("b", 1)):
        clip_folder(root / name, seed)
    (root / "a" / "manifest.json").write_text("[]")  # as of some data set, not of a checkpoint
    return root


@pytest.fixture
def evaluate(capsys, files, tmp_path):
    """Run the command into ``tmp_path / "out"``; returns (exit code, report, stdout, stderr)."""

    def call(*arguments):
        fixed = ["evaluate", "--protocol", files / "small.yaml", "--bootstrap", "20", "-o", tmp_path / "out"]
        code = cli.main([str(a) for a in [*fixed, *arguments]])
        report = tmp_path / "out" / "report.json"
        said = capsys.readouterr()
        return code, json.loads(report.read_text()) if report.exists() else {}, said.out, said.err

    return call


def values(report):
    return {result["name"]: result for result in report["results"]}


def test_two_folders(evaluate, files, tmp_path):
    (files / "b" / "text.mp4").write_text("no film")
    code, report, out, err = evaluate(
        "--generated", files / "a", "--reference", files / "b", "--yamnet", files / "yamnet.npz"
    )
    (files / "b" / "text.mp4").unlink()
    assert code == 0, err
    assert report["protocol"]["name"] == "small" and len(report["protocol"]["sha256"]) == 64
    assert report["generated"]["clips"] == report["reference"]["clips"] == 4
    assert list(report["reference"]["left_out"]) == ["text.mp4"]
    found = values(report)
    fad = found["FAD-YAMNet"]
    assert fad["value"] > 0 and fad["low"] < fad["value"] < fad["high"] and fad["network"]["sha256"]
    assert fad["notes"] == ["4 features of 1024 dimensions: rank deficient, biased upwards"]
    assert [n for n, _ in fad["curve"]] == [2, 4] and fad["curve"][1][1] == fad["value"]
    assert {"AV-Align (2025, 256 px), generated", "event sync, generated: F1"} < set(found)
    assert set(report["left_out"]) >= {
        "FVD, KVD, IS-I3D", "FAD", "PSNR of reconstruction", "nearest training clip"
    }  # fmt: skip
    assert "FAD-YAMNet" in out and "reference: left out text.mp4: " in err
    assert "left out: FVD, KVD, IS-I3D: want --i3d PATH" in err
    assert (tmp_path / "out" / "contact-sheet.png").read_bytes()[:4] == b"\x89PNG"


class Levels(torch.nn.Module):
    """An embedding of eight numbers of 0.4 s at 8 kHz."""

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        return wave.unfold(1, 400, 400).square().mean(2)


def test_a_set_against_itself_is_at_0_and_every_clip_a_copy(evaluate, files, monkeypatch):
    def run(volume):
        return volume.mean(dim=(2, 3, 4)).repeat(1, 134)[:, :400].cpu()

    monkeypatch.setattr(i3d, "load_i3d", lambda path, device: Network("mean", "0" * 64, run))
    torch.jit.script(Levels()).save(str(files / "levels.pt"))
    code, report, out, err = evaluate(
        "--generated", files / "a", "--reference", files / "a", "--training", files / "a",
        "--yamnet", files / "yamnet.npz", "--i3d", "mean.pt",
        "--audio-network", files / "levels.pt", "--audio-rate", "8000",
    )  # fmt: skip
    assert code == 0, err
    found = values(report)
    assert found["FVD"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["FAD-YAMNet"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["FAD"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["FAD"]["network"]["name"] == "levels.pt"
    assert found["IS-I3D"]["value"] >= 1
    assert found["KVD"]["reference"] == 4
    assert report["nearest"]["compared"] == 4
    assert report["nearest"]["nearest"][0]["distance"] == pytest.approx(0, abs=1e-3)


def test_a_model_makes_its_clips_once(evaluate, nano_generator_run, tmp_path):
    two_step = f"{nano_generator_run}:two-step"
    arguments = ["--generated", two_step, "--reference", "bounce", "--n", "2", "--steps", "1"]
    arguments += ["--training-clips", "3"]
    code, report, _, err = evaluate(*arguments)
    assert code == 0, err
    clips = list((tmp_path / "out").glob("generated-*/*.mp4"))
    assert len(clips) == 2 and report["model"]["steps"] == 1 and report["model"]["pipeline"] == "two-step"
    assert all(probe(clip).metadata["pipeline"] == "two-step" for clip in clips)
    assert report["nearest"]["compared"] == 3
    assert values(report)["reconstruction: video, PSNR, dB"]["generated"] == 2
    stamps = {path: path.stat().st_mtime_ns for path in clips}
    assert evaluate(*arguments)[0] == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("generated-*/*.mp4")}


def test_processes_make_the_same_clips(nano_generator_run, tmp_path):
    orders = [Order(None, seed, tmp_path / f"{seed}.mp4") for seed in range(3)]
    choices = {"steps": 1}
    assert list(make_in_processes(nano_generator_run, orders, choices, 2)) == [1, 1, 1]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    _, clip = next(load_maker(nano_generator_run, "cpu").stream(seed=2, **choices))
    torch.set_num_threads(threads)
    clip.save(tmp_path / "here.mp4")
    here, there = read_clip(tmp_path / "here.mp4", SPEC), read_clip(orders[-1].path, SPEC)
    assert torch.equal(here.frames, there.frames) and torch.equal(here.wave, there.wave)


def test_several_systems_have_their_rows_in_one_table(evaluate, files, nano_generator_run, tmp_path):
    sibling = write_weights(tmp_path / "mm", clip={"num_frames": 4, "height": 16, "width": 16})
    systems = [nano_generator_run, f"{nano_generator_run}:two-step", sibling, files / "a"]
    code, report, out, err = evaluate(
        "--generated", *systems, "--reference", "bounce", "--n", "2", "--steps", "2"
    )
    assert code == 0, err
    assert [one["name"] for one in report["systems"]] == [str(one) for one in systems]
    assert report["reference"]["about"].endswith("scenes simple")  # which all of them know
    table = out[out.index("event sync: F1\n") :].splitlines()[: len(systems) + 2]
    assert [line.split()[0] for line in table[1:]] == [*map(str, systems), "reference"]
    for one, line in zip(report["systems"], table[1:], strict=False):
        value = {r["name"]: r["value"] for r in one["results"]}["event sync, generated: F1"]
        assert f"{value:.4f}" in line and one["generated"]["clips"] == 2
    model = report["systems"][2]["model"]
    assert (model["system"], model["method"], model["pixels"]) == ("mm-diffusion", "dpm-solver", "16 x 16")
    assert model["trained"] == {"step": 1, "seconds": 2.0} and report["systems"][3]["model"] is None
    assert report["systems"][2]["left_out"]["PSNR of reconstruction"] == "the system has no autoencoder"
    assert (tmp_path / "out" / "contact-sheet.png").exists()


def test_silent_clips_are_said(evaluate, files, tmp_path):
    (tmp_path / "silent").mkdir()
    for name in ("0.mp4", "1.mp4"):
        clip = read_clip(files / "a" / name, cli_spec(files))
        silent = Clip(clip.frames, torch.zeros_like(clip.wave), clip.fps, clip.sample_rate)
        write_clip(silent, tmp_path / "silent" / name)
    code, report, _, err = evaluate(
        "--generated", tmp_path / "silent", "--reference", files / "b", "--n", "2"
    )
    assert code == 0 and "generated: 2 of 2 clips are silent" in err
    assert report["generated"]["notes"] == ["2 of 2 clips are silent"]


def cli_spec(files):
    from pavdit.evaluation.protocol import load_protocol

    return load_protocol(str(files / "small.yaml"))[0].spec()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "--generated: want a folder of clips, got none"),
        (["--generated", "{a}"], 2, "--reference: want a folder of clips, got none"),
        (["--generated", "{none}", "--reference", "{a}"], 3, "--generated: want a folder of clips, a"),
        (["--generated", "{a}", "--reference", "{none}"], 3, "none: want a folder of clips, got no"),
        (["--generated", "{empty}", "--reference", "{a}"], 3, "empty: want files .avi"),
        (["--generated", "{a}", "--reference", "{b}", "--i3d", "{none}"], 3, "want a network's file, got No"),
        (["--generated", "{a}", "--reference", "{b}", "--yamnet", "{i3d}"], 3, "want YAMNet as .npz, got "),
        (["--generated", "{a}", "--reference", "{b}", "--n", "1"], 2, "--n: want at least 2, got 1"),
        (["--generated", "{a}", "--reference", "{b}", "--resolution", "8"], 2, "--resolution: want 16 in"),
        (["--generated", "{a}", "--reference", "{b}", "--audio-rate", "8"], 2, "want --audio-network beside"),
        (["--generated", "bounce-64", "--reference", "{b}"], 2, "want weights for the protocol's 4 frames"),
        (["--generated", "{a}", "{a}", "--reference", "{b}"], 2, "--generated: want each once, got "),
        (["--self-test", "--i3d", "{i3d}"], 3, "want the 344 weights of InceptionI3d"),
    ],
)  # fmt: skip
def test_wrong_use_is_one_line(evaluate, files, tmp_path, arguments, code, words):
    (tmp_path / "empty").mkdir()
    save_file({"a": torch.zeros(1)}, tmp_path / "i3d")
    places = {name: files / name for name in "ab"}
    places |= {name: tmp_path / name for name in ("none", "empty", "i3d")}
    got, report, _, err = evaluate(*(argument.format(**places) for argument in arguments))
    assert got == code, err
    assert words in err and err.count("\n") == 1 and not report


def test_the_self_test_knows_the_answers(evaluate):
    code, _, out, _ = evaluate("--self-test")
    assert code == 0 and out.count("ok ") == 8 and "WRONG" not in out


def test_the_self_test_tells_another_i3d(evaluate, monkeypatch):
    network = Network("other", "0" * 64, lambda volume: volume.new_zeros(len(volume), 400))
    monkeypatch.setattr(i3d, "load_i3d", lambda path, device: network)
    code, _, out, _ = evaluate("--self-test", "--i3d", "other.pt")
    assert code == 1
    assert "WRONG FVD of black against white clips, other: want 152.917 within 1, got 0" in out
