"""When something happens in a picture: impacts, starts from rest, jumps and flashes, between frames as well.

Frame k is taken for the mean of what was to be seen over ``[k, k + SHUTTER) / fps``. The mean of a
straight or a parabolic way over the shutter time is the place at its middle (or next to it, always by as
much), so a centroid belongs to ``(k + SHUTTER / 2) / fps``; what changes while the shutter is open is seen in
proportion.
"""

from __future__ import annotations

import numpy as np

from pavdit.metrics.tracks import Track, find_tracks

SHUTTER = 0.5
STANDS = 0.015
"""Spread of an object that stands, over the picture's side; a clock's hand has at least 0.018."""
STILL_PIXELS = 0.2
"""A step of a centroid from frame to frame that is none."""
MIN_KINK_PIXELS = 0.7
MIN_KINK_SHARE = 0.02
"""Change of velocity, per frame and as a share of the picture's side, that is an impact."""
MAX_START_ERROR_PIXELS = 0.35
MIN_FLASH = 0.12
"""Rise of an object's light from frame to frame, over its brightest, that is a flash."""
REBOUND = 1.9
"""Change of velocity at an impact over the velocity, where the clip ends too early to see it."""
DECAYS_SECONDS = (0.04, 0.08, 0.12, 0.18, 0.3, 0.6, 10.0)
SLIDES_SECONDS = (*np.arange(0.2, 0.7, 0.025), 0.8, 1.0, 1.3, 2.0, 4.0, 100.0)
TURN = 0.6
"""Speed before a stop over that after it from which on the stop is a turn."""


def picture_events(frames: np.ndarray, fps: float) -> np.ndarray:
    """Times at which something happens to a coloured object.

    Args:
        frames: ``(T, 3, H, W)`` uint8.
        fps: frames per second.

    Returns:
        ``(N,)`` float64 seconds, ascending.

    Raises:
        ValueError: the frames have another shape or dtype, or there are fewer than 4.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.dtype != np.uint8 or len(frames) < 4:
        raise ValueError(
            f"picture_events: want frames (T,3,H,W) uint8, T >= 4, got {frames.shape} {frames.dtype}"
        )
    side = min(frames.shape[2:])
    times = [t for track in find_tracks(frames) for t in _track_events(track, 1 / fps, side)]
    return np.sort(np.array(times, np.float64))


def _track_events(track: Track, frame: float, side: int) -> list[float]:
    """Events of one object: it flashes where it stands, jumps, or moves."""
    least = max(MIN_KINK_PIXELS, MIN_KINK_SHARE * side)
    steps = np.hypot(np.diff(track.x), np.diff(track.y))
    if track.spread < STANDS * side:
        return _flashes(track.light, frame)
    runs = _runs(steps > STILL_PIXELS)
    if all(end - begin <= 2 for begin, end in runs):
        return [
            _jump(track, begin, end, frame)
            for begin, end in runs
            if steps[begin:end].max() > 2 * STILL_PIXELS
        ]
    starts, settled = _starts(track.x, frame, least)
    times = sorted(starts + _kinks(track.x, settled, 0.0, frame, least) + _falls(track.y, frame, least))
    return [t for i, t in enumerate(times) if i == 0 or t - times[i - 1] > 0.6 * frame]


def _runs(flags: np.ndarray) -> list[tuple[int, int]]:
    """Stretches ``[begin, end)`` in which the flag is set."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flags.astype(int), [0]))))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _jump(track: Track, begin: int, end: int, frame: float) -> float:
    """A jump between two frames: in one between them, which shows both places, or unseen."""
    if end - begin == 1:
        return (begin + 0.5 * (1 + SHUTTER)) * frame
    way = np.array([track.x[end] - track.x[begin], track.y[end] - track.y[begin]])
    part = np.array([track.x[begin + 1] - track.x[begin], track.y[begin + 1] - track.y[begin]])
    after = float(np.clip(part @ way / max(way @ way, 1e-9), 0, 1))
    return (begin + 1 + SHUTTER * (1 - after)) * frame


def _flashes(light: np.ndarray, frame: float) -> list[float]:
    """Rises of the light, each fitted by a jump that decays; equally good instants are averaged."""
    rises = _runs(np.diff(light) > MIN_FLASH)
    found = []
    for i, (before, _) in enumerate(rises):
        last = min(before + 5, rises[i + 1][0] + 1 if i + 1 < len(rises) else len(light))
        seen = light[before + 1 : last] - light.min()
        opens = np.arange(before + 1, last) * frame
        times = np.linspace(before + SHUTTER, before + 1 + SHUTTER, 60, endpoint=False)[:, None, None] * frame
        decay = np.array(DECAYS_SECONDS)[:, None]
        since, until = np.maximum(opens - times, 0), np.maximum(opens + SHUTTER * frame - times, 0)
        shape = (np.exp(-since / decay) - np.exp(-until / decay)) * decay / (SHUTTER * frame)
        found.append(_mean_time(times[:, 0, 0], shape, seen, 0.02))
    return found


def _mean_time(times: np.ndarray, shape: np.ndarray, seen: np.ndarray, sigma: float) -> float:
    """The mean of `times` by how well ``amplitude * shape`` fits what is seen, at the best of each time.

    Args:
        times: ``(N,)``.
        shape: ``(N, K, frames)`` for K values of a second parameter.
        seen: ``(frames,)``.
        sigma: what `seen` may be off by.
    """
    amplitude = (shape @ seen) / np.maximum((shape**2).sum(-1), 1e-12)
    error = ((amplitude[..., None] * shape - seen) ** 2).sum(-1).min(axis=1)
    weight = np.exp(-(error - error.min()) / (2 * sigma**2))
    return float(weight @ times / weight.sum())


def _starts(place: np.ndarray, frame: float, least: float) -> tuple[list[float], int]:
    """Starts from rest: each is fitted by a way that friction ends, over as many frames as that explains.

    Returns:
        The times, and the frame up to which the way is explained by them.
    """
    steps = np.abs(np.diff(place))
    found, settled = [], 0
    runs = _runs(steps > STILL_PIXELS)
    for i, (begin, end) in enumerate(runs):
        turns = i > 0 and steps[runs[i - 1][1] - 1] > TURN * steps[begin : begin + 2].max()
        if begin == 0 or turns or np.ptp(place[begin : end + 1]) < least:
            continue
        last = end
        while True:
            time, error = _fit_start(place[: last + 1], begin, frame)
            if error < MAX_START_ERROR_PIXELS or last <= begin + 3:
                break
            last -= 1
        found.append(time)
        # A turn at a wall begins as a stop does: only one that lasts is explained.
        rests = last == end and (i + 1 == len(runs) or runs[i + 1][0] > end + 1)
        settled = last if rests else last - 1
    return found, settled


def _fit_start(place: np.ndarray, begin: int, frame: float) -> tuple[float, float]:
    """Time of a start after frame `begin`, and the largest error of the fit in pixels."""
    seen = place[begin:] - place[max(0, begin - 2) : begin + 1].mean()
    times = np.linspace(begin - 0.5, begin + 1 + SHUTTER, 100)[:, None, None, None] * frame
    slide = np.array(SLIDES_SECONDS)[:, None, None]
    looks = (np.arange(begin, begin + len(seen))[:, None] + (np.arange(4) + 0.5) / 4 * SHUTTER) * frame
    u = np.clip(looks - times, 0, slide)
    shape = (u - u**2 / (2 * slide)).mean(-1)  # (times, slides, frames)
    amplitude = (shape @ seen) / np.maximum((shape**2).sum(-1), 1e-12)
    error = np.abs(amplitude[..., None] * shape - seen).max(-1).min()
    return _mean_time(times[:, 0, 0, 0], shape, seen, 0.1), float(error)


def _falls(place: np.ndarray, frame: float, least: float) -> list[float]:
    """Impacts on a floor: kinks upwards of a height that is free fall otherwise."""
    if np.ptp(place) < 2 * least:
        return []
    bend = np.diff(place, 2)
    lowest = np.sort(bend)[: max(2, len(bend) // 3)]
    return _kinks(place, 0, max(0.0, -float(np.median(lowest))), frame, least)


def _kinks(place: np.ndarray, settled: int, fall: float, frame: float, least: float) -> list[float]:
    """Sudden changes of velocity of a way that is straight, or falls by `fall` pixels per frame squared.

    A kink at t bends the way at the frames next to it, and the centroid of that bend is t: the shutter and
    the triangle of the second difference are symmetric.

    Args:
        place: ``(T,)`` pixels.
        settled: the frame up to which the way is explained.
        fall: free fall, upwards kinks alone; 0: kinks of either sign.
        frame: seconds.
        least: pixels per frame.
    """
    steps = np.diff(place)
    still = np.abs(steps) < STILL_PIXELS
    # What lies on the floor does not fall; at the frame after the impact it fell for part of the time.
    free = np.where(still[1:], np.where(still[:-1], 0.0, 0.3), 1.0)
    bend = np.diff(place, 2) + fall * free
    bend[: max(0, settled - 1)] = 0
    if fall > 0:
        bend = bend.clip(0, None)
    found = []
    last = len(bend) - 1
    for _ in range(len(bend)):
        pairs = bend[:-1] + bend[1:]
        j = int(np.abs(pairs).argmax())
        if abs(pairs[j]) < least:
            break
        near = slice(max(0, j - 1), j + 3)
        part = (bend[near] * np.sign(pairs[j])).clip(0, None)
        middle = float(part @ np.arange(len(bend))[near] / part.sum())
        bend[near] = 0
        at_end, at_begin = middle > last - 0.5, middle < 0.5
        if at_end or at_begin:  # the bend goes on beyond the clip
            speed = steps[last - 1] - fall if at_end else steps[2] + fall
            whole = REBOUND * abs(speed)
            missing = 1 - min(1.0, float(part.sum()) / max(whole, 1e-9))
            middle = last + missing if at_end else -missing
        found.append((middle + 1 + SHUTTER / 2) * frame)
    return found
