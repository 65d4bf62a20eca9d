"""Eq. 4, 5, 6 and 8 against plain PyTorch and index loops."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from numerics import assert_equation
from torch import Tensor
from torch.nn.functional import avg_pool1d, conv_transpose1d, scaled_dot_product_attention
from zeros import fill_zeros

from pavdit.mdsa.attention import (
    SCALES,
    CrossStreamAttention,
    GroupCrossModalAttention,
    MultiScaleTemporalSelfAttention,
    PlaneFeatures,
    SpatialSelfAttention,
)

SHARED = pytest.mark.parametrize("share_scales", [True, False], ids=["shared", "own"])


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64)


def multi_scale(share_scales: bool) -> MultiScaleTemporalSelfAttention:
    torch.manual_seed(2)
    return MultiScaleTemporalSelfAttention(12, num_heads=2, head_dim=4, share_scales=share_scales).double()


@SHARED
def test_mt_self_attention_is_eq_4_and_5(share_scales: bool) -> None:
    module = fill_zeros(multi_scale(share_scales))
    b, t, s, d = 2, 8, 5, 12
    z = randn(b, t, s, d)
    want = z.clone()
    for position in range(s):
        h = module.norm(z[:, :, position]).mT  # (B, D, T)
        for index, k in enumerate(SCALES):
            pooled = avg_pool1d(h, k, stride=k).mT  # (B, T/k, D)
            weight = module.qkv[0 if share_scales else index].weight
            q, key, v = (pooled @ weight.T).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)  # (B, A, T/k, E)
            heads = scaled_dot_product_attention(q, key, v).transpose(1, 2).flatten(2)  # (B, T/k, A*E)
            kernel = module.deconv[index].view(k, d, 8).permute(2, 1, 0)  # (A*E, D, k)
            want[:, :, position] += conv_transpose1d(heads.mT, kernel, stride=k).mT
    assert_equation(module(z), want)


@SHARED
def test_mt_self_attention_begins_as_the_identity(share_scales: bool) -> None:
    z = randn(2, 4, 3, 12)
    assert torch.equal(multi_scale(share_scales)(z), z)


def test_own_scales_have_three_projections() -> None:
    shared, own = (sum(p.numel() for p in multi_scale(share).parameters()) for share in (True, False))
    assert own - shared == 2 * 3 * 12 * 8


def test_positions_of_a_plane_do_not_meet_in_mt_self_attention() -> None:
    module = fill_zeros(multi_scale(True))
    z = randn(1, 8, 5, 12)
    moved = z.clone()
    moved[:, 3, 2] += randn(12)
    changed = (module(moved) != module(z)).any(-1)[0]
    want = torch.zeros(8, 5, dtype=torch.bool)
    want[:, 2] = True
    assert torch.equal(changed, want)


def test_spatial_attention_lets_every_position_meet_every_other() -> None:
    module = fill_zeros(SpatialSelfAttention((3, 5), 12, num_heads=2, head_dim=4)).double()
    hw = randn(2, 3, 5, 12)
    moved = hw.clone()
    moved[0, 1, 4] += randn(12)
    changed = (module(moved) != module(hw)).any(-1)
    assert changed[0].all() and not changed[1].any()


def cross_attention(queries: Tensor, keys: Tensor, module: CrossStreamAttention, direction: str) -> Tensor:
    """CA of eq. 6 for tokens ``(B, N, D)``: `direction` is the stream that is updated."""
    other = "audio" if direction == "video" else "video"
    norm, qkv, out = (getattr(module, f"{direction}_{part}") for part in ("norm", "qkv", "out"))
    other_norm, other_qkv = getattr(module, f"{other}_norm"), getattr(module, f"{other}_qkv")
    q = qkv(norm(queries))[:, :, 0].transpose(1, 2)  # (B, A, N, E)
    k, v = (other_qkv(other_norm(keys))[:, :, part].transpose(1, 2) for part in (1, 2))
    return out(scaled_dot_product_attention(q, k, v).transpose(1, 2))


def cross(width: int = 12) -> CrossStreamAttention:
    torch.manual_seed(3)
    return fill_zeros(CrossStreamAttention(width, num_heads=2, head_dim=4)).double()


def test_one_frame_blocks_are_cross_attention_per_frame() -> None:
    module, video, audio = cross(), randn(2, 4, 3, 5, 12), randn(2, 4, 3, 5, 12)
    got_video, got_audio = module(video, audio, (1, 3, 5))
    for t in range(4):
        v, a = video[:, t].flatten(1, 2), audio[:, t].flatten(1, 2)
        assert_equation(got_video[:, t].flatten(1, 2), v + cross_attention(v, a, module, "video"))
        assert_equation(got_audio[:, t].flatten(1, 2), a + cross_attention(a, v, module, "audio"))


def test_blocks_are_cut_in_three_dimensions() -> None:
    module, video, audio = cross(), randn(1, 4, 4, 6, 12), randn(1, 4, 4, 6, 12)
    got, _ = module(video, audio, (2, 2, 3))
    for t, h, w in product((0, 2), (0, 2), (0, 3)):
        block = (slice(None), slice(t, t + 2), slice(h, h + 2), slice(w, w + 3))
        v, a = video[block].flatten(1, 3), audio[block].flatten(1, 3)
        assert_equation(got[block].flatten(1, 3), v + cross_attention(v, a, module, "video"))


def test_equal_streams_and_equal_weights_give_equal_updates() -> None:
    module, x = cross(), randn(2, 4, 3, 5, 12)
    for part in ("norm", "qkv", "out"):
        getattr(module, f"audio_{part}").load_state_dict(getattr(module, f"video_{part}").state_dict())
    video, audio = module(x, x, (1, 3, 5))
    assert torch.equal(video, audio)


def test_exchange_begins_as_nothing() -> None:
    module, video, audio = (
        CrossStreamAttention(12, 2, 4).double(),
        randn(2, 4, 3, 5, 12),
        randn(2, 4, 3, 5, 12),
    )
    got = module(video, audio, (1, 3, 5))
    assert torch.equal(got[0], video) and torch.equal(got[1], audio)


def test_unseen_stream_contributes_nothing_even_as_nan() -> None:
    module, video, audio = cross(), randn(2, 4, 3, 5, 12), randn(2, 4, 3, 5, 12)
    sees = torch.tensor([True, False])
    whole, _ = module(video, audio, (1, 3, 5))
    audio[1] = torch.nan
    got, _ = module(video, audio, (1, 3, 5), video_sees_audio=sees)
    assert torch.equal(got[1], video[1])
    assert torch.equal(got[0], whole[0])


def test_unseen_nan_leaves_the_gradients_of_the_looking_stream_whole() -> None:
    module, video, audio = cross(), randn(1, 4, 3, 5, 12).requires_grad_(), randn(1, 4, 3, 5, 12)
    no = torch.tensor([False])
    got, _ = module(video, audio * torch.nan, (1, 3, 5), video_sees_audio=no, audio_sees_video=no)
    got.square().sum().backward()
    assert torch.equal(video.grad, 2 * video.detach())
    assert all(
        p.grad is None or p.grad.isfinite().all() for n, p in module.named_parameters() if "video" in n
    )


def test_masked_exchange_compiles_without_a_graph_break() -> None:
    module, video, audio = cross(), randn(2, 2, 2, 2, 12), randn(2, 2, 2, 2, 12)
    sees = torch.tensor([True, False])
    compiled = torch.compile(module, backend="eager", fullgraph=True)
    got, _ = compiled(video, audio, (1, 2, 2), sees, ~sees)
    assert_equation(got, module(video, audio, (1, 2, 2), sees, ~sees)[0])


def test_gcm_pairs_the_planes_and_updates_both_from_the_old() -> None:
    torch.manual_seed(4)
    module = fill_zeros(GroupCrossModalAttention(12, num_heads=2, head_dim=4)).double()
    shapes = {"hw": (3, 5), "tw": (4, 5), "th": (4, 3)}
    video = PlaneFeatures(*(randn(2, *shape, 12) for shape in shapes.values()))
    audio = PlaneFeatures(*(randn(2, *shape, 12) for shape in shapes.values()))
    new_video, new_audio = module(video, audio)
    for name in shapes:
        z_v, z_a = getattr(video, name).flatten(1, 2), getattr(audio, name).flatten(1, 2)
        want_v = z_v + cross_attention(z_v, z_a, getattr(module, name), "video")
        want_a = z_a + cross_attention(z_a, z_v, getattr(module, name), "audio")
        assert_equation(getattr(new_video, name).flatten(1, 2), want_v)
        assert_equation(getattr(new_audio, name).flatten(1, 2), want_a)
