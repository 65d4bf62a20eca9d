"""Whether the index of an mp4 or mov file agrees with itself (ISO/IEC 14496-12, boxes below ``moov``).

A decoder plays whatever times an index states: a damaged one shifts picture against sound without an error.
But every time is stated twice, as a duration and as the sum of its parts, and every count three times.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

CONTAINERS = frozenset({b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts"})
LARGEST_INDEX_BYTES = 256 << 20
"""An index beyond this (hundreds of hours) is none."""
SLACK_SECONDS = Fraction(1, 1000)
"""Beside a tick of the movie's clock, to which muxers round."""


class _BrokenError(Exception):
    """The index contradicts itself; the message has what was wanted and what came."""


@dataclass
class _Track:
    """What the boxes of one track state; times in units of the clock that the box uses."""

    kind: bytes = b""
    header_duration: int = 0
    timescale: int = 0
    duration: int = 0
    edits: list[tuple[int, int]] = field(default_factory=list)
    durations: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    offsets: np.ndarray = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    runs: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.int64))
    num_samples: int = 0
    size: int = 0
    sizes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    chunks: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    num_descriptions: int = 0


def _children(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Boxes side by side as (type, start of what they hold, end)."""
    while start + 8 <= end:
        size, kind = int.from_bytes(data[start : start + 4], "big"), data[start + 4 : start + 8]
        head = 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        if size == 0:
            size = end - start
        if size < head or start + size > end:
            raise _BrokenError(f"want boxes that lie in their parents, got {kind!r} of {size} bytes")
        yield kind, start + head, start + size
        start += size


def _table(data: bytes, start: int, end: int, columns: int, kind: bytes) -> np.ndarray:
    """``(entries, columns)`` of a box that holds a count and 32-bit numbers."""
    count = int.from_bytes(data[start + 4 : start + 8], "big")
    if start + 8 + 4 * columns * count > end:
        raise _BrokenError(f"want {count} entries in {kind!r}, got {end - start - 8} bytes")
    return np.frombuffer(data, ">u4", count * columns, start + 8).reshape(count, columns).astype(np.int64)


def _clock(data: bytes, start: int) -> tuple[int, int]:
    """Timescale and duration of an mvhd or mdhd."""
    if data[start] == 1:
        return int.from_bytes(data[start + 20 : start + 24], "big"), int.from_bytes(
            data[start + 24 : start + 32], "big"
        )
    return int.from_bytes(data[start + 12 : start + 16], "big"), int.from_bytes(
        data[start + 16 : start + 20], "big"
    )


def _edits(data: bytes, start: int, end: int) -> list[tuple[int, int]]:
    """(duration by the movie's clock, start by the media's or -1) of each edit."""
    wide = 8 if data[start] == 1 else 4
    count = int.from_bytes(data[start + 4 : start + 8], "big")
    size = 2 * wide + 4
    if start + 8 + size * count > end:
        raise _BrokenError(f"want {count} entries in b'elst', got {end - start - 8} bytes")
    places = range(start + 8, start + 8 + size * count, size)
    return [
        (
            int.from_bytes(data[p : p + wide], "big"),
            int.from_bytes(data[p + wide : p + 2 * wide], "big", signed=True),
        )
        for p in places
    ]


def _read_track(data: bytes, start: int, end: int, track: _Track) -> None:
    for kind, a, b in _children(data, start, end):
        if kind in CONTAINERS:
            _read_track(data, a, b, track)
        elif kind == b"tkhd":
            wide = data[a] == 1
            track.header_duration = int.from_bytes(
                data[a + 28 : a + 36] if wide else data[a + 20 : a + 24], "big"
            )
        elif kind == b"mdhd":
            track.timescale, track.duration = _clock(data, a)
        elif kind == b"hdlr" and not track.kind:
            track.kind = data[a + 8 : a + 12]
        elif kind == b"elst":
            track.edits = _edits(data, a, b)
        elif kind == b"stts":
            track.durations = _table(data, a, b, 2, kind)
        elif kind == b"ctts":
            track.offsets = _table(data, a, b, 2, kind)
        elif kind == b"stsc":
            track.runs = _table(data, a, b, 3, kind)
        elif kind == b"stsd":
            track.num_descriptions = int.from_bytes(data[a + 4 : a + 8], "big")
        elif kind == b"stsz":
            track.size, track.num_samples = (int.from_bytes(data[p : p + 4], "big") for p in (a + 4, a + 8))
            if (
                not track.size
            ):  # else all are of this size, as samples of PCM are, of which there are millions
                track.sizes = _table(data, a + 4, b, 1, kind)[:, 0]
        elif kind == b"stz2":
            track.kind = kind  # sizes of a few bits: such a track is left to the decoder
        elif kind == b"stco":
            track.chunks = _table(data, a, b, 1, kind)[:, 0]
        elif kind == b"co64":
            halves = _table(data, a, b, 2, kind)
            track.chunks = halves[:, 0] * 2**32 + halves[:, 1]


def _counts(track: _Track) -> None:
    """Every table of a track is about the same samples."""
    counts = {"stts": int(track.durations[:, 0].sum())}
    if len(track.offsets):
        counts["ctts"] = int(track.offsets[:, 0].sum())
    counts["stsc"] = int(_samples_per_chunk(track).sum())
    for name, count in counts.items():
        if count != track.num_samples:
            raise _BrokenError(f"want {track.num_samples} samples in {name}, got {count}")


def _samples_per_chunk(track: _Track) -> np.ndarray:
    """``(chunks,)``."""
    first = np.append(track.runs[:, 0], len(track.chunks) + 1)
    descriptions = track.runs[:, 2]
    if (len(track.runs) and first[0] != 1) or (np.diff(first) <= 0).any():
        raise _BrokenError("want stsc entries in the order of their chunks, got another")
    if ((descriptions < 1) | (descriptions > track.num_descriptions)).any():
        raise _BrokenError(f"want one of {track.num_descriptions} sample descriptions, got another")
    return np.repeat(track.runs[:, 1], np.diff(first))


def _places(tracks: list[_Track], size_of_file: int) -> None:
    """Chunks lie in the file and do not overlap."""
    starts, ends = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for track in tracks:
        samples_before = np.append(0, np.cumsum(_samples_per_chunk(track)))
        if track.size:
            lengths = np.diff(samples_before) * track.size
        else:
            lengths = np.diff(np.append(0, np.cumsum(track.sizes))[samples_before])
        starts.append(track.chunks)
        ends.append(track.chunks + lengths)
    start, end = np.concatenate(starts), np.concatenate(ends)
    order = np.argsort(start, kind="stable")
    if (start[order][1:] < end[order][:-1]).any():
        raise _BrokenError("want chunks side by side, got two in one place")
    if len(end) and end.max() > size_of_file:
        raise _BrokenError(f"want a file of {end.max()} bytes, got {size_of_file}")


def _require_near(what: str, want: Fraction, got: Fraction, slack: Fraction) -> None:
    if abs(want - got) > slack:
        raise _BrokenError(f"want {what} of {float(want):.3f} s, got {float(got):.3f} s")


def _shown(track: _Track) -> tuple[np.ndarray, np.ndarray]:
    """When each sample is shown and how long, in the order of decoding, ``(samples,)`` ticks each."""
    length = np.repeat(track.durations[:, 1], track.durations[:, 0])
    # Signed: where it is not, offsets are far below the sign bit.
    offset = np.repeat(track.offsets[:, 1].astype(np.int32).astype(np.int64), track.offsets[:, 0])
    return np.cumsum(length) - length + offset, length


def _span(track: _Track) -> tuple[int, int, int]:
    """When the first sample is shown, when the next one is, and when the last one ends, in ticks."""
    if not len(track.offsets):
        return 0, int(track.durations[0, 1]), int((track.durations[:, 0] * track.durations[:, 1]).sum())
    start, length = _shown(track)
    first = int(start.argmin())
    return int(start[first]), int(start[first] + length[first]), int((start + length).max())


def _times(track: _Track, movie_scale: int) -> None:
    """Durations agree with the sum of the samples', with the edits' and with the track's."""
    if not track.timescale or not movie_scale:
        raise _BrokenError("want clocks that run, got one of 0 ticks a second")
    if not track.num_samples:
        return
    slack = SLACK_SECONDS + Fraction(1, movie_scale)
    samples = Fraction(int((track.durations[:, 0] * track.durations[:, 1]).sum()), track.timescale)
    last = Fraction(int(track.durations[-1, 1]), track.timescale)
    media, header = Fraction(track.duration, track.timescale), Fraction(track.header_duration, movie_scale)
    _require_near("samples", media, samples, slack + last)  # muxers differ in how long the last one lasts
    if not track.edits:
        _require_near("a track", media, header, slack)
        return
    begin, second, end_ticks = _span(track)
    end = Fraction(end_ticks, track.timescale)
    cuts = [
        (at, Fraction(n, movie_scale) + Fraction(at, track.timescale)) for n, at in track.edits if at >= 0
    ]
    for cut, edit_end in cuts:
        if edit_end > end + slack:
            raise _BrokenError(f"want edits within {float(end):.3f} s, got one to {float(edit_end):.3f} s")
        if track.kind == b"vide" and begin < cut < second:
            raise _BrokenError("want edits that begin with a picture, got one inside of the first")
    edits = Fraction(sum(n for n, _ in track.edits), movie_scale)
    # FFmpeg states the length of the whole where an edit cuts off the beginning.
    if abs(header - media) > slack or not cuts or abs(cuts[-1][1] - end) > slack + last:
        _require_near("edits", header, edits, slack)


def _even(track: _Track) -> None:
    """Where every picture is shown equally long, they are shown at equal distances."""
    if len(track.durations) == 1 and len(track.offsets):
        start, length = _shown(track)
        if len(start) > 1 and (np.diff(np.sort(start)) != length[0]).any():
            raise _BrokenError("want pictures at equal distances, as each is shown equally long, got others")


def contradiction(path: Path) -> str | None:
    """What in the index of an mp4 or mov file contradicts itself, as "want ..., got ..."; None: nothing does.

    Fragmented files and those without a ``moov`` are left to the decoder.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        data = _moov(path)
        if data is None:
            return None
        movie_scale, tracks = 0, []
        for kind, start, end in _children(data, 0, len(data)):
            if kind == b"mvex":
                return None
            if kind == b"mvhd":
                movie_scale, _ = _clock(data, start)
            if kind == b"trak":
                tracks.append(_Track())
                _read_track(data, start, end, tracks[-1])
        tracks = [track for track in tracks if track.kind in (b"vide", b"soun")]
        for track in tracks:
            _counts(track)
            _times(track, movie_scale)
            _even(track)
        _places(tracks, path.stat().st_size)
    except _BrokenError as broken:
        return str(broken)
    except (IndexError, ValueError, OverflowError):
        return "want a whole index, got boxes that are cut short"
    return None


def _moov(path: Path) -> bytes | None:
    """What the file's ``moov`` holds."""
    size_of_file = path.stat().st_size
    with path.open("rb") as file:
        place = 0
        while place + 8 <= size_of_file:
            file.seek(place)
            head = file.read(16)
            size, kind, offset = int.from_bytes(head[:4], "big"), head[4:8], 8
            if size == 1:
                size, offset = int.from_bytes(head[8:16], "big"), 16
            if size == 0:
                size = size_of_file - place
            if size < offset:
                return None
            if kind == b"moov":
                if size > LARGEST_INDEX_BYTES:
                    raise _BrokenError(
                        f"want an index below {LARGEST_INDEX_BYTES >> 20} MB, got {size >> 20} MB"
                    )
                file.seek(place + offset)
                return file.read(size - offset)
            place += size
    return None
