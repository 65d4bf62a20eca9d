"""Each condition reaches the velocity, and what is masked, dropped or given clean does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from numerics import assert_batch_of_two
from torch import Tensor

from pavdit.latents import PlaneLayout
from pavdit.stdit import STDiT

Build = Callable[..., STDiT]
Inputs = Callable[..., dict[str, Any]]
LIVE = 1e-4
"""A condition is live when it moves the velocity (about 1) by more than rounding (about 1e-6) ever could."""


@pytest.fixture
def model(build: Build) -> STDiT:
    return build(PlaneLayout.choose((8, 8, 8), "six"))


def change(model: STDiT, arguments: dict[str, Any], **changes: Any) -> Tensor:
    """Largest change of the velocity per sample and frame of P, ``(B, G)``."""
    difference = model(**{**arguments, **changes}) - model(**arguments)
    return difference.detach().abs().amax(dim=(1, 3, 4))


def test_text_conditions(model: STDiT, inputs: Inputs) -> None:
    arguments = inputs(model)
    assert change(model, arguments, text=arguments["text"] + 1).min() > LIVE


def test_text_cannot_leak_at_start(build: Build, inputs: Inputs) -> None:
    """The closed cross-attention is what makes it so: opened alone, the text conditions."""
    model = build(PlaneLayout.choose((8, 8, 8), "six"), fresh=True)
    torch.nn.init.normal_(model.final.weight)
    arguments = inputs(model)
    other = {"text": arguments["text"] + 1}
    assert change(model, arguments, **other).max() == 0
    torch.nn.init.normal_(model.blocks[0].cross.proj.weight)
    assert change(model, arguments, **other).min() > LIVE


def test_masked_tokens_do_not_matter(model: STDiT, inputs: Inputs) -> None:
    arguments = inputs(model)
    mask = torch.arange(5) < torch.tensor([[2], [4]])
    other = torch.where(mask[..., None], arguments["text"], 50.0)
    arguments["text_mask"] = mask
    assert change(model, arguments, text=other).max() == 0


def test_masked_padding_is_the_short_prompt(model: STDiT, inputs: Inputs) -> None:
    arguments = inputs(model, length=8)
    short = {**arguments, "text": arguments["text"][:, :3]}
    mask = (torch.arange(8) < 3).expand(2, -1)
    assert_batch_of_two(model(**arguments, text_mask=mask), model(**short))


def test_dropped_text_is_the_null_caption(model: STDiT, inputs: Inputs) -> None:
    arguments = inputs(model)
    arguments["text_mask"] = torch.arange(5) < torch.tensor([[2], [4]])
    dropped = model(**arguments, drop_text=torch.tensor([False, True]))
    null = arguments["text"].clone()
    null[1] = model.caption.null_caption[:5]
    full = arguments["text_mask"] | torch.tensor(
        [[False], [True]]
    )  # the null caption has the bucket's length
    assert_batch_of_two(dropped, model(**{**arguments, "text": null, "text_mask": full}))


def test_a_dropped_text_is_not_seen(model: STDiT, inputs: Inputs) -> None:
    arguments = {**inputs(model), "drop_text": torch.tensor([True, False])}
    text = arguments["text"] + 1
    by_sample = change(model, arguments, text=text).amax(1)
    assert by_sample[0] == 0
    assert by_sample[1] > LIVE


def test_the_encoder_is_trained_through_the_generator(model: STDiT, inputs: Inputs) -> None:
    arguments = {**inputs(model), "drop_text": torch.tensor([True, False])}
    arguments["text"].requires_grad_()
    model(**arguments).square().sum().backward()
    assert not arguments["text"].grad[0].any()
    assert arguments["text"].grad[1].any()


def test_a_mask_of_ones_is_no_mask(model: STDiT, inputs: Inputs) -> None:
    arguments = inputs(model)
    masked = model(**arguments, text_mask=torch.ones(2, 5, dtype=torch.bool))
    assert_batch_of_two(masked, model(**arguments))


def test_the_network_counts_time_from_data(model: STDiT, inputs: Inputs) -> None:
    """The timestep is 1000 (1 - t), Open-Sora's: 1000 at noise, 0 at data and on clean frames."""
    seen = []
    model.timestep.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    arguments = {**inputs(model), "t": torch.tensor([[0.0, 0.25], [1.0, 0.5]])}
    model(**arguments, clean=torch.tensor([[False, False], [False, True]]))
    assert seen[0].tolist() == [[1000.0, 750.0], [0.0, 0.0]]


def test_time_of_each_group_matters(model: STDiT, inputs: Inputs) -> None:
    arguments = inputs(model, groups=6)
    for group in range(6):
        t = arguments["t"].clone()
        t[:, group] = 1 - t[:, group] / 2
        assert change(model, arguments, t=t)[:, group].min() > LIVE


def test_one_time_is_the_same_time_for_every_frame(model: STDiT, inputs: Inputs) -> None:
    arguments = inputs(model)
    want = model(**arguments)
    for groups in (2, 6):
        assert_batch_of_two(model(**{**arguments, "t": arguments["t"].expand(-1, groups)}), want)


def test_groups_are_the_streams(model: STDiT, inputs: Inputs) -> None:
    """Two groups: the first is the video's three frames, the second the audio's."""
    arguments = inputs(model, groups=2)
    per_frame = arguments["t"].repeat_interleave(3, dim=1)
    assert_batch_of_two(model(**{**arguments, "t": per_frame}), model(**arguments))


def test_the_time_of_clean_frames_is_one(model: STDiT, inputs: Inputs) -> None:
    arguments = inputs(model, groups=2)
    clean = torch.tensor([[True, False], [False, True]])
    t = torch.where(clean, 1.0, arguments["t"])
    assert torch.equal(model(**arguments, clean=clean), model(**{**arguments, "t": t}))
    assert change(model, {**arguments, "clean": clean}, t=torch.where(clean, 0.3, arguments["t"])).max() == 0


def test_given_frames_are_seen_by_the_others(model: STDiT, inputs: Inputs) -> None:
    arguments = {**inputs(model, groups=2), "clean": torch.tensor([[True, False]] * 2)}
    latent = arguments["latent"].clone()
    latent[:, :, :3] *= -1
    assert change(model, arguments, latent=latent)[:, 3:].min() > LIVE


def test_frame_rate_matters(model: STDiT, inputs: Inputs) -> None:
    arguments = inputs(model)
    assert change(model, arguments, fps=arguments["fps"] + 7).min() > LIVE


def test_task_matters_twice(model: STDiT, inputs: Inputs) -> None:
    """It moves the modulation and is a condition token; each way alone is live."""
    arguments = inputs(model)
    torch.nn.init.normal_(model.task.weight)
    here, there = (
        model.prepare(arguments["text"], text_mask=None, drop_text=None, task=task, fps=arguments["fps"])
        for task in (torch.tensor([0, 1]), torch.tensor([2, 3]))
    )
    assert all(
        (a - b)[..., 0, :].abs().max() > LIVE
        for a, b in zip(here.keys_values, there.keys_values, strict=True)
    )
    assert all(
        torch.equal(a[..., 1:, :], b[..., 1:, :])
        for a, b in zip(here.keys_values, there.keys_values, strict=True)
    )
    modulation = model.modulate(arguments["t"], None, here.vector)
    want = model.velocity(arguments["latent"], modulation, here)
    by_token = model.velocity(arguments["latent"], modulation, there)
    by_time = model.velocity(arguments["latent"], model.modulate(arguments["t"], None, there.vector), here)
    assert (by_token - want).abs().max() > LIVE
    assert (by_time - want).abs().max() > LIVE


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("latent", torch.zeros(2, 4, 5, 8, 8), r"want latent \(2, 4, 6, 8, 8\), got \(2, 4, 5, 8, 8\)"),
        ("t", torch.zeros(2, 4), r"want t \(2,F\) with F a divisor of 6, got \(2, 4\)"),
        ("t", torch.zeros(2), r"want t \(2,F\) with F a divisor of 6, got \(2,\)"),
        ("clean", torch.zeros(2, 6, dtype=torch.bool), r"want clean \(2, 1\) as t, got \(2, 6\)"),
        ("text", torch.zeros(2, 17, 12), r"want text \(B,N,12\) with N in 1..16, got \(2, 17, 12\)"),
        ("text", torch.zeros(2, 5, 13), r"want text \(B,N,12\) with N in 1..16, got \(2, 5, 13\)"),
        ("text_mask", torch.ones(2, 4, dtype=torch.bool), r"want text_mask \(2, 5\), got \(2, 4\)"),
        ("drop_text", torch.ones(3, dtype=torch.bool), r"want drop_text \(2,\), got \(3,\)"),
        ("task", torch.zeros(2, 1, dtype=torch.int64), r"want task \(2,\), got \(2, 1\)"),
        ("fps", torch.zeros(()), r"want fps \(2,\), got \(\)"),
    ],
)
def test_messages(name: str, value: Tensor, message: str, model: STDiT, inputs: Inputs) -> None:
    arguments = {**inputs(model), name: value}
    with pytest.raises(ValueError, match=f"^stdit: {message}$"):
        model(**arguments)
