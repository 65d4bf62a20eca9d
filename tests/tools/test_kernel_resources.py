"""The table of registers and shared memory: read from ptxas, written, read again, compared."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from kernel_resources import Table, compare, differences, kernel_names, of_text, read_log, to_text

needs_filt = pytest.mark.skipif(not shutil.which("c++filt"), reason="no c++filt: no compiler")
LOG = """
ptxas info    : Compiling entry function '_ZN6pavdit4cuda12_GLOBAL__N_110row_kernelIfLi4EEEvPKT_' for 'sm_80'
ptxas info    : Function properties for _ZN6pavdit4cuda12_GLOBAL__N_110row_kernelIfLi4EEEvPKT_
    {stack} bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 41 registers, used 1 barriers, 16 bytes smem, 552 bytes cmem[0]
ptxas info    : Compiling entry function 'plain_kernel' for 'sm_90a'
ptxas info    : Function properties for plain_kernel
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, 552 bytes cmem[0]
"""
TABLE: Table = {"row_kernel<float, 4>": {"sm_80": (41, 16)}, "plain_kernel": {"sm_90a": (8, 0)}}


@needs_filt
def test_reads_what_ptxas_says() -> None:
    assert read_log(LOG.format(stack=0)) == (TABLE, [])


@needs_filt
def test_local_memory_is_a_fault() -> None:
    _, faults = read_log(LOG.format(stack=8))
    assert len(faults) == 1
    assert faults[0].startswith("row_kernel<float, 4> on sm_80: 8 bytes stack frame")


@needs_filt
def test_names_keep_template_arguments_and_lose_parameters() -> None:
    names = kernel_names(["_ZN6pavdit4cuda12_GLOBAL__N_110row_kernelIfLi4EEEvPKT_", "_Z5otherif"])
    assert list(names.values()) == ["row_kernel<float, 4>", "other"]


def test_round_trip() -> None:
    assert of_text(to_text(TABLE, "13.0.88")) == (TABLE, "13.0.88")


@pytest.mark.parametrize(
    ("kernel", "numbers", "want"),
    [
        ("plain_kernel", {"sm_90a": (8, 0)}, []),
        ("plain_kernel", {"sm_90a": (7, 0)}, []),
        (
            "plain_kernel",
            {"sm_90a": (9, 0)},
            ["more: plain_kernel on sm_90a: want at most 8/0, got 9/0"],
        ),
        (
            "plain_kernel",
            {"sm_90a": (8, 4)},
            ["more: plain_kernel on sm_90a: want at most 8/0, got 8/4"],
        ),
        ("plain_kernel", {"sm_80": (8, 0)}, ["new: plain_kernel on sm_80", "gone: plain_kernel on sm_90a"]),
        ("third_kernel", {"sm_80": (8, 0)}, ["new: third_kernel"]),
    ],
)
def test_differences(kernel: str, numbers: dict[str, tuple[int, int]], want: list[str]) -> None:
    assert differences(TABLE | {kernel: numbers}, TABLE) == want


def test_a_kernel_that_is_gone() -> None:
    assert differences({"plain_kernel": TABLE["plain_kernel"]}, TABLE) == ["gone: row_kernel<float, 4>"]


def test_another_compiler_is_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "resources.txt").write_text(to_text(TABLE, "12.8.1"))
    assert compare({}, "13.0.88", tmp_path / "resources.txt") == []
    assert "is of nvcc 12.8.1 and not compared with nvcc 13.0.88" in capsys.readouterr().out
    assert len(compare({}, "12.8.1", tmp_path / "resources.txt")) == 2


def test_a_missing_table_is_an_error(tmp_path: Path) -> None:
    assert compare(TABLE, "13.0.88", tmp_path / "resources.txt") == [
        "resources.txt: want the committed table, got none: make kernels-check UPDATE=1"
    ]
