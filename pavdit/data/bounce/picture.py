"""The scene as it is seen: frames with a real shutter."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np

from pavdit.clip import ClipSpec
from pavdit.data.bounce.scene import Body, Scene

SHUTTER = 0.5
"""Share of a frame's time, from its beginning, over which light is gathered."""
MIN_EXPOSURES, MAX_EXPOSURES = 4, 16
EXPOSURE_PIXELS = 2
"""Motion between two exposures from which a blur would look like separate balls."""


def render_frames(scene: Scene, spec: ClipSpec) -> np.ndarray:
    """Draw every frame as the mean of what is seen while the shutter is open, ``[k, k + SHUTTER) / fps``.

    Returns:
        ``(T, H, W, 3)`` uint8.
    """
    back = scene.backdrop.paint(scene.width, scene.height, spec)
    frames = np.repeat((back * 255 + 0.5).astype(np.uint8)[None], spec.num_frames, axis=0)
    for body in scene.bodies:  # which never overlap
        colour = body.colour.astype(np.float32)
        top, left, seen = _seen(body, scene, spec)
        rows, columns = seen.shape[2:]
        for k in range(spec.num_frames):
            i, m = top[k], left[k]
            inside = seen[:, k, max(0, -i) : spec.height - i, max(0, -m) : spec.width - m, None]
            region = (slice(max(0, i), i + rows), slice(max(0, m), m + columns))
            pixels = back[region] * (1 - inside[0]) + inside[1] * colour
            frames[k][region] = (pixels * 255 + 0.5).astype(np.uint8)
    return frames


def _seen(body: Body, scene: Scene, spec: ClipSpec) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The object in every frame, in a window around all that it passes while the shutter is open.

    Returns:
        Top row and left column of each window ``(T,)``, which may lie outside the frame, and
        ``(2, T, rows, columns)`` cover and light, 0 to 1.
    """
    scale = spec.height / scene.height  # pixels per box unit, the same in both directions
    times, weights = _exposures(body, scale, spec)
    x, y, angle, light = body.motion.state(times)
    reach = body.reach * scale + 1
    column, row = x * scale, spec.height - y * scale
    left, top = (np.floor(c.min(axis=1) - reach).astype(int) for c in (column, row))
    columns, rows = (
        math.ceil((c.max(axis=1) - first).max() + reach) + 1 for c, first in ((column, left), (row, top))
    )
    dx = ((left[:, None] - column)[..., None] + np.arange(columns) + 0.5) / scale
    dy = ((row - top[:, None])[..., None] - np.arange(rows) - 0.5) / scale
    dx, dy = dx.astype(np.float32)[:, :, None, :], dy.astype(np.float32)[..., None]
    cover = np.clip(0.5 - scale * _distance(body, dx, dy, angle), 0, 1)  # (T, exposures, rows, columns)
    # Lit from the upper left: darker with the distance from a point between centre and rim.
    highlight = np.float32(0.3 * body.half_width)
    shade = np.clip(1 + _distance(body, dx + highlight, dy - highlight, angle) / body.half_width, 0, 1)
    lit = cover * (1 - 0.35 * shade)
    seen = [
        np.einsum("tenm,te->tnm", cover, weights),
        np.einsum("tenm,te->tnm", lit, weights * light.astype(np.float32)),
    ]
    return top, left, np.stack(seen)


def _exposures(body: Body, scale: float, spec: ClipSpec) -> tuple[np.ndarray, np.ndarray]:
    """When the object is looked at, and how much each look counts.

    The shutter time is cut at the object's events, and each piece evenly, so that a jump inside it counts
    from its very instant.

    Returns:
        ``(T, exposures)`` seconds and ``(T, exposures)`` float32 weights that sum to 1 in a frame.
    """
    frame = 1 / float(spec.fps)
    open_at = np.arange(spec.num_frames)[:, None] * frame
    x, y, _, _ = body.motion.state(open_at + np.array([0.0, SHUTTER * frame]))
    motion = np.hypot(np.diff(x), np.diff(y)).max() * scale
    count = min(MAX_EXPOSURES, max(MIN_EXPOSURES, math.ceil(motion / EXPOSURE_PIXELS)))
    times = open_at + (np.arange(count) + 0.5) / count * SHUTTER * frame
    weights = np.full(times.shape, 1 / count, np.float32)
    events = np.array([event.time_seconds for event in body.motion.events()])
    for k in np.unique((events // frame).astype(int)):
        begin, end = k * frame, (k + SHUTTER) * frame
        inside = events[(events > begin) & (events < end)][: count - 1]
        edges = [begin, *inside, end]
        counts = _shares(np.diff(edges), count)
        pieces = [
            a + (np.arange(n) + 0.5) / n * (b - a) for (a, b), n in zip(pairwise(edges), counts, strict=True)
        ]
        times[k] = np.concatenate(pieces)
        weights[k] = np.repeat(np.diff(edges) / (end - begin) / counts, counts)
    return times, weights


def _shares(lengths: np.ndarray, count: int) -> np.ndarray:
    """Whole numbers of at least 1 that sum to `count`, the longest pieces getting the most."""
    counts = np.ones(len(lengths), int)
    for _ in range(count - len(lengths)):
        counts[np.argmax(lengths / counts)] += 1
    return counts


def _distance(body: Body, dx: np.ndarray, dy: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """Signed distance to the object's outline, negative inside, at `dx` to the right of and `dy` above it."""
    if body.shape == "ball":
        return np.sqrt(dx**2 + dy**2) - np.float32(body.radius)
    if body.shape == "block":
        corner = np.float32(0.2 * body.radius)
        side_x, side_y = (np.abs(d) - (np.float32(body.radius) - corner) for d in (dx, dy))
        outside = np.sqrt(np.maximum(side_x, 0) ** 2 + np.maximum(side_y, 0) ** 2)
        return outside + np.minimum(np.maximum(side_x, side_y), 0) - corner
    # A hand: all that is as near as its half width to the line from the pivot to near the tip.
    length = np.float32(body.reach - body.half_width)
    sine, cosine = (f(angle).astype(np.float32)[..., None, None] for f in (np.sin, np.cos))
    along = np.clip(dx * sine + dy * cosine, 0, length)
    return np.sqrt((dx - along * sine) ** 2 + (dy - along * cosine) ** 2) - np.float32(body.half_width)
