"""guided_euler_step at the P of `small` and `xl`: make bench OP=guided_euler_step.

On the CPU there is no kernel: `ours` is then the public function over its reference, and the row says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.harness import Call, Case, main
from pavdit.ops._library import native
from pavdit.ops.guided_euler_step import guided_euler_step_, guided_euler_step_reference

PLANES = {"small": (4, 6, 16, 16), "xl": (4, 4, 32, 32)}  # C, G, H, W
BATCHES = (1, 4, 16)
DTYPES = [("fp32", torch.float32), ("bf16", torch.bfloat16)]
Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def ours(latent: Tensor, velocity: Tensor, dt: Tensor, guidance_scale: Tensor) -> Tensor:
    return guided_euler_step_(latent, velocity, dt, guidance_scale)


def eager(latent: Tensor, velocity: Tensor, dt: Tensor, guidance_scale: Tensor) -> Tensor:
    """The reference without the checks, in place."""
    return latent.copy_(guided_euler_step_reference(latent, velocity, dt, guidance_scale, None, True))


def call_of(step: Step, inputs: tuple[Tensor, ...]) -> Call:
    """Return a call without gradients on a latent of its own; the fold keeps it in the box for ever."""
    latent = inputs[0].clone()

    def call() -> Tensor:
        with torch.no_grad():
            return step(latent, *inputs[1:])

    return call


def cases(device: str) -> Iterator[Case]:
    """A step reads latent and both velocities and writes latent."""
    for preset, planes in PLANES.items():
        for batch in BATCHES:
            for name, dtype in DTYPES:
                torch._dynamo.reset()
                latent = torch.rand(batch, *planes, device=device) * 2 - 1
                velocity = torch.randn(2 * batch, *planes, device=device).to(dtype)
                numbers = torch.tensor(1 / 30, device=device), torch.tensor(4.0, device=device)
                ways = {"ours": ours, "eager": eager, "compile": torch.compile(eager)}
                calls = {way: call_of(step, (latent, velocity, *numbers)) for way, step in ways.items()}
                by = "triton" if native("guided_euler_step_", latent) else "reference"
                moved = 2 * latent.nbytes + velocity.nbytes
                yield Case("fwd", f"{preset} {batch}", f"{name} {by}", calls, moved)


if __name__ == "__main__":
    main("guided_euler_step", cases)
