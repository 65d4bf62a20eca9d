"""A batch's velocity: STDiT with its condition bound, and everything that no step changes computed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from pavdit.config import TASKS, ModelConfig
from pavdit.flow.graph import Captured, Graphs, version_of
from pavdit.flow.sampler import Callback, sample
from pavdit.latents import PlaneLayout
from pavdit.ops import guided_euler_step_
from pavdit.options import SamplingOptions
from pavdit.stdit.model import BlockReuse, Condition, Modulation, STDiT
from pavdit.tasks import GIVEN, MADE_ALONE, STREAMS
from pavdit.text import TextEncoder, to_bucket


@dataclass(frozen=True, slots=True)
class Captions:
    """What a batch is conditioned on.

    Attributes:
        tokens: ``(B, N, D_text)``, N a bucket.
        mask: ``(B, N)`` bool, True on tokens; None: all are.
        known: False for the null caption in every row.
    """

    tokens: Tensor
    mask: Tensor | None
    known: bool


def encode_captions(
    text: TextEncoder,
    prompts: Sequence[str] | None,
    batch: int,
    config: ModelConfig,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Captions:
    """Prompts to tokens, where the generator runs; None: `batch` null captions, as long as a class's.

    Raises:
        ValueError: a prompt cannot be encoded, or is longer than the generator accepts.
    """
    stdit = config.stdit
    if prompts is None:
        shape = batch, config.text.tokens_per_class, stdit.text_dim
        return Captions(torch.zeros(shape, device=device), None, known=False)
    tokens, mask = to_bucket(text.encode(list(prompts)), stdit.max_text_length)
    return Captions(tokens.to(device, dtype), None if mask is None else mask.to(device), known=True)


def place_given(
    noise: Tensor, given: Tensor | None, task: str, layout: PlaneLayout
) -> tuple[Tensor, Tensor | None]:
    """Put the stream that a task is given into P.

    Args:
        noise: P, ``(B, C, G, rows, columns)``.
        given: P of the clips, of which the given stream's frames are taken; None where nothing is given.
        task: one of `pavdit.config.TASKS`.
        layout: of P.

    Returns:
        P, and the ``(G,)`` mask of the frames to make; None: all.
    """
    if task in GIVEN and given is not None:
        clean = layout.frames_of(GIVEN[task]).to(noise.device)  # (G,)
        return torch.where(clean[:, None, None], given, noise), ~clean
    made = MADE_ALONE.get(task)
    return noise, None if made is None else layout.frames_of(made).to(noise.device)


class BoundVelocity:
    """``velocity(latent, t, guided)`` of `pavdit.flow.sampler`, for one batch and the times of its steps.

    Text keys and values of every block, adaLN tables of every step and the positions are computed here; a
    step computes nothing that another step computes too.

    Args:
        stdit: the network.
        captions: the batch's.
        options: how the batch is sampled; it may ask for every time of ``options.times()``.
        fps: frames per second.
    """

    def __init__(self, stdit: STDiT, captions: Captions, options: SamplingOptions, *, fps: float) -> None:
        self.stdit, self.captions, self.options = stdit, captions, options
        times, device, task = options.times(), captions.tokens.device, options.task
        batch = captions.tokens.shape[0]
        self._task = torch.full((1,), TASKS.index(task), device=device)
        self._fps = torch.full((1,), float(fps), device=device)
        self.single = self._prepare([not captions.known] * batch)
        self.double = self._prepare([False] * batch + [True] * batch) if options.guided else self.single
        is_clean = torch.tensor([[GIVEN.get(task) == stream for stream in STREAMS]], device=device)  # (1, 2)
        moves = torch.tensor([[MADE_ALONE.get(task, stream) == stream for stream in STREAMS]], device=device)
        # a stream that stays noise stays at t = 0
        t = torch.tensor(times, dtype=torch.float32, device=device)[:, None] * moves  # (K, 2)
        self._tables = stdit.modulate(t, is_clean.expand(len(times), -1), self.single.vector[:1])
        self._row = {time: k for k, time in enumerate(times)}
        self._uses = options.uses()
        self._residuals: dict[bool, Tensor] = {}

    def condition(self, guided: bool) -> Condition:
        """Of the batch, or of the batch and then of its null captions."""
        return self.double if guided else self.single

    def modulation(self, t: float) -> Modulation:
        """The adaLN tables of one of the times."""
        return self._tables.row(self._row[t])

    def reuse(self, t: float, guided: bool) -> BlockReuse | None:
        """What the step at a time does with the residual of the cached blocks."""
        cache = self.options.step_cache
        if cache is None or (use := self._uses[t]) == "plain":
            return None
        if guided not in self._residuals:
            condition = self.condition(guided)
            batch, positions = condition.keys_values[0].shape[1], condition.positions
            self._residuals[guided] = positions.new_zeros(batch, *positions.shape)  # (B, G, N, D)
        blocks = cache.range_of(len(self.stdit.blocks))
        return BlockReuse(blocks, self._residuals[guided], fresh=use == "store")

    def __call__(self, latent: Tensor, t: float, guided: bool) -> Tensor:
        reuse = self.reuse(t, guided)
        return halves(self.stdit, latent, self.modulation(t), self.condition(guided), guided, reuse)

    def _prepare(self, drop: list[bool]) -> Condition:
        rows, copies = len(drop), len(drop) // self.captions.tokens.shape[0]
        mask = self.captions.mask
        return self.stdit.prepare(
            self.captions.tokens.repeat(copies, 1, 1),
            text_mask=None if mask is None else mask.repeat(copies, 1),
            drop_text=torch.tensor(drop, device=self.captions.tokens.device),
            task=self._task.expand(rows),
            fps=self._fps.expand(rows),
        )


def halves(
    stdit: STDiT,
    latent: Tensor,
    modulation: Modulation,
    condition: Condition,
    guided: bool,
    reuse: BlockReuse | None = None,
) -> Tensor:
    """The velocity of a batch, or where `guided` of its two halves in one pass."""
    return stdit.velocity(torch.cat([latent, latent]) if guided else latent, modulation, condition, reuse)


class GraphedSteps:
    """Euler steps of a batch as replays of a captured graph: network, guidance, step and fold in one launch.

    Args:
        graphs: where captured steps live.
        velocity: the batch's network with its condition.
        target: ``(G,)`` bool or None, as in `sample`.
    """

    def __init__(self, graphs: Graphs, velocity: BoundVelocity, target: Tensor | None) -> None:
        self.graphs, self.velocity, self.target = graphs, velocity, target
        self._steps: dict[tuple[bool, str], Captured] = {}

    def __call__(self, latent: Tensor, t: float, dt: float, guided: bool) -> None:
        """One step, in place."""
        modulation, reuse = self.velocity.modulation(t), self.velocity.reuse(t, guided)
        kind = guided, "plain" if reuse is None else "store" if reuse.fresh else "reuse"
        step = self._steps.get(kind)
        if step is None:
            step = self._steps[kind] = self._bind(latent, modulation, guided, reuse)
        step.load(latent=latent, tables=modulation.tables)
        if reuse is not None and not reuse.fresh:
            step.load(residual=reuse.residual)
        step.buffers["dt"].fill_(dt)
        step.replay()
        step.store("latent", latent)
        if reuse is not None and reuse.fresh:
            step.store("residual", reuse.residual)

    def _bind(
        self, latent: Tensor, modulation: Modulation, guided: bool, reuse: BlockReuse | None
    ) -> Captured:
        """The graph for this batch's shapes, with what all its steps share loaded."""
        condition = self.velocity.condition(guided)
        inputs = {"latent": latent, "tables": modulation.tables}
        inputs |= {f"kv{i}": pair for i, pair in enumerate(condition.keys_values)}
        inputs |= {"positions": condition.positions, "dt": latent.new_zeros(())}
        inputs["scale"] = latent.new_full((), self.velocity.options.guidance_scale)
        if condition.bias is not None:
            inputs["bias"] = condition.bias
        if self.target is not None:
            inputs["target"] = self.target
        if reuse is not None:
            inputs["residual"] = reuse.residual
        options, stdit, blocks = self.velocity.options, self.velocity.stdit, len(condition.keys_values)
        # these alone, because the function lives as long as the graph
        vector, cached = condition.vector, None if reuse is None else (reuse.blocks, reuse.fresh)

        def step(inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
            bound = Condition(
                keys_values=tuple(inputs[f"kv{i}"] for i in range(blocks)),
                bias=inputs.get("bias"),
                vector=vector,
                positions=inputs["positions"],
            )
            latent = inputs["latent"]
            again = None if cached is None else BlockReuse(cached[0], inputs["residual"], fresh=cached[1])
            v = halves(stdit, latent, Modulation(inputs["tables"]), bound, guided, again)
            guided_euler_step_(
                latent, v, inputs["dt"], inputs["scale"], inputs.get("target"), options.reflect
            )
            return {name: inputs[name] for name in ("latent", "residual") if name in inputs}

        key = "step", guided, cached, stdit.form, options.kernels(), version_of(stdit.parameters())
        return self.graphs.get(key, step, inputs)


def sample_batch(
    velocity: BoundVelocity,
    noise: Tensor,
    *,
    target: Tensor | None,
    graphs: Graphs | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """`pavdit.flow.sampler.sample` with the velocity's options; with `graphs`, Euler steps are replays."""
    options, euler_step = velocity.options, None
    if graphs is not None and options.method == "euler":
        euler_step = GraphedSteps(graphs, velocity, target)
    # captured steps share buffers and memory, so a second thread waits for the whole sample
    with nullcontext() if graphs is None else graphs.lock:
        return sample(
            velocity,
            noise,
            num_steps=options.num_steps,
            guidance_scale=options.guidance_scale,
            guidance_interval=options.guidance_interval,
            method=options.method,
            reflect=options.reflect,
            time_shift=options.time_shift,
            target=target,
            callback=callback,
            euler_step=euler_step,
        )
