"""Reading: picture and sound of one instant stay together in any file; what cannot be read says why."""

import socket
from fractions import Fraction
from math import ceil
from pathlib import Path

import numpy as np
import pytest
import torch
from media_files import burst, burst_time, flat, write_media

from pavdit.clip import ClipSpec, DataError
from pavdit.media import probe, read_clip
from pavdit.media.sound import read_wave

SPEC = ClipSpec(num_frames=16, height=32, width=32)
RATES = [Fraction(10), Fraction(17), Fraction(30000, 1001), Fraction(61, 4)]


def sounding(path: Path, **options: object) -> Path:
    """Two seconds of grey with a tone burst."""
    return write_media(
        path, **{"pictures": flat([80] * 20), "sound": burst(2.0, 0.5, 16000), "fps": Fraction(10), **options}
    )


@pytest.mark.parametrize("extension", ["mp4", "mkv"])
@pytest.mark.parametrize(("sample_rate", "channels"), [(8000, 1), (16000, 2), (44100, 2)])
@pytest.mark.parametrize("fps", RATES, ids=str)
def test_flash_and_click_stay_together(
    tmp_path: Path, fps: Fraction, sample_rate: int, channels: int, extension: str
) -> None:
    white_from = ceil(Fraction(4, 5) * fps)  # the first frame that begins at or after 0.8 s
    event = white_from / fps
    levels = [16 if k < white_from else 235 for k in range(ceil(2 * fps))]
    path = write_media(
        tmp_path / f"clip.{extension}",
        pictures=flat(levels),
        fps=fps,
        sound=burst(2.0, float(event), sample_rate, channels),
        sample_rate=sample_rate,
    )
    clip = read_clip(path, SPEC).require(SPEC)
    first_white = int(np.flatnonzero(clip.frames.float().mean((1, 2, 3)) > 128)[0])
    assert first_white == ceil(event * SPEC.fps)
    assert abs(burst_time(clip.wave.numpy(), 16000) - event) < 0.001


@pytest.mark.parametrize(
    ("video_start", "audio_start"), [("0.069", "0"), ("0", "0.069"), ("0.2", "0.2"), ("0.033", "0.1")]
)
@pytest.mark.parametrize("start", [None, Fraction(3, 10)], ids=["first", "0.3"])
def test_stream_offsets_are_honoured(
    tmp_path: Path, video_start: str, audio_start: str, start: Fraction | None
) -> None:
    """Each stream's own first stamp counts; sound and picture are laid on one time line."""
    begin_video, begin_audio = Fraction(video_start), Fraction(audio_start)
    event = begin_video + Fraction(9, 10)
    path = write_media(
        tmp_path / "clip.mp4",
        pictures=flat([16] * 9 + [235] * 21),
        video_start=begin_video,
        sound=burst(3.0, float(event - begin_audio), 16000),
        audio_start=begin_audio,
    )
    # Where the sound starts late, the muxer stamps the encoder's priming too: the file says where it begins.
    origin = probe(path).start_seconds if start is None else start
    assert begin_video <= origin <= max(begin_video, begin_audio, start or Fraction(0))
    clip = read_clip(path, SPEC, start_seconds=start)
    first_white = int(np.flatnonzero(clip.frames.float().mean((1, 2, 3)) > 128)[0])
    assert first_white == ceil((event - origin) * 10 - Fraction(1, 1000))
    assert abs(burst_time(clip.wave.numpy(), 16000) - float(event - origin)) < 0.001


def test_before_either_stream_is_an_error(tmp_path: Path) -> None:
    path = sounding(tmp_path / "clip.mp4", video_start=Fraction(69, 1000))
    message = r"clip\.mp4: want 1\.6 s of picture and sound from 0 s on, got picture 0\.069 to 2\.069 s"
    with pytest.raises(DataError, match=message):
        read_clip(path, SPEC, start_seconds=0)


@pytest.mark.parametrize("extension", ["mp4", "mkv", "avi"])
def test_a_segment_inside_a_long_file_is_exact(tmp_path: Path, extension: str) -> None:
    """Seeking goes through key frames 50 apart; every frame and the sound are those of the floor rule."""
    fps = Fraction(25)
    rng = np.random.default_rng(0)
    sound = 0.2 * rng.standard_normal((1, 16000 * 8)).astype(np.float32)
    levels = (np.arange(200) * 7) % 200 + 20
    path = write_media(
        tmp_path / f"long.{extension}",
        pictures=flat(levels),
        fps=fps,
        sound=sound,
        audio_codec="aac" if extension == "mp4" else "pcm_s16le",
        video_codec="mpeg4" if extension == "avi" else "libx264",
    )
    start = Fraction(37, 10) + Fraction(1, 100)
    clip = read_clip(path, SPEC, start_seconds=start)
    want = [levels[(start + k / Fraction(10)) * fps // 1] for k in range(16)]
    got = clip.frames.float().mean((1, 2, 3)).round().int().tolist()
    assert np.abs(np.array(got) - want).max() <= 2
    true = sound[0, 59360 : 59360 + 25600]
    lags = [np.corrcoef(np.roll(clip.wave.numpy(), lag), true)[0, 1] for lag in range(-3, 4)]
    assert int(np.argmax(lags)) == 3 and max(lags) > 0.9


def test_rounded_time_stamps_lose_no_frame(tmp_path: Path) -> None:
    """Matroska says 33, 67, 100 ms; at the same rate every frame is read once."""
    levels = 20 + 7 * np.arange(30)
    path = write_media(
        tmp_path / "clip.mkv", pictures=flat(levels), fps=Fraction(30), sound=burst(1, 0.5, 16000)
    )
    spec = ClipSpec(num_frames=28, height=32, width=32, fps=Fraction(30), sample_rate=16320)
    got = read_clip(path, spec).frames.float().mean((1, 2, 3))
    assert (got - torch.from_numpy(levels[:28])).abs().max() <= 2


def test_slow_files_repeat_frames(tmp_path: Path) -> None:
    path = write_media(
        tmp_path / "slow.mp4",
        pictures=flat([20, 60, 100, 140, 180]),
        fps=Fraction(5, 2),
        sound=burst(2.0, 1, 16000),
    )
    levels = read_clip(path, SPEC).frames.float().mean((1, 2, 3))
    assert (levels - torch.tensor([20.0, 60, 100, 140]).repeat_interleave(4)).abs().max() <= 2


def test_peaks_above_one_are_kept_and_channels_chosen(tmp_path: Path) -> None:
    left = 1.3 * np.sin(2 * np.pi * 300 * np.arange(32000) / 16000)
    path = sounding(
        tmp_path / "clip.mkv", sound=np.stack([left, 0 * left]).astype(np.float32), audio_codec="pcm_f32le"
    )
    first = read_clip(path, SPEC, channel="first").wave
    mean = read_clip(path, SPEC).wave
    assert torch.allclose(first, torch.from_numpy(left[:25600]).float(), atol=1e-6)
    assert torch.allclose(mean, first / 2, atol=1e-6)


@pytest.mark.parametrize(
    ("codec", "extension", "step"),
    [
        ("pcm_u8", "avi", 2**-7),
        ("pcm_s16le", "mov", 2**-15),
        ("pcm_s32le", "mkv", 2**-23),
        ("flac", "mkv", 2**-15),
    ],
)
def test_sample_formats(tmp_path: Path, codec: str, extension: str, step: float) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 300 * np.arange(32000) / 16000)
    path = sounding(
        tmp_path / f"clip.{extension}",
        sound=np.stack([tone, tone]).astype(np.float32),
        audio_codec=codec,
        video_codec="mpeg4",
    )
    assert np.abs(read_clip(path, SPEC).wave.numpy() - tone[:25600]).max() <= 1.5 * step


def test_resampling_keeps_time_and_level(tmp_path: Path) -> None:
    t = np.arange(88200) / 44100
    tone = (0.5 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    path = sounding(tmp_path / "clip.mkv", sound=tone[None], sample_rate=44100, audio_codec="pcm_f32le")
    want = 0.5 * np.sin(2 * np.pi * 440 * (np.arange(25600) / 16000 + 0.25))
    got = read_clip(path, SPEC, start_seconds=Fraction(1, 4)).wave.numpy()
    assert np.abs(got - want).max() < 1e-3  # measured 3e-5; the bound is a tenth of a sample


@pytest.mark.parametrize("seconds", [Fraction(8, 1000), Fraction(1, 5)], ids=["8ms", "200ms"])
def test_holes_in_the_sound(tmp_path: Path, seconds: Fraction) -> None:
    """A join of some milliseconds is silence and delays nothing; a long hole is an error."""
    sound = burst(3.0, 1.0, 16000)
    runs = ((Fraction(0), 0, 8192), (Fraction(8192, 16000) + seconds, 8192, 48000))
    path = sounding(
        tmp_path / "clip.mkv",
        pictures=flat([80] * 30),
        sound=sound,
        audio_times=runs,
        audio_codec="pcm_s16le",
    )
    if seconds < Fraction(1, 20):
        assert abs(burst_time(read_clip(path, SPEC).wave.numpy(), 16000) - 1.008) < 0.0015
    else:
        with pytest.raises(
            DataError, match=r"clip\.mkv: want sound without gaps, got one of 0\.2 s at 0\.712 s"
        ):
            read_clip(path, SPEC)


def test_rotation_is_applied(tmp_path: Path) -> None:
    """An upright phone stores landscape frames and a matrix that turns them clockwise: left becomes top."""
    picture = np.zeros((64, 96, 3), np.uint8)
    picture[:, :48, 0], picture[:, 48:, 2] = 255, 255
    path = sounding(tmp_path / "clip.mp4", pictures=np.repeat(picture[None], 20, axis=0))
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    for k, value in enumerate((0, 1 << 16, 0, -1 << 16, 0)):
        data[matrix + 4 * k : matrix + 4 * k + 4] = value.to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    frame = read_clip(path, ClipSpec(num_frames=16, height=48, width=32)).frames[3]
    assert frame[0, :20].min() > 200 and frame[0, 28:].max() < 50
    assert frame[2, 28:].min() > 200 and frame[2, :20].max() < 50


def test_probe_reports_the_file(tmp_path: Path) -> None:
    info = probe(
        sounding(tmp_path / "clip.mp4", pictures=flat([9] * 50, 48, 80), fps=Fraction(25), sample_rate=16000)
    )
    assert (info.fps, info.width, info.height, info.sample_rate, info.channels) == (25, 80, 48, 16000, 1)
    assert (info.start_seconds, info.duration_seconds) == (0, 2)


def error_of(path: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        read_clip(path, SPEC, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: want ") and "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_errors_name_the_file_the_want_and_the_got(tmp_path: Path) -> None:
    assert error_of(tmp_path / "none.mp4") == "want a media file, got no such file"
    assert error_of(tmp_path) == "want a media file, got a directory"

    (tmp_path / "text.mp4").write_text("this is no film\n" * 50)
    invalid = "want a readable media file, got Invalid data found when processing input"
    assert error_of(tmp_path / "text.mp4") == invalid
    (tmp_path / "empty.mp4").write_bytes(b"")
    assert error_of(tmp_path / "empty.mp4") == invalid

    silent = write_media(tmp_path / "silent.mp4", pictures=flat([80] * 20))
    assert error_of(silent) == "want an audio stream, got none"
    blind = write_media(tmp_path / "blind.mp4", sound=burst(2.0, 1.0, 16000))
    assert error_of(blind) == "want a video stream, got none"


def test_too_short_is_an_error_for_either_stream(tmp_path: Path) -> None:
    spans = "want 1.6 s of picture and sound from {} s on, got picture 0 to {} s, sound 0 to {} s"
    short = sounding(tmp_path / "picture.mp4", pictures=flat([80] * 15))
    assert error_of(short) == spans.format(0, 1.5, 2)
    # One AAC frame (64 ms) is missing at the end: not padded.
    short = sounding(tmp_path / "sound.mp4", sound=burst(1.6 - 0.064, 0.5, 16000))
    assert error_of(short) == spans.format(0, 2, 1.536)
    enough = sounding(tmp_path / "long.mp4")
    assert error_of(enough, start_seconds=0.5) == spans.format(0.5, 2, 2)
    assert error_of(enough, start_seconds=-0.1) == spans.format(-0.1, 2, 2)
    assert error_of(enough, start_seconds=7) == spans.format(7, 2, 2)


def test_exactly_long_enough_is_enough(tmp_path: Path) -> None:
    path = sounding(tmp_path / "clip.mp4", pictures=flat([80] * 16), sound=burst(1.6, 0.5, 16000))
    assert read_clip(path, SPEC).require(SPEC).name == "clip.mp4"


def test_sound_that_ends_before_its_header_says_is_an_error(tmp_path: Path) -> None:
    path = sounding(tmp_path / "clip.mp4")
    message = r"clip\.mp4: want sound from 1 to 2\.6 s, got 0\.448 to 2\.048 s"
    with pytest.raises(DataError, match=message):
        read_wave(path, Fraction(1), 25600, 16000)


def test_damage_is_an_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = sounding(tmp_path / "clip.mkv", pictures=rng.integers(0, 255, (20, 64, 64, 3), dtype=np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    assert error_of(path).startswith("want ")
    middle = len(data) // 2
    path.write_bytes(data[:middle] + rng.bytes(20000) + data[middle + 20000 :])
    assert error_of(path).startswith("want ")


def test_a_playlist_does_not_reach_the_network(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        path = tmp_path / "list.m3u8"
        path.write_text(
            "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n"
            f"http://127.0.0.1:{server.getsockname()[1]}/a.ts\n#EXT-X-ENDLIST\n"
        )
        assert error_of(path).startswith("want a readable media file, got ")
        with pytest.raises(TimeoutError):
            server.accept()
