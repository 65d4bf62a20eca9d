"""Which steps reuse what a range of blocks added in the step before: fixed before a run, by its times alone.

After Delta-DiT (Chen et al., arXiv 2406.01125), which keeps what blocks add to the tokens, not what they
give: the tokens before the range are always new. Nothing looks at values, so that a step is one of three
captured functions: plain, one that writes what its blocks add, one that reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Use = Literal["plain", "store", "reuse"]
"""What a step does with its blocks' residual: nothing, write it, read it instead of running them."""


def exactly(number: float) -> str:
    """The shortest digits that mean just this number, without an exponent."""
    return str(np.format_float_positional(number, trim="-"))


@dataclass(frozen=True, slots=True)
class StepCache:
    """A schedule. Errors grow with each of its numbers; the defaults leave both ends of the path alone.

    Attributes:
        every: of so many steps one computes the blocks and the others reuse it.
        blocks: where the range begins and ends, as fractions of the network's depth.
        interval: times t of the steps that may reuse.

    Raises:
        ValueError: a number is out of its range.
    """

    every: int = 2
    blocks: tuple[float, float] = (0.25, 0.75)
    interval: tuple[float, float] = (0.2, 0.8)

    def __post_init__(self) -> None:
        if self.every < 2:
            raise ValueError(f"step_cache: want every >= 2, got {self.every}")
        for name, (low, high) in (("blocks", self.blocks), ("interval", self.interval)):
            if not 0 <= low < high <= 1:
                raise ValueError(f"step_cache: want {name} with 0 <= low < high <= 1, got {low:g}-{high:g}")

    @classmethod
    def parse(cls, text: str) -> StepCache:
        """``EVERY[,LOW-HIGH[,LOW-HIGH]]``: every, blocks, interval; the inverse of `str`.

        Raises:
            ValueError: the text is none of that, or a number is out of its range.
        """
        every, *ranges = text.split(",")
        try:
            pairs = [tuple(map(float, part.split("-"))) for part in ranges]
            numbers = int(every), *((low, high) for low, high in pairs)
        except ValueError:
            numbers = ()
        if not 1 <= len(numbers) <= 3:
            raise ValueError(
                f"step_cache: want EVERY[,BLOCKS[,TIMES]] like 2,0.25-0.75,0.2-0.8, got {text!r}"
            )
        return cls(*numbers)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return ",".join(
            [
                str(self.every),
                *(f"{exactly(low)}-{exactly(high)}" for low, high in (self.blocks, self.interval)),
            ]
        )

    def range_of(self, depth: int) -> range:
        """The blocks of a network of `depth` blocks.

        Raises:
            ValueError: it is empty.
        """
        first, last = (round(edge * depth) for edge in self.blocks)
        if first >= last:
            raise ValueError(f"step_cache: want a range of blocks, got none of {depth} in {self.blocks}")
        return range(first, last)

    def plan(self, times: Sequence[float], guided: Sequence[bool]) -> list[Use]:
        """What every step does.

        Args:
            times: of the steps.
            guided: whether a step computes both guidance halves; a residual is of one kind of step.
        """
        low, high = self.interval
        reuses: list[bool] = []
        age = 0  # steps since the blocks ran
        for k, t in enumerate(times):
            may = k > 0 and low <= t <= high and guided[k] == guided[k - 1] and age + 1 < self.every
            age = age + 1 if may else 0
            reuses.append(may)
        following = [*reuses[1:], False]
        return [
            "reuse" if now else "store" if then else "plain"
            for now, then in zip(reuses, following, strict=True)
        ]
