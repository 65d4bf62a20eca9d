"""The schedule of reuse: fixed by times and guidance alone."""

from __future__ import annotations

import pytest

from pavdit.flow.schedule import time_grid
from pavdit.flow.step_cache import StepCache

TIMES = time_grid(10)[:-1]


def letters(cache: StepCache, guided: list[bool] | None = None) -> str:
    """One of p, s, r a step."""
    return "".join(use[0] for use in cache.plan(TIMES, guided or [True] * len(TIMES)))


def test_every_second_step_inside_the_interval_reuses() -> None:
    assert letters(StepCache(interval=(0.2, 0.8))) == "psrsrsrsrp"


def test_every_third_step_computes() -> None:
    assert letters(StepCache(every=3, interval=(0.2, 0.8))) == "psrrsrrsrp"


def test_the_first_step_computes() -> None:
    assert letters(StepCache(interval=(0.0, 1.0))) == "srsrsrsrsr"


def test_a_residual_is_of_one_kind_of_step() -> None:
    """Where guidance begins or ends, the batch has another size and its residual is of no use."""
    guided = [0.25 <= t <= 0.65 for t in TIMES]
    assert letters(StepCache(every=9, interval=(0.0, 1.0)), guided) == "srrsrrrsrr"


def test_the_range_is_part_of_the_depth() -> None:
    assert StepCache().range_of(32) == range(8, 24)
    assert StepCache(blocks=(0.0, 1.0)).range_of(2) == range(2)


@pytest.mark.parametrize("cache", [StepCache(), StepCache(3, (0.1, 0.9), (0.0, 0.5))])
def test_the_text_of_a_schedule_is_the_schedule(cache: StepCache) -> None:
    assert StepCache.parse(str(cache)) == cache


def test_what_is_left_out_is_the_default() -> None:
    assert StepCache.parse("4") == StepCache(every=4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "want EVERY"),
        ("2,0.5", "want EVERY"),
        ("2,0-1,0-1,0-1", "want EVERY"),
        ("1", "want every >= 2, got 1"),
        ("2,0.5-0.5", "want blocks with 0 <= low < high <= 1, got 0.5-0.5"),
        ("2,0-1,0.5-2", "want interval with 0 <= low < high <= 1, got 0.5-2"),
    ],
)
def test_message(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^step_cache: {message}"):
        StepCache.parse(text)


def test_an_empty_range_is_refused() -> None:
    with pytest.raises(ValueError, match="want a range of blocks, got none of 2"):
        StepCache(blocks=(0.3, 0.4)).range_of(2)
