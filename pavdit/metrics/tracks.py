"""Where coloured objects are in each frame: found by saturation, told apart by hue."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

MIN_CHROMA = 0.07
"""Of 1; backgrounds have less."""
NOISE_SIGMAS = 4.5
HUE_BINS = 36
HUE_REACH = math.radians(28)
MAX_OBJECTS = 2
MIN_SHARE = 0.04
"""Of all colour that a further hue must have to be an object."""


@dataclass(frozen=True, slots=True)
class Track:
    """An object through a clip.

    Attributes:
        x: ``(T,)`` of the centroid, pixels from the left.
        y: ``(T,)``, pixels from the bottom.
        light: ``(T,)``, the sum of its colour wherever it was in any frame, 1 in the brightest one.
        hue: radians, as `hue_of` says it of a colour.
    """

    x: np.ndarray
    y: np.ndarray
    light: np.ndarray
    hue: float

    @property
    def spread(self) -> float:
        """How far from its mean place it is, root mean square in pixels; a bright sight counts more.

        The place of a dim object is uncertain, so that one which flashes where it stands seems to move.
        """
        weight = self.light.clip(0) ** 2
        weight = weight / weight.sum()
        return math.sqrt(sum(float(weight @ (p - weight @ p) ** 2) for p in (self.x, self.y)))


def opponent(colour: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Red against green and blue, and green against blue, of colours ``(3, ...)``: grey is the origin."""
    red, green, blue = colour
    return red - 0.5 * (green + blue), (green - blue) * np.float32(math.sqrt(0.75))


def hue_of(colour: np.ndarray) -> float:
    """Direction of a colour ``(3,)`` from grey, radians; 0 is red."""
    across, along = opponent(colour)
    return float(np.arctan2(along, across))


def find_tracks(frames: np.ndarray) -> list[Track]:
    """Track the objects of up to two hues.

    A pixel's chroma is a vector in the plane of opponent colours, which is linear in how much of the pixel
    an object covers and for how long: so centroids are exact to a small part of a pixel, and a frame that
    saw an object at two places lies between them as it should.

    Args:
        frames: ``(T, 3, H, W)`` uint8.

    Returns:
        The object of most colour first; none where nothing is coloured.
    """
    across, along = opponent(np.stack([_blurred(frames[:, c].astype(np.float32) / 255) for c in range(3)]))
    across, along = across - np.median(across), along - np.median(along)
    chroma = np.sqrt(across**2 + along**2)  # (T, H, W)
    height, width = chroma.shape[1:]
    least = max(MIN_CHROMA, NOISE_SIGMAS * float(np.median(chroma)) / 1.18)  # of a Rayleigh distribution
    where = np.nonzero(chroma > least)
    if not len(where[0]):
        return []
    strength, hue = chroma[where], np.arctan2(along[where], across[where])
    found: list[Track] = []
    total = strength.sum()
    left = np.ones(len(hue), bool)
    while len(found) < MAX_OBJECTS and strength[left].sum() > (MIN_SHARE * total if found else 0):
        centre = _commonest(hue[left], strength[left])
        near = left & (np.abs(np.angle(np.exp(1j * (hue - centre)))) < HUE_REACH)
        left &= np.abs(np.angle(np.exp(1j * (hue - centre)))) > 1.2 * HUE_REACH
        place = tuple(axis[near] for axis in where)
        centroids = _centroids(place, strength[near] - 0.5 * least, chroma.shape)
        if centroids is not None:
            rows, columns = np.nonzero(
                np.bincount(place[1] * width + place[2], minlength=height * width).reshape(height, width)
            )
            own = across[:, rows, columns] * math.cos(centre) + along[:, rows, columns] * math.sin(centre)
            light = own.sum(axis=1)
            found.append(Track(*centroids, light / light.max(), centre))
    return found


def _blurred(pictures: np.ndarray) -> np.ndarray:
    """Mean over 3 x 3 pixels: noise falls to a third, centroids stay."""
    wide = np.pad(pictures, ((0, 0), (1, 1), (1, 1)), "edge")
    tall = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    return (tall[..., :-2] + tall[..., 1:-1] + tall[..., 2:]) * np.float32(1 / 9)


def _commonest(hue: np.ndarray, strength: np.ndarray) -> float:
    """The middle of the heaviest part of the circle."""
    bins = ((hue / (2 * np.pi)) % 1 * HUE_BINS).astype(int) % HUE_BINS
    counts = np.bincount(bins, strength, HUE_BINS)
    peak = int((counts + np.roll(counts, 1) + np.roll(counts, -1)).argmax())
    centre = (peak + 0.5) / HUE_BINS * 2 * np.pi
    near = np.abs(np.angle(np.exp(1j * (hue - centre)))) < HUE_REACH
    return float(np.angle((strength[near] * np.exp(1j * hue[near])).sum()))


def _centroids(
    where: tuple[np.ndarray, ...], weight: np.ndarray, shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray] | None:
    """x and y ``(T,)``; a frame without the object gets the place between its neighbours'."""
    num_frames, height, _ = shape
    k, row, column = where
    mass = np.bincount(k, weight, num_frames)
    seen = np.flatnonzero(mass > 0.02 * mass.max())
    if len(seen) < num_frames / 2:
        return None
    x = np.bincount(k, weight * (column + 0.5), num_frames)[seen] / mass[seen]
    y = height - np.bincount(k, weight * (row + 0.5), num_frames)[seen] / mass[seen]
    every = np.arange(num_frames)
    return np.interp(every, seen, x), np.interp(every, seen, y)
