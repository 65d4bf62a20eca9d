"""Shards hold what they say, and a damaged or half-written one is noticed and made anew."""

import os
import random

import pytest
import torch

from pavdit.data import shards as module
from pavdit.data.shards import Shards, Share, content_key, is_intact

KEYS = [content_key(str(i)) for i in range(10)]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(module, "ROWS_PER_SHARD", 4)


class Encoder:
    """Row i is i; counts what it was asked for; can leave places out, or be killed at one."""

    def __init__(self, without=(), killed_at=None):
        self.asked, self.without, self.killed_at = [], set(without), killed_at

    def __call__(self, shards):
        return (self.rows(places) for places in shards)

    def rows(self, places):
        for i in places:
            if i == self.killed_at:
                raise KeyboardInterrupt
            self.asked.append(i)
            if i not in self.without:
                yield i, {"x": torch.full((2, 3), float(i)), "n": torch.tensor(i)}


def fill(shards, encode, **options):
    said, seen = [], []
    shards.fill(KEYS, encode, say=said.append, progress=lambda *done: seen.append(done), **options)
    return said, seen


def values(shards):
    return [int(shards.row(key)["n"]) for key in KEYS if key in shards.places]


def test_rows_come_back_from_another_process_view(tmp_path):
    encoder = Encoder()
    _, seen = fill(Shards(tmp_path), encoder)
    assert encoder.asked == list(range(10)) and seen[-1] == (10, 10)
    again, second = Shards(tmp_path), Encoder()
    fill(again, second)
    assert second.asked == [] and values(again) == list(range(10))
    assert torch.equal(again.row(KEYS[7])["x"], torch.full((2, 3), 7.0))
    assert len(list(tmp_path.glob("*.safetensors"))) == 3


def test_a_killed_fill_goes_on_where_it_was(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fill(Shards(tmp_path), Encoder(killed_at=6))
    encoder, shards = Encoder(), Shards(tmp_path)
    fill(shards, encoder)
    assert encoder.asked == list(range(4, 10)) and values(shards) == list(range(10))


def test_shares_make_the_same_shards_as_one_process(tmp_path):
    fill(Shards(tmp_path / "one"), Encoder())
    for index in (1, 0):
        fill(Shards(tmp_path / "two"), Encoder(), share=Share(index, 2))
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two


def test_what_cannot_be_encoded_is_missing_and_asked_for_again(tmp_path):
    shards, encoder = Shards(tmp_path), Encoder()
    fill(shards, Encoder(without=[2, 8, 9]))
    assert values(shards) == [0, 1, 3, 4, 5, 6, 7]
    fill(shards, encoder)
    assert encoder.asked == [2, 8, 9] and values(shards) == list(range(10))


@pytest.mark.parametrize("seed", range(20))
def test_every_flipped_bit_is_noticed(tmp_path, seed):
    fill(Shards(tmp_path), Encoder())
    path = random.Random(seed).choice(sorted(tmp_path.iterdir()))
    data = bytearray(path.read_bytes())
    place = random.Random(seed).randrange(8 * len(data))
    data[place // 8] ^= 1 << place % 8
    path.write_bytes(data)
    assert not is_intact(path)
    shards, encoder = Shards(tmp_path), Encoder()
    said, _ = fill(shards, encoder)
    assert said == [f"{path}: damaged, encoded again"]
    assert 0 < len(encoder.asked) <= 4 and values(shards) == list(range(10))


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_shard_cut_short_is_noticed(tmp_path, length):
    fill(Shards(tmp_path), Encoder())
    path = sorted(tmp_path.iterdir())[0]
    path.write_bytes(path.read_bytes()[:length])
    said, _ = fill(Shards(tmp_path), Encoder())
    assert said == [f"{path}: damaged, encoded again"]
    assert all(is_intact(p) for p in tmp_path.iterdir())


def test_what_a_kill_left_is_swept_when_it_is_old(tmp_path):
    old, new = tmp_path / ".a.safetensors.1.tmp", tmp_path / ".b.safetensors.2.tmp"
    old.touch()
    new.touch()
    os.utime(old, (1, 1))
    fill(Shards(tmp_path), Encoder())
    assert not old.exists() and new.exists()
