"""Adapters: nothing at the start, nothing when off, never left out, on whatever takes a weight itself."""

from __future__ import annotations

import math

import pytest
import torch
from av_dit_nano import image_dit
from nano import nano
from numerics import assert_equation
from torch import Tensor, nn
from torch._dynamo.utils import counters
from zeros import fill_zeros

from pavdit.baselines.av_dit.dit import ImageDiT
from pavdit.config import AdapterShape
from pavdit.latents import PlaneLayout
from pavdit.mdsa import MDSA
from pavdit.nn.adapters import (
    Adapters,
    BottleneckMLP,
    LoRALinear,
    TemporalAdapter,
    adapt,
    freeze_backbone,
    merge,
)
from pavdit.stdit import STDiT
from pavdit.stdit.fast import FastSTDiT

LORA = AdapterShape(rank=2, targets=("*",))
ALL = AdapterShape(
    rank=2, targets=("*",), temporal=("blocks.*.attention",), temporal_ratio=4, bottleneck=("blocks.*.mlp",)
)


def stdit() -> STDiT:
    torch.manual_seed(0)
    config = nano()
    model = STDiT(config.stdit, PlaneLayout.choose(config.grid), config.mdsa.latent_channels)
    return freeze_backbone(fill_zeros(model))


def run_stdit(model: STDiT) -> Tensor:
    config, random = nano(), torch.Generator().manual_seed(1)
    layout = PlaneLayout.choose(config.grid)
    dtype = next(model.parameters()).dtype
    shape = (2, config.mdsa.latent_channels, layout.num_frames, layout.rows, layout.columns)
    condition = model.prepare(
        torch.randn(2, 3, config.stdit.text_dim, generator=random).to(dtype),
        text_mask=None,
        drop_text=None,
        task=torch.tensor([0, 1]),
        fps=torch.full((2,), 10.0, dtype=dtype),
    )
    modulation = model.modulate(torch.tensor([[0.3, 0.6]], dtype=dtype), None, condition.vector[:1])
    return model.velocity(torch.rand(shape, generator=random).to(dtype) * 2 - 1, modulation, condition)


def mdsa() -> MDSA:
    torch.manual_seed(0)
    return freeze_backbone(fill_zeros(MDSA(nano())))


def run_mdsa(model: MDSA) -> Tensor:
    config, random = nano(), torch.Generator().manual_seed(1)
    clip, dtype = config.clip, next(model.parameters()).dtype
    video = torch.rand(1, 3, clip.num_frames, clip.height, clip.width, generator=random).to(dtype)
    audio = torch.rand(1, 1, clip.num_frames, config.mel.n_mels, clip.columns_per_frame, generator=random).to(
        dtype
    )
    posterior = model.encode(video, audio)
    planes = [plane for p in posterior for plane in (p.log_variance.hw, p.log_variance.tw, p.log_variance.th)]
    decoded = model.decode(*(p.mode() for p in posterior))
    return torch.cat([x.flatten() for x in (*decoded, *planes)])


def run_dit(model: ImageDiT) -> Tensor:
    """AV-DiT's."""
    latent = torch.randn(2, 4, 2, 8, 8, generator=torch.Generator().manual_seed(1))
    return model(latent.to(model.final.bias.dtype), torch.tensor([7, 900]))


BACKBONES = {"stdit": (stdit, run_stdit), "mdsa": (mdsa, run_mdsa), "dit": (image_dit, run_dit)}


def live(backbone: nn.Module, shape: AdapterShape, seed: int = 0) -> Adapters:
    """Adapters of which none is at zero."""
    torch.manual_seed(seed)
    adapters = Adapters(backbone, shape).to(next(backbone.parameters()).dtype)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    return adapters


@pytest.mark.parametrize("name", BACKBONES)
def test_no_layer_leaves_its_update_out(name: str) -> None:
    """With gradients every op is plain PyTorch, without the fused ones take weights: both must see them."""
    build, run = BACKBONES[name]
    backbone = build().double()
    adapters = live(backbone, LORA)
    adapted, merged = adapt(backbone, [(adapters, 1.0)]), merge(backbone, [(adapters, 1.0)])
    run(adapted).square().sum().backward()
    for place, parameter in adapters.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, place
    assert all(p.grad is None for p in backbone.parameters())
    with torch.no_grad():
        assert_equation(run(adapted), run(merged))
        backbone, adapted, merged = (m.float() for m in (backbone, adapted, merged))
        assert_equation(run(adapted), run(merged))
        assert (run(adapted) - run(backbone)).abs().max() > 1e-3


@pytest.mark.parametrize("name", BACKBONES)
@torch.no_grad()
def test_off_and_fresh_give_the_same_bits(name: str) -> None:
    build, run = BACKBONES[name]
    backbone = build()
    shape = LORA if name == "mdsa" else ALL
    before, weights = run(backbone), {k: v.clone() for k, v in backbone.state_dict().items()}
    trained = live(backbone, shape)
    assert not torch.equal(run(adapt(backbone, [(trained, 1.0)])), before)
    assert torch.equal(run(adapt(backbone, [(trained, 0.0)])), before)
    assert torch.equal(run(adapt(backbone, [(Adapters(backbone, shape), 1.0)])), before)
    assert torch.equal(run(backbone), before)
    assert backbone.state_dict().keys() == weights.keys()
    assert all(torch.equal(v, weights[k]) for k, v in backbone.state_dict().items())


@torch.no_grad()
def test_several_add_up_with_their_strengths() -> None:
    backbone = stdit().double()
    one, two = live(backbone, LORA), live(backbone, AdapterShape(rank=3, alpha=1.5, targets=("*.mlp.*",)), 1)
    both = [(one, 0.5), (two, -0.7)]
    assert_equation(run_stdit(adapt(backbone, both)), run_stdit(merge(backbone, both)))
    layer = adapt(backbone, both).blocks[0].mlp.fc1
    assert isinstance(layer, LoRALinear)
    own, fc1 = backbone.blocks[0].mlp.fc1, [a.get_submodule("blocks.0.mlp.fc1.lora") for a in (one, two)]
    want = own.weight + 0.5 * fc1[0].up @ fc1[0].down - 0.7 * (1.5 / 3) * fc1[1].up @ fc1[1].down
    assert_equation(layer.weight, want)


@torch.no_grad()
def test_compiled_blocks_keep_them_and_what_was_compiled_before_does_not_stand_in() -> None:
    torch._dynamo.reset()
    backbone = stdit()
    adapters = live(backbone, ALL)
    want = run_stdit(adapt(backbone, [(adapters, 1.0)]))
    backbone.compile_blocks("eager")
    adapted = adapt(backbone, [(adapters, 1.0)])
    assert torch.equal(run_stdit(adapted), want)
    counters.clear()
    adapted.compile_blocks("eager")  # whole graphs: nothing of an adapter breaks one
    assert torch.equal(run_stdit(adapted), want)
    assert counters["stats"]["unique_graphs"] == 3  # two attentions and an MLP, whatever the depth


@torch.no_grad()
def test_cheaper_arithmetic_has_the_updates_and_refuses_what_it_would_leave_out() -> None:
    backbone = stdit()
    adapters = live(backbone, LORA)
    pair = [
        run_stdit(FastSTDiT(m, fp8=True, absorbed=True))
        for m in (adapt(backbone, [(adapters, 1.0)]), merge(backbone, [(adapters, 1.0)]))
    ]
    assert (pair[0] - pair[1]).abs().max() < 0.05 * (pair[0] - run_stdit(backbone)).abs().max()
    branched = adapt(backbone, [(live(backbone, ALL), 1.0)])
    with pytest.raises(ValueError, match=r"fp8: want adapters that are low-rank .*, got TemporalAdapter$"):
        FastSTDiT(branched, fp8=True, absorbed=False)


def test_the_temporal_adapter_is_attention_across_frames() -> None:
    torch.manual_seed(0)
    frames, places, width, ratio, heads = 3, 2, 8, 2, 2
    adapter = fill_zeros(TemporalAdapter(width, heads, ratio)).double()
    x = torch.randn(1, frames, places, width, dtype=torch.float64)
    want = torch.zeros_like(x)
    for n in range(places):
        rows = []
        for t in range(frames):
            angles = [t / 10_000 ** (i / (width // 2)) for i in range(width // 2)]
            position = [math.cos(a) for a in angles] + [math.sin(a) for a in angles]
            rows.append(x[0, t, n] + torch.tensor(position).double())
        for t in range(frames):
            mixed = []
            for a in range(heads):
                narrow, wide = width // ratio // heads, width // heads
                part, values = slice(a * narrow, (a + 1) * narrow), slice(a * wide, (a + 1) * wide)
                scores = torch.stack(
                    [adapter.q(rows[t])[part] @ adapter.k(rows[s])[part] for s in range(frames)]
                )
                share = (scores / narrow**0.5).softmax(0)
                mixed.append(sum(share[s] * adapter.v(rows[s])[values] for s in range(frames)))
            want[0, t, n] = adapter.proj(torch.cat(mixed))
    torch.testing.assert_close(adapter(x), want, rtol=0, atol=1e-6)  # the positions are float32


def test_what_does_not_fit_is_named() -> None:
    backbone = stdit()
    with pytest.raises(ValueError, match=r"adapter.targets: want names of linear .*\(embed.proj, .*'head'"):
        Adapters(backbone, AdapterShape(targets=("head",)))
    with pytest.raises(ValueError, match="width, a multiple of num_heads . ratio = 1 . 7, got 32"):
        Adapters(backbone, AdapterShape(targets=(), temporal=("blocks.*.attention",), temporal_ratio=7))
    with pytest.raises(ValueError, match="want a width that ratio 5 divides, got 32"):
        BottleneckMLP(32, 5)
    adapted = adapt(backbone, [(Adapters(backbone, AdapterShape()), 1.0)])
    with pytest.raises(ValueError, match=r"want a backbone without any .*, got an adapted one"):
        adapt(adapted, [(Adapters(backbone, AdapterShape()), 1.0)])
    with pytest.raises(ValueError, match="want a place of the backbone, got blocks.0.attention.qkv"):
        adapt(mdsa(), [(Adapters(backbone, AdapterShape()), 1.0)])
    with pytest.raises(ValueError, match="want low-rank updates, .* got TemporalAdapter at blocks.0"):
        merge(backbone, [(Adapters(backbone, ALL), 1.0)])
    other = nn.ModuleDict({"embed": nn.ModuleDict({"proj": nn.Linear(3, 4)})})
    with pytest.raises(ValueError, match=r"want an update of \(4, 3\) at embed.proj, got one of \(32, 16\)"):
        adapt(other, [(Adapters(backbone, AdapterShape(targets=("embed.proj",))), 1.0)])
