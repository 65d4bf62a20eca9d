"""What a protocol takes of a folder, what is left out, and features that are computed once."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from media_files import flat, write_media
from nano import quiet_console

from pavdit.clip import ClipSpec, DataError
from pavdit.data.digests import FileDigests
from pavdit.evaluation.features import Extractor, FeatureCache
from pavdit.evaluation.sets import BounceSet, FolderSet
from pavdit.media import read_clip

SPEC = ClipSpec(num_frames=4, height=16, width=16)


def put(path, frames, fps=10):
    sound = np.random.default_rng(0).normal(0, 0.1, (1, int(16_000 * frames / fps))).astype(np.float32)
    return write_media(path, pictures=flat(list(range(frames)), 16, 16), fps=Fraction(fps), sound=sound)


@pytest.fixture
def opened(tmp_path, rules):
    """The windows of ``tmp_path / "set"``, by these rules."""

    def call(windows, num_clips=100, **over):
        folder = tmp_path / "set"
        changed = rules.model_copy(update=over)
        digests = FileDigests(tmp_path / "files.json")
        return FolderSet(folder, changed, SPEC, windows, num_clips, 0, digests)

    (tmp_path / "set").mkdir()
    return call


def starts(clips):
    return [float(start) for _, start in clips.windows]


def test_windows_of_a_longer_file(opened, tmp_path):
    put(tmp_path / "set" / "a.mp4", 10)
    assert starts(opened("first")) == [0]
    assert starts(opened("consecutive", order="sorted")) == pytest.approx([0, 0.4])
    assert starts(opened("every", order="sorted")) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    shuffled = starts(opened("every", num_clips=3))
    assert len(shuffled) == 3 and shuffled == starts(opened("every", num_clips=3)) != [0, 0.1, 0.2]
    [drawn] = starts(opened("random"))
    assert 0 < drawn < 0.6
    assert len(set(opened("every").keys())) == 7
    assert opened("every")[2].require(SPEC)


def test_what_cannot_be_used_is_named_and_mixed_rates_are_said(opened, tmp_path):
    put(tmp_path / "set" / "a.mp4", 4)
    put(tmp_path / "set" / "b.mp4", 4, fps=8)
    put(tmp_path / "set" / "short.mp4", 2)
    (tmp_path / "set" / "text.mp4").write_text("no film")
    clips = opened("first")
    assert len(clips) == 2 and set(clips.left_out) == {"short.mp4", "text.mp4"}
    assert "want at least 0.4 s with picture and sound, got 0.2" in clips.left_out["short.mp4"]
    assert clips.notes[0].startswith("frame rates are mixed (1 at 10, 1 at 8 fps); all are read at 10 fps")
    assert clips.notes[1] == "1 files have fewer than 10 fps: frames of theirs are repeated"


def test_a_folder_without_a_usable_file_is_refused(opened, tmp_path):
    (tmp_path / "set" / "text.mp4").write_text("no film")
    with pytest.raises(DataError, match=r"set: want clips, got 1 files that cannot be used; text.mp4: "):
        opened("first")


def test_features_are_computed_once_and_go_on_after_an_interruption(opened, tmp_path):
    for name in "abc":
        put(tmp_path / "set" / f"{name}.mp4", 4 + ord(name) - ord("a"))
    clips, seen = opened("first"), []

    def run(frames, wave):
        seen.extend(wave.shape[0] * [0])
        return {"level": wave.square().mean(dim=1)}

    level = Extractor("level", "1" * 16, 2, run)
    cache = FeatureCache(tmp_path / "features", quiet_console())
    keys = clips.keys()

    def stop(frames, wave):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.rows(clips, keys, SPEC, Extractor("level", "1" * 16, 2, stop), "side")
    places, rows = cache.rows(clips, keys, SPEC, level, "side")
    assert places == [0, 1, 2] and rows["level"].shape == (3,) and len(seen) == 3
    again = cache.rows(opened("first"), opened("first").keys(), SPEC, level, "side")[1]
    assert torch.equal(again["level"], rows["level"]) and len(seen) == 3
    cache.rows(clips, keys, SPEC, Extractor("level", "2" * 16, 2, run), "side")
    assert len(seen) == 6


def test_a_file_that_breaks_when_it_is_decoded_is_left_out(opened, tmp_path):
    for name, frames in (("a", 4), ("b", 5)):
        put(tmp_path / "set" / f"{name}.mp4", frames)
    clips = opened("first")
    keys = clips.keys()
    (tmp_path / "set" / "a.mp4").write_bytes(b"gone")
    level = Extractor("level", "1" * 16, 2, lambda frames, wave: {"level": wave.mean(dim=1)})
    places, _ = FeatureCache(tmp_path / "features", quiet_console()).rows(clips, keys, SPEC, level, "side")
    assert len(places) == 1 and list(clips.left_out) == ["a.mp4"]


def test_sound_at_a_rate_of_its_own(opened, tmp_path):
    put(tmp_path / "set" / "a.mp4", 4)
    sets = opened("first"), BounceSet(2, SPEC, 0, "all")
    lengths = []

    def run(frames, wave):
        lengths.append(wave.shape[1])
        return {"mean": wave.mean(dim=1)}

    extractor = Extractor("sound", "1" * 16, 2, run, (44_100, "first"))
    cache = FeatureCache(tmp_path / "features", quiet_console())
    for clips in sets:
        places, _ = cache.rows(clips, clips.keys(), SPEC, extractor, "side")
        assert places == list(range(len(clips)))
    assert lengths == [17_640, 17_640]


def test_the_protocols_rules_reach_the_reader_and_the_keys(opened, tmp_path, monkeypatch):
    put(tmp_path / "set" / "a.mp4", 4)
    asked = {}

    def read(path, spec, *, start_seconds, **rules):
        asked.update(rules)
        return read_clip(path, spec, start_seconds=start_seconds, **rules)

    monkeypatch.setattr("pavdit.evaluation.sets.read_clip", read)
    peers = {"resize": "pvdm", "channel": "first", "frame_rule": "number"}
    clips = opened("first", **peers)
    assert clips[0].require(SPEC) and asked == peers
    assert clips.keys() != opened("first").keys()
