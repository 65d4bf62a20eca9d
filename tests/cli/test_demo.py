"""The demo, with the smallest system: it trains, measures, generates, draws, and goes on where it stopped."""

import av
import pytest
import torch
import yaml
from nano import nano, nano_run

from pavdit.cli import demo
from pavdit.contact_sheet import GAP, contact_sheet
from pavdit.data.bounce import BounceClips
from pavdit.files import file_record
from pavdit.media import probe, read_clip
from pavdit.media.picture import write_png
from pavdit.train.checkpoint import open_checkpoint
from pavdit.train.export import export


def read_png(path):
    with av.open(str(path)) as container:
        [frame] = container.decode(video=0)
        return torch.from_numpy(frame.to_ndarray(format="rgb24")).movedim(2, 0)


def test_a_png_reads_back_to_the_bit(tmp_path):
    picture = torch.randint(0, 256, (3, 5, 7), dtype=torch.uint8)
    write_png(picture, tmp_path / "a.png")
    assert torch.equal(read_png(tmp_path / "a.png"), picture)
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_the_sheet_holds_frames_over_their_sound():
    spec, mel = nano().clip, nano().mel
    clips = [BounceClips(2, spec)[i] for i in range(2)]
    sheet = contact_sheet(clips, spec, mel)
    scale = 96 // 16
    assert sheet.shape == (3, 4 * 16 * scale + GAP, 4 * 16 * scale)
    first = sheet[:, : 16 * scale, : 16 * scale]
    assert torch.equal(first[:, ::scale, ::scale], clips[0].frames[0])
    sound = sheet[:, 16 * scale : 2 * 16 * scale]
    assert torch.equal(sound[0], sound[1]) and sound.float().std() > 1


@pytest.fixture
def configs(tmp_path):
    folder = tmp_path / "configs"
    folder.mkdir()
    for name, config in (
        ("tiny-bounce", nano_run(tmp_path / "unused")),
        (
            "tiny-bounce-generator",
            nano_run(tmp_path / "unused", "generator", autoencoder=tmp_path / "unused"),
        ),
    ):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return folder


def test_the_demo_and_the_demo_again(tmp_path, configs, capsys):
    output = tmp_path / "demo"
    arguments = ["--train", "--configs", str(configs), "-o", str(output)]
    assert demo.main(arguments) == 0
    out, _ = capsys.readouterr()
    clips = sorted(output.glob("*.mp4"))
    assert len(clips) == 4 and all(str(path) in out for path in clips)
    for path in clips:
        read_clip(path, nano().clip).require(nano().clip)
    assert str(output / "contact-sheet.png") in out and read_png(output / "contact-sheet.png").shape[0] == 3
    numbers = [line for line in out.splitlines() if "mean clip" in line]
    assert len(numbers) == 2 and all("dB" in line for line in numbers)

    before = [path.read_bytes() for path in clips]
    assert demo.main(arguments) == 0
    again, _ = capsys.readouterr()
    assert [line for line in again.splitlines() if "mean clip" in line] == numbers
    assert [path.read_bytes() for path in clips] == before


def test_with_weights_it_shows_what_they_make(tmp_path, capsys, monkeypatch, nano_generator_run):
    export(open_checkpoint(nano_generator_run), tmp_path / "weights" / "bounce-64")
    monkeypatch.setattr("pavdit.weights.FOLDER", tmp_path / "weights")
    output = tmp_path / "demo"
    assert demo.main(["-o", str(output)]) == 0
    said = capsys.readouterr().out
    clips = sorted(output.glob("*.mp4"))
    made = [path for path in clips if "given" not in path.name]
    assert len(clips) == 8 and len(made) == 6 and all(f"{path}\n" in said for path in made)
    facts = [probe(path).metadata for path in made]
    assert sorted(f["task"] for f in facts) == ["a2v", *["t2av"] * 4, "v2a"]
    assert len({f["prompt"].split("_")[1] for f in facts}) == 6, "every action"
    assert len({f["prompt"].split("_")[0] for f in facts}) == 5, "every material"
    for stream in ("video", "audio"):
        [of] = [f for f in facts if f.get("given") == str(output / f"given-{stream}.mp4")]
        assert of["given_sha256"] == file_record(output / f"given-{stream}.mp4").sha256
    assert read_png(output / "contact-sheet.png").shape[1] == 8 * (2 * 96 + GAP) - GAP

    before = [path.stat().st_mtime_ns for path in made]
    assert demo.main(["-o", str(output)]) == 0
    assert [path.stat().st_mtime_ns for path in made] == before and sorted(output.glob("*.mp4")) == clips


def test_without_weights_it_trains_and_a_mistake_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pavdit.weights.FOLDER", tmp_path)
    assert demo.main(["--configs", str(tmp_path), "-o", str(tmp_path / "o")]) == 2
    out, err = capsys.readouterr()
    assert out.startswith("no weights bounce-64 came along; training a tiny model instead\n1/3 training")
    assert err == f"demo: {tmp_path}/tiny-bounce.yaml: want a YAML file, got no such file\n"
