"""The six latent planes and the sequence P that the generator sees (PAV-DiT eq. 9).

A stream's planes are laid into one tall image of ``H'`` rows a frame, ``hw`` first, and the image is cut into
frames. The layouts differ only in where ``tw`` and ``th`` begin::

    six       hw | tw, padded to H' rows | th, padded to H' rows       3 frames a stream, the paper's form
    concat4   hw | tw over th                                          2 frames, nothing wasted where 2T = H'
    cut       hw over tw over th, cut every R >= H' rows               nothing wasted where R divides H' + 2T
    fold      hw | tw over th, cut every H' rows, the last one padded  for every other T

P has the video's frames first, then the audio's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

PLANE_NAMES = ("video.hw", "video.tw", "video.th", "audio.hw", "audio.tw", "audio.th")
"""The planes in the order of eq. 9; `PlaneLayout.cells` numbers them so."""


@dataclass(frozen=True, slots=True)
class Planes:
    """The three planes of one stream, each named by the axes it keeps.

    Attributes:
        hw: ``(B, C, H', W')``, the paper's z^t.
        tw: ``(B, C, T, W')``, the paper's z^h.
        th: ``(B, C, T, H')``, the paper's z^w.
    """

    hw: Tensor
    tw: Tensor
    th: Tensor

    def map(self, function: Callable[[Tensor], Tensor]) -> Planes:
        """Apply `function` to each plane."""
        return Planes(function(self.hw), function(self.tw), function(self.th))

    @property
    def grid(self) -> tuple[int, int, int]:
        """(T, H', W')."""
        return self.tw.shape[2], self.hw.shape[2], self.hw.shape[3]


@dataclass(frozen=True, slots=True)
class PlaneLayout:
    """Where each plane lies in P; build it with `choose`.

    Attributes:
        name: ``six``, ``concat4``, ``cut`` or ``fold``.
        grid: (T, H', W').
        num_frames: G, frames of P, an even number.
        rows: rows of a frame of P.
        columns: columns of a frame of P.
    """

    name: Literal["six", "concat4", "cut", "fold"]
    grid: tuple[int, int, int]
    num_frames: int
    rows: int
    columns: int

    @classmethod
    def choose(cls, grid: tuple[int, int, int], kind: str = "auto") -> PlaneLayout:
        """The layout `kind` for a token grid, or with ``auto`` the one that wastes least.

        ``auto`` is ``concat4`` where H' = W' = 2T, ``six`` where T = H' = W', ``fold`` where its last frame
        is full, ``cut`` where there is such an R, else ``fold`` with padding.

        Raises:
            ValueError: T is no multiple of 4, H' or W' is odd, or the grid does not fit `kind`.
        """
        frames, height, width = grid
        if frames < 4 or frames % 4 or height < 2 or height % 2 or width < 2 or width % 2:
            raise ValueError(
                f"PlaneLayout: want T a multiple of 4 and even H', W', got (T, H', W') = {tuple(grid)}"
            )
        cut_rows = _cut_rows(grid)
        if kind == "auto":
            if height == width == 2 * frames:
                kind = "concat4"
            elif frames == height == width:
                kind = "six"
            else:
                kind = "cut" if cut_rows not in (None, height) else "fold"
        rows = height
        if kind == "six":
            if frames > height:
                raise ValueError(f"PlaneLayout: want T <= H' for 'six', got (T, H', W') = {tuple(grid)}")
            per_stream = 3
        elif kind == "concat4":
            if not height == width == 2 * frames:
                raise ValueError(
                    f"PlaneLayout: want H' = W' = 2T for 'concat4', got (T, H', W') = {tuple(grid)}"
                )
            per_stream = 2
        elif kind == "cut":
            if cut_rows is None:
                raise ValueError(
                    "PlaneLayout: want H' = W' and an even R from H' to 2H' that divides H' + 2T for 'cut', "
                    f"got (T, H', W') = {tuple(grid)}"
                )
            rows, per_stream = cut_rows, (height + 2 * frames) // cut_rows
        elif kind == "fold":
            per_stream = 1 + -(-2 * frames // height)
        else:
            raise ValueError(f"PlaneLayout: want auto, six, concat4, cut or fold, got {kind!r}")
        return cls(kind, (frames, height, width), 2 * per_stream, rows, max(height, width))  # type: ignore[arg-type]

    def __str__(self) -> str:
        valid = self.valid()
        padded = "nothing" if valid is None else f"{1 - valid.float().mean():.0%}"
        return f"{self.name}, {self.num_frames} frames of {self.rows} x {self.columns}, {padded} padded"

    @property
    def first_rows(self) -> tuple[int, int, int]:
        """Rows of the tall image at which hw, tw and th begin."""
        frames, height, _ = self.grid
        return 0, height, height + (height if self.name == "six" else frames)

    def stack(self, video: Planes, audio: Planes) -> Tensor:
        """Six planes to P ``(B, C, G, rows, columns)`` (PAV-DiT eq. 9); padding is 0.

        Raises:
            ValueError: the planes are not of this layout's grid, or the streams disagree in B or C.
        """
        for name, planes in (("video", video), ("audio", audio)):
            self._check(name, planes)
        if video.hw.shape != audio.hw.shape:
            raise ValueError(
                "stack: want video and audio planes of one batch and channel count, "
                f"got {tuple(video.hw.shape)} and {tuple(audio.hw.shape)}"
            )
        return torch.cat([self._to_frames(video), self._to_frames(audio)], dim=2)

    def unstack(self, latent: Tensor) -> tuple[Planes, Planes]:
        """P to (video planes, audio planes), the exact inverse of `stack`.

        Raises:
            ValueError: `latent` is not ``(B, C, G, rows, columns)`` of this layout.
        """
        want = (self.num_frames, self.rows, self.columns)
        if latent.ndim != 5 or latent.shape[2:] != want:
            raise ValueError(
                f"unstack: want P (B,C,{want[0]},{want[1]},{want[2]}), got {tuple(latent.shape)}"
            )
        video, audio = latent.chunk(2, dim=2)
        return self._from_frames(video), self._from_frames(audio)

    def cells(self) -> Tensor:
        """What each cell of P holds: ``(3, G, rows, columns)`` int64: plane (0 to 5), its row, its column."""
        frames, height, width = self.grid

        def planes(stream: int) -> Planes:
            numbered = []
            for index, (rows, columns) in enumerate(((height, width), (frames, width), (frames, height))):
                plane = torch.full((rows, columns), 3 * stream + index)
                row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
                numbered.append(torch.stack([plane, row, column])[None])  # (1, 3, rows, columns)
            return Planes(*numbered)

        return self.stack(planes(0), planes(1))[0]

    def valid(self) -> Tensor | None:
        """``(G, rows, columns)`` bool, False on padding; None where there is none."""
        frames, height, width = self.grid
        ones = Planes(
            torch.ones(1, 1, height, width), torch.ones(1, 1, frames, width), torch.ones(1, 1, frames, height)
        )
        mask = self.stack(ones, ones)[0, 0] > 0
        return None if bool(mask.all()) else mask

    def frames_of(self, stream: Literal["video", "audio"]) -> Tensor:
        """``(G,)`` bool, True on the frames of P that belong to `stream`."""
        is_video = torch.arange(self.num_frames) < self.num_frames // 2
        return is_video if stream == "video" else ~is_video

    def _check(self, name: str, planes: Planes) -> None:
        frames, height, width = self.grid
        batch, channels = planes.hw.shape[:2]
        want = [(batch, channels, *edges) for edges in ((height, width), (frames, width), (frames, height))]
        got = [tuple(planes.hw.shape), tuple(planes.tw.shape), tuple(planes.th.shape)]
        if got != want:
            raise ValueError(f"stack: want {name} planes hw, tw, th of shapes {want}, got {got}")

    def _to_frames(self, planes: Planes) -> Tensor:
        tall_rows = self.num_frames // 2 * self.rows
        pieces = []
        ends = (*self.first_rows[1:], tall_rows)
        for plane, begin, end in zip((planes.hw, planes.tw, planes.th), self.first_rows, ends, strict=True):
            pieces.append(pad(plane, (0, self.columns - plane.shape[3], 0, end - begin - plane.shape[2])))
        tall = torch.cat(pieces, dim=2)  # (B, C, G/2 * rows, columns)
        return tall.unflatten(2, (-1, self.rows))

    def _from_frames(self, frames_of_latent: Tensor) -> Planes:
        frames, height, width = self.grid
        tall = frames_of_latent.flatten(2, 3)  # (B, C, G/2 * rows, columns)
        hw, tw, th = self.first_rows
        return Planes(
            tall[:, :, hw : hw + height, :width],
            tall[:, :, tw : tw + frames, :width],
            tall[:, :, th : th + frames, :height],
        )


def _cut_rows(grid: tuple[int, int, int]) -> int | None:
    """R of ``cut``: the fewest rows that hold hw whole and cut all three planes into full frames, or None.

    R is even, as a token of 2 x 2 lies in one frame, and no frame is taller than two of hw.
    """
    frames, height, width = grid
    if height != width:
        return None
    fitting = (rows for rows in range(height, 2 * height + 1, 2) if (height + 2 * frames) % rows == 0)
    return next(fitting, None)
