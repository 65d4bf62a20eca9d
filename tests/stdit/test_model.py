"""STDiT as a function: zero at start, shapes, gradients, batches, padding, size, saving, no host sync."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from numerics import BATCH, assert_batch_of_two, error, magnitude
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pavdit.config import TASKS, tiny, xl
from pavdit.latents import PlaneLayout
from pavdit.stdit import STDiT

Build = Callable[..., STDiT]
Inputs = Callable[..., dict[str, Any]]

PATTERNS = {
    "t2av": (1, None),
    "v2a": (2, 0),
    "a2v": (2, 1),
    "t2v": (2, None),
    "t2a": (2, None),
    "per-frame": (0, 0),
}
"""By task: number of frame groups (0: one per frame) and the group that is given clean."""


def with_pattern(arguments: dict[str, Any], pattern: str, num_frames: int) -> dict[str, Any]:
    groups, given = PATTERNS[pattern]
    groups = groups or num_frames
    batch = arguments["latent"].shape[0]
    arguments["t"] = torch.linspace(0.1, 0.9, batch * groups).view(batch, groups)
    if given is not None:
        arguments["clean"] = torch.zeros(batch, groups, dtype=torch.bool)
        arguments["clean"][:, given] = True
    if pattern in TASKS:
        arguments["task"] = torch.full((batch,), TASKS.index(pattern))
    return arguments


def test_starts_as_the_zero_velocity(layout: PlaneLayout, build: Build, inputs: Inputs) -> None:
    model = build(layout, fresh=True)
    velocity = model(**inputs(model))
    assert torch.equal(velocity, torch.zeros_like(velocity))


def test_exactly_the_closed_branches_are_zero(build: Build) -> None:
    model = build(PlaneLayout.choose((4, 8, 8), "concat4"), fresh=True, depth=1)
    zero = [name for name, p in model.named_parameters() if name.endswith(".weight") and not p.any()]
    assert set(zero) == {
        "final.weight",
        "fps.fc2.weight",
        "blocks.0.cross.proj.weight",  # spatial
        "blocks.1.cross.proj.weight",  # temporal
        "blocks.1.attention.proj.weight",
        "blocks.1.mlp.fc2.weight",
    }
    tables = torch.stack([block.table for block in model.blocks])
    assert 0.5 < tables.std() * model.config.width**0.5 < 1.5
    planes, sincos = model.embed.plane_embedding.weight, model.embed.sincos
    assert 0.7 < planes.square().mean() / sincos.square().mean() < 1.4


def test_every_branch_opens_within_three_steps(build: Build, inputs: Inputs) -> None:
    """No parameter is held by two zero factors: a few steps of plain training move all of them."""
    model = build(PlaneLayout.choose((4, 8, 8), "concat4"), fresh=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for seed in range(3):
        arguments = inputs(model, batch=5, seed=seed)  # five tasks
        loss = (model(**arguments) - arguments["latent"]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert still == []


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_layout_and_task_runs(pattern: str, layout: PlaneLayout, build: Build, inputs: Inputs) -> None:
    model = build(layout)
    arguments = with_pattern(inputs(model), pattern, layout.num_frames)
    arguments["text_mask"] = torch.arange(5) < torch.tensor([[5], [2]])
    arguments["drop_text"] = torch.tensor([False, True])
    velocity = model(**arguments)
    assert velocity.shape == arguments["latent"].shape
    velocity.square().mean().backward()
    assert velocity.isfinite().all()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_tiny_runs_forward_and_backward(inputs: Inputs) -> None:
    config = tiny()
    model = STDiT(config.stdit, PlaneLayout.choose(config.grid), config.mdsa.latent_channels)
    velocity = model(**inputs(model, length=8))
    velocity.sum().backward()
    assert velocity.shape == (2, 4, 6, 8, 8)


@pytest.mark.parametrize("kind", ["six", "concat4", "fold"])
def test_xl_shapes_on_the_meta_device(kind: str) -> None:
    """Forward and backward of every layout and task pattern, without a number being computed."""
    config = xl()
    layout = PlaneLayout.choose(config.grid, kind)
    with torch.device("meta"):
        model = STDiT(config.stdit, layout, config.mdsa.latent_channels)
        for pattern in ("t2av", "v2a", "per-frame"):  # the other tasks differ in values only
            arguments: dict[str, Any] = {
                "latent": torch.empty(2, 4, layout.num_frames, layout.rows, layout.columns),
                "text": torch.empty(2, 300, 4096),
                "text_mask": torch.ones(2, 300, dtype=torch.bool),
                "drop_text": torch.zeros(2, dtype=torch.bool),
                "task": torch.zeros(2, dtype=torch.int64),
                "fps": torch.empty(2),
            }
            velocity = model(**with_pattern(arguments, pattern, layout.num_frames))
            assert velocity.shape == arguments["latent"].shape
            velocity.sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


def test_gradient_reaches_every_parameter(layout: PlaneLayout, build: Build, inputs: Inputs) -> None:
    model = build(layout, plane_rope=True)
    model(**inputs(model, batch=5)).square().sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_batch_of_two_is_two_of_one(layout: PlaneLayout, build: Build, inputs: Inputs) -> None:
    model = build(layout)
    arguments = with_pattern(inputs(model), "v2a", layout.num_frames)
    arguments["text_mask"] = torch.arange(5) < torch.tensor([[5], [2]])
    arguments["drop_text"] = torch.tensor([True, False])
    apart = [model(**{name: value[i : i + 1] for name, value in arguments.items()}) for i in range(2)]
    assert_batch_of_two(model(**arguments), torch.cat(apart))


@pytest.mark.parametrize("poison", [100.0, float("nan")])
def test_padding_never_matters(
    poison: float, padded_layout: PlaneLayout, build: Build, inputs: Inputs
) -> None:
    model = build(padded_layout)
    arguments = inputs(model)
    want = model(**arguments)
    valid = padded_layout.valid()
    arguments["latent"] = arguments["latent"].masked_fill(~valid, poison)
    velocity = model(**arguments)
    assert torch.equal(velocity, want)
    assert not velocity[..., ~valid].any()
    gradients = torch.autograd.grad(velocity.square().sum(), list(model.parameters()))
    expected = torch.autograd.grad(want.square().sum(), list(model.parameters()))
    assert all(torch.equal(got, same) for got, same in zip(gradients, expected, strict=True))


def test_padding_tokens_are_not_seen(padded_layout: PlaneLayout, build: Build, inputs: Inputs) -> None:
    """What padding tokens carry (their positions, here) reaches no valid cell: both attentions mask them."""
    model = build(padded_layout)
    arguments = inputs(model)
    valid = padded_layout.valid()
    want = model(**arguments)[..., valid]
    model.embed.sincos[~model.embed.token_valid[0]] = 5.0
    assert torch.equal(model(**arguments)[..., valid], want)


def test_planes_are_told_apart(build: Build, inputs: Inputs) -> None:
    """Permuting planes of equal size permutes the output only if no plane knows which one it is."""
    model = build(PlaneLayout.choose((8, 8, 8), "six"))
    arguments = inputs(model)
    velocity = model(**arguments)
    swapped = [3, 4, 5, 0, 1, 2]  # the streams change places
    arguments["latent"] = arguments["latent"][:, :, swapped]
    assert (model(**arguments)[:, :, swapped] - velocity).abs().max() > 1e-4
    torch.nn.init.zeros_(model.embed.plane_embedding.weight)
    nameless = model(**arguments)[:, :, swapped]
    arguments["latent"] = arguments["latent"][:, :, swapped]
    assert_batch_of_two(nameless, model(**arguments))


def test_the_streams_see_each_other(layout: PlaneLayout, build: Build, inputs: Inputs) -> None:
    model = build(layout)
    arguments = inputs(model, batch=1)
    before = model(**arguments)
    arguments["latent"] = arguments["latent"].clone()
    arguments["latent"][:, :, 0] += 0.5  # v.hw
    assert (model(**arguments) - before)[:, :, layout.num_frames // 2 :].abs().max() > 1e-5


def test_precomputed_parts_give_the_same_bits(build: Build, inputs: Inputs) -> None:
    model = build(PlaneLayout.choose((4, 8, 8), "concat4"))
    arguments = inputs(model)
    want = model(**arguments)
    condition = model.prepare(
        arguments["text"], text_mask=None, drop_text=None, task=arguments["task"], fps=arguments["fps"]
    )
    modulation = model.modulate(arguments["t"], None, condition.vector)
    assert torch.equal(model.velocity(arguments["latent"], modulation, condition), want)


def test_one_row_of_tables_serves_a_batch(build: Build, inputs: Inputs) -> None:
    model = build(PlaneLayout.choose((4, 8, 8), "concat4"))
    arguments = inputs(model)
    arguments["task"], arguments["fps"] = (arguments[n][:1].expand(2) for n in ("task", "fps"))
    arguments["t"] = torch.tensor([[0.25]]).expand(2, -1)
    condition = model.prepare(
        arguments["text"], text_mask=None, drop_text=None, task=arguments["task"], fps=arguments["fps"]
    )
    steps = model.modulate(torch.tensor([[0.0], [0.25], [1.0]]), None, condition.vector[:1])
    got = model.velocity(arguments["latent"], steps.row(1), condition)
    assert_batch_of_two(got, model(**arguments))


def count(config_width: int | None = None) -> int:
    config = xl()
    stdit = (
        config.stdit if config_width is None else config.stdit.model_copy(update={"num_heads": config_width})
    )
    with torch.device("meta"):
        model = STDiT(stdit, PlaneLayout.choose(config.grid), config.mdsa.latent_channels)
    return sum(p.numel() for p in model.parameters())


def test_xl_has_the_papers_size() -> None:
    assert abs(count() / 697.5e6 - 1) < 1e-3


def test_open_soras_heads_change_only_the_qk_norms() -> None:
    """16 heads of 72 in place of 18 of 64: 8 more weights for q and k in each of 32 blocks."""
    assert count(16) - count() == 2 * 8 * 32


HOST_SYNCS = (
    "_local_scalar_dense",
    "nonzero",
    "equal",
    "is_nonzero",
    "masked_select",
    "unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "item",
)


class NoHostSync(TorchDispatchMode):
    """Fails on every op that would make the host wait for a device, boolean indexing included."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.__name__.split(".")[0]
        boolean = name in ("index", "index_put", "index_put_") and any(
            isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in HOST_SYNCS or boolean:
            raise AssertionError(f"{func} waits for the device")
        return func(*args, **(kwargs or {}))


# tolist reads CPU memory without a dispatched op; the meta-device test would fail on it
@pytest.mark.parametrize("sync", [Tensor.item, bool, Tensor.nonzero, lambda x: x[x > 0], torch.unique])
def test_the_sync_detector_detects(sync: Callable[[Tensor], Any]) -> None:
    with NoHostSync(), pytest.raises(AssertionError, match="waits for the device"):
        sync(torch.ones(1))


@pytest.mark.parametrize("train", [False, True])
def test_never_waits_for_the_device(train: bool, layout: PlaneLayout, build: Build, inputs: Inputs) -> None:
    model = build(layout, plane_rope=True)
    arguments = with_pattern(inputs(model), "v2a", layout.num_frames)
    arguments["text_mask"] = torch.arange(5) < torch.tensor([[5], [2]])
    arguments["drop_text"] = torch.tensor([False, True])
    with NoHostSync(), torch.set_grad_enabled(train):
        velocity = model(**arguments)
        if train:
            velocity.sum().backward()


def test_the_whole_network_traces_without_a_break(build: Build, inputs: Inputs) -> None:
    torch._dynamo.reset()
    model = build(PlaneLayout.choose((4, 8, 8), "concat4"), depth=1)
    arguments = inputs(model)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert_batch_of_two(compiled(**arguments), model(**arguments))


def test_both_precisions_return_the_latents_dtype(build: Build, inputs: Inputs) -> None:
    """bf16 weights, and float32 weights under autocast: the velocity is float32 like P, and close."""
    model = build(PlaneLayout.choose((4, 8, 8), "concat4"))
    arguments = inputs(model)
    want = model(**arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = model(**arguments)
    cast = model.to(torch.bfloat16)(**arguments)
    for got in (under_autocast, cast):
        assert got.dtype == torch.float32
        assert error(got, want) < BATCH[torch.bfloat16] * magnitude(want)  # measured: 0.011 of the magnitude


def test_autocast_trains(build: Build, inputs: Inputs) -> None:
    model = build(PlaneLayout.choose((4, 6, 6), "fold"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        velocity = model(**inputs(model, batch=5))
    velocity.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_save_and_load(
    tmp_path: Path, build: Build, inputs: Inputs, fill_zeros: Callable[[nn.Module], None]
) -> None:
    layout = PlaneLayout.choose((4, 6, 6), "fold")
    model = build(layout)
    arguments = {**inputs(model), "drop_text": torch.tensor([False, True])}
    save_file(model.state_dict(), tmp_path / "stdit.safetensors")
    other = STDiT(model.config, layout, 4)  # other random numbers
    other.load_state_dict(load_file(tmp_path / "stdit.safetensors"))
    assert torch.equal(other(**arguments), model(**arguments))
