"""Everything that enters STDiT: patches of P, their positions, the time, the frame rate, the caption."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from pavdit.latents import PLANE_NAMES, PlaneLayout

PATCH = 2
"""Rows and columns of P that make one token; a token never spans frames (patch 1 x 2 x 2)."""

SINUSOID_DIM = 256
MAX_PERIOD = 10_000.0


def sinusoid(values: Tensor, dim: int) -> Tensor:
    """Cosines, then sines, of ``values / 10000^(2i/dim)``: ``(...)`` to ``(..., dim)``, float32.

    Source: Vaswani et al., arXiv 1706.03762, 3.5.
    """
    index = torch.arange(dim // 2, dtype=torch.float32, device=values.device)
    frequencies = torch.exp(index * (-2.0 * math.log(MAX_PERIOD) / dim))
    angles = values.float()[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def patchify(latent: Tensor) -> Tensor:
    """P ``(B, C, G, rows, columns)`` to patches ``(B, G, N, C * 4)``, N = rows / 2 * columns / 2."""
    return rearrange(latent, "b c g (h p) (w q) -> b g (h w) (c p q)", p=PATCH, q=PATCH)


def unpatchify(patches: Tensor, rows: int) -> Tensor:
    """Patches ``(B, G, N, C * 4)`` to P ``(B, C, G, rows, columns)``, the inverse of `patchify`."""
    return rearrange(patches, "b g (h w) (c p q) -> b c g (h p) (w q)", h=rows // PATCH, p=PATCH, q=PATCH)


class ScalarEmbedder(nn.Module):
    """A number per sample or frame to a vector: sinusoid of 256, Linear, SiLU, Linear."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(SINUSOID_DIM, width)
        self.fc2 = nn.Linear(width, width)

    def forward(self, values: Tensor) -> Tensor:
        x = sinusoid(values, SINUSOID_DIM).to(self.fc1.weight.dtype)
        return self.fc2(functional.silu(self.fc1(x)))  # (..., D)


class CaptionProjection(nn.Module):
    """The encoder's tokens to the model's width: Linear, tanh-GELU, Linear.

    A dropped caption becomes the null caption: a fixed random buffer, saved with the weights, not trained.
    """

    null_caption: Tensor

    def __init__(self, text_dim: int, width: int, max_length: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(text_dim, width)
        self.fc2 = nn.Linear(width, width)
        self.register_buffer("null_caption", torch.randn(max_length, text_dim) / text_dim**0.5)

    def forward(self, text: Tensor, drop: Tensor | None) -> Tensor:
        """``(B, N, text_dim)`` and ``(B,)`` bool, True where the caption is dropped, to ``(B, N, D)``."""
        text = text.to(self.fc1.weight.dtype)
        if drop is not None:
            null = self.null_caption[: text.shape[1]].to(text.dtype)  # the prompt's bucket length
            text = torch.where(drop[:, None, None], null, text)
        return self.fc2(functional.gelu(self.fc1(text), approximate="tanh"))


class LatentEmbedder(nn.Module):
    """P to tokens, and where each token lies: its plane (learned), its row and column there (sin-cos).

    The frames of P are planes, not instants, so a position is that of the plane's own axes: rows of ``tw``
    and ``th`` count time, rows of ``hw`` count height (PAV-DiT eq. 9).

    Args:
        layout: where the planes lie in P.
        channels: C.
        width: D, a multiple of 4.

    Raises:
        ValueError: a patch of 2 x 2 cells would span two planes.
    """

    plane: Tensor
    sincos: Tensor
    cell_valid: Tensor | None
    token_valid: Tensor | None

    def __init__(self, layout: PlaneLayout, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(channels * PATCH * PATCH, width)
        self.plane_embedding = nn.Embedding(len(PLANE_NAMES), width)
        device = torch.get_default_device()
        with torch.device(
            "cpu"
        ):  # the tables are read here, also while the weights are made on the meta device
            plane, row, column, valid = _token_cells(layout)
            sincos = torch.cat([sinusoid(row, width // 2), sinusoid(column, width // 2)], dim=-1)
            cells = layout.valid()
        self.register_buffer("plane", plane.to(device), persistent=False)  # (G, N) int64
        self.register_buffer("sincos", sincos.to(device), persistent=False)  # (G, N, D)
        padded = cells is not None
        self.register_buffer("cell_valid", cells.to(device) if cells is not None else None, persistent=False)
        self.register_buffer(
            "token_valid", valid[None].to(device) if padded else None, persistent=False
        )  # (1, G, N)

    def forward(self, latent: Tensor) -> Tensor:
        """``(B, C, G, rows, columns)`` to patch embeddings ``(B, G, N, D)``, positions not added."""
        if self.cell_valid is not None:
            latent = latent.masked_fill(~self.cell_valid, 0.0)  # what padding holds never enters
        return self.proj(patchify(latent).to(self.proj.weight.dtype))

    def positions(self) -> Tensor:
        """``(G, N, D)``: plane embedding + sin-cos of row and column."""
        return self.plane_embedding(self.plane) + self.sincos


def _token_cells(layout: PlaneLayout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Plane, row and column (in patches) and validity of every token, ``(G, N)`` each."""
    cells = rearrange(layout.cells(), "k g (h p) (w q) -> k g (h w) (p q)", p=PATCH, q=PATCH)
    plane, row, column = cells[..., 0]  # the patch's first cell; rows and columns start even
    whole = (cells[0] == cells[0, ..., :1]).all(-1)
    valid = torch.ones_like(whole)
    mask = layout.valid()
    if mask is not None:
        inside = rearrange(mask, "g (h p) (w q) -> g (h w) (p q)", p=PATCH, q=PATCH)
        valid = inside.any(-1)
        whole &= inside.all(-1) | ~valid
    if not bool((whole & (row % PATCH == 0) & (column % PATCH == 0)).all()):
        raise ValueError(
            f"stdit: want a layout whose {PATCH} x {PATCH} patches lie in one plane each, got {layout}"
        )
    return plane, row // PATCH, column // PATCH, valid
