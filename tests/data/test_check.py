"""What is wrong with files is found, said, and kept from run to run."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from media_files import flat, write_media

from pavdit.data import check
from pavdit.data.check import Checked, Results, check_files
from pavdit.data.inspect import Measured, inspect
from pavdit.data.judge import Limits, copies, judge
from pavdit.data.report import as_html, as_json, counts
from pavdit.data.workers import Lost


def waves(count: int, speed: float = 0.4, size: int = 64) -> np.ndarray:
    """``(count, size, size, 3)`` that move."""
    t = np.arange(count)[:, None, None, None]
    y, x, c = np.ogrid[:size, :size, :3]
    return (128 + 100 * np.sin((x + c * y) / 9 + speed * t)).astype(np.uint8)


def noise(seconds: float, sample_rate: int = 16000) -> np.ndarray:
    return 0.1 * np.random.default_rng(0).standard_normal((1, round(seconds * sample_rate))).astype(
        np.float32
    )


def put(path: Path, pictures: np.ndarray, sound: np.ndarray | None, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_media(path, pictures=pictures, sound=sound, **options)


def reasons(path: Path, **limits: float) -> list[str]:
    return [finding.reason for finding in judge(inspect(path), Limits(**limits))]


def test_reasons(tmp_path: Path) -> None:
    good = put(tmp_path / "good.mp4", waves(20), noise(2))
    assert reasons(good) == [] and reasons(good, min_seconds=2.1) == ["too short"]
    assert reasons(put(tmp_path / "silent.mp4", waves(20), 1e-4 * noise(2))) == ["silent"]
    assert reasons(put(tmp_path / "black.mp4", flat([16] * 20), noise(2))) == ["black", "frozen"]
    assert reasons(put(tmp_path / "frozen.mkv", waves(60, 0), noise(6))) == ["frozen"]
    assert reasons(put(tmp_path / "mute.mp4", waves(20), None)) == ["no sound"]
    assert reasons(put(tmp_path / "drift.mp4", waves(20), noise(2.6))) == ["drifting"]
    (tmp_path / "half.mp4").write_bytes(good.read_bytes()[:-2000])
    assert reasons(tmp_path / "half.mp4") == ["damaged"]
    loud = put(tmp_path / "loud.mkv", waves(20), 100 * noise(2), audio_codec="pcm_f32le")
    [finding] = judge(inspect(loud), Limits())
    assert finding.reason == "damaged" and finding.detail.startswith(
        "want sound below 4 times full scale, got "
    )


def test_what_measures_a_file(tmp_path: Path) -> None:
    pictures = np.concatenate([flat([16] * 5), waves(15)])
    sound = np.concatenate([np.zeros((1, 8000), np.float32), noise(1.5)], axis=1)
    got = inspect(put(tmp_path / "a.mkv", pictures, sound, audio_codec="pcm_s16le"))
    assert (got.num_frames, got.black, got.frozen, got.silent) == (20, 0.25, 0.2105, 0.25)
    assert got.seconds == pytest.approx(2, abs=0.002) and got.audio_slip < 0.002 and got.thumbnail
    assert got.peak_db == pytest.approx(20 * np.log10(np.abs(sound).max()), abs=0.02)


def test_clocks_that_drift_apart_show() -> None:
    good = Measured(
        num_frames=9, due_frames=9, video=(0, 9), audio=(0, 9), stated_video=(0, 9), stated_audio=(0, 9)
    )
    assert judge(good, Limits()) == []
    for change in ({"audio_slip": 0.2}, {"audio": (0, 8.9), "video": (0, 9.0), "audio_slip": 0.3}):
        assert [f.reason for f in judge(dataclasses.replace(good, **change), Limits())] == ["drifting"]
    for change in ({"due_frames": 10}, {"stated_video": (0.5, 9)}, {"stated_audio": (0, 8.5)}):
        assert [f.reason for f in judge(dataclasses.replace(good, **change), Limits())] == ["damaged"]


def test_copies_are_found_whatever_bits_differ() -> None:
    rng = np.random.default_rng(0)
    prints = [rng.bytes(42) for _ in range(20)]
    changed = bytearray(prints[3])
    for bit in rng.choice(336, 15, replace=False):
        changed[bit // 8] ^= 1 << bit % 8
    assert copies([p.hex() for p in prints] + ["", bytes(changed).hex(), prints[5].hex()]) == [
        (3, 21),
        (5, 22),
    ]
    changed[0] ^= 0xFF
    assert copies([prints[3].hex(), bytes(changed).hex()]) == []


def test_results_are_kept_and_a_torn_line_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [
        put(tmp_path / "set" / name, waves(20, speed), noise(2))
        for name, speed in (("a.mp4", 0.4), ("b.mp4", 2))
    ]
    (tmp_path / "set" / "c.mp4").write_bytes(paths[0].read_bytes())
    paths.append(tmp_path / "set" / "c.mp4")
    asked: list[list[Path]] = []

    def here(function, items, **options):
        asked.append(list(items))
        return (
            (k, function(item) if item.name != "b.mp4" else Lost("want, got")) for k, item in enumerate(items)
        )

    monkeypatch.setattr(check, "each", here)
    store = tmp_path / "measured.jsonl"

    def run() -> list[Checked]:
        return check_files(paths, Results(store), Limits(), num_workers=1, time_limit_seconds=9)

    first = run()
    assert [[f.reason for f in file.findings] for file in first] == [[], ["damaged"], ["duplicate"]]
    assert counts(first) == {"damaged": 1, "duplicate": 1}
    with store.open("a") as file:
        file.write('{"version": 1, "sha2')
    again = run()
    assert asked == [paths[:2], [paths[1]]] and again == first  # what was lost is tried again
    assert len(Results(store).known) == 1 and Results(store).separator == "\n"

    data = json.loads(as_json(first, tmp_path / "set", Limits()))
    assert (data["files"], data["bad_files"], data["checked"][2]["path"]) == (3, 2, "c.mp4")
    assert "thumbnail" not in data["checked"][0]["measured"]
    page = as_html(first, tmp_path / "set", Limits())
    assert page.count("<img") == 1 and "want every clip once, got the bytes of" in page
    assert "http" not in page and "<script" not in page
