import pytest
import torch
from nano import nano

from pavdit.audio.mel import mel_images
from pavdit.clip import DataError, frames_to_volume
from pavdit.data.bounce import BounceClips
from pavdit.data.loader import collate
from pavdit.train import examples
from pavdit.train.examples import Analyser, batch_indices, in_order, mean_clip

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clips():
    return BounceClips(5, nano().clip)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 12])
def test_every_pass_is_a_permutation(batch_size):
    sequence = torch.cat([batch_indices(5, batch_size, seed=1, step=step) for step in range(10)])
    passes = [p for p in sequence.split(5) if len(p) == 5]
    assert all(sorted(p.tolist()) == list(range(5)) for p in passes)
    assert len({tuple(p.tolist()) for p in passes}) > 1 or len(passes) < 3


def test_a_step_depends_on_the_seed_and_itself_alone():
    assert torch.equal(batch_indices(50, 8, seed=1, step=7), batch_indices(50, 8, seed=1, step=7))
    assert not torch.equal(batch_indices(50, 8, seed=1, step=7), batch_indices(50, 8, seed=2, step=7))


def test_mel_images_of_a_small_set_are_computed_once(clips, monkeypatch):
    calls = []
    monkeypatch.setattr(
        examples, "mel_images", lambda wave, *a: calls.append(len(wave)) or mel_images(wave, *a)
    )
    analyse, plain = Analyser(nano(), clips), Analyser(nano())
    batches = [collate([clips[i] for i in members]) for members in ((0, 1), (1, 2), (2, 0))]
    cached = [analyse(batch, CPU).mel for batch in batches]
    assert calls == [2, 1]
    assert all(torch.equal(mel, plain(batch, CPU).mel) for mel, batch in zip(cached, batches, strict=True))


def test_the_mean_clip_is_the_mean(clips):
    video, mel = mean_clip(clips, nano())
    everything = [clips[i] for i in range(5)]
    want = torch.stack([frames_to_volume(c.frames) for c in everything]).mean(0, keepdim=True)
    torch.testing.assert_close(video, want)
    waves = torch.stack([c.wave for c in everything])
    torch.testing.assert_close(mel, mel_images(waves, nano().clip, nano().mel).mean(0, keepdim=True))


def test_in_order_gives_every_clip_once(clips):
    labels = [label for e in in_order(clips, 2, nano(), CPU) for label in e.labels]
    assert labels == [clips[i].label for i in range(5)]


class Damaged:
    """Procedural clips, some of which do not decode."""

    varies = False

    def __init__(self, bad: set[int], skips_damaged: bool) -> None:
        self.clips, self.bad, self.skips_damaged = BounceClips(5, nano().clip), bad, skips_damaged

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, index: int, draw: int = 0):
        if index in self.bad:
            raise DataError(f"clip {index}: want a readable file, got none")
        return self.clips.read(index)


def test_clips_that_do_not_decode_are_left_out_where_the_set_says_so(caplog):
    got = list(in_order(Damaged({0, 3}, skips_damaged=True), 2, nano(), CPU))
    want = [BounceClips(5, nano().clip).read(i).name for i in (1, 2, 4)]
    assert [name for e in got for name in e.names] == want and "left out: clip 3" in caplog.text
    mean, _ = mean_clip(Damaged({0, 3}, skips_damaged=True), nano())
    assert torch.allclose(mean, torch.cat([e.video for e in got]).mean(0, keepdim=True))
    for clips in (Damaged({3}, skips_damaged=False), Damaged(set(range(5)), skips_damaged=True)):
        with pytest.raises(DataError, match=r"clip \d: want a readable file"):
            list(in_order(clips, 2, nano(), CPU))
