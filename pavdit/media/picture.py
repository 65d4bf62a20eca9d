"""Pictures as files."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from torch import Tensor

from pavdit.files import replacing


def write_png(picture: Tensor, path: Path) -> None:
    """Write ``(3, height, width)`` uint8 as a PNG; a file at `path` is replaced as a whole or not at all.

    Raises:
        OSError: the directory is missing or full.
    """
    import av

    codec = av.CodecContext.create("png", "w")
    codec.height, codec.width, codec.pix_fmt = picture.shape[1], picture.shape[2], "rgb24"
    codec.time_base = Fraction(1)  # the encoder asks for one, a picture has none
    frame = av.VideoFrame.from_ndarray(picture.movedim(0, 2).contiguous().numpy(), format="rgb24")
    data = b"".join(bytes(packet) for part in (frame, None) for packet in codec.encode(part))
    with replacing(path) as temporary:
        temporary.write_bytes(data)
