"""Damage mp4 files in many ways and see what becomes of each: ``python -m benchmarks.faults.mutated_media``.

Every mutant goes through the check (`inspect` and `judge`) and the loader (`FolderClips`, every clip) in
worker processes. What it *really* holds is told by a lenient decode by PyAV alone, beside the intact file's:
the same (within a millisecond); only other values of pixels or samples under the same stamps, of which no
container tells; or another structure (frames, stamps, length), which the check must report. Mutants whose
other structure is reported and that the loader reads nevertheless are counted apart. A crash or a hang
anywhere is a failure.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

from pavdit.clip import ClipSpec, DataError
from pavdit.config import DataConfig
from pavdit.data.folder import FolderClips
from pavdit.data.inspect import inspect
from pavdit.data.judge import Limits, judge
from pavdit.data.workers import Lost, each

SPEC = ClipSpec(num_frames=8, height=32, width=32)
SECONDS = 60.0
CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf"}
Mutation = Callable[[bytearray, random.Random], None]


# Intact files


def _encode(
    path: Path, fps: Fraction, sample_rate: int, channels: int, x264: dict[str, str], late: Fraction
) -> Path:
    """Two seconds of moving waves and a chirp; `late` is when the picture begins."""
    t = np.arange(round(2 * sample_rate)) / sample_rate
    wave = np.repeat(
        (0.4 * np.sin(2 * np.pi * (300 + 400 * t) * t))[None].astype(np.float32), channels, axis=0
    )
    layout = "mono" if channels == 1 else "stereo"
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        video = container.add_stream("libx264", rate=fps, options=x264)
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        video.codec_context.time_base = Fraction(1, 90000)
        video.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=sample_rate, layout=layout)
        y, x = np.mgrid[:48, :64]
        for k in range(round(2 * fps)):
            levels = [128 + 90 * np.sin((x + c * y) / 7 + 0.5 * k) for c in range(3)]
            frame = av.VideoFrame.from_ndarray(np.stack(levels, -1).astype(np.uint8), format="rgb24")
            frame.time_base, frame.pts = Fraction(1, 90000), round((late + k / fps) * 90000)
            frame.duration = round(90000 / fps)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(wave, format="fltp", layout=layout)
        sound.sample_rate, sound.pts, sound.time_base = sample_rate, 0, Fraction(1, sample_rate)
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
    return path


def intact_files(folder: Path) -> list[Path]:
    """Files that differ in what containers can differ in: B-frames, rates, channels, offsets."""
    return [
        _encode(folder / "a.mp4", Fraction(10), 16000, 1, {"bf": "0", "g": "10"}, Fraction(0)),
        _encode(folder / "b.mp4", Fraction(30000, 1001), 44100, 2, {"bf": "3", "g": "30"}, Fraction(0)),
        _encode(folder / "c.mp4", Fraction(25), 16000, 1, {"bf": "2", "g": "50"}, Fraction(69, 1000)),
    ]


# Boxes


def boxes(
    data: bytes | bytearray, start: int = 0, end: int | None = None
) -> Iterator[tuple[bytes, int, int]]:
    """Every box of a part of a file as (type, start, end), parents before children."""
    end = len(data) if end is None else end
    while start + 8 <= end:
        size = int.from_bytes(data[start : start + 4], "big")
        if size < 8 or start + size > end:
            return
        kind = bytes(data[start + 4 : start + 8])
        yield kind, start, start + size
        if kind in CONTAINERS:
            yield from boxes(data, start + 8, start + size)
        start += size


def find(data: bytearray, *kinds: bytes) -> list[tuple[bytes, int, int]]:
    """All boxes of the given types."""
    return [box for box in boxes(data) if box[0] in kinds]


# Ways to damage a file


def flip_picture_or_sound_bits(data: bytearray, rng: random.Random) -> None:
    [(_, start, end)] = find(data, b"mdat")
    for _ in range(rng.choice((1, 5, 50))):
        data[rng.randrange(start + 8, end)] ^= 1 << rng.randrange(8)


def flip_index_bits(data: bytearray, rng: random.Random) -> None:
    [(_, start, end)] = find(data, b"moov")
    for _ in range(rng.choice((1, 3, 10))):
        data[rng.randrange(start + 8, end)] ^= 1 << rng.randrange(8)


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(8, len(data)) :]


def zero_a_range(data: bytearray, rng: random.Random) -> None:
    length = rng.choice((16, 256, 4096))
    start = rng.randrange(0, max(1, len(data) - length))
    data[start : start + length] = bytes(min(length, len(data) - start))


def splice_boxes(data: bytearray, rng: random.Random) -> None:
    """Two boxes change places, or one is deleted or doubled; sizes of parents stay as they were."""
    inner = [box for box in boxes(data) if box[0] not in (b"mdat", b"moov")]
    (_, a, b), (_, c, d) = sorted(rng.sample(inner, 2), key=lambda box: box[1])
    way = rng.choice(("swap", "delete", "double"))
    if way == "swap" and b <= c:
        data[a:d] = data[c:d] + data[b:c] + data[a:b]
    elif way == "delete":
        del data[a:b]
    else:
        data[b:b] = data[a:b]


def swap_streams(data: bytearray, rng: random.Random) -> None:
    """A table of the picture's track against the sound's."""
    kind = rng.choice((b"stsd", b"stts", b"stsz", b"stco", b"stsc", b"hdlr", b"mdhd", b"tkhd"))
    found = find(data, kind)
    (_, a, b), (_, c, d) = found[0], found[1]
    data[a:d] = data[c:d] + data[b:c] + data[a:b]


def edit_times(data: bytearray, rng: random.Random) -> None:
    """Another timescale, duration, edit or sample duration: one number of one box."""
    kind, start, _ = rng.choice(find(data, b"mvhd", b"mdhd", b"tkhd", b"elst", b"stts"))
    fields = {b"mvhd": (20, 24), b"mdhd": (20, 24), b"tkhd": (28,), b"elst": (16, 20), b"stts": (16, 20)}[
        kind
    ]
    at = start + rng.choice(fields)
    value = struct.unpack(">I", data[at : at + 4])[0]
    changed = rng.choice(
        (value // 2, value * 2, value + max(1, value // 10), value - value // 10, value + 1, 0)
    )
    data[at : at + 4] = struct.pack(">I", changed & 0xFFFFFFFF)


MUTATIONS: tuple[Mutation, ...] = (
    flip_picture_or_sound_bits,
    flip_index_bits,
    truncate,
    zero_a_range,
    splice_boxes,
    swap_streams,
    edit_times,
)


# What becomes of a mutant


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def lenient(path: Path) -> dict[str, Any]:
    """Structure and values by PyAV alone, without strictness; ``error`` where it raises."""
    structure: list[Any] = []
    values: list[str] = []
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                structure.append((float(frame.time), frame.width, frame.height, frame.rotation))
                values.append(_digest(frame.to_ndarray(format="gray")))
        with av.open(str(path)) as container:
            for frame in container.decode(audio=0):
                structure.append(
                    (float(frame.time), frame.samples, frame.sample_rate, len(frame.layout.channels))
                )
                values.append(_digest(frame.to_ndarray()))
    except Exception as error:
        return {"error": type(error).__name__}
    return {"structure": structure, "values": values}


def examine(path: Path) -> dict[str, Any]:
    """Everything about a file that the verdict needs; runs in a worker."""
    findings = [f"{f.reason}: {f.detail}" for f in judge(inspect(path), Limits(min_seconds=0.8))]
    clips: list[str] | None = []
    try:
        loader = FolderClips(DataConfig(kind="folder", path=path.parent), SPEC)
        for index in range(len(loader)):
            clip = loader.read(index).require(SPEC)
            clips.append(clip.name + _digest(clip.frames.numpy()) + _digest(clip.wave.numpy()))
    except DataError:
        clips = None
    return {"truth": lenient(path), "findings": findings, "clips": clips}


def same_structure(one: list[Any], other: list[Any]) -> bool:
    """Whether two decodes have the same frames at the same times, within a millisecond."""
    return len(one) == len(other) and all(
        abs(a[0] - b[0]) < 0.001 and a[1:] == b[1:] for a, b in zip(one, other, strict=True)
    )


def verdict(want: dict[str, Any], got: dict[str, Any]) -> str:
    """A few words for a mutant beside its intact file; those that begin with MISSED are failures."""
    truth, reported = got["truth"], bool(got["findings"])
    if "error" in truth:
        return "does not decode: reported" if reported else "MISSED: does not decode, not reported"
    if same_structure(truth["structure"], want["truth"]["structure"]):
        word = "decodes the same" if truth["values"] == want["truth"]["values"] else "only other values"
        return word + (", reported" if reported else "")
    if not reported:
        return "MISSED by the check: another structure"
    if got["clips"] is not None and got["clips"] != want["clips"]:
        return "another structure: reported, read by the loader"
    return "another structure: reported"


def run(count: int, seed: int, num_workers: int, folder: Path) -> list[dict[str, Any]]:
    """Make `count` mutants below `folder` and examine them; one record each."""
    (folder / "intact").mkdir()
    sources = intact_files(folder / "intact")
    intact = []
    for number, path in enumerate(sources):
        home = folder / f"intact-{number}"
        home.mkdir()
        (home / "clip.mp4").write_bytes(path.read_bytes())
        intact.append(home / "clip.mp4")
    records, mutants = [], []
    for number in range(count):
        rng = random.Random(f"{seed}-{number}")
        mutation = MUTATIONS[number % len(MUTATIONS)]
        source = number // len(MUTATIONS) % len(sources)
        data = bytearray(sources[source].read_bytes())
        mutation(data, rng)
        home = folder / f"{number:04d}"
        home.mkdir()
        (home / "clip.mp4").write_bytes(data)
        mutants.append(home / "clip.mp4")
        records.append(
            {"number": number, "mutation": mutation.__name__, "source": sources[source].name, "from": source}
        )
    results = dict(each(examine, [*intact, *mutants], num_workers=num_workers, seconds=lambda _: SECONDS))
    for number, _ in enumerate(intact):
        result = results[number]
        if isinstance(result, Lost) or result["findings"] or result["clips"] is None:
            raise SystemExit(f"intact file {number}: {result}")
    for record in records:
        result = results[len(intact) + record["number"]]
        if isinstance(result, Lost):
            record["verdict"] = f"MISSED: {result.reason}"
        else:
            record["verdict"] = verdict(results[record["from"]], result)
            record["findings"] = result["findings"]
            record["loader"] = "refused" if result["clips"] is None else "read"
    return records


def main() -> int:
    """Print a table of verdicts; exit code 1 where one is a failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write all records here")
    parser.add_argument("--keep", type=Path, help="folder for the mutants")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        records = run(arguments.count, arguments.seed, arguments.workers, folder)
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")
    for name, total in Counter((r["mutation"], r["verdict"]) for r in records).most_common():
        print(f"{total:5}  {name[0]:28} {name[1]}")
    missed = [record for record in records if record["verdict"].startswith("MISSED")]
    for record in missed:
        print(record)
    print(f"{len(records)} mutants, seed {arguments.seed}: {len(missed)} missed")
    for name, total in Counter(r["verdict"] for r in records).most_common():
        print(f"{total:5}  {name}")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
