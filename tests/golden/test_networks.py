"""I3D with weights that anybody can compute, and YAMNet, against what the peers' own code gave."""

import zlib

import numpy as np
import pytest
import torch

from pavdit.media.sound import read_wave
from pavdit.metrics.i3d import InceptionI3d, i3d_input, load_i3d
from pavdit.metrics.yamnet import load_yamnet, patches, read_yamnet


def recipe(name, shape):
    x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if name.endswith("conv3d.weight"):
        x *= np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith("bn.weight"):
        x = 1 + 0.1 * x
    elif name.endswith("running_var"):
        x = 1 + 0.1 * np.abs(x)
    else:
        x *= 0.1
    return torch.from_numpy(x.astype(np.float32))


def test_i3d_has_the_peers_weights(golden):
    want = {name: tuple(shape) for name, shape, _ in golden("i3d_state_dict_keys.json")}
    assert {name: tuple(x.shape) for name, x in InceptionI3d().state_dict().items()} == want


def test_i3d_logits(golden, tmp_path):
    known, clips = golden("i3d_logits_A.npz"), torch.from_numpy(golden("clips64_A.npz")["A"])
    path = tmp_path / "i3d.pt"
    torch.save({n: recipe(n, x.shape) for n, x in InceptionI3d().state_dict().items()}, path)
    network = load_i3d(path, torch.device("cpu"))
    for places in torch.arange(16).split(2):
        logits = network.run(i3d_input(clips[places]))
        np.testing.assert_allclose(logits, known["A"][places], rtol=0, atol=1e-4)


def test_i3d_preprocessing_is_the_peers_to_the_bit(golden):
    known = golden("i3d_logits_A.npz")
    frames = torch.from_numpy(known["preprocess_in"]).movedim(3, 1)[None]
    assert torch.equal(i3d_input(frames), torch.from_numpy(known["preprocess_out"]))


@pytest.mark.parametrize(
    "name",
    [
        "condfoley_demo__hitting_bag",
        "condfoley_demo__hitting_metal",
        "greatest_hits__-25-01-08",
        "vas__video_00323",
    ],
)
def test_yamnet(golden, name):
    known, path = golden("yamnet_golden.npz"), golden("README.md").parent.parent / "nets" / "yamnet_int8.npz"
    wave = torch.from_numpy(read_wave(golden(f"av_align/{name}_1p6s.wav"), 0, 25_600, 16_000))[None]
    np.testing.assert_allclose(patches(wave)[0], known[f"{name}_1p6s__logmel_patches"], rtol=0, atol=1e-4)
    embedding = load_yamnet(path, torch.device("cpu")).run(wave)[0]
    np.testing.assert_allclose(embedding, known[f"{name}_1p6s__torch_embedding"], rtol=0, atol=1e-4)
    with torch.inference_mode():
        scores = read_yamnet(path).scores(embedding)
    # int8 arithmetic there, float32 here
    np.testing.assert_allclose(scores, known[f"{name}_1p6s__litert_scores"], rtol=0, atol=0.06)
