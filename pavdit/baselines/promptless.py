"""What makers of clips without prompts share: reading, seeds, batches, and a run with its assignments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor

from pavdit.batching import BatchSize, Request, in_batches, seeds_for
from pavdit.clip import Clip
from pavdit.config import DataConfig, SystemRun, assign, parse_as
from pavdit.data.given import read_as_trained
from pavdit.generated import Generated
from pavdit.runtime import Runtime
from pavdit.tasks import PromptKind, Stream
from pavdit.train.checkpoint import Checkpoint, open_checkpoint, require_architecture
from pavdit.train.trainer import NonFiniteError
from pavdit.weights import find_weights

Run = TypeVar("Run", bound=SystemRun)


class PromptlessMaker(Generic[Run]):
    """The part of a `pavdit.baselines.system.ClipMaker` that does not depend on the network.

    Args:
        run: the training's configuration, as assigned.
        runtime: how the network runs.
        model_hash: names the weights.
        checkpoint: where they were found.
        trained: updates and seconds of their training.
    """

    prompts: PromptKind = "none"

    def __init__(
        self,
        run: Run,
        runtime: Runtime,
        model_hash: str,
        checkpoint: str,
        trained: Mapping[str, float] | None,
    ) -> None:
        self.run, self.runtime, self.model_hash, self.checkpoint = run, runtime, model_hash, checkpoint
        self.trained = trained or {}

    @property
    def data(self) -> DataConfig:
        """How the training's clips were read."""
        return self.run.data

    def read(
        self, path: str | Path, start_seconds: Fraction | float | None = None, only: Stream | None = None
    ) -> Clip:
        """As `pavdit.pipeline.Pipeline.read`."""
        return read_as_trained(path, self.run.model.clip, self.data, start_seconds, only)

    def requests(
        self, prompt: str | Sequence[str | None] | None, n: int, seed: int | Sequence[int]
    ) -> list[Request]:
        """One for each clip.

        Raises:
            ValueError: a prompt is given, or the numbers do not fit.
        """
        prompts = [prompt] if prompt is None or isinstance(prompt, str) else list(prompt)
        if n < 1:
            raise ValueError(f"n: want at least 1 clip, got {n}")
        if told := next((one for one in prompts if one is not None), None):
            raise ValueError(f"prompt: want none, which {self.run.system} has no use for, got {told!r}")
        return [Request(i, None, own, 0) for i, own in enumerate(seeds_for(seed, n * len(prompts)))]

    def in_batches(
        self,
        requests: list[Request],
        batch_size: BatchSize,
        make: Callable[[list[Request]], Sequence[tuple[Clip, Tensor, Mapping[str, str]]]],
    ) -> Iterator[tuple[int, Generated]]:
        """Clips with their index; `make` gives a batch's clips, latents and facts."""

        def generated(batch: list[Request]) -> list[Generated]:
            return [
                Generated(clip, latent, {**facts, "batch": f"{place}/{len(batch)}"})
                for place, (clip, latent, facts) in enumerate(make(batch), 1)
            ]

        made = in_batches(requests, batch_size, self.runtime.device, generated)
        return ((request.index, clip) for request, clip in made)

    def described(self, request: Request, task: str) -> dict[str, str]:
        """The facts of a clip that every system has."""
        return {
            "system": str(self.run.system),
            "model": self.model_hash,
            "checkpoint": self.checkpoint,
            **self.runtime.described(),
            "prompt": "",
            "seed": str(request.seed),
            "task": task,
        }


def require_finite(made: Mapping[str, Tensor]) -> None:
    """Refuse what is no number.

    Raises:
        NonFiniteError: names it.
    """
    for name, value in made.items():
        if not bool(value.isfinite().all()):
            raise NonFiniteError(f"sampling: want finite {name}, got NaN or infinity")


def open_run(path: Path, kind: type[Run], assignments: Sequence[str]) -> tuple[Checkpoint[Run], Run]:
    """A checkpoint of a system, and its run with assignments.

    Raises:
        DataError: it is missing or damaged.
        ConfigError: an assignment cannot be used, or would make another architecture.
    """
    saved = open_checkpoint(find_weights(path), kind)
    tree = saved.config.model_dump(mode="json")
    for assignment in assignments:
        assign(tree, assignment)
    run = parse_as(kind, tree, "--set")
    require_architecture(saved, run.model, "denoiser")
    return saved, run
