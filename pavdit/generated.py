"""A clip that was generated, and where it came from."""

from __future__ import annotations

import base64
import tempfile
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from pavdit.clip import Clip
from pavdit.media import write_clip

SHOWN_PIXELS = 256
"""Height of a small clip in a notebook."""


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated clip.

    Attributes:
        clip: frames and sound. The given stream is as it was given; a stream neither given nor made is black
            or silent.
        latent: P, ``(C, G, rows, columns)`` float32 on the CPU; of a sibling system, the first stream that
            its sampler made, before it was rounded.
        provenance: what the file's metadata say, see `pavdit.provenance`.
    """

    clip: Clip
    latent: Tensor
    provenance: dict[str, str]

    def save(self, path: str | Path) -> Path:
        """Write an mp4 with its provenance; a file at `path` is replaced as a whole or not at all."""
        write_clip(self.clip, Path(path), metadata=self.provenance)
        return Path(path)

    def show(self) -> None:
        """Play the clip, with its sound, in a notebook's output.

        Raises:
            RuntimeError: there is no IPython.
        """
        try:
            from IPython.display import HTML, display
        except ImportError:
            raise RuntimeError(
                "show: want IPython (a notebook) to play a clip in, got none; save writes an mp4"
            ) from None
        display(HTML(self._as_html()))

    def _as_html(self) -> str:
        with tempfile.TemporaryDirectory() as folder:
            data = self.save(Path(folder, "clip.mp4")).read_bytes()
        height = max(SHOWN_PIXELS, self.clip.frames.shape[-2])
        return (
            f'<video controls loop height="{height}" style="image-rendering: pixelated" '
            f'src="data:video/mp4;base64,{base64.b64encode(data).decode()}"></video>'
        )


class Clips(list[Generated]):
    """What a call of the pipeline makes. Where it is one clip, it can be saved and shown as that clip."""

    def save(self, path: str | Path) -> Path:
        """As `Generated.save`.

        Raises:
            ValueError: there is not exactly one clip.
        """
        return self._only("save").save(path)

    def show(self) -> None:
        """As `Generated.show`.

        Raises:
            ValueError: there is not exactly one clip.
        """
        self._only("show").show()

    def _only(self, verb: str) -> Generated:
        if len(self) != 1:
            raise ValueError(f"{verb}: want one clip, got {len(self)}; take one of them, such as [0]")
        return self[0]
