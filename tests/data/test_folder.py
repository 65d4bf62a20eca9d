"""A folder of files as a set of clips."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from media_files import burst, flat, write_media

from pavdit.clip import ClipSpec, DataError
from pavdit.config import DataConfig
from pavdit.data.folder import FolderClips

SPEC = ClipSpec(num_frames=8, height=32, width=32)


def put(path: Path, seconds: float = 1.0, level: int = 80) -> Path:
    """A file whose frames grow brighter by 10 each."""
    path.parent.mkdir(parents=True, exist_ok=True)
    num_frames = round(10 * seconds)
    return write_media(
        path,
        pictures=flat(level + 5 * np.arange(num_frames), 32, 32),
        sound=burst(seconds, 0.5, 16000),
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "rain" / "b.mp4", 2.5)
    put(tmp_path / "rain" / "a.MKV")
    put(tmp_path / "set" / "dog" / "x.mov")
    put(tmp_path / "loose.mp4", 0.8)
    (tmp_path / "rain" / "a.txt").write_text("  rain falls\non a roof \n")
    (tmp_path / "rain" / "notes.md").write_text("no clip")
    put(tmp_path / ".hidden" / "h.mp4")
    put(tmp_path / "dog" / ".partial.mp4")
    return tmp_path


def names(clips: FolderClips) -> list[str]:
    return [clips[index].name for index in range(len(clips))]


def test_files_labels_and_captions(root: Path) -> None:
    clips = FolderClips(DataConfig(kind="folder", path=root, segments="first"), SPEC)
    assert names(clips) == ["loose.mp4@0.000", "rain/a.MKV@0.000", "rain/b.mp4@0.000", "set/dog/x.mov@0.000"]
    assert clips.class_names == ("dog", "rain")
    assert [clips[k].label for k in range(4)] == ["", "rain", "rain", "dog"]
    assert [clips[k].caption for k in range(4)] == [
        "",
        "rain falls on a roof",
        "a video of rain",
        "a video of dog",
    ]
    clips[2].require(SPEC)


def test_all_segments_follow_each_other(root: Path) -> None:
    clips = FolderClips(DataConfig(kind="folder", path=root), SPEC)
    assert names(clips)[2:5] == ["rain/b.mp4@0.000", "rain/b.mp4@0.800", "rain/b.mp4@1.600"]
    levels = torch.cat([clips[k].frames for k in (2, 3, 4)]).float().mean((1, 2, 3))
    assert (levels - (80 + 5 * torch.arange(24))).abs().max() < 2.5


def test_random_segments_depend_on_seed_index_and_draw_alone(root: Path) -> None:
    config = DataConfig(kind="folder", path=root, segments="random", seed=5)
    clips, again = FolderClips(config, SPEC), FolderClips(config, SPEC)
    assert clips.varies and len(clips) == 4
    starts = [clips.read(2, draw).name for draw in range(6)]
    assert starts == [again.read(2, draw).name for draw in range(6)]
    assert len(set(starts)) == 6
    assert all(0 <= Fraction(name.split("@")[1]) <= Fraction(17, 10) for name in starts)
    assert clips.read(0, 3).name == "loose.mp4@0.000"  # exactly one clip long


def test_resize_and_channel_are_passed_on(tmp_path: Path) -> None:
    put(tmp_path / "clip.mp4")
    wide = ClipSpec(num_frames=8, height=32, width=64)
    crop = FolderClips(DataConfig(kind="folder", path=tmp_path), wide)[0]
    fit = FolderClips(DataConfig(kind="folder", path=tmp_path, resize="mmdiffusion"), wide)[0]
    assert crop.frames[:, :, :, :16].min() > 60 and fit.frames[:, :, :, :16].max() == 0


def error_of(path: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        FolderClips(DataConfig(kind="folder", path=path, **options), SPEC)
    return str(caught.value)


def test_errors_name_the_folder_or_the_file(tmp_path: Path) -> None:
    assert error_of(tmp_path / "no") == f"{tmp_path / 'no'}: want a folder of clips, got no such folder"
    assert error_of(tmp_path).startswith(
        f"{tmp_path}: want files .avi, .gif, .mkv, .mov, .mp4, .webm, got none"
    )
    put(tmp_path / "good.mp4")
    short = put(tmp_path / "short.mp4", 0.7)
    assert error_of(tmp_path) == f"{short}: want at least 0.8 s with picture and sound, got 0.700 s"
    short.write_bytes(b"x" * 4000)
    assert error_of(tmp_path).startswith(f"{short}: want a readable media file, got Invalid data")
    write_media(short, pictures=flat([80] * 10, 32, 32))
    assert error_of(tmp_path) == f"{short}: want an audio stream, got none"
    put(short)
    (tmp_path / "good.txt").write_bytes(b"\xff\xfe caption")
    assert error_of(tmp_path).startswith(f"{tmp_path / 'good.txt'}: want a caption in UTF-8, got ")
