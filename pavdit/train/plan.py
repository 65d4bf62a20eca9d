"""What a run will take, before anything runs: parameters, memory, time of a step, disk.

The model is differentiated once with fake tensors, which have sizes and no memory. That pass counts the
operations of the products, the bytes that all other ops read and write, and the bytes that wait for the
backward pass. The time of a step is these counts at the speed of this machine's products and copies, which
are measured for a moment.

How near it comes: `configs/tiny-bounce.yaml` on one thread of a shared AMD EPYC took 1.2 s a step where 2.0
were predicted (float32) and 10.8 where 4.7 were (bfloat16, slow on that processor), and grew by 571
and 422 MiB where 422 and 304 were predicted: what the backward pass holds for a moment and what the allocator
keeps is not counted.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pavdit.config import ConfigError, ModelConfig, RunConfig
from pavdit.data.latent_cache import STORED
from pavdit.latents import PlaneLayout
from pavdit.mdsa.autoencoder import MDSA
from pavdit.mdsa.discriminator import Discriminators
from pavdit.nn.recompute import recompute_layers
from pavdit.train.latents import mirrors
from pavdit.train.models import Generator, build_autoencoder, choose_device, with_dtype

UPDATE_PASSES = 13
"""Times that an update reads or writes something as large as the weights: norm 1, AdamW 7, average 3, and the
gradients twice."""

TEXT_TOKENS = 32

_RATE_SECONDS = 0.3


@dataclass(frozen=True, slots=True)
class Plan:
    """Predictions; bytes, seconds and operations.

    Attributes:
        parameters, adversary_parameters, frozen_parameters: of the model, its discriminators, and what is
            only applied.
        weights, gradients, optimizer, average: memory of training state.
        activations: what a part keeps for its backward pass.
        step_flops: of the products of an update, three passes of the model over the batch.
        step_seconds: of an update.
        run_seconds: of all updates, or the time limit.
        checkpoint: one checkpoint on the disk.
        checkpoints: the most that lie there at once, the one being written too.
        latents: of every clip's latents, for a generator; per clip where the number of clips is not given.
    """

    parameters: int
    adversary_parameters: int
    frozen_parameters: int
    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    step_flops: int
    step_seconds: float
    run_seconds: float
    checkpoint: int
    checkpoints: int
    latents: int

    @property
    def memory(self) -> int:
        """Everything that is in the device's memory at the end of a forward pass."""
        return self.weights + self.gradients + self.optimizer + self.average + self.activations

    def lines(self) -> list[str]:
        """For people."""
        words = []
        for field in fields(self):
            value, name = getattr(self, field.name), field.name.replace("_", " ")
            if field.name.endswith("parameters"):
                words.append(f"{name}: {value / 1e6:.2f} M")
            elif field.name == "step_flops":
                words.append(f"{name}: {value / 1e12:.3g} TFLOP")
            elif field.name.endswith("seconds"):
                words.append(f"{name}: {value:.3g}")
            else:
                words.append(f"{name}: {value / 2**20:.1f} MiB")
        return [*words, f"memory: {self.memory / 2**20:.1f} MiB"]


class _Unfilled(TorchFunctionMode):
    """Modules are built without drawing their weights, whose memory is never touched."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        filled = args[0] if args else (kwargs or {}).get("tensor")
        fills = getattr(func, "__name__", "") in ("normal_", "uniform_", "trunc_normal_", "fill_", "zero_")
        if fills and isinstance(filled, nn.Parameter):
            return filled
        return func(*args, **(kwargs or {}))


def _empty(module: nn.Module, device: torch.device) -> None:
    """Put tensors of the present mode in place of a module's own, whose values only its constructor read."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            setattr(
                part, name, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype, device=device))
            )
        for name, buffer in list(part.named_buffers(recurse=False)):
            setattr(part, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=device))


class _Traffic(TorchDispatchMode):
    """Counts the bytes that ops other than products read and write."""

    def __init__(self, products: Iterable[Any]) -> None:
        super().__init__()
        self.products, self.bytes = set(products), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        out = func(*args, **(kwargs or {}))
        if func not in self.products and not func.is_view:
            tensors = [x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)]
            self.bytes += sum(x.numel() * x.element_size() for x in tensors)
        return out


class _Saved:
    """Counts the bytes that wait for the backward pass, each storage once."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.seen = {p.untyped_storage()._cdata for p in parameters}
        self.bytes = 0
        self.keep: list[Tensor] = []  # a storage's address is unique while it lives

    def __call__(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.seen:
            self.seen.add(storage._cdata)
            self.bytes += storage.nbytes()
            self.keep.append(tensor)
        return tensor


def predict(config: RunConfig) -> Plan:
    """Predict a run on this machine.

    Raises:
        ConfigError: the configuration asks for a device that is not here, or for adapters.
    """
    if config.train.stage == "adapter":
        raise ConfigError("--plan: want train.stage autoencoder or generator, got adapter")
    device = choose_device(config.train.device)
    config = with_dtype(config, device)
    train = config.train
    with _Unfilled():
        model, adversary = _models(config)
        frozen = 0 if train.stage == "autoencoder" else _count(build_autoencoder(_with_audio(config)))
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of ops that have no fast path with fake tensors
        for module in (model, adversary):
            if module is not None:
                _empty(module, device)
        saved, traffic = _Saved(model.parameters()), _Traffic(())
        flops = FlopCounterMode(display=False)
        traffic.products = set(flops.flop_registry)
        part = train.batch_size // train.accumulate
        with flops, traffic, torch.autograd.graph.saved_tensors_hooks(saved, lambda x: x):
            with torch.autocast(device.type, torch.bfloat16, enabled=train.dtype == "bfloat16"):
                loss = _objective(model, adversary, config, part, device)
            loss.backward()
    parameters, adversaries = _count(model), 0 if adversary is None else _count(adversary)
    trained = parameters + adversaries
    step_flops = flops.get_total_flops() * train.accumulate
    product_rate, copy_rate = machine_rates(device, train.dtype)
    bytes_moved = traffic.bytes * train.accumulate + UPDATE_PASSES * 4 * trained
    step_seconds = step_flops / product_rate + bytes_moved / copy_rate
    checkpoint = 4 * (4 * parameters + 3 * adversaries + frozen)
    return Plan(
        parameters=parameters,
        adversary_parameters=adversaries,
        frozen_parameters=frozen,
        weights=4 * (trained + frozen),
        gradients=4 * trained,
        optimizer=8 * trained,
        average=4 * parameters,
        activations=saved.bytes,
        step_flops=step_flops,
        step_seconds=step_seconds,
        run_seconds=min(step_seconds * train.num_steps, train.time_limit_seconds or float("inf")),
        checkpoint=checkpoint,
        checkpoints=checkpoint * (train.keep_checkpoints + 1),
        latents=0 if train.stage == "autoencoder" else _latent_bytes(config),
    )


def machine_rates(device: torch.device, dtype: str) -> tuple[float, float]:
    """Operations a second of a large product, bytes a second of a large addition, measured for a moment."""
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    rows, side = (8192, 4096) if device.type == "cuda" else (1024, 512)
    x, weight = (torch.randn(n, side, device=device, dtype=kind) for n in (rows, side))
    vector = torch.zeros(2**26 if device.type == "cuda" else 2**22, device=device)

    def rate(call: Any, amount: float) -> float:  # noqa: ANN401 (a function)
        call()
        began, calls, spent = time.perf_counter(), 0, 0.0
        while spent < _RATE_SECONDS:
            call()
            calls += 1
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            spent = time.perf_counter() - began
        return amount * calls / spent

    products = rate(lambda: nn.functional.linear(x, weight), 2.0 * rows * side**2)
    return products, rate(lambda: vector.add(1.0), 2.0 * vector.nbytes)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _with_audio(config: RunConfig) -> ModelConfig:
    """Sizes with the sound's own autoencoder, where there shall be one: like the picture's, if not known."""
    model = config.model
    if config.train.audio_autoencoder is None or model.audio_mdsa is not None:
        return model
    alone = {"streams": "audio", "gcm_attn": False, "bi_block_attn": False}
    return model.model_copy(update={"audio_mdsa": model.mdsa.model_copy(update=alone)})


def _models(config: RunConfig) -> tuple[nn.Module, nn.Module | None]:
    if config.train.stage == "generator":
        classes = config.model.text.class_names or ("clip",)
        words = config.model.text.vocabulary or ("clip",)
        text = config.model.text.model_copy(update={"class_names": classes, "vocabulary": words})
        return Generator(config.model.model_copy(update={"text": text})), None
    model = MDSA(config.model)
    recompute_layers(model, config.train.gradient_checkpointing)
    second = config.train.first_stage is not None and config.model.mdsa.adversarial
    return model, Discriminators(config.model) if second else None


def _objective(
    model: nn.Module, adversary: nn.Module | None, config: RunConfig, batch: int, device: torch.device
) -> Tensor:
    """Something that every output enters, as in training: of the model, of the discriminators."""
    clip, mel, c = config.model.clip, config.model.mel, config.model.mdsa.latent_channels
    if isinstance(model, Generator):
        layout = PlaneLayout.choose(config.model.grid, config.model.stdit.layout)
        shape = (batch, c, layout.num_frames, layout.rows, layout.columns)
        velocity = model.stdit(
            torch.zeros(shape, device=device),
            torch.zeros(batch, 2, device=device),
            torch.zeros(batch, TEXT_TOKENS, config.model.stdit.text_dim, device=device),
            task=torch.zeros(batch, dtype=torch.int64, device=device),
            clean=torch.zeros(batch, 2, dtype=torch.bool, device=device),
            fps=torch.zeros(batch, device=device),
        )
        return (velocity.float() - torch.zeros(shape, device=device)).square().mean()
    has, video, images = config.model.mdsa.has, None, None
    if has("video"):
        video = torch.zeros(batch, 3, clip.num_frames, clip.height, clip.width, device=device)
    if has("audio"):
        images = torch.zeros(batch, 1, clip.num_frames, mel.n_mels, clip.columns_per_frame, device=device)
    output = model(video, images)
    made, total = (output.video, output.audio), torch.zeros((), device=device)
    for got, want in zip(made, (video, images), strict=True):
        if got is not None:
            total = total + (got.float() - want).abs().mean()
    if adversary is not None:
        frames = torch.zeros(batch, dtype=torch.int64, device=device)
        for v, a in (made, [None if x is None else x.detach() for x in made], (video, images)):
            for judgement in adversary(v, a, frames).values():
                total = total + judgement.logits.float().mean()
    return total


def _latent_bytes(config: RunConfig) -> int:
    """What `LatentCache` keeps: P of every clip, streams together and alone, training clips mirrored too."""
    data, layout = config.data, PlaneLayout.choose(config.model.grid, config.model.stdit.layout)
    cells = config.model.mdsa.latent_channels * layout.num_frames * layout.rows * layout.columns
    ways = 2 if mirrors(config) else 1
    rows = ways if data.num_clips is None else ways * (data.num_clips - data.held_out) + data.held_out
    return 2 * cells * STORED[config.train.latent_dtype].itemsize * rows
