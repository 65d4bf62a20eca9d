"""Cached latents are those of the clips, under names that change with everything that made them."""

import shutil

import numpy as np
import pytest
import torch
from media_files import flat, write_media
from nano import nano

from pavdit.audio.mel import mel_images
from pavdit.clip import DataError
from pavdit.config import DataConfig
from pavdit.data import latent_cache as module
from pavdit.data.bounce import BounceClips
from pavdit.data.clips import open_clips
from pavdit.data.digests import FileDigests
from pavdit.data.folder import FolderClips
from pavdit.data.latent_cache import LatentCache
from pavdit.data.loader import collate
from pavdit.latents import PlaneLayout
from pavdit.mdsa.autoencoder import MDSA


@pytest.fixture(scope="module")
def mdsa():
    torch.manual_seed(0)
    return MDSA(nano()).eval()


@pytest.fixture
def folder(tmp_path):
    """Two files of 0.8 s, of two clips each, one with a caption."""
    for name, level in (("rain/a", 50), ("dog/b", 150)):
        path = tmp_path / "set" / f"{name}.mp4"
        path.parent.mkdir(parents=True)
        sound = np.random.default_rng(level).normal(0, 0.1, (1, 12800)).astype(np.float32)
        write_media(path, pictures=flat(level + 5 * np.arange(8), 16, 16), sound=sound)
    (tmp_path / "set" / "rain" / "a.txt").write_text("rain on a roof")
    return tmp_path / "set"


def clips_of(folder, **options):
    return FolderClips(DataConfig(kind="folder", path=folder, **options), nano().clip)


def encode(cache, clips, **options):
    said = []
    cache.encode(clips, say=said.append, progress=lambda done, total: None, **options)
    return said


def test_latents_are_those_of_the_clips_jointly_and_of_each_stream_alone(tmp_path, mdsa):
    config, clips = nano(), BounceClips(3, nano().clip)
    cache = LatentCache(tmp_path, mdsa, config, {})
    encode(cache, clips)
    latents, layout = cache.open(clips), PlaneLayout.choose(config.grid)
    batch = collate([clips[i] for i in range(3)])
    mel = mel_images(batch.wave, config.clip, config.mel)
    with torch.no_grad():
        video, audio = mdsa.encode(batch.video, None)[0].mode(), mdsa.encode(None, mel)[1].mode()
        both = [q.mode() for q in mdsa.encode(batch.video, mel)]
    assert torch.equal(latents.read([0, 1, 2], ["alone"] * 3), layout.stack(video, audio))
    assert torch.equal(latents.read([2, 0], ["joint"] * 2), layout.stack(*both)[[2, 0]])
    assert latents.labels == batch.labels and latents.captions == batch.captions


def test_mirrored_clips_are_encoded_mirrored(tmp_path, mdsa):
    config, clips = nano(), BounceClips(2, nano().clip)
    cache = LatentCache(tmp_path, mdsa, config, {})
    encode(cache, clips, mirrored=True)
    latents = cache.open(clips, mirrored=True)
    batch = collate([clips[1]])
    with torch.no_grad():
        q = mdsa.encode(batch.video.flip(-1), mel_images(batch.wave, config.clip, config.mel))
    want = cache.layout.stack(*(part.mode() for part in q))
    got = latents.read([1, 1], ["joint"] * 2, [True, False])
    torch.testing.assert_close(got[:1], want)
    assert not torch.equal(got[0], got[1])


def test_half_precision_takes_half_the_disk(tmp_path, mdsa):
    clips, caches = BounceClips(2, nano().clip), {}
    for dtype in ("float32", "float16"):
        caches[dtype] = cache = LatentCache(tmp_path, mdsa, nano(), {}, dtype)
        encode(cache, clips)
    full, half = (cache.open(clips).read([0, 1], ["joint"] * 2) for cache in caches.values())
    torch.testing.assert_close(half, full, rtol=2**-11, atol=2**-20)
    sizes = [sum(p.stat().st_size for p in c.shards.directory.iterdir()) for c in caches.values()]
    assert sizes[1] < 0.6 * sizes[0]


def test_what_is_cached_is_not_decoded_again_wherever_the_files_lie(folder, tmp_path, mdsa, monkeypatch):
    cache = LatentCache(tmp_path / "c", mdsa, nano(), {})
    encode(cache, clips_of(folder))
    latents = cache.open(clips_of(folder))
    assert len(latents) == 4 and latents.labels == ("dog", "dog", "rain", "rain")
    assert latents.captions == ("a video of dog",) * 2 + ("rain on a roof",) * 2
    monkeypatch.setattr("pavdit.data.folder.read_clip", None)
    moved = folder.rename(folder.with_name("moved"))
    again = LatentCache(tmp_path / "c", mdsa, nano(), {})
    encode(again, clips_of(moved))
    ways = ["alone"] * 4
    assert torch.equal(again.open(clips_of(moved)).read(range(4), ways), latents.read(range(4), ways))


def test_other_bytes_of_a_file_are_another_clip(folder, tmp_path, mdsa):
    cache = LatentCache(tmp_path / "c", mdsa, nano(), {})
    encode(cache, clips_of(folder))
    before = cache.open(clips_of(folder))
    shutil.copyfile(folder / "rain" / "a.mp4", folder / "dog" / "b.mp4")
    encode(cache, clips_of(folder))
    after = cache.open(clips_of(folder))
    assert after.keys[:2] == after.keys[2:] == before.keys[2:] != before.keys[:2]


@pytest.mark.parametrize("change", ["weights", "options", "dtype", "layout", "code"])
def test_whatever_makes_a_latent_names_it(tmp_path, mdsa, change, monkeypatch):
    config, options, dtype, other = nano(), {"resize": "crop"}, "float32", mdsa
    before = LatentCache(tmp_path, mdsa, config, options).shards.directory
    if change == "weights":
        other = MDSA(config)
        other.load_state_dict(mdsa.state_dict())
        next(other.parameters()).data.view(-1)[0] += 1e-3
    elif change == "options":
        options = {"resize": "mmdiffusion"}
    elif change == "dtype":
        dtype = "float16"
    elif change == "layout":
        config = nano(stdit=config.stdit.model_copy(update={"layout": "fold"}))
    else:
        monkeypatch.setattr(module, "reading_code", lambda: "other")
    assert (
        LatentCache(tmp_path, mdsa, nano(), {"resize": "crop"}).shards.directory == before or change == "code"
    )
    assert LatentCache(tmp_path, other, config, options, dtype).shards.directory != before


def test_damaged_files_end_the_work_or_are_left_out(folder, tmp_path, mdsa):
    path = folder / "dog" / "b.mp4"
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    data[start : start + 2000] = bytes(2000)
    path.write_bytes(data)
    cache = LatentCache(tmp_path / "c", mdsa, nano(), {})
    with pytest.raises(DataError, match="b.mp4"):
        encode(cache, clips_of(folder))
    kept = clips_of(folder, bad_files="skip")
    said = encode(cache, kept)
    latents = cache.open(kept)
    assert said and all(line.startswith("left out: ") and "b.mp4" in line for line in said)
    assert len(latents) == 4 - len(said) and latents.labels[-2:] == ("rain", "rain")


def test_held_out_clips_have_latents_of_their_own(folder, tmp_path, mdsa):
    train, held_out = open_clips(DataConfig(kind="folder", path=folder, held_out=2), nano().clip)
    cache = LatentCache(tmp_path / "c", mdsa, nano(), {})
    for part in (train, held_out):
        encode(cache, part)
    assert not set(cache.open(train).keys) & set(cache.open(held_out).keys)


def test_a_files_digest_is_computed_once_and_anew_when_it_changes(tmp_path, monkeypatch):
    file, reads = tmp_path / "a", []
    file.write_bytes(b"one")
    import pavdit.data.digests as digests

    record = digests.file_record
    monkeypatch.setattr(digests, "file_record", lambda path: reads.append(path) or record(path))
    monkeypatch.setattr(digests, "SETTLED_SECONDS", -1.0)
    known = FileDigests(tmp_path / "files.json")
    first = known.of([file, file])[file]
    known.save()
    assert FileDigests(tmp_path / "files.json").of([file])[file] == first and reads == [file]
    stamp = file.stat()
    file.write_bytes(b"two")
    import os

    os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))  # as some tools do
    assert FileDigests(tmp_path / "files.json").of([file])[file] != first and len(reads) == 2
    with pytest.raises(DataError, match="gone: want a file that can be read, got No such file"):
        known.of([tmp_path / "gone"])
