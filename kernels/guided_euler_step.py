"""guided_euler_step: guidance mix, Euler step and fold in one pass, in place on target frames.

The same in PyTorch, where `target` is True (elsewhere nothing is read or written):

    v = v_null + guidance_scale * (v_cond - v_null)        # v = velocity where there is no null half
    z = latent + dt * v
    bounces = floor((z + 1) / 2)
    latent = (z - 2 * bounces) * (1 - 2 * (bounces - 2 * floor(bounces / 2)))        # z without reflection

Cost: reads latent and velocity once and writes latent once, 8 bytes and one or two velocities an element,
about 15 flops. P is 64 KiB for one clip of `xl`, so the launch is most of the time at small batches. dt and
guidance_scale are read on the device: a captured step takes the values that stand there at its replay. They
are single elements that always exist; the other loads have their masks.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 256
"""Elements of one program: P of `small` (planes of 256) and of `xl` (1024) divide, and one clip of `xl` is 64
programs."""
NUM_WARPS = 2
"""64 threads with 16 bytes of latent each."""


@triton.jit
def guided_euler_step_fwd_kernel(
    latent,  # [B, C, G, plane_size] float32
    velocity,  # [B or 2B, C, G, plane_size]: the conditional half, then the null half
    dt,  # [] float32
    guidance_scale,  # [] float32, read where GUIDED
    target,  # [B or 1, G] uint8, read where MASKED
    channels,
    frames,
    plane_size,
    target_stride,  # G, or 0 where all clips share a mask
    null_offset,  # elements from a conditional velocity to its null velocity
    GUIDED: tl.constexpr,
    MASKED: tl.constexpr,
    REFLECT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(plane_size, BLOCK)
    plane = tl.program_id(0) // blocks  # index of (b, c, g)
    column = (tl.program_id(0) % blocks).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    end = plane_size
    if MASKED:
        clip, frame = plane // (channels * frames), plane % frames
        wanted = tl.load(target + clip.to(tl.int64) * target_stride + frame)
        end = tl.where(wanted != 0, plane_size, 0)
    mask = column < end
    offset = plane.to(tl.int64) * plane_size + column

    v = tl.load(velocity + offset, mask=mask, other=0.0).to(tl.float32)
    if GUIDED:
        null = tl.load(velocity + null_offset + offset, mask=mask, other=0.0).to(tl.float32)
        v = null + tl.load(guidance_scale) * (v - null)
    z = tl.load(latent + offset, mask=mask, other=0.0) + tl.load(dt) * v
    if REFLECT:
        bounces = tl.floor((z + 1.0) * 0.5)
        parity = bounces - 2.0 * tl.floor(bounces * 0.5)  # floor, not %: a negative odd count is odd too
        z = (z - 2.0 * bounces) * (1.0 - 2.0 * parity)
    tl.store(latent + offset, z, mask=mask)


def guided_euler_step(
    latent: torch.Tensor,
    velocity: torch.Tensor,
    dt: torch.Tensor,
    guidance_scale: torch.Tensor,
    target: torch.Tensor | None,
    reflect: bool,
) -> None:
    """Launch the kernel.

    Args:
        latent: ``(B, C, G, H, W)`` float32, contiguous; overwritten.
        velocity: ``(B or 2B, C, G, H, W)``, contiguous; float32, bfloat16 or float16.
        dt: ``()`` float32.
        guidance_scale: ``()`` float32.
        target: bool ``(G,)`` or ``(B, G)``, contiguous, or None.
        reflect: fold into [-1, 1].
    """
    batch, channels, frames, rows, columns = latent.shape
    plane_size = rows * columns
    if latent.numel() == 0:
        return
    grid = (batch * channels * frames * triton.cdiv(plane_size, BLOCK),)
    with torch.cuda.device_of(latent):
        guided_euler_step_fwd_kernel[grid](
            latent,
            velocity,
            dt,
            guidance_scale,
            latent if target is None else target.view(torch.uint8),
            channels,
            frames,
            plane_size,
            frames if target is not None and target.ndim == 2 else 0,
            latent.numel(),
            GUIDED=velocity.shape[0] != batch,
            MASKED=target is not None,
            REFLECT=reflect,
            BLOCK=BLOCK,
            num_warps=NUM_WARPS,
        )
