"""What the training loop asks of a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from pavdit.train.parallel import Part
from pavdit.train.shown import Shown


class Stage(Protocol):
    """What is trained: a model, its loss, perhaps an adversary, its validation and what it shows.

    Nothing here waits for the device: the loop reads losses when it logs them.

    Attributes:
        model: float32 parameters on the run's device.
        adversary: discriminators, float32 parameters on the same device, with an optimiser of their own;
            None where there are none. Checkpoints carry both.
        frozen: file stem to tensors that training leaves as they are and every checkpoint carries.
    """

    @property
    def model(self) -> nn.Module: ...

    @property
    def adversary(self) -> nn.Module | None: ...

    @property
    def frozen(self) -> Mapping[str, Mapping[str, Tensor]]: ...

    def loss(self, step: int, part: Part) -> dict[str, Tensor]:
        """Terms of the loss of a part of update `step`, to descend ``loss``; 0-d tensors.

        A pure function of weights, step and part; the mean over the parts is the loss of the whole batch (a
        mean over some of the samples divides by what the whole batch has of them). The adversary's
        parameters need no gradient meanwhile. The parts of an update come in order.
        """

    def adversary_loss(self, step: int, part: Part) -> dict[str, Tensor]:
        """Terms of the adversary's loss, to descend ``loss``; empty where `step` does not train it.

        Called for the same parts right after the model's update of the same step, on what `loss` kept of them
        (detached). Names differ from those of `loss`, ``loss`` itself apart. Whether it is empty depends on
        `step` alone.
        """

    def clip_names(self, step: int) -> Sequence[str]:
        """The clips of update `step`, for a message: an update that is not finite names them."""

    def validate(self, model: Any) -> dict[str, float]:  # noqa: ANN401 (its own kind of model)
        """Measures of (averaged) weights."""

    def show(self, model: Any) -> Shown:  # noqa: ANN401
        """What people look at, made by (averaged) weights; the same draws every time."""


@runtime_checkable
class SplitStage(Stage, Protocol):
    """A stage whose loss is work of the host, then work of the device alone, which a CUDA graph can hold."""

    def inputs(self, step: int, part: Part) -> dict[str, Tensor]:
        """What a part of update `step` is shown, on the device; few different shapes, some of it floating."""

    def objective(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`loss` on these inputs: the same kernels whatever they hold, nothing drawn, nothing waited for.

        Numbers in the inputs that are not finite make ``loss`` not finite.
        """
