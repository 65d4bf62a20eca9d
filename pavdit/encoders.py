"""What the generator asks of whatever makes latent planes of clips, and clips of latent planes.

`pavdit.mdsa.MDSA` answers it, and so does `EncoderPair` for any two that answer it for one stream each: joint
diffusion of the latents of frozen encoders that have never met.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import cast

from torch import Tensor, nn

from pavdit.latents import Planes

BothPlanes = tuple[Planes, Planes]


class Autoencoder(nn.Module, ABC):
    """Frames ``(B, 3, T, H, W)`` and mel images ``(B, 1, T, M, L)`` in [-1, 1] to planes and back.

    A stream's planes lie on the grid (T, H', W') of the configuration, have its C channels, and stay in
    [-1, 1]. A stream given as None has no answer; one given alone is answered without anything of the other.
    """

    @abstractmethod
    def latents(self, video: Tensor | None, audio: Tensor | None) -> tuple[Planes | None, Planes | None]:
        """The planes of each stream that is given; two streams may see each other.

        Raises:
            ValueError: both are None, a stream is none that this encodes, or a shape is not its own.
        """

    def latents_both_ways(self, video: Tensor, audio: Tensor) -> tuple[BothPlanes, BothPlanes]:
        """`latents` of both streams together and of each alone, each (video, audio); errors as there."""
        joint, [alone_v, _], [_, alone_a] = (
            self.latents(*given) for given in ((video, audio), (video, None), (None, audio))
        )
        return cast(BothPlanes, joint), cast(BothPlanes, (alone_v, alone_a))

    @abstractmethod
    def decode(self, video: Planes | None, audio: Planes | None) -> tuple[Tensor | None, Tensor | None]:
        """Planes to frames and mel images, which may leave [-1, 1]; None stays None.

        Raises:
            ValueError: both are None, a stream is none that this decodes, or a shape is not its own.
        """


class EncoderPair(Autoencoder):
    """One autoencoder of pictures and one of sound that know nothing of each other.

    Args:
        video: whose frames count; what it would make of sound is never asked.
        audio: whose mel images count.
    """

    def __init__(self, video: Autoencoder, audio: Autoencoder) -> None:
        super().__init__()
        self.video, self.audio = video, audio

    def latents(self, video: Tensor | None, audio: Tensor | None) -> tuple[Planes | None, Planes | None]:
        if video is None and audio is None:
            raise ValueError("encode: want video, audio or both, got neither")
        return (
            None if video is None else self.video.latents(video, None)[0],
            None if audio is None else self.audio.latents(None, audio)[1],
        )

    def latents_both_ways(self, video: Tensor, audio: Tensor) -> tuple[BothPlanes, BothPlanes]:
        alone = cast(BothPlanes, self.latents(video, audio))
        return alone, alone

    def decode(self, video: Planes | None, audio: Planes | None) -> tuple[Tensor | None, Tensor | None]:
        if video is None and audio is None:
            raise ValueError("decode: want video planes, audio planes or both, got neither")
        return (
            None if video is None else self.video.decode(video, None)[0],
            None if audio is None else self.audio.decode(None, audio)[1],
        )
