"""AV-DiT's network: the public DiT's arithmetic and names, its size, its start, what sees what."""

from __future__ import annotations

import math

import pytest
import torch
from av_dit_nano import image_dit, nano, public_names
from numerics import assert_equation
from torch import Tensor
from torch.nn import functional
from zeros import fill_zeros

from pavdit.baselines.av_dit.config import AVDiTConfig
from pavdit.baselines.av_dit.dit import ImageDiT
from pavdit.baselines.av_dit.image_weights import load_image_dit
from pavdit.baselines.av_dit.network import AVDiT, AVDiTAdapters
from pavdit.clip import ClipSpec, DataError


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    config, random = nano(), torch.Generator().manual_seed(2)
    video, audio = (
        torch.randn(2, *shape, generator=random) for shape in (config.picture_shape, config.sound_shape)
    )
    return video, audio, torch.tensor([7, 900])


def network(live: bool = False) -> AVDiT:
    image = image_dit()
    torch.manual_seed(3)
    adapters = AVDiTAdapters(image, nano())
    return AVDiT(image, fill_zeros(adapters) if live else adapters)


def public_forward(stored: dict[str, Tensor], x: Tensor, t: Tensor, heads: int) -> Tensor:
    """The image DiT from its public weights, step by step: ``(B, C, H, W)`` to ``(B, 2 C, H, W)``."""

    def layer(name: str, value: Tensor) -> Tensor:
        return functional.linear(value, stored[f"{name}.weight"], stored[f"{name}.bias"])

    x = functional.conv2d(x, stored["x_embedder.proj.weight"], stored["x_embedder.proj.bias"], stride=2)
    (batch, width, rows, columns), table = x.shape, []
    for i in range(rows):
        for j in range(columns):
            quarter = width // 4
            angles = [[v / 10_000 ** (k / quarter) for k in range(quarter)] for v in (j, i)]
            table.append([f(a) for axis in angles for f in (math.sin, math.cos) for a in axis])
    x = x.flatten(2).transpose(1, 2) + torch.tensor(table, dtype=x.dtype)
    angles = t[:, None] * torch.exp(-math.log(10_000) * torch.arange(128) / 128)
    time = torch.cat([angles.cos(), angles.sin()], dim=-1).to(x.dtype)
    c = layer("t_embedder.mlp.2", functional.silu(layer("t_embedder.mlp.0", time)))
    c = functional.silu(c + stored["y_embedder.embedding_table.weight"][-1])

    def modulated(value: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return functional.layer_norm(value, (width,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    for i in range(2):
        parts = layer(f"blocks.{i}.adaLN_modulation.1", c).chunk(6, dim=1)
        qkv = layer(f"blocks.{i}.attn.qkv", modulated(x, *parts[:2]))
        q, k, v = qkv.view(batch, -1, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-1, -2) / (width // heads) ** 0.5).softmax(-1)
        mixed = (scores @ v).transpose(1, 2).reshape(batch, -1, width)
        x = x + parts[2][:, None] * layer(f"blocks.{i}.attn.proj", mixed)
        hidden = functional.gelu(layer(f"blocks.{i}.mlp.fc1", modulated(x, *parts[3:5])), approximate="tanh")
        x = x + parts[5][:, None] * layer(f"blocks.{i}.mlp.fc2", hidden)
    x = layer("final_layer.linear", modulated(x, *layer("final_layer.adaLN_modulation.1", c).chunk(2, dim=1)))
    x = x.view(batch, rows, columns, 2, 2, -1)
    return torch.einsum("nhwpqc->nchpwq", x).reshape(batch, -1, 2 * rows, 2 * columns)


@torch.no_grad()
def test_the_image_dit_is_the_public_one(tmp_path):
    stored = public_names(image_dit(), "facebook")
    torch.save({"ema": stored, "opt": {}}, tmp_path / "dit.pt")
    model = ImageDiT(nano().dit, 4)
    load_image_dit(model, tmp_path / "dit.pt")
    video, _, t = inputs()
    got = model.double()(video[:, :, :1].double(), t)[:, :, 0]
    want = public_forward({k: v.double() for k, v in stored.items()}, video[:, :, 0].double(), t, 2)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)  # the times' angles are float32


@torch.no_grad()
def test_the_image_dit_takes_the_names_of_diffusers(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    from safetensors.torch import save_file

    about = nano().dit
    theirs = diffusers.DiTTransformer2DModel(
        num_attention_heads=about.num_heads,
        attention_head_dim=about.width // about.num_heads,
        in_channels=4,
        out_channels=8,
        num_layers=about.depth,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=about.num_classes,
        norm_elementwise_affine=False,
    ).eval()
    if about.mlp_ratio != 4:
        about = about.model_copy(update={"mlp_ratio": 4})
    table = theirs.transformer_blocks[0].norm1.emb.state_dict()
    for block in theirs.transformer_blocks:  # as in the public weights
        block.norm1.emb.load_state_dict(table)
    save_file(theirs.state_dict(), tmp_path / "dit.safetensors")
    model = ImageDiT(about, 4)
    load_image_dit(model, tmp_path / "dit.safetensors")
    video, _, _ = inputs()
    label, t = torch.tensor([2, 0]), torch.zeros(2, dtype=torch.int64)  # elsewhere its angles are others
    want = theirs(video[:, :, 0], timestep=t, class_labels=label).sample
    torch.testing.assert_close(model(video[:, :, :1], t, label)[:, :, 0], want, rtol=0, atol=1e-4)


def test_it_has_the_parameters_of_the_paper():
    config = AVDiTConfig(clip=ClipSpec(16, 256, 256))
    with torch.device("meta"):
        image = ImageDiT(config.dit, config.picture.channels)
        adapters = AVDiTAdapters(image, config)
    trained = sum(p.numel() for p in adapters.parameters())
    assert config.adaptation.rank == 76 and abs(trained / 159.91e6 - 1) < 0.01
    assert sum(p.numel() for p in image.parameters()) == pytest.approx(675e6, rel=0.001)
    assert config.picture_shape == (4, 16, 32, 32) and config.sound_shape == (8, 1, 40, 16)


@torch.no_grad()
def test_it_begins_as_the_image_dit_on_every_frame():
    video, audio, t = inputs()
    noise, of_sound = network()(video, audio, t)
    assert_equation(noise, image_dit()(video, t)[:, :4])
    assert of_sound.shape == audio.shape and not of_sound.any()


def test_streams_and_frames_see_each_other_and_only_adapters_learn():
    model = network(live=True)
    video, audio, t = inputs()
    video.requires_grad_(True), audio.requires_grad_(True)
    noise, of_sound = model(video, audio, t)
    for made, other in ((noise[:, :, 0], audio), (noise[:, :, 0], video), (of_sound, video)):
        [gradient] = torch.autograd.grad(made.square().sum(), other, retain_graph=True)
        frames = gradient.abs().amax((0, 1, 3, 4))
        assert (frames > 0).all()
    (noise.square().sum() + of_sound.square().sum()).backward()
    for name, parameter in model.adapters.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name
    assert all(p.grad is None for p in model.image.parameters())


def test_in_half_precision_it_says_nearly_the_same():
    model = network(live=True)
    video, audio, t = inputs()
    with torch.no_grad():
        want = model(video, audio, t)
        with torch.autocast("cpu", torch.bfloat16):
            cast = model(video, audio, t)
        half = model.bfloat16()(video.bfloat16(), audio.bfloat16(), t)
    for got in (cast, half):
        for one, other in zip(got, want, strict=True):
            assert (one.float() - other).norm() < 0.1 * other.norm()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: {k: v for k, v in s.items() if "fc1" not in k}, r"got 4 missing \(blocks.0.mlp.fc1.bias"),
        (
            lambda s: s | {"blocks.2.attn.proj.bias": torch.zeros(32)},
            r"1 unexpected \(blocks.2.att",
        ),
        (
            lambda s: s | {"x_embedder.proj.weight": torch.zeros(32, 3, 2, 2)},
            r"1 of another shape \(embed.weight \(32, 12\) instead of \(32, 16\)",
        ),
        (lambda s: [1], "want named tensors of an image DiT, got list"),
    ],
)
def test_other_weights_are_named(tmp_path, change, words):
    torch.save(change(public_names(image_dit(), "facebook")), tmp_path / "dit.pt")
    with pytest.raises(DataError, match=words):
        load_image_dit(ImageDiT(nano().dit, 4), tmp_path / "dit.pt")


def test_a_file_that_is_none_is_named(tmp_path):
    with pytest.raises(DataError, match=r"dit.safetensors: want weights of an image DiT .*, got"):
        load_image_dit(ImageDiT(nano().dit, 4), tmp_path / "dit.safetensors")
