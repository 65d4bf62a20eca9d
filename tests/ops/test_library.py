"""The native libraries: which implementation serves, what the environment changes, what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import pavdit.ops
from pavdit.ops import _library
from pavdit.ops._raw import call

PACKAGE = Path(pavdit.ops.__file__).parents[1]
PROBE = """
import torch
from pavdit.ops import _library
from pavdit.ops.adaln_modulate import adaln_modulate
x, m = torch.randn(1, 2, 3, 8, requires_grad=True), torch.randn(1, 2, 8, requires_grad=True)
adaln_modulate(x, m, m).square().sum().backward()
stats = torch.ops.pavdit.adaln_modulate(x.detach(), m.detach(), m.detach(), 1e-6)[1]
status = next(s for s in _library.report() if s.op == "adaln_modulate" and s.device == "cpu")
native = _library.native("adaln_modulate", x, m)
print(native, tuple(stats.shape), status.implementation, status.reason, sep=" | ")
"""


def run(package: Path = PACKAGE, **environment: str) -> subprocess.CompletedProcess[str]:
    """Use the op in a fresh process, where the environment is read again."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PAVDIT_")}
    kept |= {"PYTHONPATH": str(package.parent), **environment}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROBE],
        env=kept,
        cwd=package.parent,
        capture_output=True,
        text=True,
    )


def last_line(process: subprocess.CompletedProcess[str]) -> str:
    return process.stderr.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def bare_package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package as it installs where there is no compiler: the sources alone."""
    package = tmp_path_factory.mktemp("bare") / "pavdit"
    (package / "ops").mkdir(parents=True)
    for source in (*PACKAGE.glob("*.py"), *PACKAGE.glob("ops/*.py")):
        (package / source.relative_to(PACKAGE)).symlink_to(source)
    return package


@pytest.fixture
def has_library() -> None:
    if _library.report()[0].reason.startswith("_ops_cpu.so is missing"):
        pytest.skip("no native library")


@pytest.mark.usefixtures("has_library")
def test_native_serves_by_default() -> None:
    process = run()
    assert process.stdout.startswith("True | (1, 2, 3, 2) | native | "), process.stderr


def test_reference_serves_where_asked() -> None:
    process = run(PAVDIT_KERNELS="reference")
    assert process.stdout == "False | (1, 2, 3, 2) | reference | PAVDIT_KERNELS=reference\n", process.stderr


def test_reference_serves_where_nothing_was_built(bare_package: Path) -> None:
    process = run(bare_package)
    reason = "_ops_cpu.so is missing: pavdit was installed without a C++ compiler"
    assert process.stdout == f"False | (1, 2, 3, 2) | reference | {reason}\n", process.stderr


def test_missing_library_is_an_error_where_required(bare_package: Path) -> None:
    process = run(bare_package, PAVDIT_REQUIRE_KERNELS="cpu")
    assert last_line(process).startswith(
        "RuntimeError: PAVDIT_REQUIRE_KERNELS=cpu: want the native library, got none"
    )


def test_damaged_library_is_named(bare_package: Path) -> None:
    (bare_package / "_ops_cpu.so").write_bytes(b"no library")
    process = run(bare_package)
    (bare_package / "_ops_cpu.so").unlink()
    assert "reference | _ops_cpu.so does not load: " in process.stdout
    assert "invalid ELF header" in process.stdout or "file too short" in process.stdout


def test_reference_contradicts_required() -> None:
    process = run(PAVDIT_KERNELS="reference", PAVDIT_REQUIRE_KERNELS="cpu")
    assert last_line(process).endswith("got none: PAVDIT_KERNELS=reference")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_required_cuda_is_an_error_without_a_device() -> None:
    process = run(PAVDIT_REQUIRE_KERNELS="cuda")
    assert last_line(process).startswith(
        "RuntimeError: PAVDIT_REQUIRE_KERNELS=cuda: want the native library, got none"
    )


@pytest.mark.parametrize("variable", ["PAVDIT_KERNELS", "PAVDIT_REQUIRE_KERNELS"])
def test_unknown_word(variable: str) -> None:
    process = run(**{variable: "fast"})
    assert last_line(process).startswith(f"ValueError: {variable}: want ")


@pytest.mark.usefixtures("has_library")
def test_unknown_capability() -> None:
    process = run(PAVDIT_CPU_CAPABILITY="mmx")
    assert "PAVDIT_CPU_CAPABILITY: want baseline, avx2, avx512 or avx512bf16, got 'mmx'" in last_line(process)


@pytest.mark.usefixtures("has_library")
@pytest.mark.parametrize("capability", ["baseline", "avx512bf16"])
def test_capability_is_only_lowered(capability: str) -> None:
    facts = _library.build_facts()
    if facts is None:
        pytest.skip("no pavdit._C")
    used = run(PAVDIT_CPU_CAPABILITY=capability).stdout.strip().rpartition(" | ")[2]
    assert used == min(
        capability, facts.cpu_capability(), key=["baseline", "avx2", "avx512", "avx512bf16"].index
    )


TRITON_PROBE = """
import sys
import torch
torch.version.cuda = {cuda}
import pavdit.ops
from pavdit.ops import _library
early = "pavdit.kernels.qk_norm_rope" in sys.modules
status = next(s for s in _library.report() if s.op == "qk_norm_rope" and s.device == {device!r})
print(status.implementation, status.reason, early, sep=" | ")
"""


def triton_status(device: str, cuda: str | None, **environment: str) -> str:
    """What serves a Triton op in a fresh process, where torch says that it was built with `cuda`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PAVDIT_", "TRITON_"))}
    probe = TRITON_PROBE.format(cuda=repr(cuda), device=device)
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", probe],
        env=kept | environment,
        cwd=PACKAGE.parent,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    return process.stdout.strip()


@pytest.fixture
def has_triton() -> None:
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed")


@pytest.mark.usefixtures("has_triton")
def test_triton_serves_where_torch_has_cuda() -> None:
    version = importlib.metadata.version("triton")
    assert triton_status("cuda", "13.0") == f"native | triton {version} | False"


@pytest.mark.usefixtures("has_triton")
def test_triton_serves_the_cpu_interpreted() -> None:
    version = importlib.metadata.version("triton")
    assert (
        triton_status("cpu", None, TRITON_INTERPRET="1") == f"native | triton {version}, interpreted | False"
    )


def test_triton_says_why_it_does_not_serve(tmp_path: Path) -> None:
    assert "built without CUDA" in triton_status("cuda", None)
    assert triton_status("cpu", None).startswith("reference | its kernel is written in Triton, for CUDA")
    reference = triton_status("cuda", "13.0", PAVDIT_KERNELS="reference")
    assert reference.startswith("reference | PAVDIT_KERNELS=reference")
    (tmp_path / "triton.py").write_text("raise ImportError('no libcuda')")
    broken = triton_status("cuda", "13.0", PYTHONPATH=f"{tmp_path}{os.pathsep}{PACKAGE.parent}")
    assert broken.startswith("reference | Triton kernels do not import: no libcuda")


def test_call_asks_autograd_where_a_gradient_would_be_cut() -> None:
    x, m = torch.randn(1, 2, 3, 8, requires_grad=True), torch.randn(1, 2, 8)
    arguments = (torch.ops.pavdit.adaln_modulate.default, x, m, m, 1e-6)
    with torch.no_grad():
        assert not call(*arguments)[0].requires_grad
    with pytest.raises(RuntimeError, match=r"want inputs that need no gradient, got one that does"):
        call(*arguments)


def test_report_names_every_public_op_on_every_device() -> None:
    statuses = _library.report()
    reported = {status.op for status in statuses}
    defined = {path.stem for path in (PACKAGE / "ops").glob("*.py") if not path.stem.startswith("_")}
    assert {op.rstrip("_") for op in reported} >= defined - {"block_cross_attention", "axis_query_attention"}
    assert {status.device for status in statuses} == {"cpu", "cuda"}
    assert all(status.implementation in ("native", "reference") and status.reason for status in statuses)
    assert not any(op.endswith("_backward") for op in reported)


class Listing(TorchDispatchMode):
    """Notes the ops that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.ops.append(str(func))
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_modes_and_the_profiler_see_every_call() -> None:
    qkv = torch.randn(2, 4, 3, 2, 8)
    with Listing() as seen:
        pavdit.ops.axis_attention(qkv, 1)
    assert "pavdit.axis_attention.default" in seen.ops
    with torch.profiler.profile() as profile:
        pavdit.ops.axis_attention(qkv, 1)
    assert "pavdit::axis_attention" in {event.name for event in profile.events()}


@torch.no_grad()
def test_calls_of_tensors_that_are_not_plain() -> None:
    qkv = torch.randn(2, 3, 4, 3, 2, 8)
    want = pavdit.ops.axis_attention(qkv, 2)
    negated = torch._neg_view(-qkv)
    assert negated.is_neg()
    assert torch.equal(pavdit.ops.axis_attention(negated, 2), want)
    with torch.inference_mode():
        assert torch.equal(pavdit.ops.axis_attention(qkv.clone(), 2), want)
    assert torch.equal(torch.vmap(lambda t: pavdit.ops.axis_attention(t, 1))(qkv), want)
