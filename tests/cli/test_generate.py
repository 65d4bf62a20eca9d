"""``pavdit generate`` when things go wrong: what is done is kept, and the exit code says what happened."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from nano import nano

from pavdit.cli import main as cli
from pavdit.media import read_clip
from pavdit.text import TextTokens


@pytest.fixture
def generate(capsys, nano_generator_run: Path, tmp_path: Path):
    """Run the command into ``tmp_path / "out"``; returns (exit code, last line of stderr, files)."""

    def call(*arguments: object) -> tuple[int, str, list[str]]:
        fixed = ["generate", "--checkpoint", nano_generator_run, "--steps", "2", "-o", tmp_path / "out"]
        code = cli.main([str(a) for a in [*fixed, *arguments]])
        out = tmp_path / "out"
        files = sorted(p.name for p in out.iterdir()) if out.exists() else []
        for name in files:
            read_clip(out / name, nano().clip)  # whole
        return code, (capsys.readouterr().err.splitlines() or [""])[-1], files

    return call


class Steps:
    """Stands for `sample_batch`: counts batches, and does something in one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import pavdit.synthesis as module

        self.sample, self.sizes = module.sample_batch, []
        monkeypatch.setattr(module, "sample_batch", self)

    def before(self, velocity, noise, given) -> None: ...

    def __call__(self, velocity, noise, **given):
        self.sizes.append(noise.shape[0])
        self.before(velocity, noise, given)
        return self.sample(velocity, noise, **given)


def test_an_interruption_between_steps_keeps_the_clips_before_it(generate, monkeypatch) -> None:
    class Interrupted(Steps):
        def before(self, velocity, noise, given) -> None:
            def callback(step: int, total: int, latent: torch.Tensor) -> None:
                if len(self.sizes) == 3 and step == 1:
                    os.kill(os.getpid(), signal.SIGINT)

            given["callback"] = callback

    Interrupted(monkeypatch)
    code, line, files = generate("--n", 4, "--batch-size", 1)
    assert (code, line) == (130, "pavdit: interrupted")
    assert files == ["seed-0000.mp4", "seed-0001.mp4"]


class Full(Steps):
    room = 0

    def before(self, velocity, noise, given) -> None:
        if noise.shape[0] > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB\nmore words")


def test_memory_that_holds_fewer_clips_makes_smaller_batches(generate, monkeypatch) -> None:
    steps = Full(monkeypatch)
    steps.room = 2
    code, _, files = generate("--n", 5)
    assert code == 0 and len(files) == 5
    assert steps.sizes == [4, 2, 2, 1]


@pytest.mark.parametrize(
    ("arguments", "clips", "first"), [([], 1, "dtype"), (["--batch-size", 2], 2, "a smaller batch")]
)
def test_memory_that_holds_none_is_said_with_numbers_and_remedies(
    generate, monkeypatch, arguments, clips, first
) -> None:
    Full(monkeypatch)
    code, line, files = generate("--n", 2, *arguments)
    assert code == 4 and files == []
    assert line.startswith(f"pavdit generate: memory: want room for a batch of {clips} on cpu, ")
    assert "GiB free, got: CUDA out of memory. Tried to allocate 1.00 GiB; try " + first in line
    assert line.endswith("dtype bfloat16, closing other programs or a smaller preset")


def test_weights_that_are_no_number_are_named(generate, monkeypatch) -> None:
    import pavdit.pipeline as module

    load = module.load_generator

    def poisoned(*given):
        generator = load(*given)
        generator.stdit.blocks[0].mlp.fc1.weight.data[0, 0] = float("nan")
        return generator

    monkeypatch.setattr(module, "load_generator", poisoned)
    code, line, files = generate()
    assert code == 5 and files == []
    assert line.endswith("got NaN or infinity; so has the weight stdit.blocks.0.mlp.fc1.weight")


def test_a_prompt_beyond_the_longest_bucket_is_refused_and_never_cut(generate, monkeypatch) -> None:
    longest = nano().stdit.max_text_length
    tokens = TextTokens(torch.zeros(1, longest + 1, nano().stdit.text_dim), (longest + 1,))
    monkeypatch.setattr("pavdit.text.ClassEncoder.encode", lambda self, prompts: tokens)
    code, line, files = generate("a very long story")
    assert code == 2 and files == []
    assert line == f"pavdit generate: prompt: want at most {longest} tokens, got {longest + 1}"


def test_what_cannot_serve_here_is_named(generate) -> None:
    assert generate("--graph")[:2] == (
        2,
        "pavdit generate: graph: want a CUDA device for CUDA graphs, got cpu",
    )
    assert generate("--attention", "flash")[:2] == (
        2,
        "pavdit generate: attention: want flash-attn to serve, got cpu",
    )
