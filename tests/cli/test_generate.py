"""``pavdit generate`` when things go wrong: what is done is kept, and the exit code says what happened."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from media_files import burst, burst_time, flat, write_media
from nano import nano

from pavdit.cli import main as cli
from pavdit.cli.given import what_was_read
from pavdit.cli.outputs import stem_of
from pavdit.clip import ClipSpec
from pavdit.data.bounce import BounceClips
from pavdit.media import probe, read_clip, write_clip
from pavdit.pipeline import Pipeline
from pavdit.text import TextTokens


@pytest.fixture
def generate(capsys, nano_generator_run: Path, tmp_path: Path):
    """Run the command into ``tmp_path / "out"``; returns (exit code, last line of stderr, files)."""

    def call(*arguments: object) -> tuple[int, str, list[str]]:
        fixed = ["generate", "--checkpoint", nano_generator_run, "--steps", "2", "-o", tmp_path / "out"]
        code = cli.main([str(a) for a in [*fixed, *arguments]])
        out = tmp_path / "out"
        files = sorted(p.name for p in out.glob("*.mp4")) if out.exists() else []
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


def test_an_interruption_keeps_the_clips_before_it_and_the_same_command_goes_on(
    generate, monkeypatch, tmp_path
) -> None:
    class Interrupted(Steps):
        def before(self, velocity, noise, given) -> None:
            def callback(step: int, total: int, latent: torch.Tensor) -> None:
                if len(self.sizes) == 3 and step == 1:
                    os.kill(os.getpid(), signal.SIGINT)

            given["callback"] = callback

    Interrupted(monkeypatch)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's & has it ignored
    try:
        code, line, files = generate("--n", 4, "--batch-size", 1)
    finally:
        signal.signal(signal.SIGINT, before)
    said = f"interrupted; 2 of 4 clips are saved in {tmp_path / 'out'}, the same command goes on"
    assert (code, line) == (75, said)
    assert files == ["seed-0000.mp4", "seed-0001.mp4"]

    monkeypatch.undo()
    saved = [(tmp_path / "out" / name).stat() for name in files]
    steps = Steps(monkeypatch)
    code, line, files = generate("--n", 4)
    assert (code, line) == (0, f"contact sheet: {tmp_path / 'out' / 'contact-sheet.png'}")
    assert steps.sizes == [2] and files == [f"seed-{i:04d}.mp4" for i in range(4)]
    assert [(tmp_path / "out" / name).stat() for name in files[:2]] == saved


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


def test_prompts_of_a_file_are_made_once(generate, monkeypatch, tmp_path) -> None:
    steps = Steps(monkeypatch)
    table = tmp_path / "prompts.csv"
    table.write_text(
        "prompt,seed,name\na video of wood_wall,,\nmetal_bounce,7,bell\nmetal_bounce,7,bell\n"
        "metal_bounce,7,wood\nmetal_clock,7,bell\n"
    )
    code, line, files = generate("--prompts", table)
    want = ["a-video-of-wood_wall-seed-0000.mp4", "bell-2.mp4", "bell.mp4", "wood.mp4"]
    assert (code, files, steps.sizes) == (0, want, [4]), line
    tags = [probe(tmp_path / "out" / name).metadata for name in files]
    assert [(t["prompt"], t["seed"]) for t in tags[1:]] == [
        ("metal_clock", "7"),
        ("metal_bounce", "7"),
        ("metal_bounce", "7"),
    ]
    assert (tmp_path / "out" / "contact-sheet.png").stat().st_size > 0

    table.write_text("prompt,seed,name\nglass_wall,,\n" + table.read_text().partition("\n")[2])
    (tmp_path / "out" / "wood.mp4").unlink()
    code, line, files = generate("--prompts", table)
    assert (code, steps.sizes[1:]) == (0, [2]) and set(want) < set(files), "only the new and the lost row"

    code, _, files = generate("--prompts", table, "--guidance", 1.5)
    assert code == 0 and len(files) == 10, "other options make other clips, beside the old ones"


def test_another_clip_is_never_overwritten(generate, monkeypatch, tmp_path) -> None:
    output = tmp_path / "out" / "one.mp4"
    assert generate("--seed", 3, "-o", output)[0] == 0
    before = output.stat()
    steps = Steps(monkeypatch)
    code, line, files = generate("--seed", 3, "-o", output)
    assert (code, steps.sizes, files) == (0, [], ["one.mp4"])
    assert line == f"contact sheet: {tmp_path / 'out' / 'one-contact-sheet.png'}"
    said = f"pavdit generate: -o: want a new file, or one that holds this very clip, got {output}"
    assert generate("--seed", 4, "-o", output)[:2] == (2, said)
    assert output.stat() == before and steps.sizes == []


def test_files_are_called_after_their_prompts_and_go_to_out(generate, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    code, line, files = generate("a video of wood_wall", "-o", "out")
    assert (code, files) == (0, ["a-video-of-wood_wall-seed-0000.mp4"])
    assert (
        stem_of(f"Ein Ball, {'ganz ' * 9}rot", 12345)
        == "ein-ball-ganz-ganz-ganz-ganz-ganz-ganz-ganz-ganz-seed-12345"
    )
    assert (stem_of("é" * 60, 1), stem_of("", 1)) == (f"{'é' * 48}-seed-0001", "seed-0001")
    assert cli.build_parser().parse_args(["generate"]).output == Path("out")


@pytest.mark.parametrize("blocked", ["a file", "no rights"])
def test_an_output_that_cannot_be_written_is_said_before_any_work(
    generate, monkeypatch, tmp_path, blocked
) -> None:
    monkeypatch.setattr("pavdit.pipeline.Pipeline.from_pretrained", lambda *_, **__: pytest.fail("too late"))
    output = tmp_path / "there" / "deep" / "er"
    if blocked == "a file":
        (tmp_path / "there").touch()
        want = 2, f"pavdit generate: -o {output}: want a folder, got the file {tmp_path / 'there'}"
    else:

        def refuse(**_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("tempfile.TemporaryFile", refuse)
        want = (
            4,
            f"pavdit generate: -o {output}: want a folder to write into, got {tmp_path}: Permission denied",
        )
    assert generate("-o", output)[:2] == want


def test_without_weights_it_says_so(generate, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("pavdit.weights.FOLDER", tmp_path)
    said = "want a checkpoint or run directory, or bundled weights by name (this copy of pavdit has none)"
    code, line, _ = generate("--checkpoint", cli.build_parser().parse_args(["generate"]).checkpoint)
    assert (code, line) == (3, f"pavdit generate: bounce-64: {said}, got neither")


def test_a_given_clip_of_other_sizes_is_read_and_said(generate, tmp_path, nano_generator_run) -> None:
    path = tmp_path / "long.mp4"
    write_clip(BounceClips(1, ClipSpec(num_frames=20, height=24, width=32, fps=Fraction(20)))[0], path)
    assert generate("--video", path)[0] == 0
    pipeline = Pipeline.from_pretrained(nano_generator_run, device="cpu")
    said = "took the first 0.4 s of 1, took the middle of 32 x 24 pixels as 16 x 16, took 20 fps as 10"
    assert what_was_read(pipeline, probe(path), "video") == said
    assert what_was_read(pipeline, probe(path), "audio") == said.partition(",")[0]
    write_clip(BounceClips(1, nano().clip)[0], path)
    assert what_was_read(pipeline, probe(path), "video") == ""


def test_silence_and_short_clips_are_refused(generate, tmp_path) -> None:
    clip = BounceClips(1, nano().clip)[0]
    write_clip(replace(clip, wave=clip.wave * 0), tmp_path / "mute.mp4")
    code, line, files = generate("--audio", tmp_path / "mute.mp4")
    assert (code, files) == (2, []) and "audio mute.mp4: want sound to make a picture for, got sil" in line
    short = replace(clip, frames=clip.frames[:2], wave=clip.wave[: 2 * 1600])
    write_clip(short, tmp_path / "short.mp4")
    code, line, files = generate("--video", tmp_path / "short.mp4")
    assert (code, files) == (
        3,
        [],
    ) and "want 0.4 s of picture from 0 s on, got picture 0 to 0.2 s" in line


def test_a_sound_file_and_a_mute_film_can_be_given(generate, tmp_path) -> None:
    sound, film = tmp_path / "sound.wav", tmp_path / "film.mp4"
    write_media(sound, sound=burst(0.5, 0.1, 16000), audio_codec="pcm_s16le")
    write_media(film, pictures=flat([0, 90, 180, 250], 16, 16))
    for stream, path in (("audio", sound), ("video", film)):
        code, line, files = generate(f"--{stream}", path, "-o", tmp_path / "out" / f"{stream}.mp4")
        assert code == 0 and f"{stream}.mp4" in files, line
    assert (
        abs(burst_time(read_clip(tmp_path / "out" / "audio.mp4", nano().clip).wave.numpy(), 16000) - 0.1)
        < 0.002
    )
    levels = read_clip(tmp_path / "out" / "video.mp4", nano().clip).frames.float().mean(dim=(1, 2, 3))
    assert (levels - torch.tensor([0.0, 90, 180, 250])).abs().max() < 6
    code, line, _ = generate("--video", sound)
    assert (code, line) == (3, f"pavdit generate: {sound}: want a video stream, got none")
