"""``pavdit data``: what it finds, makes and says, and its exit codes."""

import csv
import errno
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from media_files import flat, write_media

from pavdit.cli.main import main
from pavdit.clip import ClipSpec
from pavdit.config import DataConfig
from pavdit.data import cut, prepare
from pavdit.data.bounce import BounceClips
from pavdit.data.clips import open_clips
from pavdit.data.folder import FolderClips
from pavdit.media import read_clip

SPEC = ClipSpec(num_frames=17, height=32, width=48, fps=Fraction(17), sample_rate=16320)
SIZES = ["--num-frames", "17", "--height", "32", "--width", "48", "--fps", "17", "--sample-rate", "16320"]


def put(path: Path, seconds: float, fps: Fraction, height: int, width: int, rate: int, layout: str) -> Path:
    """Waves that move, and a rising tone that is loudest in the first channel."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    t = np.arange(round(seconds * rate)) / rate
    wave = (0.4 * np.sin(2 * np.pi * (300 + 100 * t) * t)).astype(np.float32)
    y, x, c = np.ogrid[:height, :width, :3]
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4" if height % 2 else "libx264", rate=fps)
        video.height, video.width = height, width
        video.pix_fmt, video.bit_rate = "yuv420p", 4_000_000
        audio = container.add_stream("aac", rate=rate, layout=layout)
        for k in range(round(seconds * fps)):
            picture = (128 + 90 * np.sin((x + c * y) / 9 + float(4 * k / fps))).astype(np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode(None))
        channels = len(audio.layout.channels)
        sound = av.AudioFrame.from_ndarray(np.stack([wave] * channels), format="fltp", layout=layout)
        sound.sample_rate, sound.pts, sound.time_base = rate, 0, Fraction(1, rate)
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
    return path


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Portrait, odd-sized, 5.1, mute and broken files, with names that are not ASCII."""
    root = tmp_path_factory.mktemp("recordings")
    put(root / "train" / "Glöckchen 鈴" / "hoch.mp4", 2.3, Fraction(30000, 1001), 96, 54, 44100, "stereo")
    put(root / "train" / "dog" / "odd.mkv", 3.2, Fraction(61, 4), 65, 81, 48000, "5.1")
    put(root / "test" / "dog" / "odd.mov", 1.2, Fraction(12), 48, 64, 8000, "mono")
    write_media(root / "train" / "dog" / "mute.mp4", pictures=flat([80] * 20))
    (root / "train" / "dog" / "broken.AVI").write_bytes(b"no film")
    (root / "train" / "dog" / "odd.txt").write_text('a dog says "woof"')
    return root


def in_process(function, items, **options):
    return ((k, function(item)) for k, item in enumerate(items))


def test_check(tmp_path: Path, recordings: Path, capsys: pytest.CaptureFixture) -> None:
    """In real worker processes."""
    command = [
        "data",
        "check",
        str(recordings),
        "-o",
        str(tmp_path / "c"),
        "--workers",
        "1",
        "--min-seconds",
        "1",
    ]
    assert main(command) == 3
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == "5 files, 2 bad, 1 damaged, 1 no sound"
    assert err == f"{recordings}: want at most 0.0% bad files, got 40.0%\n"
    first = (tmp_path / "c" / "report.json").read_bytes()
    assert main([*command, "--max-bad", "0.4"]) == 0
    assert (tmp_path / "c" / "report.json").read_bytes() == first
    assert json.loads(first)["reasons"] == {"damaged": 1, "no sound": 1}


def test_prepare(tmp_path: Path, recordings: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr(prepare, "each", in_process)
    made = tmp_path / "made"
    assert main(["data", "prepare", str(recordings), str(made), *SIZES]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1] == "6 clips, 6 of them new, 2 skipped" and "1 test, 4 train" in err
    rows = list(csv.DictReader((made / "clips.csv").open(encoding="utf-8")))
    assert [(row["path"], row["label"], row["text"], row["split"]) for row in rows[:2]] == [
        ("test/dog/odd-0000000.mp4", "dog", "a video of dog", "test"),
        ("train/Glöckchen 鈴/hoch-0000000.mp4", "Glöckchen 鈴", "a video of Glöckchen 鈴", "train"),
    ]
    assert rows[-1]["path"] == "train/dog/odd-0002000.mp4" and rows[-1]["text"] == 'a dog says "woof"'
    assert [entry["source"] for entry in json.loads((made / "skipped.json").read_text())] == [
        "train/dog/broken.AVI",
        "train/dog/mute.mp4",
    ]
    clips = FolderClips(DataConfig(kind="folder", path=made, layout="table"), SPEC)
    assert len(clips) == 6
    for row, index in zip(rows, range(6), strict=True):
        want = read_clip(recordings / row["recording"], SPEC, start_seconds=Fraction(row["start_seconds"]))
        got = clips.read(index).require(SPEC)
        assert (got.label, got.caption) == (row["label"], row["text"])
        error = float((got.frames.float() - want.frames.float()).square().mean())
        assert 10 * np.log10(255**2 / error) > 28  # halved chroma; another frame is below 20
        lags = [np.corrcoef(np.roll(got.wave.numpy(), lag), want.wave.numpy())[0, 1] for lag in range(-2, 3)]
        assert int(np.argmax(lags)) == 2 and max(lags) > 0.99
    train, held_out = open_clips(DataConfig(kind="folder", path=made, held_out=1), SPEC)
    assert (len(train), held_out[0].label) == (5, "dog")
    parts = DataConfig(kind="folder", path=made, held_out=2, splits="ignore")
    seen = [{s.clips.sources[s.indices[k]].recording for k in range(len(s))} for s in open_clips(parts, SPEC)]
    assert not seen[0] & seen[1]

    # Repeated elsewhere, and after losing files and half of the ledger: the same bytes.
    before = {path.relative_to(made): path.read_bytes() for path in made.rglob("*") if path.is_file()}
    (made / "train" / "dog" / "odd-0001000.mp4").unlink()
    (made / f".{'0' * 32}.tmp").write_bytes(b"half")
    ledger = (made / "prepared.jsonl").read_text()
    (made / "prepared.jsonl").write_text(ledger[:-20])
    assert main(["data", "prepare", str(recordings), str(made), *SIZES]) == 0
    assert "6 clips, " in capsys.readouterr().out
    assert {path.relative_to(made): path.read_bytes() for path in made.rglob("*") if path.is_file()} == before
    assert main(["data", "prepare", str(recordings), str(made), *SIZES]) == 0
    assert "6 clips, 0 of them new" in capsys.readouterr().out
    assert main(["data", "prepare", str(recordings), str(made), *SIZES, "--channel", "first"]) == 3
    assert "want a folder that is new or was made with the same options" in capsys.readouterr().err


def test_dropped_clips(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr(prepare, "each", in_process)
    (tmp_path / "in").mkdir()
    levels = np.concatenate([np.full(10, 80), np.full(10, 16), 60 + 5 * np.arange(10)])
    sound = 0.1 * np.random.default_rng(0).standard_normal((1, 48000)).astype(np.float32)
    sound[:, 32000:] = 0
    write_media(tmp_path / "in" / "a.mkv", pictures=flat(levels), sound=sound, audio_codec="pcm_s16le")
    command = [
        "data",
        "prepare",
        str(tmp_path / "in"),
        str(tmp_path / "out"),
        "--preset",
        "tiny",
        "--num-frames",
    ]
    assert main([*command, "10", "--drop", "frozen", "black", "silent"]) == 3
    assert capsys.readouterr().err.splitlines()[-1].endswith("skipped.json says why")
    skipped = json.loads((tmp_path / "out" / "skipped.json").read_text())
    assert [entry["reason"] for entry in skipped] == ["frozen", "black", "silent"]


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_mistakes_are_one_line(tmp_path: Path, recordings: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(prepare, "each", in_process)
    out = str(tmp_path / "out")

    def error(code: int, *arguments: str) -> str:
        assert main(["data", *arguments]) == code
        return capsys.readouterr().err.splitlines()[-1]

    source = str(recordings)
    assert "want a folder of clips, got no such folder" in error(3, "check", str(tmp_path / "none"))
    assert "--workers: want at least 1 process, got 0" in error(2, "check", source, "--workers", "0")
    assert "--preset: want one of tiny, " in error(2, "prepare", source, out, "--preset", "huge")
    assert "the next rate that works is 16320 Hz" in error(2, "prepare", source, out, "--fps", "17")
    assert "want even numbers (4:2:0), got 33 x 256" in error(2, "prepare", source, out, "--height", "33")
    assert "OUT: want a folder outside of" in error(2, "prepare", source, f"{source}/out")
    (tmp_path / "file").touch()
    assert "Not a directory" in error(4, "prepare", source, str(tmp_path / "file" / "out"))
    monkeypatch.setattr("pavdit.media.writer._encode", full)
    assert "No space left on device" in error(4, "prepare", source, out, *SIZES)
    assert not list(Path(out).rglob("*.mp4")) and not list(Path(out).rglob(".*"))
    monkeypatch.setattr(cut, "write_clip", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert "knows what is done" in error(75, "prepare", source, out, *SIZES)


def test_show_plays_clips_one_after_another_with_their_captions(tmp_path, capsys):
    out = tmp_path / "shown"
    assert main(["data", "show", "bounce", "--num", "3", "--size", "32", "--seed", "5", "-o", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    clips = BounceClips(3, ClipSpec(16, 32, 32), seed=5)
    want = [f"{i}\t{clips.record(i).label}\t{clips.record(i).caption}" for i in range(3)]
    assert lines[:3] == want == (out / "bounce.txt").read_text().splitlines()
    assert (out / "bounce.png").is_file()
    shown = read_clip(out / "bounce.mp4", ClipSpec(48, 76, 76))  # two by two clips, 4 pixels apart
    for i in range(3):
        part = shown.wave[i * 25600 : (i + 1) * 25600]
        assert np.corrcoef(part.numpy(), clips[i].wave.numpy())[0, 1] > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--num", "0"], "--num: want 1 to 64 clips, got 0"),
        (["--size", "31"], "--size: want an even size from 16 to 512, got 31"),
        (["--seed", "-1"], "--seed: want a whole number of at least 0, got -1"),
    ],
)
def test_show_refuses_what_makes_no_clips(options, message, tmp_path, capsys):
    assert main(["data", "show", "bounce", *options, "-o", str(tmp_path / "shown")]) == 2
    assert capsys.readouterr().err == f"pavdit data: {message}\n"
    assert not (tmp_path / "shown").exists()
