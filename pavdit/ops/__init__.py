"""The only door to native code. Every op is one public function here, with a PyTorch reference behind it.

A public function checks its arguments, takes part in autograd and `torch.compile`, and uses a native kernel
where there is one for the device and dtype; ``pavdit doctor`` says which implementation serves and why.
"""

from pavdit.ops.absorbed_attention import absorbed_attention
from pavdit.ops.adaln_modulate import adaln_modulate
from pavdit.ops.axis_attention import axis_attention, axis_query_attention
from pavdit.ops.block_attention import block_attention
from pavdit.ops.block_cross_attention import block_cross_attention
from pavdit.ops.gated_residual_adaln import gated_residual_adaln
from pavdit.ops.gated_residual_adaln_fp8 import gated_residual_adaln_fp8
from pavdit.ops.geglu_mlp import geglu_mlp
from pavdit.ops.gelu_fp8 import gelu_fp8
from pavdit.ops.griffin_lim_step import griffin_lim_step
from pavdit.ops.guided_euler_step import bounce_sign, fold, guided_euler_step_
from pavdit.ops.linear_gelu import linear_gelu
from pavdit.ops.log_mel_frames import log_mel_frames
from pavdit.ops.multiscale_temporal_attention import multiscale_temporal_attention
from pavdit.ops.qk_norm_rope import qk_norm_rope
from pavdit.ops.scaled_linear import scaled_linear

__all__ = [
    "absorbed_attention",
    "adaln_modulate",
    "axis_attention",
    "axis_query_attention",
    "block_attention",
    "block_cross_attention",
    "bounce_sign",
    "fold",
    "gated_residual_adaln",
    "gated_residual_adaln_fp8",
    "geglu_mlp",
    "gelu_fp8",
    "griffin_lim_step",
    "guided_euler_step_",
    "linear_gelu",
    "log_mel_frames",
    "multiscale_temporal_attention",
    "qk_norm_rope",
    "scaled_linear",
]
