"""The whole way, one line per arrow: clip → planes → clip, and noise → P → planes → clip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from fractions import Fraction
from pathlib import Path

from typing_extensions import Unpack

from pavdit.agreement import Agreement
from pavdit.batching import BatchSize, Request, in_batches, requests_for
from pavdit.clip import Clip
from pavdit.codec import Codec
from pavdit.compile_cache import cache_dir, use_cache
from pavdit.config import ConfigError, DataConfig, ModelConfig
from pavdit.data.given import read_as_trained
from pavdit.encoders import Autoencoder
from pavdit.flow.graph import Graphs
from pavdit.flow.sampler import Callback
from pavdit.generated import Clips, Generated
from pavdit.latents import PlaneLayout, Planes
from pavdit.nn.frame_attention import set_backend
from pavdit.options import Choices, SamplingOptions
from pavdit.provenance import adapters_described
from pavdit.runtime import Runtime, Settings
from pavdit.stdit.embed import PATCH
from pavdit.stdit.fast import Networks
from pavdit.synthesis import Synthesis
from pavdit.tasks import PromptKind, Stream, choose_task, require_sound
from pavdit.train.adapted import load_adapted
from pavdit.train.checkpoint import open_checkpoint
from pavdit.train.models import Generator, choose_device, load_autoencoder, load_generator
from pavdit.weights import find_weights

__all__ = ["Clips", "Generated", "Pipeline"]


class Pipeline:
    """Encode, decode and generate clips with trained weights.

    Args:
        config: sizes.
        autoencoder: whatever makes planes of clips and clips of planes.
        generator: STDiT and its text encoder; None where only the autoencoder is trained yet.
        runtime: where and how they run; None: on the CPU, as suits it.
        model_hash: names the weights, for provenance.
        data: how the training's clips were read; None: as by default.
        checkpoint: where the weights were found, for provenance.
        adapters: where those that the generator has were found, with their strengths, for provenance.
        trained: updates (``step``) and ``seconds`` of the training, as far as they are known.
    """

    def __init__(
        self,
        config: ModelConfig,
        autoencoder: Autoencoder,
        generator: Generator | None = None,
        *,
        runtime: Runtime | None = None,
        model_hash: str = "",
        data: DataConfig | None = None,
        checkpoint: str = "",
        adapters: Mapping[str, float] | None = None,
        trained: Mapping[str, float] | None = None,
    ) -> None:
        self.runtime = runtime = runtime or Runtime.choose()
        self.config, self.model_hash, self.data, self.checkpoint = config, model_hash, data, checkpoint
        self.adapters, self.trained = adapters or {}, trained or {}
        place = runtime.device, runtime.dtype
        self.graphs = Graphs() if runtime.graph.on else None
        self.codec = Codec(config, autoencoder.to(*place).eval(), *place, self.graphs)
        self.generator = None if generator is None else generator.to(*place).eval()
        self.layout = PlaneLayout.choose(config.grid, config.stdit.layout)
        _, rows, columns = config.grid
        self.attention = {"decode": runtime.attention_of(rows * columns, config.mdsa.head_dim)}
        set_backend(autoencoder, self.attention["decode"].backend)
        self.networks = None
        if self.generator is not None:
            stdit = self.generator.stdit
            tokens = self.layout.rows * self.layout.columns // PATCH**2
            self.attention["step"] = runtime.attention_of(tokens, config.stdit.head_dim)
            set_backend(stdit, self.attention["step"].backend)
            self.networks = Networks.of(stdit, fp8=runtime.fp8.on, absorbed=runtime.absorbed.on)
            if runtime.compile.on:
                use_cache()
                self.networks.compile_blocks()

    @property
    def autoencoder(self) -> Autoencoder:
        """What makes planes of clips and clips of planes."""
        return self.codec.autoencoder

    @property
    def stats(self) -> dict[str, str]:
        """How samples are made, for people: dtype; whether graphs and compiled blocks serve; and why."""
        runtime, graph = self.runtime, str(self.runtime.graph)
        if self.graphs is not None:
            steps = "" if self.config.flow.method == "euler" else "; not for steps of method heun"
            graph += f"; {self.graphs.captures} captured, {len(self.graphs)} kept{steps}"
        return {
            "device": str(runtime.device),
            "dtype": str(runtime.dtype).removeprefix("torch."),
            "graph": graph,
            "compile": f"{runtime.compile}; cache {cache_dir()}"
            if runtime.compile.on
            else str(runtime.compile),
            "fp8": str(runtime.fp8),
            "absorbed": str(runtime.absorbed),
            "attention": ", ".join(f"{stage} {choice}" for stage, choice in self.attention.items()),
        }

    @property
    def prompts(self) -> PromptKind:
        """What the text encoder knows: names of classes, or sentences."""
        text = None if self.generator is None else self.generator.text
        return "none" if text is None else "classes" if text.class_names else "sentences"

    @property
    def autoencoder_hash(self) -> str:
        """Names the autoencoder's weights, in a run of either stage."""
        return self.model_hash.partition("+")[0]

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str = "auto",
        text_path: Path | None = None,
        adapters: Mapping[str, float] | None = None,
        **settings: Unpack[Settings],
    ) -> Pipeline:
        """Load averaged weights: bundled ones, or those of a checkpoint or a run of either stage.

        Args:
            path: the checkpoint or run directory, or the name of bundled weights, such as ``bounce-64``.
            device: ``auto`` is CUDA where there is one.
            text_path: folder of the language model that the generator takes its prompts from; None: where it
                lay in training.
            adapters: checkpoint or run of adapters that were trained on these weights (`train.stage:
                adapter`), with the strength that each counts with; 1 is as trained.
            settings: how the models run, see `pavdit.runtime.Settings`.

        Raises:
            DataError: nothing is there, it is damaged, its weights do not fit its configuration, or the
                language model is another one; or adapters belong to other weights.
            ConfigError: there is no such device, or no language model.
            ValueError: a setting does not exist, or not on this device.
        """
        runtime = Runtime.choose(choose_device(device), **settings)
        saved = open_checkpoint(find_weights(path))
        is_generator = saved.config.train.stage == "generator"
        generator = load_generator(saved, runtime.device, text_path) if is_generator else None
        name = saved.model_hash
        if adapters:
            if generator is None:
                raise ConfigError(f"adapters: want a generator's weights, got an autoencoder's in {path}")
            generator, name = load_adapted(saved, generator, adapters)
        return cls(
            saved.config.model,
            load_autoencoder(saved),
            generator,
            runtime=runtime,
            model_hash=name,
            data=saved.config.data,
            checkpoint=str(path),
            adapters=adapters,
            trained=saved.training,
        )

    def read(
        self, path: str | Path, start_seconds: Fraction | float | None = None, only: Stream | None = None
    ) -> Clip:
        """Read a file as the training's clips were read: the first seconds, in the models' size and rates.

        Args:
            path: any media file with picture and sound, or with the one that is wanted.
            start_seconds: where the clip begins; None: where what is wanted begins.
            only: ``video`` or ``audio``, what is wanted; the other is then silent or black. None: both.

        Raises:
            DataError: the file cannot be used.
        """
        return read_as_trained(path, self.config.clip, self.data, start_seconds, only)

    def encode(self, clip: Clip) -> tuple[Planes, Planes]:
        """A clip to the joint latent planes of its frames and its sound, one batch row each.

        Raises:
            ValueError: the clip has other sizes or rates than the models.
        """
        video, audio = self.codec.encode([clip], "video", "audio")
        return video, audio

    def encode_alone(self, clip: Clip, stream: Stream) -> Planes:
        """One stream of a clip to its latent planes, which know nothing of the other stream.

        Raises:
            ValueError: the clip has other sizes or rates than the models.
        """
        [planes] = self.codec.encode([clip], stream)
        return planes

    def decode(self, video: Planes | None, audio: Planes | None) -> list[Clip]:
        """Latent planes to clips, one per batch row; a stream without planes is black or silent.

        Raises:
            ValueError: both are None, or a plane has another shape than the model's.
        """
        return self.codec.decode(video, audio)

    def __call__(
        self,
        prompt: str | Sequence[str | None] | None = None,
        video: Clip | None = None,
        audio: Clip | None = None,
        task: str = "auto",
        n: int = 1,
        seed: int | Sequence[int] = 0,
        *,
        batch_size: BatchSize = "auto",
        callback: Callback | None = None,
        **choices: Unpack[Choices],
    ) -> Clips:
        """Generate `n` clips of every prompt. Clip ``i`` depends on ``seed + i`` and on no other clip.

        Args:
            prompt: a sentence that the text encoder knows, or several; None: no condition (with one known
                class: that one).
            video: the clip whose frames are given, for ``v2a``.
            audio: the clip whose sound is given, for ``a2v``.
            task: one of `pavdit.config.TASKS`; ``auto``: v2a or a2v where a stream is given, else t2av.
            n: clips of a prompt; they follow each other.
            seed: of the first clip, the next has the next one; or of each clip.
            batch_size: clips at a time; ``auto``: fewer where the memory does not suffice.
            callback: ``callback(step, num_steps, latent)`` after each step of each batch; an exception from
                it ends the work.
            choices: ``steps``, ``guidance`` and whatever else `pavdit.options.Choices` lists.

        Raises:
            ValueError: the arguments do not fit each other or the model.
            MemoryError: not even one clip fits into memory, or not the batch asked for.
            NonFiniteError: the weights give no number.
        """
        clips = self.stream(
            prompt, video, audio, task, n, seed, batch_size=batch_size, callback=callback, **choices
        )
        return Clips(clip for _, clip in sorted(clips, key=lambda pair: pair[0]))

    def warm_up(self, prompt: str | None = None, *, batch_size: int = 1, **choices: Unpack[Choices]) -> None:
        """Do ahead what the first sample of this kind would wait for: compile, capture graphs, make tables.

        Args:
            prompt: any of the text length to come.
            batch_size: clips at a time.
            choices: as for a call; the number of steps does not matter.
        """
        choices["steps"] = 2  # with a guidance interval, one step of each kind
        self(prompt, n=batch_size, batch_size=batch_size, **choices)

    def stream(
        self,
        prompt: str | Sequence[str | None] | None = None,
        video: Clip | None = None,
        audio: Clip | None = None,
        task: str = "auto",
        n: int = 1,
        seed: int | Sequence[int] = 0,
        *,
        batch_size: BatchSize = "auto",
        callback: Callback | None = None,
        **choices: Unpack[Choices],
    ) -> Iterator[tuple[int, Generated]]:
        """As calling the pipeline, but every clip comes with its index as soon as its batch is done."""
        requests, options, given, synthesis = self._work(prompt, video, audio, task, n, seed, choices)
        made = in_batches(
            requests,
            batch_size,
            self.runtime.device,
            lambda batch: synthesis.make(batch, options, [given] if given else [], callback),
        )
        return ((request.index, clip) for request, clip in made)

    def provenance(
        self,
        prompt: str | Sequence[str | None] | None = None,
        video: Clip | None = None,
        audio: Clip | None = None,
        task: str = "auto",
        n: int = 1,
        seed: int | Sequence[int] = 0,
        **choices: Unpack[Choices],
    ) -> list[dict[str, str]]:
        """What the clips of such a call would say of their making, but for ``batch``; makes none.

        Arguments and errors as for calling the pipeline.
        """
        requests, options, given, synthesis = self._work(prompt, video, audio, task, n, seed, choices)
        return [synthesis.provenance(request, options, given) for request in requests]

    def _work(
        self,
        prompt: str | Sequence[str | None] | None,
        video: Clip | None,
        audio: Clip | None,
        task: str,
        n: int,
        seed: int | Sequence[int],
        choices: Choices,
    ) -> tuple[list[Request], SamplingOptions, Clip | None, Synthesis]:
        """A call's arguments, checked: the clips to make, how, from what, and what makes them."""
        if self.generator is None or self.networks is None:
            raise ValueError(
                "checkpoint: want a generator's, got an autoencoder's, which only encodes and decodes"
            )
        options = SamplingOptions.of(self.config.flow, choose_task(task, video, audio), choices)
        given = video if options.task == "v2a" else audio
        if options.task == "a2v":
            require_sound(audio, self.config.mel)
        requests = requests_for(prompt, n, seed, self.generator.text, self.config.stdit.max_text_length)
        synthesis = Synthesis(
            self.config,
            self.generator,
            self.networks,
            self.codec,
            self.layout,
            self.graphs,
            about={
                "model": self.model_hash,
                "checkpoint": self.checkpoint,
                **adapters_described(self.adapters),
                **self.runtime.described(),
            },
        )
        return requests, options, given, synthesis

    def error_against_exact(
        self,
        prompt: str | None = None,
        video: Clip | None = None,
        audio: Clip | None = None,
        task: str = "auto",
        seed: int = 0,
        **choices: Unpack[Choices],
    ) -> Agreement:
        """How far a clip is from that of the same noise without any fast switch.

        Arguments and errors as for calling the pipeline; makes the clip both ways.
        """
        exact = copy(self)
        exact.networks = None if self.generator is None else Networks.of(self.generator.stdit)
        plain = choices | {"guidance_interval": None, "step_cache": None}
        latents = [
            pipe(prompt, video, audio, task, seed=seed, **chosen)[0].latent[None].to(self.runtime.device)
            for pipe, chosen in ((self, choices), (exact, plain))
        ]
        return Agreement.of(self.codec, self.layout, *latents)
