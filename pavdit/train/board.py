"""A run on TensorBoard: scalars, pictures, sound."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pavdit.config import ConfigError
from pavdit.train.shown import Shown


class Board:
    """Writes ``RUN/tensorboard``.

    Raises:
        ConfigError: tensorboard is not installed.
    """

    def __init__(self, run_dir: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ConfigError(
                "train.tensorboard: want the package tensorboard (pip install pavdit[log]), got none"
            ) from None
        self.writer = SummaryWriter(str(run_dir / "tensorboard"))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers at a step."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def shown(self, step: int, shown: Shown) -> None:
        """Pictures; of clips the frames, side by side, and the sound."""
        for name, picture in shown.pictures.items():
            self.writer.add_image(name, picture.numpy(), step, dataformats="HWC")
        for name, clip in shown.clips.items():
            self.writer.add_image(f"{name}/frames", clip.frames.movedim(0, 2).flatten(2).numpy(), step)
            self.writer.add_audio(f"{name}/sound", clip.wave[None], step, sample_rate=clip.sample_rate)
        self.writer.flush()

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()
