"""The fast switches, each alone: off is the same bits, on is near and not the same, graphs change nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from nano import nano
from torch import Tensor

from pavdit.cli.main import OK, USAGE, main
from pavdit.flow.graph import Graphs
from pavdit.flow.step_cache import StepCache
from pavdit.latents import PlaneLayout
from pavdit.media import probe
from pavdit.options import SamplingOptions
from pavdit.runtime import Runtime
from pavdit.sampling import BoundVelocity, Captions, sample_batch
from pavdit.stdit import STDiT
from pavdit.stdit.fast import ABSORBED_TEXT, FastSTDiT, Networks
from pavdit.stdit.model import BlockReuse

STEPS = 6


def make(depth: int) -> STDiT:
    """Every branch as strong as a trained one's: no factor is zero, and guidance matters."""
    torch.manual_seed(0)
    config = nano()
    config = config.model_copy(update={"stdit": config.stdit.model_copy(update={"depth": depth})})
    model = STDiT(config.stdit, PlaneLayout.choose(config.grid), config.mdsa.latent_channels)
    for parameter in model.parameters():
        fan_in = parameter.shape[-1] if parameter.ndim > 1 else 4
        torch.nn.init.normal_(parameter, std=fan_in**-0.5)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def stdit() -> STDiT:
    return make(depth=2)


def sample(stdit: STDiT, graphs: Graphs | None = None, length: int = 8, **options: Any) -> Tensor:
    """Two clips, one with padded text; the noise is always the same."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(2, length, stdit.config.text_dim, generator=generator)
    captions = Captions(tokens, torch.arange(length) < torch.tensor([[length], [3]]), known=True)
    layout = stdit.layout
    shape = 2, stdit.latent_channels, layout.num_frames, layout.rows, layout.columns
    noise = 2 * torch.rand(shape, generator=generator) - 1
    velocity = BoundVelocity(
        stdit, captions, SamplingOptions("t2av", STEPS, **{"guidance_scale": 2.0, **options}), fps=10.0
    )
    return sample_batch(velocity, noise, target=None, graphs=graphs)


def off(got: Tensor, want: Tensor) -> float:
    """Relative root-mean-square error of P."""
    return float((got - want).norm() / want.norm())


CACHE = StepCache(interval=(0.0, 1.0))
SWITCHES: dict[str, tuple[dict[str, bool], dict[str, Any], float, float]] = {
    "fp8": ({"fp8": True}, {}, 5e-3, 0.05),
    "absorbed": ({"absorbed": True}, {}, 1e-8, 1e-5),
    "guidance interval": ({}, {"guidance_interval": (0.0, 0.5)}, 0.01, 0.2),
    "step cache": ({}, {"step_cache": CACHE}, 0.01, 0.3),
}
"""Forms of the network, options, and between which errors of P each must lie; in float32 on an AVX2 machine
they are 0.025, 3e-7, 0.08 and 0.11."""


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_alone_changes_the_sample_a_little(stdit: STDiT, name: str) -> None:
    forms, options, least, most = SWITCHES[name]
    want = sample(stdit)
    error = off(sample(Networks.of(stdit, **forms).short, **options), want)
    assert least < error < most
    assert torch.equal(sample(stdit), want)  # the exact network is as it was


def test_exact_is_one_network() -> None:
    config = nano()
    exact = STDiT(config.stdit, PlaneLayout.choose(config.grid), config.mdsa.latent_channels)
    networks = Networks.of(exact)
    assert networks.short is exact
    assert networks.long is exact


@pytest.mark.parametrize("name", SWITCHES)
def test_graphed_steps_give_the_same_bits(stdit: STDiT, name: str) -> None:
    forms, options, *_ = SWITCHES[name]
    network = Networks.of(stdit, **forms).short
    graphs = Graphs(capture=lambda function: (function(), function)[1])
    for _ in range(2):
        assert torch.equal(sample(network, graphs, **options), sample(network, **options))
    assert graphs.captures == {"guidance interval": 2, "step cache": 2}.get(name, 1)


def test_compiled_blocks_give_the_same_bits() -> None:
    """A fast block traces as two graphs, before and behind the text; the exact one stays as it is."""
    exact = make(depth=1)
    network = Networks.of(exact, fp8=True, absorbed=True).short
    want = sample(network)
    network.blocks[0].compile_parts("eager")
    assert torch.equal(sample(network), want)
    assert "attend" in network.blocks[0].__dict__
    assert "attend" not in exact.blocks[0].__dict__


def test_graphs_of_other_forms_are_others(stdit: STDiT) -> None:
    graphs = Graphs(capture=lambda function: (function(), function)[1])
    for absorbed in (False, True):
        network = Networks.of(stdit, absorbed=absorbed).short
        assert torch.equal(sample(network, graphs), sample(network))
    assert graphs.captures == 2


def test_long_text_takes_the_exact_path(stdit: STDiT) -> None:
    networks = Networks.of(stdit, absorbed=True)
    assert networks.for_text(ABSORBED_TEXT) is networks.short
    assert networks.for_text(ABSORBED_TEXT + 1) is stdit
    both = Networks.of(stdit, fp8=True, absorbed=True)
    assert (both.short.form, both.long.form) == ("fp8+absorbed", "fp8")
    assert both.short.blocks[0].mlp is both.long.blocks[0].mlp  # quantised once


def test_a_cache_over_all_blocks_keeps_the_tokens_of_the_step(stdit: STDiT) -> None:
    """The residual of the whole depth, read in the step that wrote it, is the network itself."""
    torch.manual_seed(2)
    layout, config = stdit.layout, stdit.config
    condition = stdit.prepare(
        torch.randn(1, 8, config.text_dim),
        text_mask=None,
        drop_text=None,
        task=torch.tensor([0]),
        fps=torch.tensor([10.0]),
    )
    latent = torch.rand(1, stdit.latent_channels, layout.num_frames, layout.rows, layout.columns)
    modulation = stdit.modulate(torch.tensor([[0.5]]), None, condition.vector)
    residual = torch.full((1, *condition.positions.shape), torch.nan)
    want = stdit.velocity(latent, modulation, condition)
    for fresh in (True, False):
        reuse = BlockReuse(range(len(stdit.blocks)), residual, fresh=fresh)
        got = stdit.velocity(latent, modulation, condition, reuse)
        assert off(got, want) < (1e-9 if fresh else 1e-5)


def test_float_weights_are_not_touched(stdit: STDiT) -> None:
    before = {name: value.clone() for name, value in stdit.state_dict().items()}
    FastSTDiT(stdit, fp8=True, absorbed=True)
    assert {name: torch.equal(value, before[name]) for name, value in stdit.state_dict().items()} == {
        name: True for name in before
    }


def test_widths_that_the_product_does_not_take_are_refused() -> None:
    config = nano().stdit.model_copy(update={"width": 24})
    odd = STDiT(config, PlaneLayout.choose(nano().grid), 4)
    with pytest.raises(ValueError, match=r"fp8: want STDiT's widths in multiples of 16, got 24 and 48"):
        FastSTDiT(odd, fp8=True, absorbed=False)


def test_a_runtime_says_what_serves_and_why() -> None:
    assert not Runtime.choose().fp8.on
    fast = Runtime.choose(tier="fast", absorbed=False)
    assert fast.fp8.on
    assert "emulated" in fast.fp8.why
    assert not fast.absorbed.on
    assert Runtime.choose(absorbed=True).absorbed.on


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance_interval": (0.5, 0.2)}, "guidance_interval: want 0 <= low <= high <= 1, got 0.5 and 0.2"),
        ({"step_cache": CACHE, "method": "heun"}, "step_cache: want method euler, got heun"),
    ],
)
def test_message(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingOptions(**options)


def test_there_are_two_tiers() -> None:
    with pytest.raises(ValueError, match="tier: want exact or fast, got 'quick'"):
        Runtime.choose(tier="quick")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("flags", "tier", "cache"),
    [
        ([], "exact", "none"),
        (["--tier", "fast", "--step-cache", "2,0-1,0-1", "--error"], "fp8+absorbed", "2,0-1,0-1"),
        (["--tier", "fast", "--no-fp8"], "absorbed", "none"),
    ],
    ids=["exact", "fast", "absorbed"],
)
def test_generate_has_the_switches_and_the_file_names_them(
    nano_generator_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    tier: str,
    cache: str,
) -> None:
    command = ["generate", "--checkpoint", str(nano_generator_run), "-o", str(tmp_path / "clip.mp4")]
    assert main([*command, *flags, "--guidance-interval", "0.1", "0.9"]) == OK
    _, *lines = capsys.readouterr().out.splitlines()
    assert len(lines) == ("--error" in flags)
    assert all(
        re.match(r"against exact: P off by \d+\.\d\d% .* dB PSNR, mel \d+\.\d\d dB RMS", x) for x in lines
    )
    facts = probe(tmp_path / "clip.mp4").metadata
    assert (facts["tier"], facts["step_cache"], facts["guidance_interval"]) == (tier, cache, "0.1-0.9")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tier", "quick"], "tier: want exact or fast, got 'quick'"),
        (["--step-cache", "x"], "step_cache: want EVERY[,BLOCKS[,TIMES]] like 2,0.25-0.75,0.2-0.8, got 'x'"),
    ],
    ids=["tier", "cache"],
)
def test_generate_refuses_in_one_line(
    nano_generator_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    message: str,
) -> None:
    command = ["generate", "--checkpoint", str(nano_generator_run), "-o", str(tmp_path / "clip.mp4")]
    assert main([*command, *flags]) == USAGE
    assert message in capsys.readouterr().err
