"""Sound as mel images, and back to sound."""

from pavdit.audio.invert import Vocoder, invert_mel
from pavdit.audio.mel import display, mel_images

__all__ = ["Vocoder", "display", "invert_mel", "mel_images"]
