"""I3D and YAMNet from files: what is computed, what is refused. `tests/golden` has the peers' numbers."""

import numpy as np
import pytest
import torch
from evaluation_files import noise_yamnet
from safetensors.torch import save_file
from torch import nn

from pavdit.clip import DataError
from pavdit.metrics.i3d import InceptionI3d, Mixed, _folded, i3d_input, load_i3d
from pavdit.metrics.networks import load_audio_network, sha256_of
from pavdit.metrics.yamnet import load_yamnet, log_mel, patches, read_yamnet

CPU = torch.device("cpu")


class Mean(nn.Module):
    """What StyleGAN-V's archive looks like from outside."""

    def forward(
        self, x: torch.Tensor, rescale: bool = True, resize: bool = True, return_features: bool = False
    ) -> torch.Tensor:
        assert not rescale and not resize and return_features
        return x.mean(dim=(2, 3, 4))


def test_i3d_has_the_peers_number_of_weights():
    state = InceptionI3d().state_dict()
    assert (len(state), sum(x.numel() for x in state.values())) == (344, 12_711_881)


@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_folding_the_normalisation_changes_nothing(device_type):
    mixed = Mixed(8, 3, 2, 4, 2, 3, 5).eval()
    generator = torch.Generator().manual_seed(0)
    for name, value in mixed.state_dict().items():
        if name.endswith(("running_mean", "running_var", "bn.weight", "bn.bias")):
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    x = torch.randn(2, 8, 3, 5, 4, generator=generator)
    with torch.no_grad():
        want = mixed(x)
        got = _folded(mixed, device_type)(x)
    assert want.shape == (2, 15, 3, 5, 4)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_i3d_from_either_format_and_torchscript(tmp_path):
    model = InceptionI3d().eval()
    torch.save(model.state_dict(), tmp_path / "i3d.pt")
    save_file(model.state_dict(), tmp_path / "i3d.safetensors")
    volume = i3d_input(torch.randint(256, (1, 9, 3, 16, 20), dtype=torch.uint8))
    with torch.no_grad():
        want = model(volume)
    for name in ("i3d.pt", "i3d.safetensors"):
        network = load_i3d(tmp_path / name, CPU)
        assert (network.name, network.sha256) == (name, sha256_of(tmp_path / name))
    torch.testing.assert_close(network.run(volume), want, rtol=1e-4, atol=1e-5)
    torch.jit.script(Mean()).save(str(tmp_path / "script.pt"))
    torch.testing.assert_close(load_i3d(tmp_path / "script.pt", CPU).run(volume), volume.mean((2, 3, 4)))


def test_i3d_input_crops_or_takes_the_whole():
    frames = torch.zeros(1, 2, 3, 56, 112, dtype=torch.uint8)
    frames[..., 28:84] = 255  # the square in the middle
    assert i3d_input(frames).shape == i3d_input(frames, "whole").shape == (1, 3, 2, 224, 224)
    assert i3d_input(frames)[..., 4:-4].amin() == 1  # bilinear: the border mixes
    assert i3d_input(frames, "whole")[..., :50].amax() == -1


def i3d_refused(path, match):
    with pytest.raises(DataError, match=match):
        load_i3d(path, CPU)


def test_files_that_are_no_i3d_are_refused_in_a_line(tmp_path):
    i3d_refused(tmp_path / "none.pt", "none.pt: want a network's file, got No such file")
    (tmp_path / "text.pt").write_text("hello")
    i3d_refused(tmp_path / "text.pt", "want safetensors, weights of torch.save or torchscript, got ")
    torch.save({"a": torch.zeros(2)}, tmp_path / "other.pt")
    i3d_refused(tmp_path / "other.pt", "want the 344 weights of InceptionI3d, got 345 that are missing")
    torch.save(nn.Linear(2, 2), tmp_path / "code.pt")
    i3d_refused(tmp_path / "code.pt", "want safetensors, weights")


def test_yamnet_log_mel_of_a_tone_and_patches():
    wave = torch.sin(2 * torch.pi * 1000 * torch.arange(25_600) / 16_000)[None]
    columns = log_mel(wave)
    assert columns.shape == (1, 158, 64)
    mel = 1127 * np.log1p(np.array([125, 1000, 7500]) / 700)
    assert int(columns[0, 80].argmax()) == round((mel[1] - mel[0]) / (mel[2] - mel[0]) * 65) - 1
    assert torch.equal(patches(wave), torch.stack([columns[:, :96], columns[:, 48:144]], dim=1))
    assert patches(wave[:, :100]).shape == (1, 1, 96, 64)


@pytest.fixture(scope="module")
def yamnet_file(tmp_path_factory):
    return noise_yamnet(tmp_path_factory.mktemp("nets") / "yamnet.npz")


def test_yamnet_weights_are_put_where_they_belong(yamnet_file):
    model = read_yamnet(yamnet_file)
    with np.load(yamnet_file) as stored:
        for name, layer, place, key in (
            ("dw5", model.dw[5], (7, 0, 2, 1), (0, 2, 1, 7)),
            ("pw5", model.pw[5], (7, 9, 0, 0), (7, 0, 0, 9)),
            ("fc", model.fc, (7, 9), (7, 9)),
        ):
            weight = stored[f"{name}.w"][key] * stored[f"{name}.w.scale"][7]
            assert layer.weight[place].item() == pytest.approx(weight)


def test_yamnet_embeds_every_patch(yamnet_file):
    wave = torch.randn(2, 25_600, generator=torch.Generator().manual_seed(0))
    embedding = load_yamnet(yamnet_file, CPU).run(wave)
    assert embedding.shape == (2, 2, 1024)
    torch.testing.assert_close(load_yamnet(yamnet_file, CPU).run(wave[1:])[0], embedding[1])


def test_a_file_that_is_no_yamnet_is_refused_in_a_line(tmp_path):
    np.savez(tmp_path / "other.npz", **{"c0.w": np.zeros(3)})
    with pytest.raises(DataError, match=r"other.npz: want YAMNet as .npz, got "):
        load_yamnet(tmp_path / "other.npz", CPU)


def test_audio_network_by_path(tmp_path):
    class Rms(nn.Module):
        def forward(self, wave: torch.Tensor) -> torch.Tensor:
            return wave.unfold(1, 4, 4).square().mean(2)

    torch.jit.script(Rms()).save(str(tmp_path / "rms.pt"))
    assert load_audio_network(tmp_path / "rms.pt", CPU).run(torch.ones(3, 8)).tolist() == [[1, 1]] * 3


def test_an_audio_network_that_gives_no_embedding_is_refused(tmp_path):
    class Total(nn.Module):
        def forward(self, wave: torch.Tensor) -> torch.Tensor:
            return wave.sum()

    torch.jit.script(Total()).save(str(tmp_path / "total.pt"))
    with pytest.raises(DataError, match=r"want embeddings \(B, D\) or \(B, K, D\) for B = 3, got \(\)"):
        load_audio_network(tmp_path / "total.pt", CPU).run(torch.ones(3, 8))
