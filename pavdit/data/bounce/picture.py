"""The scene as it is seen: frames with a real shutter."""

from __future__ import annotations

import math

import numpy as np

from pavdit.clip import ClipSpec
from pavdit.data.bounce.scene import FLOOR_HEIGHT
from pavdit.data.bounce.script import Scene

SHUTTER = 0.5
"""Share of a frame's time, from its beginning, over which light is gathered."""
MIN_EXPOSURES = 4
FASTEST = 5.0
"""Box units per second that no object exceeds; sets how many exposures keep the blur smooth."""


def _background(scene: Scene, spec: ClipSpec, y: np.ndarray) -> np.ndarray:
    """``(H, W, 3)``: a wall and a lighter floor, whose edge is antialiased."""
    pixel = scene.height / spec.height
    floor = np.clip((FLOOR_HEIGHT - y) / pixel + 0.5, 0, 1)[:, None, None]
    return np.broadcast_to(scene.background * (1 + 0.8 * floor), (spec.height, spec.width, 3))


def render_frames(scene: Scene, spec: ClipSpec) -> np.ndarray:
    """Draw every frame as the mean of what is seen while the shutter is open.

    Frame k gathers light over ``[k, k + SHUTTER) / fps``, at the midpoints of equal parts.

    Returns:
        ``(T, H, W, 3)`` uint8.
    """
    scale = spec.height / scene.height  # pixels per box unit, the same in both directions
    blur_pixels = FASTEST * scale * SHUTTER / float(spec.fps)
    exposures = max(MIN_EXPOSURES, min(16, math.ceil(blur_pixels / 4)))
    offsets = (np.arange(exposures) + 0.5) / exposures * SHUTTER
    t = (np.arange(spec.num_frames)[:, None] + offsets) / float(spec.fps)  # (T, exposures)
    x, y, brightness = scene.action.state(t)

    # Only a square window around the ball is drawn: its corner in whole pixels, then (T, exposures, P) coordinates.
    reach = scene.radius * scale + 1
    size = math.ceil(2 * reach) + 1
    column, row = x * scale, spec.height - y * scale
    left, top = np.floor(column - reach).astype(int), np.floor(row - reach).astype(int)
    dx = ((left[..., None] + np.arange(size) + 0.5 - column[..., None]) / scale).astype(np.float32)
    dy = ((top[..., None] + np.arange(size) + 0.5 - row[..., None]) / scale).astype(np.float32)
    distance = np.sqrt(dx[..., None, :] ** 2 + dy[..., :, None] ** 2)  # (T, exposures, P, P)
    cover = np.clip((scene.radius - distance) * scale + 0.5, 0, 1)
    # Lit from the upper left: darker with the distance from a point between centre and rim.
    lit = np.sqrt((dx[..., None, :] + 0.3 * scene.radius) ** 2 + (dy[..., :, None] + 0.3 * scene.radius) ** 2)
    light = (
        cover
        * (1 - 0.35 * np.minimum(1, lit / scene.radius))
        * brightness[..., None, None].astype(np.float32)
    )

    # Sum cover and light over the exposures on a canvas with a border, in which windows that leave the frame end.
    canvas = np.zeros((2, spec.num_frames, spec.height + 2 * size, spec.width + 2 * size), np.float32)
    for k in range(spec.num_frames):
        for j in range(exposures):
            i, m = top[k, j] + size, left[k, j] + size
            canvas[0, k, i : i + size, m : m + size] += cover[k, j]
            canvas[1, k, i : i + size, m : m + size] += light[k, j]
    cover_sum, light_sum = canvas[:, :, size:-size, size:-size, None] / exposures

    rows = (spec.height - np.arange(spec.height) - 0.5) / scale
    back = _background(scene, spec, rows).astype(np.float32)
    frames = back * (1 - cover_sum) + light_sum * scene.colour.astype(np.float32)
    return (frames * 255 + 0.5).astype(np.uint8)
