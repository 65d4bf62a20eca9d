"""A Deep Compression file gives back what was packed into it, for pictures of another kind."""

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d

from pavdit.clip import DataError
from pavdit.nn.deep_compression import read_squeezenet
from pavdit.nn.lpips import IMAGE_MEAN, IMAGE_STD, LPIPS, TRUNKS

LAYERS = [n for n in TRUNKS["squeezenet1_0"].layers() if list(n.parameters())]
SHAPES = [tuple(m.weight.shape) for n in LAYERS for m in n.modules() if isinstance(m, torch.nn.Conv2d)]


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A file with random weights, one in 16 of them left, some of these 0; and its weights and biases."""
    rng = np.random.default_rng(0)
    counts, bodies, layers = [], [], []
    for shape in [*SHAPES, (1000, 512, 1, 1)]:
        book = np.concatenate([[0], rng.standard_normal(255)]).astype("<f4")
        bias = rng.standard_normal(shape[0]).astype("<f4")
        size = np.prod(shape)
        codes = rng.integers(0, 256, size // 16).astype(np.uint8)
        dropped = rng.integers(0, 16, codes.size).astype(np.uint8)
        dense = np.zeros(size, np.float32)
        dense[np.cumsum(dropped.astype(int) + 1) - 1] = book[codes]
        low, high = np.pad(dropped, (0, codes.size % 2)).reshape(-1, 2).T
        counts.append(codes.size)
        bodies.append(book.tobytes() + bias.tobytes() + codes.tobytes() + (low | high << 4).tobytes())
        layers += [torch.from_numpy(dense.reshape(shape)), torch.from_numpy(bias)]
    path = tmp_path_factory.mktemp("nets") / "squeezenet.net"
    path.write_bytes(np.array(counts, "<u4").tobytes() + b"".join(bodies))
    return path, layers


def test_every_layer_comes_back_and_pictures_are_adapted(packed):
    path, layers = packed
    read = read_squeezenet(path, IMAGE_MEAN, IMAGE_STD)
    for (name, got), want in zip(read.items(), layers, strict=True):
        assert name.startswith("features.0.") or torch.equal(got, want), name
    pictures = torch.randint(0, 256, (1, 3, 32, 32))
    caffe = pictures.flip(1).float() - torch.tensor([104.0, 117, 123])[:, None, None]
    lpips = LPIPS(path)
    assert lpips.name == "squeezenet1_0"
    got, want = lpips.tapped(pictures / 127.5 - 1)[0], conv2d(caffe, *layers[:2], stride=2).relu()
    assert (got - want).abs().max() < 1e-5 * want.max()


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda d: d[:50], lambda d: b"\xff\xff\xff\x00" + d[4:]]
)
def test_another_file_is_refused(tmp_path, packed, damage):
    path = tmp_path / "squeezenet.net"
    path.write_bytes(damage(packed[0].read_bytes()))
    with pytest.raises(
        DataError, match="squeezenet.net: want SqueezeNet 1.0 as a Deep Compression file, got"
    ):
        read_squeezenet(path, IMAGE_MEAN, IMAGE_STD)
