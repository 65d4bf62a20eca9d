"""griffin_lim_step and the inversion of a whole clip: make bench OP=griffin_lim_step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.harness import Call, Case, main
from pavdit.audio.invert import invert_mel, linear_magnitude
from pavdit.audio.mel import hann_window, mel_images
from pavdit.clip import ClipSpec
from pavdit.config import MelConfig
from pavdit.ops._stft import window_square_sum
from pavdit.ops.griffin_lim_step import griffin_lim_step, griffin_lim_step_reference

CLIP = ClipSpec(num_frames=16, height=64, width=64)
MEL = MelConfig(n_mels=128)
STEPS = {"cpu": {1: 64, 16: 4}, "cuda": {1: 64, 16: 64}}
"""Of the whole inversion, by batch: 64 steps of 16 clips take PyTorch 20 s on one CPU thread."""
MOMENTUM = 0.99
Step = Callable[..., tuple[Tensor, Tensor]]


def step(op: Step, state: list[Tensor], tables: list[Tensor]) -> Call:
    """Return a call that does one iteration and keeps its state, as the inversion does."""

    def call() -> None:
        with torch.no_grad():
            state[:2] = op(*state, *tables, MEL.n_fft, CLIP.hop_length, MOMENTUM)

    return call


def inversion(op: Step, images: Tensor, num_iterations: int) -> Call:
    """Return a call of all iterations and what stands around them."""

    def call() -> Tensor:
        with torch.no_grad(), patch("pavdit.audio.invert.griffin_lim_step", op):
            return invert_mel(images, CLIP, MEL, num_iterations=num_iterations)

    return call


def cases(device: str) -> Iterator[Case]:
    """An iteration reads columns, previous and magnitude and writes columns and rebuilt."""
    for batch, num_iterations in STEPS[device].items():
        torch._dynamo.reset()
        ways: dict[str, Step] = {"ours": griffin_lim_step, "reference": griffin_lim_step_reference}
        compiled = ways | {"compile": torch.compile(griffin_lim_step_reference)}
        images = mel_images(0.1 * torch.randn(batch, CLIP.num_samples, device=device), CLIP, MEL)
        magnitude = linear_magnitude(images, CLIP, MEL)
        window = hann_window(MEL.win_length, images.device)
        num_columns = magnitude.shape[1]
        columns = window * torch.randn(batch, num_columns, MEL.win_length, device=device)
        previous = torch.zeros_like(magnitude, dtype=torch.complex64)
        tables = [window, window_square_sum(window, num_columns, MEL.n_fft, CLIP.hop_length)]
        moved = 2 * columns.nbytes + 2 * previous.nbytes + magnitude.nbytes
        calls = {way: step(op, [columns, previous, magnitude], tables) for way, op in compiled.items()}
        yield Case("step", f"{batch}x{CLIP.num_samples}", "fp32", calls, moved)
        whole = {way: inversion(op, images, num_iterations) for way, op in ways.items()}
        yield Case(
            f"{num_iterations} steps", f"{batch}x{CLIP.num_samples}", "fp32", whole, num_iterations * moved
        )


if __name__ == "__main__":
    main("griffin_lim_step", cases)
