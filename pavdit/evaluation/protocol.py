"""Protocols: everything that a number depends on besides the clips, in small versioned files.

Papers give one name, such as FVD, to numbers that were made from other windows, sizes and resize rules, and
by other covariances and scales; such numbers cannot be compared. A protocol has no default values, so its
file says all of it, and a result carries its name, its version and the digest of the file.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError

from pavdit.clip import ClipSpec
from pavdit.config.schema import ConfigError, Model, one_line
from pavdit.media.reader import FrameRule
from pavdit.media.resize import Resize
from pavdit.media.sound import Channel
from pavdit.metrics.i3d import Fit

FOLDER = Path(__file__).parent / "protocols"

Windows = Literal["every", "consecutive", "first", "random"]


class FadRules(Model):
    """How embeddings of sound become a Fréchet distance."""

    network: str
    """What the papers of this protocol take; what is taken is the user's file, named in the result."""
    sample_rate: int
    channel: Channel
    scale: float
    """The distance is multiplied by it."""


class Protocol(Model):
    """Where clips come from, and what is computed of them."""

    name: str
    version: int = Field(..., ge=1)
    about: str
    num_clips: int = Field(..., ge=2)
    """Of either side, or all where there are fewer."""
    num_frames: int
    fps: int
    sample_rate: int
    """Of what YAMNet and the event detectors hear."""
    channel: Channel
    resolutions: tuple[int, ...] = Field(..., min_length=1)
    """Height and width of the frames that are compared; the first one where none is asked for."""
    resize: Resize
    """From a file's pictures to that size; only `crop` is antialiased."""
    frame_rule: FrameRule
    """Of a file with another rate: frames on screen at their `time`, or by `number` as torchvision counts."""
    reference_windows: Windows
    """Of a longer file: a clip from `every` frame on, `consecutive` ones, the `first`, or one at `random`."""
    generated_windows: Windows
    order: Literal["sorted", "shuffled"]
    """Of the windows of which the first `num_clips` are taken."""
    i3d_fit: Fit
    """From the frames to I3D's 224 x 224, bilinear without antialiasing."""
    covariance: Literal["n-1", "n"]
    """What the scatter is divided by in FVD and FAD; both are computed in float64."""
    fad: FadRules
    inception_splits: int = Field(..., ge=1)
    """Runs of IS-I3D."""
    av_align: Literal["2023", "2025"]

    def spec(self, resolution: int | None = None) -> ClipSpec:
        """Sizes and rates of a clip.

        Raises:
            ConfigError: the protocol does not have this resolution.
        """
        side = self.resolutions[0] if resolution is None else resolution
        if side not in self.resolutions:
            known = " or ".join(map(str, self.resolutions))
            raise ConfigError(f"--resolution: want {known} in protocol {self.name}, got {side}")
        return ClipSpec(self.num_frames, side, side, Fraction(self.fps), self.sample_rate)


def protocol_names() -> list[str]:
    """The names of those that come with the package, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def load_protocol(name: str) -> tuple[Protocol, str]:
    """A protocol by name, or from a file of the user, and the sha256 of its file.

    Raises:
        ConfigError: there is none of this name, or the file does not say everything.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml"
    try:
        text = path.read_bytes()
        tree = yaml.safe_load(text)
        if not isinstance(tree, dict):
            raise ConfigError(f"{path}: want a mapping at the top, got {type(tree).__name__}")
        return Protocol.model_validate(tree), hashlib.sha256(text).hexdigest()
    except FileNotFoundError:
        known = ", ".join(protocol_names())
        raise ConfigError(f"--protocol: want {known}, or a .yaml file, got {name!r}") from None
    except ValidationError as error:
        raise ConfigError(f"{path}: {one_line(error)}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: want a readable YAML file, got {' '.join(str(error).split())}") from None
