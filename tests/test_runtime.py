"""How models run: defaults of a device, what is asked for, the compiler's directory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pavdit.compile_cache import INDUCTOR_DIR, cache_dir, use_cache
from pavdit.runtime import Runtime


def test_what_a_device_gets_and_why() -> None:
    cpu, cuda = Runtime.choose("cpu"), Runtime.choose("cuda")
    assert (cpu.dtype, cuda.dtype) == (torch.float32, torch.bfloat16)
    assert str(cpu.graph) == "off: no CUDA" and str(cuda.graph) == "on: a step is one launch"
    assert not cpu.compile.on and cuda.compile.on
    assert str(Runtime.choose("cpu", compile=True).compile) == "on: as asked"
    assert str(Runtime.choose("cuda", graph=False).graph) == "off: as asked"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "int8"}, "dtype: want auto, float32 or bfloat16, got 'int8'"),
        ({"graph": True}, "graph: want a CUDA device for CUDA graphs, got cpu"),
    ],
)
def test_what_cannot_be_is_named(settings, message) -> None:
    with pytest.raises(ValueError, match=message):
        Runtime.choose("cpu", **settings)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    monkeypatch.setenv(INDUCTOR_DIR, "before")  # so that what a test sets is undone
    monkeypatch.delenv(INDUCTOR_DIR)
    monkeypatch.delenv("PAVDIT_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    return monkeypatch


def test_compiled_code_lies_where_it_outlives_a_restart(environment, tmp_path) -> None:
    assert cache_dir() == tmp_path / "user" / "pavdit" / "compiled"
    environment.setenv("PAVDIT_CACHE_DIR", str(tmp_path / "ours"))
    assert use_cache() == tmp_path / "ours" / "compiled" and (tmp_path / "ours" / "compiled").is_dir()
    from torch._inductor.runtime.cache_dir_utils import cache_dir as of_the_compiler

    assert of_the_compiler() == str(tmp_path / "ours" / "compiled")
    environment.setenv(INDUCTOR_DIR, str(tmp_path / "theirs"))
    assert use_cache() == tmp_path / "theirs"


def test_a_directory_that_cannot_be_made_is_named(environment, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    environment.setenv("PAVDIT_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(OSError, match="file/compiled: want a directory for compiled code, got: Not a dir"):
        use_cache()
