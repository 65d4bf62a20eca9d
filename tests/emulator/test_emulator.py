"""The emulator itself: it computes what CUDA would, and shows what would go wrong there."""

from __future__ import annotations

import ctypes

import pytest
import torch
from emulator.library import HERE, build


@pytest.fixture(scope="module")
def samples() -> ctypes.CDLL:
    library = ctypes.CDLL(str(build([HERE / "samples.cu"])))
    for name in ("run_sum", "run_divergent", "run_mma"):
        getattr(library, name).restype = ctypes.c_char_p
    return library


def pointer(t: torch.Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(t.data_ptr())


def test_a_barrier_orders_warps_and_its_lack_shows(samples: ctypes.CDLL) -> None:
    out = torch.zeros(2)
    assert samples.run_sum(True, pointer(out)) == b""
    assert out.tolist() == [2016.0, 2016.0]
    samples.run_sum(False, pointer(out))
    assert out.isnan().any()  # shared memory begins as NaN


def test_a_divergent_collective_is_a_fault(samples: ctypes.CDLL) -> None:
    out = torch.zeros(32)
    fault = samples.run_divergent(pointer(out))
    assert fault == b"block 0, warp 0: want all 32 lanes at one collective, got 16 at collective 0"


def test_mma_and_transpose(samples: ctypes.CDLL) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(16, n, generator=generator).bfloat16() for n in (16, 8))
    d, turned = torch.zeros(16, 8), torch.zeros(8, 8, dtype=torch.bfloat16)
    assert samples.run_mma(pointer(a), pointer(b), pointer(d), pointer(turned)) == b""
    torch.testing.assert_close(d, a.float() @ b.float())
    assert torch.equal(turned, a[:8, :8].T)
