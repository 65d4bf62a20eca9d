"""A clip that was generated, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pavdit.clip import Clip
from pavdit.media import write_clip


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated clip.

    Attributes:
        clip: frames and sound. The given stream is as it was given; a stream neither given nor made is black
            or silent.
        latent: P, ``(C, G, rows, columns)`` float32 on the CPU.
        provenance: model hash, prompt, seed, steps, guidance, task: what the file's metadata say.
    """

    clip: Clip
    latent: Tensor
    provenance: dict[str, str]

    def save(self, path: str | Path) -> Path:
        """Write an mp4 with its provenance; a file at `path` is replaced as a whole or not at all."""
        write_clip(self.clip, Path(path), metadata=self.provenance)
        return Path(path)
