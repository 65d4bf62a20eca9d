"""Every test here runs the CUDA kernels on the host, in poisoned memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from emulator.library import emulated_cuda, why_not
from ops.conftest import poisoned_memory  # noqa: F401  as in the tests of the ops


@pytest.fixture(autouse=True)
def cuda_kernels_on_the_host() -> Iterator[None]:
    """Skip with the reason where there is no compiler."""
    if reason := why_not():
        pytest.skip(reason)
    with emulated_cuda():
        yield
