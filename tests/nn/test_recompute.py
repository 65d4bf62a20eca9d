"""Gradient checkpointing: the same gradients, from fewer activations."""

from __future__ import annotations

import torch
from nano import nano
from zeros import fill_zeros

from pavdit.mdsa import MDSA, draw_frames, mdsa_loss
from pavdit.nn.recompute import recompute_layers


def gradients(model: MDSA, recompute: bool) -> tuple[dict[str, torch.Tensor], int]:
    """Gradients of one batch, and the bytes that autograd kept for them."""
    recompute_layers(model, recompute)
    generator = torch.Generator().manual_seed(1)
    video, audio = (
        torch.randn(2, *shape, generator=generator) for shape in (model.video_shape, model.audio_shape)
    )
    kept: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    model.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        with torch.autocast("cpu", torch.bfloat16):
            output = model(video, audio)
            loss = mdsa_loss(output, video, audio, draw_frames(2, 4, generator))["loss"]
        held = sum(kept.values())
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}, held


def test_gradients_are_the_same_and_less_is_kept() -> None:
    torch.manual_seed(0)
    model = fill_zeros(MDSA(nano()))
    (want, all_kept), (got, kept) = gradients(model, False), gradients(model, True)
    assert got.keys() == want.keys()
    assert [name for name in want if not torch.equal(got[name], want[name])] == []
    assert kept < 0.75 * all_kept
