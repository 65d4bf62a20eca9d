"""Batches are a pure function of (seed, step); training and held-out clips share nothing."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from media_files import burst, flat, write_media

from pavdit.clip import Clip, ClipSpec, DataError
from pavdit.config import ConfigError, DataConfig
from pavdit.data.bounce import BounceClips
from pavdit.data.clips import open_clips
from pavdit.data.loader import Batch, batches

SPEC = ClipSpec(num_frames=8, height=32, width=32)
CLIPS = BounceClips(10, SPEC)


def same(a: Batch, b: Batch) -> bool:
    words = (a.names, a.labels, a.captions) == (b.names, b.labels, b.captions)
    return words and torch.equal(a.video, b.video) and torch.equal(a.wave, b.wave)


def put(path: Path, seconds: float, level: int = 80) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_media(
        path, pictures=flat([level] * round(10 * seconds), 32, 32), sound=burst(seconds, 0.5, 16000)
    )


def test_a_batch_holds_its_clips() -> None:
    batch = next(batches(CLIPS, 4, seed=0))
    assert batch.video.shape == (4, 3, 8, 32, 32) and batch.video.dtype == torch.float32 and len(batch) == 4
    assert batch.wave.shape == (4, 12800)
    clip = CLIPS[int(batch.names[2].split("-")[2])]
    assert torch.equal((batch.video[2] + 1).mul(127.5).round().byte(), clip.frames.transpose(0, 1))
    assert torch.equal(batch.wave[2], clip.wave)
    assert (batch.labels[2], batch.captions[2]) == (clip.label, clip.caption)


def test_every_pass_is_another_permutation() -> None:
    drawn = [name for batch in islice(batches(CLIPS, 4, seed=0), 5) for name in batch.names]
    first, second = drawn[:10], drawn[10:]
    assert sorted(first) == sorted(second) == sorted(CLIPS[k].name for k in range(10))
    assert first != second
    other = [name for batch in islice(batches(CLIPS, 4, seed=1), 5) for name in batch.names]
    assert other != drawn


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped() -> None:
    whole = list(islice(batches(CLIPS, 3, seed=2, flip_probability=0.5), 9))
    rest = list(islice(batches(CLIPS, 3, seed=2, flip_probability=0.5, start_step=5), 4))
    assert all(same(a, b) for a, b in zip(whole[5:], rest, strict=True))


def test_workers_change_nothing() -> None:
    here = list(islice(batches(CLIPS, 3, seed=2, flip_probability=0.5, start_step=3), 6))
    there = list(islice(batches(CLIPS, 3, seed=2, flip_probability=0.5, start_step=3, num_workers=2), 6))
    assert all(same(a, b) for a, b in zip(here, there, strict=True))


def test_parts_and_ranks_share_out_the_same_clips() -> None:
    whole = list(islice(batches(CLIPS, 4, seed=3, flip_probability=0.5, start_step=2), 4))
    shares = [
        list(
            islice(
                batches(
                    CLIPS, 4, seed=3, flip_probability=0.5, start_step=2, parts=2, rank=rank, world_size=2
                ),
                8,
            )
        )
        for rank in range(2)
    ]
    for step, batch in enumerate(whole):
        pieces = [shares[rank][2 * step + part] for part in range(2) for rank in range(2)]
        assert torch.equal(torch.cat([piece.video for piece in pieces]), batch.video)
        assert sum((piece.names for piece in pieces), ()) == batch.names
    with pytest.raises(
        ValueError, match="a multiple of parts \\* world_size, got rank 0, batch_size 4, 3 parts"
    ):
        next(batches(CLIPS, 4, seed=3, parts=3))


def test_flips_mirror_the_picture_and_leave_the_rest() -> None:
    plain = list(islice(batches(CLIPS, 5, seed=4), 8))
    mixed = list(islice(batches(CLIPS, 5, seed=4, flip_probability=0.5), 8))
    flips = []
    for a, b in zip(plain, mixed, strict=True):
        assert a.names == b.names and torch.equal(a.wave, b.wave)
        flips.append([torch.equal(x.flip(-1), y) for x, y in zip(a.video, b.video, strict=True)])
        kept = [torch.equal(x, y) for x, y in zip(a.video, b.video, strict=True)]
        assert all(flip != keep for flip, keep in zip(flips[-1], kept, strict=True))
    assert 10 < sum(map(sum, flips)) < 30 and any(row != flips[0] for row in flips)
    always = next(batches(CLIPS, 5, seed=4, flip_probability=1.0))
    assert torch.equal(always.video, plain[0].video.flip(-1))


class Counted:
    """Counts how often clips are made."""

    class_names = CLIPS.class_names
    skips_damaged = False

    def __init__(self, varies: bool) -> None:
        self.varies, self.reads = varies, []

    def __len__(self) -> int:
        return len(CLIPS)

    def __getitem__(self, index: int) -> Clip:
        return self.read(index)

    def read(self, index: int, draw: int = 0) -> Clip:
        self.reads.append((index, draw))
        return CLIPS.read(index, draw)


@pytest.mark.parametrize(
    ("varies", "cache_bytes", "reads"),
    [(False, 1 << 30, 10), (False, 10 * (8 * 3 * 32 * 32 + 4 * 12800) - 1, 40), (True, 1 << 30, 40)],
    ids=["fits", "too-large", "random-segments"],
)
def test_a_small_set_is_decoded_once(varies: bool, cache_bytes: int, reads: int) -> None:
    counted = Counted(varies)
    list(islice(batches(counted, 5, seed=0, cache_bytes=cache_bytes), 8))
    assert len(counted.reads) == reads
    if varies:  # each pass asks for another segment
        assert sorted(counted.reads) == [(index, epoch) for index in range(10) for epoch in range(4)]


def test_bounce_holds_out_the_last_clips() -> None:
    train, held_out = open_clips(DataConfig(num_clips=12, held_out=4, seed=7), SPEC)
    assert [train[k].name for k in range(len(train))] == [f"bounce-7-{k}" for k in range(8)]
    assert [held_out[k].name for k in range(len(held_out))] == [f"bounce-7-{k}" for k in range(8, 12)]
    assert train.class_names == held_out.class_names == CLIPS.class_names


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for label, seconds in (("dog", 1.0), ("dog", 2.5), ("rain", 1.7), ("rain", 0.9), ("surf", 2.4)):
        put(tmp_path / label / f"{seconds}.mp4", seconds)
    return tmp_path


@pytest.mark.parametrize("seed", range(4))
def test_a_folder_holds_out_footage_that_is_not_trained_on(root: Path, seed: int) -> None:
    config = DataConfig(kind="folder", path=root, held_out=2, seed=seed)
    train, held_out = open_clips(config, SPEC)
    files = [{subset[k].name.split("@")[0] for k in range(len(subset))} for subset in (train, held_out)]
    assert len(held_out) == 2 and not files[0] & files[1]
    assert len(train) >= 10 - 2 - 2  # 10 segments; at most one file of 3 is split
    assert train.class_names == held_out.class_names == ("dog", "rain", "surf")
    again = open_clips(config, SPEC)
    assert (again[0].indices, again[1].indices) == (train.indices, held_out.indices)


def test_num_clips_takes_a_mixture(root: Path) -> None:
    chosen = {
        open_clips(DataConfig(kind="folder", path=root, num_clips=4, seed=s), SPEC)[0].indices
        for s in range(6)
    }
    assert len(chosen) > 1 and all(len(indices) == 4 for indices in chosen)


def test_impossible_wishes_are_errors(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"data: want 40 clips in .*, got 10"):
        open_clips(DataConfig(kind="folder", path=root, num_clips=40), SPEC)
    with pytest.raises(ConfigError, match=r": want clips to train on beside 10 held out, got 10 clips"):
        open_clips(DataConfig(kind="folder", path=root, held_out=10), SPEC)
    with pytest.raises(ValueError, match="batches: want clips and batch_size >= 1, got 10 clips, 0"):
        next(batches(CLIPS, 0, seed=0))


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_file_that_breaks_later_is_named_in_one_line(root: Path, num_workers: int) -> None:
    train, _ = open_clips(DataConfig(kind="folder", path=root), SPEC)
    broken = root / "rain" / "0.9.mp4"
    broken.write_bytes(broken.read_bytes()[:900])
    with pytest.raises(DataError) as caught:
        list(islice(batches(train, 10, seed=0, num_workers=num_workers), 1))
    assert str(caught.value).startswith(f"{broken}: want ") and "\n" not in str(caught.value)


def test_a_damaged_clip_is_stood_in_for_by_the_next_one_of_the_order(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = DataConfig(kind="folder", path=root, bad_files="skip")
    train, _ = open_clips(config, SPEC)
    whole = list(islice(batches(train, 5, seed=0), 4))
    broken = root / "dog" / "2.5.mp4"
    broken.write_bytes(broken.read_bytes()[:900])
    got = list(islice(batches(train, 5, seed=0), 4))
    assert same(next(batches(train, 5, seed=0, start_step=2)), got[2])
    order = [name for batch in whole for name in batch.names]
    want = []
    for sample in range(20):
        first = sample // 10 * 10
        turned = order[sample : first + 10] + order[first:sample]  # the rest of its pass, then its beginning
        want.append(next(name for name in turned if not name.startswith("dog/2.5.mp4")))
    assert [name for batch in got for name in batch.names] == want
    named = [record.message for record in caplog.records if "skipped, number" in record.message]
    assert len(named) == 2 and f"skipped, number 1: {broken}: want " in named[0]
    assert len(open_clips(config, SPEC)[0]) == len(train) - 3 and f"left out: {broken}: want" in caplog.text
    for path in root.glob("*/*.mp4"):
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"\.mp4: want a readable media file, got "):
        next(batches(train, 5, seed=0))
    with pytest.raises(DataError, match="want files that can be used, got none among 5"):
        open_clips(config, SPEC)


def test_a_set_with_parts_holds_out_of_its_test_part(root: Path) -> None:
    for label in ("dog", "rain", "surf"):
        (root / label).rename(root / f"{label}-")
    (root / "train").mkdir()
    (root / "test").mkdir()
    for label, part in (("dog", "train"), ("rain", "test"), ("surf", "train")):
        (root / f"{label}-").rename(root / part / label)
    train, held_out = open_clips(DataConfig(kind="folder", path=root, held_out=2), SPEC)
    assert {train.record(k).path.parts[-3] for k in range(len(train))} == {"train"} and len(train) == 7
    assert [held_out.record(k).label for k in range(2)] == ["rain", "rain"] == [held_out[0].label] * 2
    assert train.class_names == ("dog", "rain", "surf") and "; 2 test, 3 train" in train.summary
    with pytest.raises(ConfigError, match="data: want 4 clips of part 'test' in .*, got 3"):
        open_clips(DataConfig(kind="folder", path=root, held_out=4), SPEC)
    assert len(open_clips(DataConfig(kind="folder", path=root, splits="ignore"), SPEC)[0]) == 10
