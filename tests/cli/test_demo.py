"""The demo, with the smallest system: it trains, measures, generates, draws, and goes on where it stopped."""

import av
import pytest
import torch
import yaml
from nano import nano, nano_run

from pavdit.cli import demo
from pavdit.contact_sheet import GAP, contact_sheet
from pavdit.data.bounce import BounceClips
from pavdit.media import read_clip
from pavdit.media.picture import write_png


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
    arguments = ["--configs", str(configs), "-o", str(output)]
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


def test_a_mistake_is_one_line(tmp_path, capsys):
    assert demo.main(["--configs", str(tmp_path), "-o", str(tmp_path / "o")]) == 2
    _, err = capsys.readouterr()
    assert err == f"demo: {tmp_path}/tiny-bounce.yaml: want a YAML file, got no such file\n"
