"""STDiT with cheaper arithmetic on the weights of an exact one: e4m3 products, absorbed cross-attention."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from pavdit.nn.adapters.branches import Branched
from pavdit.nn.twin import twin
from pavdit.ops import absorbed_attention, gated_residual_adaln_fp8, gelu_fp8, scaled_linear
from pavdit.ops.scaled_linear import WIDTH_MULTIPLE, QuantisedRows, quantise_rows
from pavdit.stdit.block import Block, CrossAttention, Mlp
from pavdit.stdit.model import Condition, STDiT

ABSORBED_TEXT = 16
"""Text tokens up to which cross-attention is absorbed: beyond them the padded product saves too little, as
`kernels/absorbed_attention.py` reckons; not yet measured on a GPU."""


class Fp8Linear(nn.Module):
    """A linear layer whose weight was quantised once, an output a scale; it takes quantised rows.

    Args:
        exact: the layer; its weight is not changed and not kept.
    """

    values: Tensor
    scale: Tensor

    def __init__(self, exact: nn.Linear) -> None:
        super().__init__()
        values, scale = quantise_rows(exact.weight.detach())
        self.register_buffer("values", values, persistent=False)  # (O, D) e4m3
        self.register_buffer("scale", scale, persistent=False)  # (O, 1)
        self.bias = exact.bias

    def forward(self, rows: QuantisedRows) -> Tensor:
        return scaled_linear(*rows, self.values, self.scale, self.bias)


class Fp8Mlp(nn.Module):
    """`Mlp` with both products in e4m3; the GELU quantises for the second."""

    def __init__(self, exact: Mlp) -> None:
        super().__init__()
        self.fc1, self.fc2 = Fp8Linear(exact.fc1), Fp8Linear(exact.fc2)

    def forward(self, rows: QuantisedRows) -> Tensor:
        return self.fc2(gelu_fp8(self.fc1(rows)))


class AbsorbedCrossAttention(CrossAttention):
    """`CrossAttention` whose query and output layers are multiplied into the condition, once a sample."""

    def __init__(self, exact: CrossAttention) -> None:
        nn.Module.__init__(self)
        self.num_heads = exact.num_heads
        self.q, self.kv, self.proj = exact.q, exact.kv, exact.proj

    def absorb(self, keys_values: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """What `forward` takes, computed in float32.

        Args:
            keys_values: ``(2, B, A, M, E)``, from `CrossAttention.keys_values`.
            bias: ``(B, 1, 1, M)``, 0 on tokens and -inf on padding, or None.

        Returns:
            ``(2, B, A, M, D)`` in the dtype of `keys_values`, and ``(B, A, 1, M)`` float32.
        """
        k, v = keys_values.float().unbind(0)
        heads, head_dim = k.shape[1], k.shape[-1]
        q_weight = self.q.weight.float().unflatten(0, (heads, head_dim)) / head_dim**0.5  # (A, E, D)
        q_bias = self.q.bias.float().unflatten(0, (heads, head_dim)) / head_dim**0.5  # (A, E)
        o_weight = self.proj.weight.float().unflatten(1, (heads, head_dim))  # (D, A, E)
        keys = torch.einsum("bame,aed->bamd", k, q_weight)
        # the probabilities of a head sum to 1, so that A shares of the bias come out whole
        values = torch.einsum("bame,dae->bamd", v, o_weight) + self.proj.bias.float() / heads
        scores = torch.einsum("bame,ae->bam", k, q_bias)[:, :, None]  # (B, A, 1, M)
        if bias is not None:
            scores = scores + bias.float()
        return torch.stack((keys, values)).to(keys_values.dtype), scores

    def forward(self, x: Tensor, keys_values: Tensor, bias: Tensor | None) -> Tensor:
        """``(B, G, N, D)``; the others as `absorb` returned them."""
        assert bias is not None  # noqa: S101 - `absorb` makes one
        keys, values = keys_values.unbind(0)
        return absorbed_attention(x.flatten(1, 2), keys, bias.squeeze(2), values).view_as(x)


class FastSTDiT(STDiT):
    """The network of another one, which is not changed; what is not made cheaper is shared with it.

    Args:
        exact: the network, on its device and in its dtype; or a fast one, to make another part cheaper.
        fp8: QKV, fc1 and fc2 as products of e4m3 numbers, which adaLN and GELU quantise.
        absorbed: cross-attention by `AbsorbedCrossAttention`.

    Raises:
        ValueError: a width does not suit the fp8 product, or an adapter is no part of a weight.
    """

    def __init__(self, exact: STDiT, *, fp8: bool, absorbed: bool) -> None:
        nn.Module.__init__(self)
        width, hidden = exact.config.width, exact.config.mlp_ratio * exact.config.width
        if fp8 and (width % WIDTH_MULTIPLE or hidden % WIDTH_MULTIPLE):
            raise ValueError(
                f"fp8: want STDiT's widths in multiples of {WIDTH_MULTIPLE}, got {width} and {hidden}"
            )
        other = twin(exact)
        self.__dict__.update(other.__dict__)
        self.absorbed = absorbed
        before = [] if exact.form == "exact" else [exact.form]
        self.form = "+".join(before + ["fp8"] * fp8 + ["absorbed"] * absorbed)
        self.blocks = nn.ModuleList(_block(b, fp8, absorbed) for b in exact.blocks)  # type: ignore[assignment]

    def prepare(self, text: Tensor, **condition: Any) -> Condition:
        """As `STDiT.prepare`, with the condition's tensors absorbed."""
        prepared = super().prepare(text, **condition)
        if not self.absorbed:
            return prepared
        mask = None if prepared.bias is None else prepared.bias[0]
        pairs = [
            block.cross.absorb(keys_values, mask)
            for block, keys_values in zip(self.blocks, prepared.keys_values, strict=True)
            if isinstance(block.cross, AbsorbedCrossAttention)
        ]
        return replace(
            prepared,
            keys_values=tuple(keys_values for keys_values, _ in pairs),
            bias=torch.stack([bias for _, bias in pairs]),  # (L, B, A, 1, M)
        )


@dataclass(frozen=True, slots=True)
class Networks:
    """The forms of a network that a pipeline samples with.

    Attributes:
        exact: the network itself.
        short: for text of at most `ABSORBED_TEXT` tokens.
        long: for longer text.
    """

    exact: STDiT
    short: STDiT
    long: STDiT

    @classmethod
    def of(cls, exact: STDiT, *, fp8: bool = False, absorbed: bool = False) -> Networks:
        """What these switches ask for.

        Raises:
            ValueError: as for `FastSTDiT`.
        """
        long = FastSTDiT(exact, fp8=fp8, absorbed=False) if fp8 else exact
        return cls(exact, FastSTDiT(long, fp8=False, absorbed=True) if absorbed else long, long)

    def for_text(self, length: int) -> STDiT:
        """The form for text padded to `length` tokens."""
        return self.short if length <= ABSORBED_TEXT else self.long

    def compile_blocks(self) -> None:
        """Compile the blocks of every form."""
        for network in {id(n): n for n in (self.exact, self.short, self.long)}.values():
            network.compile_blocks()


def _block(exact: Block, fp8: bool, absorbed: bool) -> Block:
    block = twin(exact)
    _require_weights_alone("absorbed", exact.cross if absorbed else None)
    _require_weights_alone("fp8", nn.ModuleList([exact.attention, exact.mlp]) if fp8 else None)
    if absorbed:
        block.cross = AbsorbedCrossAttention(exact.cross)
    if fp8:
        block.norm = gated_residual_adaln_fp8
        block.attention = twin(exact.attention)
        block.attention.qkv = Fp8Linear(exact.attention.qkv)  # type: ignore[assignment]
        block.mlp = Fp8Mlp(exact.mlp)  # type: ignore[assignment]
    return block


def _require_weights_alone(switch: str, replaced: nn.Module | None) -> None:
    """What is made anew from weights would leave out a layer that an adapter put beside or behind them."""
    for part in () if replaced is None else replaced.modules():
        if isinstance(part, Branched):
            kinds = ", ".join(type(branch).__name__ for branch in part.branches)
            raise ValueError(f"{switch}: want adapters that are low-rank updates of weights, got {kinds}")
