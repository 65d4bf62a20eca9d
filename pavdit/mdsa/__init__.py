"""MDSA, the dual-stream autoencoder of PAV-DiT (3.1, A.2): frames and mel images to six planes and back."""

from pavdit.mdsa.autoencoder import MDSA, Reconstruction
from pavdit.mdsa.bottleneck import Posterior
from pavdit.mdsa.loss import draw_frames, mdsa_loss
from pavdit.mdsa.streams import StreamMasks, draw_stream_masks

__all__ = [
    "MDSA",
    "Posterior",
    "Reconstruction",
    "StreamMasks",
    "draw_frames",
    "draw_stream_masks",
    "mdsa_loss",
]
