"""What the command line asks of a system."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import torch

from pavdit.batching import BatchSize
from pavdit.clip import Clip
from pavdit.config import DataConfig, SystemModel, SystemRun
from pavdit.flow.sampler import Callback
from pavdit.generated import Generated
from pavdit.runtime import DtypeName
from pavdit.tasks import PromptKind, Stream
from pavdit.train.run import OpenStage


class ClipMaker(Protocol):
    """Trained weights that make clips; `pavdit.pipeline.Pipeline` is one.

    Attributes:
        config: sizes.
        data: how the training's clips were read; None: as by default.
        model_hash: names the weights.
        checkpoint: where they were found.
        trained: updates (``step``) and ``seconds`` of their training, as far as they are known.
        prompts: what a prompt is.
    """

    @property
    def config(self) -> SystemModel: ...

    @property
    def data(self) -> DataConfig | None: ...

    @property
    def model_hash(self) -> str: ...

    @property
    def checkpoint(self) -> str: ...

    @property
    def trained(self) -> Mapping[str, float]: ...

    @property
    def prompts(self) -> PromptKind: ...

    def read(
        self, path: str | Path, start_seconds: Fraction | float | None = None, only: Stream | None = None
    ) -> Clip:
        """Read a file as the training's clips were read."""

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
        steps: int | None = None,
        guidance: float | None = None,
    ) -> Iterator[tuple[int, Generated]]:
        """Clips with their index, as soon as each is done; `steps` and `guidance` None: as configured.

        Raises:
            ValueError: the arguments do not fit each other or the system.
        """

    def provenance(
        self,
        prompt: str | Sequence[str | None] | None = None,
        video: Clip | None = None,
        audio: Clip | None = None,
        task: str = "auto",
        n: int = 1,
        seed: int | Sequence[int] = 0,
        *,
        steps: int | None = None,
        guidance: float | None = None,
    ) -> list[dict[str, str]]:
        """What the clips of such a call would say of their making, but for ``batch``; makes none."""


class Load(Protocol):
    """Load averaged weights.

    Args:
        path: a checkpoint or run directory.
        device: where they run.
        assignments: ``key.key=value`` that change the run's configuration, such as its way of sampling.
        dtype: see `pavdit.runtime.Settings`.
        compile: the same.

    Raises:
        DataError: nothing is there, it is damaged, or its weights do not fit its configuration.
        ConfigError: an assignment cannot be used, or would make another architecture.
    """

    def __call__(
        self,
        path: Path,
        device: torch.device,
        assignments: Sequence[str] = (),
        *,
        dtype: DtypeName = "auto",
        compile: bool | None = None,
    ) -> ClipMaker: ...


@dataclass(frozen=True, slots=True)
class System:
    """A system that trains and makes clips.

    Attributes:
        run: what its YAML and the configuration in its checkpoints are; its field ``system`` has the name as
            default.
        open_stage: begins its training.
        load: loads its weights.
    """

    run: type[SystemRun]
    open_stage: OpenStage[Any]
    load: Load
