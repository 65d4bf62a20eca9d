"""PSNR, SSIM, LPIPS against PVDM, common_metrics_on_video_quality and lpips; SqueezeNet's own outputs."""

import zlib
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pavdit.metrics.picture_quality import frame_psnr, frame_ssim
from pavdit.metrics.signal import psnr
from pavdit.nn.deep_compression import read_squeezenet
from pavdit.nn.lpips import IMAGE_MEAN, IMAGE_STD, LPIPS, TRUNKS

TRUNK = {"vgg": "vgg16", "alex": "alexnet", "squeeze": "squeezenet1_1"}


@pytest.fixture(scope="module")
def pairs(golden):
    """Real clips, and by name their copies, ``(B, T, C, H, W)`` in [-1, 1]."""
    stored = golden("recon_pairs.npz")
    real = torch.from_numpy(stored.pop("real_uint8")).float() / 127.5 - 1
    return real, {name: torch.from_numpy(copy).float() for name, copy in stored.items()}


def test_psnr_and_ssim(golden, pairs):
    real, copies = pairs
    for name, want in golden("recon_metrics.json")["metrics"].items():
        a, b = (real + 1) / 2, (copies[name] + 1) / 2
        near = {"rel": 1e-5}  # the peers compute in float32
        assert psnr(real, copies[name], 2).mean() == pytest.approx(want["psnr_pvdm_on_saved_float16"], **near)
        assert frame_psnr(a, b).mean() == pytest.approx(want["psnr_common_metrics_on_saved_float16"], **near)
        assert frame_ssim(a, b).mean() == pytest.approx(want["ssim_common_metrics_on_saved_float16"], **near)


def test_published_black_against_white(golden):
    want = golden("fvd_published.json")["reference_with_real_i3d_from_common_metrics_README"]
    black, white = torch.zeros(1, 2, 3, 64, 64), torch.ones(1, 2, 3, 64, 64)
    assert frame_psnr(black, white).item() == want["psnr"]
    assert frame_ssim(black, white).item() == pytest.approx(want["ssim"], rel=1e-7)


def recipe(name, shape):
    """The weights that the peers' networks were given."""
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return torch.from_numpy(x * (2 / np.prod(shape[1:])) ** 0.5 if len(shape) == 4 else x * 0.05).float()


def heads_of(name):
    spec = find_spec("lpips")  # for its files: it is not imported
    assert spec is not None, "want the package lpips 0.1.4 for its heads, got none (make golden installs it)"
    return Path(spec.origin).parent / "weights" / "v0.1" / f"{name}.pth"


@pytest.mark.parametrize("name", TRUNK)
def test_lpips(golden, pairs, tmp_path, name):
    want = golden("recon_metrics.json")["lpips_recipe_trunk_real_heads"][name]
    with torch.device("meta"):
        shapes = torch.nn.Sequential(*TRUNKS[TRUNK[name]].layers()).state_dict()
    assert {f"features.{key}" for key in shapes} == set(want["keys"])
    trunk = tmp_path / "trunk.safetensors"
    save_file({f"features.{k}": recipe(f"features.{k}", tuple(t.shape)) for k, t in shapes.items()}, trunk)
    lpips = LPIPS(trunk, heads_of(name))
    real, copies = pairs
    for kind, copy in copies.items():
        got = lpips(real[:2, :4].flatten(0, 1), copy[:2, :4].flatten(0, 1))
        assert got.tolist() == pytest.approx(want[kind], abs=1e-5), kind


def test_squeezenet(golden):
    stored, path = golden("squeezenet_golden.npz"), golden("../nets/compressed_SqueezeNet.net")
    assert path.exists(), f"want {path} beside the folder of golden cases, got no such file"
    picture = torch.from_numpy(stored["image_rgb"]).permute(2, 0, 1)[None] / 127.5 - 1
    outputs = LPIPS(path).tapped(picture)
    for i, output in enumerate(outputs):
        assert np.abs(output.mean((0, 2, 3)).numpy() - stored[f"feat{i}_mean"]).max() <= 1e-4
    weights = read_squeezenet(path, IMAGE_MEAN, IMAGE_STD)
    classifier = weights["classifier.1.weight"], weights["classifier.1.bias"]
    logits = torch.conv2d(outputs[-1], *classifier, padding=1).relu().mean((0, 2, 3))
    assert np.abs(logits.numpy() - stored["logits"]).max() <= 1e-4
