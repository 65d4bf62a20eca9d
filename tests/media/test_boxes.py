"""An index that contradicts itself is refused, and what muxers really write is not."""

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from media_files import burst, flat, write_media

from pavdit.clip import DataError
from pavdit.media import probe
from pavdit.media.boxes import contradiction


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_media(
        tmp_path / "clip.mp4",
        pictures=flat(60 + 5 * np.arange(20)),
        sound=burst(2.0, 0.5, 16000),
        video_start=Fraction(69, 1000),
    )


@pytest.mark.parametrize("extension", ["mp4", "mov", "mkv"])
@pytest.mark.parametrize("start", [Fraction(0), Fraction(69, 1000)])
def test_muxers_agree_with_themselves(tmp_path: Path, extension: str, start: Fraction) -> None:
    for fps, rate in ((Fraction(10), 16000), (Fraction(30000, 1001), 44100)):
        path = write_media(
            tmp_path / f"clip.{extension}",
            pictures=flat([80] * 40),
            fps=fps,
            video_start=start,
            sound=burst(2.0, 0.5, rate),
            sample_rate=rate,
        )
        assert contradiction(path) is None and probe(path).width == 64


@pytest.mark.parametrize(
    ("kind", "track", "place", "change", "message"),
    [
        (b"mdhd", 0, 20, lambda n: n * 11 // 10, "want edits within "),
        (b"mdhd", 0, 20, lambda n: 0, "want clocks that run, got one of 0 ticks a second"),
        (b"mdhd", 1, 24, lambda n: n // 2, "want samples of 1.0"),
        (b"stts", 0, 16, lambda n: n + 1, "want 20 samples in stts, got 21"),
        (b"elst", 0, 16, lambda n: 2 * n, "want edits of 2.069 s, got 2.138 s"),
        (
            b"elst",
            0,
            32,
            lambda n: n + 1,
            "want edits that begin with a picture, got one inside of the first",
        ),
        (b"stsc", 0, 24, lambda n: n | 1 << 30, "want one of 1 sample descriptions, got another"),
        (b"stco", 1, 16, lambda n: n + 4000, "want "),
        (b"stsz", 0, 20, lambda n: n + 5000, "want "),
    ],
)
def test_a_changed_number_shows(
    path: Path, kind: bytes, track: int, place: int, change, message: str
) -> None:
    data = bytearray(path.read_bytes())
    at = -1
    for _ in range(track + 1):
        at = data.index(kind, at + 1)
    at += place - 4
    data[at : at + 4] = struct.pack(">I", change(struct.unpack(">I", data[at : at + 4])[0]))
    path.write_bytes(data)
    found = contradiction(path)
    assert found is not None and found.startswith(message)
    with pytest.raises(DataError) as caught:
        probe(path)
    assert str(caught.value) == f"{path}: {found}"


def test_hours_of_plain_samples_take_no_memory(tmp_path: Path) -> None:
    """Each sample of PCM in a mov is one of the index; its number alone must not be believed."""
    pictures, sound = flat([80] * 10), burst(1.0, 0.5, 16000)
    path = write_media(tmp_path / "a.mov", pictures=pictures, sound=sound, audio_codec="pcm_s16le")
    assert contradiction(path) is None
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack(">4sIII", b"stsz", 0, 2, 16000))
    data[at + 12 : at + 16] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert contradiction(path) == "want 4294967295 samples in stts, got 16000"


def test_boxes_that_do_not_fit_are_no_index(path: Path) -> None:
    data = path.read_bytes()
    at = data.index(b"stts") - 4
    path.write_bytes(data[:at] + struct.pack(">I", 1 << 20) + data[at + 4 :])
    assert contradiction(path) == "want boxes that lie in their parents, got b'stts' of 1048576 bytes"
    path.write_bytes(b"no film at all")
    assert contradiction(path) is None
