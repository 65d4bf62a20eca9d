"""Writing: one mp4 that holds exactly the clip, or no file."""

import dataclasses
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from pavdit.clip import Clip, ClipSpec, DataError
from pavdit.media import probe, read_clip, write_clip, writer

RATES = [Fraction(10), Fraction(17), Fraction(30000, 1001), Fraction(61, 4)]


def chirping(
    num_frames: int = 16, fps: Fraction = Fraction(10), sample_rate: int = 16000, size: int = 64
) -> Clip:
    """Soft waves that move, and a rising tone."""
    t = torch.arange(num_frames)[:, None, None]
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    levels = [128 + 100 * torch.sin((x + c * y) * 2 * torch.pi / size + 0.3 * t) for c in range(3)]
    s = torch.arange(round(num_frames / fps * sample_rate)) / sample_rate
    wave = 0.5 * torch.sin(2 * torch.pi * (300 + 800 * s) * s)
    return Clip(torch.stack(levels, 1).to(torch.uint8), wave.float(), fps, sample_rate, name="chirp")


@pytest.mark.parametrize("sample_rate", [8000, 16000, 44100])
@pytest.mark.parametrize("fps", RATES, ids=str)
def test_the_file_holds_the_frames_at_their_times_and_the_sound_from_zero(
    tmp_path: Path, fps: Fraction, sample_rate: int
) -> None:
    clip = chirping(fps=fps, sample_rate=sample_rate)
    write_clip(clip, tmp_path / "clip.mp4")
    with av.open(str(tmp_path / "clip.mp4")) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.average_rate, audio.rate, audio.channels) == (fps, sample_rate, 1)
        tick = video.time_base
        frames = list(container.decode(video))
        assert len(frames) == 16
        assert all(abs(frame.pts * tick - k / fps) <= tick / 2 for k, frame in enumerate(frames))
        got = np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
    error = got.transpose(0, 3, 1, 2).astype(float) - clip.frames.numpy()
    assert (
        10 * np.log10(255**2 / np.square(error).mean()) > 32
    )  # measured 33.1; with crf 4 33.6, the rest is the halved chroma
    with av.open(str(tmp_path / "clip.mp4")) as container:
        sound = list(container.decode(audio=0))
        assert sound[0].pts == 0
        wave = np.concatenate([frame.to_ndarray()[0] for frame in sound])
    true = clip.wave.numpy()
    assert 0 <= len(wave) - len(true) < 1024
    correlations = [np.corrcoef(np.roll(wave[: len(true)], lag), true)[0, 1] for lag in range(-2, 3)]
    assert int(np.argmax(correlations)) == 2 and max(correlations) > 0.998


def test_a_rate_that_aac_lacks_is_resampled_and_comes_back_in_time(tmp_path: Path) -> None:
    spec = ClipSpec(num_frames=16, height=64, width=64, fps=Fraction(17), sample_rate=16320)
    clip = chirping(fps=spec.fps, sample_rate=spec.sample_rate).require(spec)
    write_clip(clip, tmp_path / "clip.mp4")
    assert probe(tmp_path / "clip.mp4").sample_rate == 22050
    back = read_clip(tmp_path / "clip.mp4", spec).require(spec)
    correlations = [np.corrcoef(np.roll(back.wave, lag), clip.wave)[0, 1] for lag in range(-2, 3)]
    assert int(np.argmax(correlations)) == 2 and max(correlations) > 0.999


def test_colours_survive(tmp_path: Path) -> None:
    colours = torch.tensor(
        [[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 100, 50], [255, 255, 255], [0, 0, 0]]
    )
    frames = colours.to(torch.uint8)[:, :, None, None].expand(6, 3, 32, 32)
    spec = ClipSpec(num_frames=6, height=32, width=32)
    write_clip(Clip(frames, torch.zeros(spec.num_samples), spec.fps, spec.sample_rate), tmp_path / "clip.mp4")
    back = read_clip(tmp_path / "clip.mp4", spec).frames
    assert (back.int() - frames.int()).abs().max() <= 3


def test_metadata_is_read_back_and_the_index_comes_first(tmp_path: Path) -> None:
    tags = {"seed": "3", "pavdit_model": "ab12", "title": "un château"}
    write_clip(chirping(), tmp_path / "clip.mp4", metadata=tags)
    assert tags.items() <= probe(tmp_path / "clip.mp4").metadata.items()
    data = (tmp_path / "clip.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


def test_the_same_clip_makes_the_same_bytes_and_loud_sound_is_clipped(tmp_path: Path) -> None:
    loud = chirping()
    loud = dataclasses.replace(loud, wave=3 * loud.wave)
    write_clip(loud, tmp_path / "loud.mp4")
    write_clip(dataclasses.replace(loud, wave=loud.wave.clamp(-1, 1)), tmp_path / "clipped.mp4")
    assert (tmp_path / "loud.mp4").read_bytes() == (tmp_path / "clipped.mp4").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": torch.zeros(16, 3, 63, 64, dtype=torch.uint8)}, r"even H and W .* got \(16, 3, 63, 64\)"),
        ({"frames": torch.zeros(0, 3, 64, 64, dtype=torch.uint8)}, r"want frames .* got \(0, 3, 64, 64\)"),
        ({"wave": torch.zeros(25000)}, r"16 frames at 10 fps, 25600 samples at 16000 Hz, got 25000"),
        ({"wave": torch.full((25600,), torch.nan)}, "want finite sound, got nan in it"),
        ({"sample_rate": 192000, "wave": torch.zeros(307200)}, "want sample_rate <= 96000 Hz, got 192000"),
    ],
    ids=["odd", "empty", "length", "nan", "rate"],
)  # fmt: skip
def test_clips_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"write_clip: .*{message}"):
        write_clip(dataclasses.replace(chirping(), **change), tmp_path / "clip.mp4")
    assert list(tmp_path.iterdir()) == []


def test_paths_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"want a path that ends in \.mp4, got .*clip\.avi"):
        write_clip(chirping(), tmp_path / "clip.avi")
    with pytest.raises(DataError, match=r"no/clip\.mp4: want an existing directory, got .*no"):
        write_clip(chirping(), tmp_path / "no" / "clip.mp4")


def test_a_failing_encoder_leaves_nothing_and_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "clip.mp4"
    path.write_text("old")
    monkeypatch.setattr(writer, "X264_OPTIONS", {"profile": "no-such-profile"})
    with pytest.raises(DataError, match=r"clip\.mp4: want to write an mp4, got "):
        write_clip(chirping(), path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(writer, "_verify", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_clip(chirping(), tmp_path / "clip.mp4")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (chirping(num_frames=14), r"clip\.mp4: want 16 frames at 10 fps read back, got 14 at 0 to 1\.3 s"),
        (
            chirping(fps=Fraction(11)),
            r"clip\.mp4: want 16 frames at 10 fps read back, got 16 at 0 to 1\.364 s",
        ),
        (
            dataclasses.replace(chirping(), wave=torch.zeros(22000)),
            r"clip\.mp4: want 25600 samples of sound from 0 s read back, got 22528 from 0 s",
        ),
    ],
    ids=["frames", "fps", "sound"],
)
def test_what_does_not_read_back_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: Clip, message: str
) -> None:
    encode = writer._encode
    monkeypatch.setattr(writer, "_encode", lambda clip, wave, *rest: encode(wrong, wrong.wave.numpy(), *rest))
    with pytest.raises(DataError, match=message):
        write_clip(chirping(), tmp_path / "clip.mp4")
    assert list(tmp_path.iterdir()) == []
