"""Batches: one bucket each, halved where memory is short, nothing lost."""

from __future__ import annotations

import pytest
import torch

from pavdit.batching import Request, in_batches, plan

CPU = torch.device("cpu")


def requests(*buckets: int) -> list[Request]:
    return [Request(i, None, i, bucket) for i, bucket in enumerate(buckets)]


def indices(batches: list[list[Request]]) -> list[list[int]]:
    return [[request.index for request in batch] for batch in batches]


def test_a_batch_has_one_bucket_and_keeps_the_order() -> None:
    assert indices(plan(requests(8, 16, 8, 8, 16, 8), 3)) == [[0, 2, 3], [5], [1, 4]]


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_holds_at_least_one(size: int) -> None:
    with pytest.raises(ValueError, match=f"batch_size: want at least 1 or auto, got {size}"):
        plan(requests(8), size)


class Machine:
    """Holds `room` clips at a time."""

    def __init__(self, room: int, error: BaseException | None = None) -> None:
        self.room, self.sizes = room, []
        self.error = error or torch.OutOfMemoryError("CUDA out of memory")

    def __call__(self, batch: list[Request]) -> list[int]:
        self.sizes.append(len(batch))
        if len(batch) > self.room:
            raise self.error
        return [10 * request.index for request in batch]


def test_auto_halves_until_it_fits_and_stays_there() -> None:
    machine = Machine(room=1)
    made = dict(in_batches(requests(*[8] * 6), "auto", CPU, machine))
    assert {request.index: result for request, result in made.items()} == {i: 10 * i for i in range(6)}
    assert machine.sizes == [4, 2, 1, 1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    "error", [MemoryError("no"), RuntimeError("DefaultCPUAllocator: not enough memory: you tried ...")]
)
def test_every_allocators_words_count(error: BaseException) -> None:
    assert len(list(in_batches(requests(8, 8), "auto", CPU, Machine(1, error)))) == 2


def test_what_does_not_fit_at_all_says_what_helps() -> None:
    wanted = (
        r"memory: want room for a batch of 1 on cpu, \d+\.\d of \d+\.\d GiB free, got: CUDA out of memory; "
        "try dtype bfloat16, closing other programs or a smaller preset"
    )
    with pytest.raises(MemoryError, match=wanted):
        list(in_batches(requests(8), "auto", CPU, Machine(0)))


def test_a_batch_that_was_asked_for_is_not_made_smaller() -> None:
    with pytest.raises(MemoryError, match="a batch of 2 on cpu.*try a smaller batch_size, dtype bf"):
        list(in_batches(requests(8, 8), 2, CPU, Machine(1)))


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        list(in_batches(requests(8), "auto", CPU, Machine(0, RuntimeError("shapes do not fit"))))


def test_other_words_are_refused() -> None:
    with pytest.raises(ValueError, match="batch_size: want at least 1 or auto, got 'many'"):
        list(in_batches(requests(8), "many", CPU, Machine(1)))  # type: ignore[arg-type]


def test_what_is_done_is_out_before_the_next_batch_begins() -> None:
    machine = Machine(8)
    clips = in_batches(requests(8, 8), 1, CPU, machine)
    assert next(clips)[1] == 0
    assert machine.sizes == [1]


def test_a_batch_is_masked_for_all_or_none() -> None:
    mixed = [Request(i, None, i, 8, padded) for i, padded in enumerate((False, True, True, False))]
    assert indices(plan(mixed, 4)) == [[0, 3], [1, 2]]
