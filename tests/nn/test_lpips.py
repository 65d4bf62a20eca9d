"""LPIPS against its equation, and what it says of files that are not what it needs.

`tests/golden` holds it against lpips 0.1.4: the two differ by 4e-9 for VGG16, AlexNet and SqueezeNet 1.1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from numerics import assert_equation
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d

from pavdit.clip import DataError
from pavdit.nn.lpips import LPIPS, TRUNKS

WIDTHS = {
    "vgg16": (64, 128, 256, 512, 512),
    "alexnet": (64, 192, 384, 256, 256),
    "squeezenet1_1": (64, 128, 256, 384, 384, 512, 512),
    "squeezenet1_0": (96, 128, 256, 384, 512, 512),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Trunk (with a classifier that nobody reads) and heads of a name."""
    folder = tmp_path_factory.mktemp("lpips")

    def write(name: str) -> tuple[Path, Path]:
        trunk, heads = folder / f"{name}.safetensors", folder / f"{name}-heads.pth"
        if not trunk.exists():
            torch.manual_seed(0)
            weights = nn.Sequential(*TRUNKS[name].layers()).state_dict()
            named = {f"features.{key}": t for key, t in weights.items()}
            save_file(named | {"classifier.1.bias": torch.zeros(3)}, trunk)
            torch.save(
                {f"lin{i}.model.1.weight": torch.rand(1, w, 1, 1) for i, w in enumerate(WIDTHS[name])}, heads
            )
        return trunk, heads

    return write


def pictures(batch: int = 2) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.rand(batch, 3, 32, 40) * 2 - 1, torch.rand(batch, 3, 32, 40) * 2 - 1


@pytest.mark.parametrize("name", TRUNKS)
def test_a_trunk_is_known_by_its_shapes_and_its_layers_count(name: str, files: Callable) -> None:
    lpips = LPIPS(*files(name))
    assert lpips.name == name
    assert tuple(x.shape[1] for x in lpips.tapped(pictures(1)[0])) == WIDTHS[name]
    assert not any(p.requires_grad for p in lpips.parameters())


def test_the_distance_is_the_equation(files: Callable) -> None:
    trunk, heads = files("alexnet")
    a, b = pictures()
    weights = torch.load(heads, weights_only=True)
    lpips = LPIPS(trunk, heads)
    state = lpips.features.state_dict()

    def features(x: Tensor) -> list[Tensor]:
        x = torch.stack(
            [(x[:, 0] + 0.030) / 0.458, (x[:, 1] + 0.088) / 0.448, (x[:, 2] + 0.188) / 0.450], dim=1
        )
        outputs = []
        for i, stride, padding, pool in (
            (0, 4, 2, 0),
            (3, 1, 2, 1),
            (6, 1, 1, 1),
            (8, 1, 1, 0),
            (10, 1, 1, 0),
        ):
            x = max_pool2d(x, 3, 2) if pool else x
            x = conv2d(x, state[f"{i}.weight"], state[f"{i}.bias"], stride, padding).clamp(min=0)
            outputs.append(x)
        return outputs

    want = torch.zeros(2)
    for i, (x, y) in enumerate(zip(features(a), features(b), strict=True)):
        for row in range(x.shape[2]):
            for column in range(x.shape[3]):
                u, v = x[:, :, row, column], y[:, :, row, column]
                difference = u / u.norm(dim=1, keepdim=True) - v / v.norm(dim=1, keepdim=True)
                w = weights[f"lin{i}.model.1.weight"].flatten()
                want += (w * difference**2).sum(1) / (x.shape[2] * x.shape[3])
    assert_equation(lpips(a, b), want)
    assert torch.equal(lpips(a, a), torch.zeros(2))


def test_without_heads_every_channel_weighs_the_same(files: Callable) -> None:
    trunk, _ = files("squeezenet1_1")
    weights = [w.unique().tolist() for w in LPIPS(trunk).heads]
    assert weights == [[pytest.approx(1 / 7)]] * 7


def test_features_that_are_all_zero_have_a_gradient(files: Callable) -> None:
    lpips = LPIPS(*files("alexnet"))
    lpips.features[0].bias.fill_(-100.0)  # nothing gets past the first layer
    a, b = pictures()
    lpips(a.requires_grad_(), b).sum().backward()
    assert a.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(1, 1, 32, 32), (1, 3, 31, 64)], ids=["grey", "low"])
def test_pictures_must_be_large_and_coloured(shape: tuple[int, ...], files: Callable) -> None:
    with pytest.raises(ValueError, match=r"lpips: want two batches \(B, 3, H, W\) of at least 32 x 32"):
        LPIPS(*files("alexnet"))(torch.zeros(shape), torch.zeros(shape))


def test_files_that_do_not_serve_are_named(files: Callable, tmp_path: Path) -> None:
    trunk, heads = files("alexnet")
    other = tmp_path / "other.safetensors"
    save_file({"features.0.weight": torch.zeros(8, 3, 3, 3)}, other)
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(heads.read_bytes()[:200])
    cases = {
        "other.safetensors: want the features.* of one of vgg16, alexnet, .* (8, 3, 3, 3)": (other, None),
        "squeezenet1_1-heads.pth: want the heads of alexnet": (trunk, files("squeezenet1_1")[1]),
        "damaged.pth: want weights": (trunk, damaged),
        "nothing.pth: want weights": (tmp_path / "nothing.pth", None),
    }
    for message, arguments in cases.items():
        with pytest.raises(DataError) as caught:
            LPIPS(*arguments)
        for part in message.split(".* "):
            assert part in str(caught.value)
        assert "\n" not in str(caught.value)
