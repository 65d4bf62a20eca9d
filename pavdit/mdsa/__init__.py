"""MDSA, the dual-stream autoencoder of PAV-DiT (3.1, A.2): frames and mel images to six planes and back."""

from pavdit.mdsa.adversarial import discriminator_terms, generator_terms
from pavdit.mdsa.autoencoder import MDSA, Reconstruction
from pavdit.mdsa.bottleneck import Posterior, draw_noise
from pavdit.mdsa.discriminator import Discriminators
from pavdit.mdsa.loss import draw_frames, mdsa_loss
from pavdit.mdsa.streams import StreamMasks, draw_stream_masks

__all__ = [
    "MDSA",
    "Discriminators",
    "Posterior",
    "Reconstruction",
    "StreamMasks",
    "discriminator_terms",
    "draw_frames",
    "draw_noise",
    "draw_stream_masks",
    "generator_terms",
    "mdsa_loss",
]
