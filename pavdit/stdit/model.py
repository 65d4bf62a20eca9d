"""STDiT: the velocity of the latent sequence P (PAV-DiT 3.2; blocks after Open-Sora 1.2's STDiT3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from pavdit.config import TASKS, STDiTConfig
from pavdit.latents import PlaneLayout
from pavdit.nn.rope import rope_table
from pavdit.ops import gated_residual_adaln
from pavdit.stdit.block import Block, SpatialAttention, TemporalAttention, add_gated
from pavdit.stdit.embed import PATCH, CaptionProjection, LatentEmbedder, ScalarEmbedder, unpatchify

TASK_STD = 0.02
RECOMPILE_LIMIT = 64
"""Room for sixteen models of different sizes in one process."""
PLANE_STD = 0.5**0.5
"""As strong as the sin-cos positions. At 0.02 the planes look alike for too long: `tiny` on eight smooth
random latents, mean squared error over steps 150 to 200: 0.20 at 0.02, 0.11 at this value (one seed)."""


@dataclass(frozen=True, slots=True)
class Condition:
    """What a sample is conditioned on, computed once for all steps.

    Attributes:
        keys_values: of every block, ``(2, B, A, 1 + N, E)``: the task token, then the caption.
        bias: ``(1 or L, B, 1 or A, 1, 1 + N)``, -inf on padding, a row for all blocks or one a block; None
            where there is none.
        vector: ``(B, D)``, task and frame rate, added to the timestep embedding.
        positions: ``(G, N, D)``, where every token lies, in the dtype of the weights.
    """

    keys_values: tuple[Tensor, ...]
    bias: Tensor | None
    vector: Tensor
    positions: Tensor

    def bias_of(self, block: int) -> Tensor | None:
        """``(B, 1 or A, 1, 1 + N)``, that of a block."""
        return None if self.bias is None else self.bias[block if self.bias.shape[0] > 1 else 0]


@dataclass(frozen=True, slots=True)
class Modulation:
    """adaLN tables at some times, in one tensor; one row serves a batch of any size.

    Attributes:
        tables: ``(B or 1, F, L + 1, 6, D)``: those of the L blocks, then shift and scale of the final layer,
            three rows that nobody reads, and the ones that open the first block's residual.
    """

    tables: Tensor

    def row(self, index: int) -> Modulation:
        """The tables of one row, as a batch of one."""
        return Modulation(self.tables[index : index + 1])


@dataclass(frozen=True, slots=True)
class BlockReuse:
    """What a range of blocks adds to the tokens, kept from one step for others (Delta-DiT, Chen et al., arXiv
    2406.01125).

    Attributes:
        blocks: the range, not empty.
        residual: ``(B, G, N, D)`` in the dtype of the weights.
        fresh: the blocks are computed and `residual` is written; else it is read in their place.
    """

    blocks: range
    residual: Tensor
    fresh: bool


class STDiT(nn.Module):
    """Velocity of P given time, text, task and frame rate.

    Spatial blocks attend inside a frame of P, temporal blocks across its frames at one position; they
    alternate. The network begins as the zero velocity.

    Args:
        config: sizes.
        layout: where the planes lie in P.
        latent_channels: C.

    Attributes:
        form: names the arithmetic, see `pavdit.stdit.fast`.
    """

    blocks: Sequence[Block]  # an nn.ModuleList, which does not say what it holds

    def __init__(self, config: STDiTConfig, layout: PlaneLayout, latent_channels: int) -> None:
        super().__init__()
        self.config, self.layout, self.latent_channels = config, layout, latent_channels
        width, heads = config.width, config.num_heads
        self.embed = LatentEmbedder(layout, latent_channels, width)
        self.caption = CaptionProjection(config.text_dim, width, config.max_text_length)
        self.task = nn.Embedding(len(TASKS), width)
        self.timestep = ScalarEmbedder(width)
        self.fps = ScalarEmbedder(width)
        self.shared_modulation = nn.Linear(width, 6 * width)
        rope = rope_table(torch.arange(layout.num_frames), config.head_dim) if config.plane_rope else None
        blocks = []
        for _ in range(config.depth):
            blocks.append(Block(width, SpatialAttention(width, heads), heads, config.mlp_ratio))
            blocks.append(Block(width, TemporalAttention(width, heads, rope), heads, config.mlp_ratio))
        self.blocks = nn.ModuleList(blocks)  # type: ignore[assignment]
        self.final_table = nn.Parameter(torch.randn(2, width) / width**0.5)
        self.final = nn.Linear(width, latent_channels * PATCH * PATCH)
        self.form = "exact"
        self._initialise()

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Compile the blocks, for batch 1 and for all larger ones; nothing else compiles anything new.

        Args:
            backend: of ``torch.compile``.
        """
        # of `Block.attend` there are two kinds and two batch forms in every model; dynamo gives up at 8
        config = torch._dynamo.config
        config.recompile_limit = max(config.recompile_limit, RECOMPILE_LIMIT)
        for block in self.blocks:
            block.compile_parts(backend)

    def forward(
        self,
        latent: Tensor,
        t: Tensor,
        text: Tensor,
        *,
        text_mask: Tensor | None = None,
        drop_text: Tensor | None = None,
        task: Tensor,
        clean: Tensor | None = None,
        fps: Tensor,
    ) -> Tensor:
        """Predict data - noise. Never waits for the device.

        Args:
            latent: P, ``(B, C, G, rows, columns)``; what its padding holds does not matter.
            t: ``(B, F)`` in [0, 1], the time of `pavdit.flow.path`, one per contiguous group of G/F frames:
                F is 1, 2 (the streams) or G.
            text: ``(B, N, text_dim)``.
            text_mask: ``(B, N)`` bool, True on tokens; None: all are.
            drop_text: ``(B,)`` bool, True: the null caption in place of the text.
            task: ``(B,)`` int64, index into `pavdit.config.TASKS`.
            clean: ``(B, F)`` bool, True: these frames are given, as at t = 1.
            fps: ``(B,)`` frames per second.

        Returns:
            velocity ``(B, C, G, rows, columns)`` in the dtype of `latent`, 0 on padding.

        Raises:
            ValueError: a shape does not fit.
        """
        condition = self.prepare(text, text_mask=text_mask, drop_text=drop_text, task=task, fps=fps)
        if t.ndim > 0 and t.shape[0] != latent.shape[0]:
            raise ValueError(f"stdit: want t ({latent.shape[0]},F) as latent, got {tuple(t.shape)}")
        return self.velocity(latent, self.modulate(t, clean, condition.vector), condition)

    def prepare(
        self, text: Tensor, *, text_mask: Tensor | None, drop_text: Tensor | None, task: Tensor, fps: Tensor
    ) -> Condition:
        """All that does not depend on the latent or the time; arguments as in `forward`."""
        self._check_condition(text, text_mask, drop_text, task, fps)
        task_vector = self.task(task)  # (B, D)
        tokens = self.caption(text, drop_text)  # (B, N, D)
        tokens = torch.cat([task_vector[:, None].to(tokens.dtype), tokens], dim=1)  # (B, 1 + N, D)
        bias = None
        if text_mask is not None:
            # the null caption fills its bucket
            seen = text_mask if drop_text is None else text_mask | drop_text[:, None]
            bias = torch.zeros_like(seen, dtype=torch.float32).masked_fill(~seen, -torch.inf)
            bias = functional.pad(bias, (1, 0))[None, :, None, None].to(tokens.dtype)  # (1, B, 1, 1, 1 + N)
        keys_values = tuple(block.cross.keys_values(tokens) for block in self.blocks)
        positions = self.embed.positions().to(self.embed.proj.weight.dtype)
        return Condition(keys_values, bias, task_vector + self.fps(fps), positions)

    def modulate(self, t: Tensor, clean: Tensor | None, vector: Tensor) -> Modulation:
        """adaLN tables, all blocks' at once.

        Args:
            t: ``(K, F)`` in [0, 1]: a row for every clip of a batch, or for every step of a sample.
            clean: ``(K, F)`` bool, True where the frames are given, as at t = 1.
            vector: ``(K or 1, D)``, from `prepare`.

        Returns:
            K rows of tables.

        Raises:
            ValueError: a shape does not fit.
        """
        frames = self.layout.num_frames
        if t.ndim != 2 or t.shape[1] < 1 or frames % t.shape[1]:
            rows = t.shape[0] if t.ndim > 0 else 1
            raise ValueError(f"stdit: want t ({rows},F) with F a divisor of {frames}, got {tuple(t.shape)}")
        if vector.ndim != 2 or vector.shape[0] not in (1, t.shape[0]):
            raise ValueError(f"stdit: want vector ({t.shape[0]} or 1,D), got {tuple(vector.shape)}")
        if clean is not None:
            if clean.shape != t.shape:
                raise ValueError(f"stdit: want clean {tuple(t.shape)} as t, got {tuple(clean.shape)}")
            t = t.masked_fill(clean, 1.0)
        time = self.timestep(1000.0 * (1.0 - t)) + vector[:, None]  # (K, F, D)
        shared = self.shared_modulation(functional.silu(time)).unflatten(-1, (1, 6, -1))  # (K, F, 1, 6, D)
        blocks = shared + torch.stack([block.table for block in self.blocks])  # (K, F, L, 6, D)
        final = time[:, :, None] + self.final_table  # (K, F, 2, D)
        last = torch.cat([final, torch.ones_like(blocks[:, :, 0, :4])], dim=2)[:, :, None]
        return Modulation(torch.cat([blocks, last.to(blocks.dtype)], dim=2))

    def velocity(
        self, latent: Tensor, modulation: Modulation, condition: Condition, reuse: BlockReuse | None = None
    ) -> Tensor:
        """The network proper: P ``(B, C, G, rows, columns)`` to its velocity."""
        layout = self.layout
        batch = condition.keys_values[0].shape[1]
        want = (batch, self.latent_channels, layout.num_frames, layout.rows, layout.columns)
        if latent.shape != want:
            raise ValueError(f"stdit: want latent {want}, got {tuple(latent.shape)}")
        y = self.embed(latent)  # (B, G, N, D)
        # positions + 1 * patches is the first pending residual, so that the first block is like all others
        x = condition.positions.to(y.dtype).expand_as(y).contiguous()
        *tables, last = modulation.tables.unbind(2)
        shift, scale, *_, ones = last.unbind(2)
        state, every = (x, y, ones), range(len(self.blocks))
        if reuse is None:
            state = self._through(every, state, tables, condition)
        else:
            state = self._through(every[: reuse.blocks.start], state, tables, condition)
            before = add_gated(*state)
            if reuse.fresh:
                state = self._through(reuse.blocks, state, tables, condition)
                reuse.residual.copy_(add_gated(*state) - before)
            else:
                state = before, reuse.residual, ones
            state = self._through(every[reuse.blocks.stop :], state, tables, condition)
        _, x = gated_residual_adaln(*state, shift, scale)  # (B, G, N, D)
        velocity = unpatchify(self.final(x), layout.rows).to(latent.dtype)  # (B, C, G, rows, columns)
        valid = self.embed.cell_valid
        return velocity if valid is None else velocity.masked_fill(~valid, 0.0)

    def _through(
        self,
        indices: range,
        state: tuple[Tensor, Tensor, Tensor],
        tables: Sequence[Tensor],
        condition: Condition,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Some blocks; `state` is ``(x, y, gate)``, its last residual pending, before and after."""
        for i in indices:
            text = condition.keys_values[i], condition.bias_of(i)
            state = self.blocks[i](*state, tables[i], *text, self.embed.token_valid)
        return state

    def _check_condition(
        self, text: Tensor, text_mask: Tensor | None, drop_text: Tensor | None, task: Tensor, fps: Tensor
    ) -> None:
        width, longest = self.config.text_dim, self.config.max_text_length
        if text.ndim != 3 or text.shape[2] != width or not 1 <= text.shape[1] <= longest:
            raise ValueError(
                f"stdit: want text (B,N,{width}) with N in 1..{longest}, got {tuple(text.shape)}"
            )
        batch, length, _ = text.shape
        if text_mask is not None and text_mask.shape != (batch, length):
            raise ValueError(f"stdit: want text_mask ({batch}, {length}), got {tuple(text_mask.shape)}")
        for name, value in (("drop_text", drop_text), ("task", task), ("fps", fps)):
            if value is not None and value.shape != (batch,):
                raise ValueError(f"stdit: want {name} ({batch},), got {tuple(value.shape)}")

    @torch.no_grad()
    def _initialise(self) -> None:
        """Xavier linears; zero where a branch must begin closed, never two zero factors in one product."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.task.weight, std=TASK_STD)
        nn.init.normal_(self.embed.plane_embedding.weight, std=PLANE_STD)
        closed = [self.final, self.fps.fc2]
        for block in self.blocks:
            closed.append(block.cross.proj)
            if isinstance(block.attention, TemporalAttention):
                closed += [block.attention.proj, block.mlp.fc2]
        for linear in closed:
            nn.init.zeros_(linear.weight)
