"""The scene as it is seen: frames with a real shutter."""

from __future__ import annotations

import math

import numpy as np

from pavdit.clip import ClipSpec
from pavdit.data.bounce.scene import FLOOR_HEIGHT
from pavdit.data.bounce.script import Scene

SHUTTER = 0.5
"""Share of a frame's time, from its beginning, over which light is gathered."""
MIN_EXPOSURES, MAX_EXPOSURES = 4, 16
EXPOSURE_PIXELS = 2
"""Motion between two exposures from which a blur would look like separate balls."""


def _background(scene: Scene, spec: ClipSpec) -> np.ndarray:
    """``(H, W, 3)`` float32: a wall and a lighter floor, whose edge is antialiased."""
    pixel = scene.height / spec.height
    y = scene.height - (np.arange(spec.height) + 0.5) * pixel
    floor = np.clip((FLOOR_HEIGHT - y) / pixel + 0.5, 0, 1)[:, None, None]
    rows = (scene.background * (1 + 0.8 * floor)).astype(np.float32)  # (H, 1, 3)
    return np.broadcast_to(rows, (spec.height, spec.width, 3))


def _exposure_times(scene: Scene, spec: ClipSpec) -> np.ndarray:
    """``(T, exposures)`` seconds: midpoints of equal parts of each frame's shutter time."""
    fps = float(spec.fps)
    start = np.arange(spec.num_frames)[:, None] / fps
    x, y, _ = scene.action.state(start + np.array([0.0, SHUTTER / fps]))
    motion = np.hypot(np.diff(x), np.diff(y)).max() * spec.height / scene.height
    exposures = min(MAX_EXPOSURES, max(MIN_EXPOSURES, math.ceil(motion / EXPOSURE_PIXELS)))
    return start + (np.arange(exposures) + 0.5) / exposures * SHUTTER / fps


def _ball(
    scene: Scene, spec: ClipSpec, times: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The ball at every exposure, in a square window of P x P pixels around it.

    Returns:
        Top row and left column of each window ``(T, exposures)``, which may lie outside the frame; cover
        and light ``(T, exposures, P, P)``, 0 to 1.
    """
    scale = spec.height / scene.height  # pixels per box unit, the same in both directions
    x, y, brightness = scene.action.state(times)
    reach = scene.radius * scale + 1
    size = math.ceil(2 * reach) + 1
    column, row = x * scale, spec.height - y * scale
    left, top = np.floor(column - reach).astype(int), np.floor(row - reach).astype(int)
    dx = (((left - column)[..., None] + np.arange(size) + 0.5) / scale).astype(np.float32)[..., None, :]
    dy = (((top - row)[..., None] + np.arange(size) + 0.5) / scale).astype(np.float32)[..., :, None]
    cover = np.clip((scene.radius - np.sqrt(dx**2 + dy**2)) * scale + 0.5, 0, 1)
    # Lit from the upper left: darker with the distance from a point between centre and rim.
    highlight = 0.3 * scene.radius
    shade = np.minimum(1, np.sqrt((dx + highlight) ** 2 + (dy + highlight) ** 2) / scene.radius)
    light = cover * (1 - 0.35 * shade) * brightness[..., None, None].astype(np.float32)
    return top, left, cover, light


def render_frames(scene: Scene, spec: ClipSpec) -> np.ndarray:
    """Draw every frame as the mean of what is seen while the shutter is open, ``[k, k + SHUTTER) / fps``.

    Returns:
        ``(T, H, W, 3)`` uint8.
    """
    back, colour = _background(scene, spec), scene.colour.astype(np.float32)
    top, left, cover, light = _ball(scene, spec, _exposure_times(scene, spec))
    exposures, size = cover.shape[1:3]
    frames = np.repeat((back * 255 + 0.5).astype(np.uint8)[None], spec.num_frames, axis=0)
    for k in range(spec.num_frames):
        # The windows of this frame's exposures, summed in the box that holds them all.
        row, column = top[k].min(), left[k].min()
        seen = np.zeros((2, top[k].max() - row + size, left[k].max() - column + size), np.float32)
        for j in range(exposures):
            i, m = top[k, j] - row, left[k, j] - column
            seen[0, i : i + size, m : m + size] += cover[k, j]
            seen[1, i : i + size, m : m + size] += light[k, j]
        inside = (
            seen[:, max(0, -row) : spec.height - row, max(0, -column) : spec.width - column, None] / exposures
        )
        i, m = max(0, row), max(0, column)
        region = (slice(i, i + inside.shape[1]), slice(m, m + inside.shape[2]))
        pixels = back[region] * (1 - inside[0]) + inside[1] * colour
        frames[k][region] = (pixels * 255 + 0.5).astype(np.uint8)
    return frames
