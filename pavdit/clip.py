"""The axis legend, the rate arithmetic of a clip, and the clip itself.

Axis letters, used in every docstring of this repository:

**B** batch, **C** channels, **T** frames, **H** height, **W** width, **S** wave samples, **M** mel bins,
**L** mel columns, **N** tokens, **D** width of the model, **A** heads, **E** width of a head, **G** frames of
the latent sequence P. ``H'`` and ``W'`` are the rows and columns of the token grid.

A volume is ``(B, 3, T, H, W)``, mel images are ``(B, 1, T, M, L)``, a wave is ``(B, S)``, a latent plane is
``(B, C, rows, columns)`` and named by the axes it keeps: ``hw``, ``tw``, ``th``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor


class DataError(ValueError):
    """A file or a clip that cannot be used; the message names it in one line."""


def as_fraction(rate: Fraction | float | str) -> Fraction:
    """Read a rate such as ``10``, ``29.97`` or ``"30000/1001"`` as the exact number it says."""
    return rate if isinstance(rate, Fraction) else Fraction(str(rate))


@dataclass(frozen=True, slots=True)
class ClipSpec:
    """Sizes and rates of a clip. Sound and picture share one time origin.

    Frame ``k`` lasts from ``k / fps`` to ``(k + 1) / fps`` seconds and owns the wave samples
    ``[samples_per_frame * k, samples_per_frame * (k + 1))`` and exactly `columns_per_frame` mel columns, so
    the hop of the spectrogram follows from the rates: ``sample_rate = fps * columns_per_frame * hop_length``.

    Attributes:
        num_frames: T.
        height: H in pixels.
        width: W in pixels.
        fps: frames per second, a rational number.
        sample_rate: Hz, mono.
        columns_per_frame: L, mel columns per video frame.

    Raises:
        ValueError: a size is not positive, or `sample_rate` admits no whole `hop_length`.
    """

    num_frames: int
    height: int
    width: int
    fps: Fraction = Fraction(10)
    sample_rate: int = 16000
    columns_per_frame: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "fps", as_fraction(self.fps))
        for name in ("num_frames", "height", "width", "fps", "sample_rate", "columns_per_frame"):
            if getattr(self, name) <= 0:
                raise ValueError(f"ClipSpec: want {name} > 0, got {getattr(self, name)}")
        hop = Fraction(self.sample_rate) / (self.fps * self.columns_per_frame)
        if hop.denominator != 1:
            raise ValueError(
                f"ClipSpec: want sample_rate = fps * {self.columns_per_frame} * a whole hop_length, "
                f"got {self.sample_rate} Hz at {self.fps} fps; "
                f"the next rate that works is {self._next_rate(hop)} Hz"
            )

    def _next_rate(self, hop: Fraction) -> int:
        """The lowest rate that fits and is not below the one asked for, so no bandwidth is lost."""
        columns_per_second = self.fps * self.columns_per_frame
        step = columns_per_second.denominator  # the rate is a whole number when the hop is a multiple of this
        return int(columns_per_second * step * math.ceil(hop / step))

    @property
    def hop_length(self) -> int:
        """Samples from one mel column to the next."""
        return int(self.sample_rate / (self.fps * self.columns_per_frame))

    @property
    def samples_per_frame(self) -> int:
        """Wave samples that one video frame owns."""
        return self.hop_length * self.columns_per_frame

    @property
    def num_samples(self) -> int:
        """S, wave samples of the clip."""
        return self.samples_per_frame * self.num_frames

    @property
    def duration_seconds(self) -> Fraction:
        """Length of the clip."""
        return self.num_frames / self.fps


@dataclass(frozen=True, slots=True)
class Event:
    """Something that is seen and heard at one instant.

    Attributes:
        time_seconds: exact time from the start of the clip, between frames as a rule.
        kind: what happened, e.g. ``floor`` or ``flash``.
        strength: 0 to 1, how hard.
    """

    time_seconds: float
    kind: str
    strength: float = 1.0


@dataclass(frozen=True, slots=True)
class Origin:
    """The file that a clip was read from, so that it can be read again.

    Attributes:
        path: as it was given.
        sha256: of the whole file.
        start_seconds: where in it the clip begins; None: where what was read of it begins.
    """

    path: str
    sha256: str
    start_seconds: Fraction | None = None


@dataclass(frozen=True, slots=True)
class Clip:
    """Frames and their sound, both starting at time 0.

    Attributes:
        frames: ``(T, 3, H, W)`` uint8, RGB.
        wave: ``(S,)`` float32, mono, nominally in [-1, 1].
        fps: frames per second.
        sample_rate: Hz.
        label: class name, empty where there is none.
        caption: a sentence, empty where there is none.
        name: where the clip came from (a file name or a seed), for messages.
        events: known events, empty for real footage.
        origin: the file that it was read from; None: no file, or none that anyone asked about.

    Raises:
        ValueError: a tensor has another shape or dtype.
    """

    frames: Tensor
    wave: Tensor
    fps: Fraction
    sample_rate: int
    label: str = ""
    caption: str = ""
    name: str = ""
    events: tuple[Event, ...] = ()
    origin: Origin | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "fps", as_fraction(self.fps))
        if self.frames.dtype != torch.uint8 or self.frames.ndim != 4 or self.frames.shape[1] != 3:
            raise ValueError(
                f"Clip: want frames (T,3,H,W) uint8, got {tuple(self.frames.shape)} {self.frames.dtype}"
            )
        if self.wave.dtype != torch.float32 or self.wave.ndim != 1:
            raise ValueError(f"Clip: want wave (S,) float32, got {tuple(self.wave.shape)} {self.wave.dtype}")

    def require(self, spec: ClipSpec) -> Clip:
        """Return this clip if it has exactly the sizes and rates of `spec`.

        Raises:
            ValueError: it has others; nothing is cut or padded.
        """
        got = (*self.frames.shape, self.fps, self.wave.shape[0], self.sample_rate)
        want = (spec.num_frames, 3, spec.height, spec.width, spec.fps, spec.num_samples, spec.sample_rate)
        if got != want:
            raise ValueError(
                f"clip {self.name or '(unnamed)'}: want (T, 3, H, W, fps, samples, Hz) = "
                f"({', '.join(map(str, want))}), got ({', '.join(map(str, got))})"
            )
        return self


def frames_to_volume(frames: Tensor) -> Tensor:
    """``(..., T, 3, H, W)`` uint8 to ``(..., 3, T, H, W)`` float32 in [-1, 1]."""
    return frames.movedim(-3, -4).to(torch.float32) / 127.5 - 1.0


def volume_to_frames(volume: Tensor) -> Tensor:
    """``(..., 3, T, H, W)`` in [-1, 1] to ``(..., T, 3, H, W)`` uint8, rounded, values outside clamped."""
    pixels = (volume.to(torch.float32) + 1.0) * 127.5
    return pixels.round().clamp(0, 255).to(torch.uint8).movedim(-4, -3).contiguous()
