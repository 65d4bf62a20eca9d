"""Compile the Triton kernels ahead of time, without a GPU: part of `make kernels-check`.

Every kernel, in the forms and dtypes that run, is compiled for every architecture; the table shows registers
and shared memory. Spills and local memory are errors, and so is a kernel of kernels/ that is not listed here.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
ARCHITECTURES = (80, 90, 100)
DTYPES = ("fp32", "bf16")
E4M3_ARCHITECTURES = (90, 100)
"""Of those above, the ones that have e4m3 numbers (from sm_89 on)."""
WIDTHS = (64, 128)
"""Head widths: that of the models, and the widest that the op takes."""
RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class Form:
    """One kernel with the types of its arguments fixed."""

    kernel: Any
    label: str
    types: dict[str, str]
    """By argument: ``*fp32`` and so on, or ``i32``."""
    constants: dict[str, object]
    num_warps: int
    architectures: tuple[int, ...] = ARCHITECTURES


def load(stem: str) -> ModuleType:
    """Import kernels/<stem>.py by its path: this tree's file, whatever is installed."""
    spec = importlib.util.spec_from_file_location(f"kernels_{stem}", ROOT / "kernels" / f"{stem}.py")
    if spec is None or spec.loader is None:
        sys.exit(f"triton-check: want kernels/{stem}.py, got none")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def steps(module: ModuleType) -> Iterator[Form]:
    """The forms of guided_euler_step: with everything, and the least."""
    sizes = ("channels", "frames", "plane_size", "target_stride", "null_offset")
    for dtype in DTYPES:
        types = {"latent": "*fp32", "velocity": f"*{dtype}", "dt": "*fp32", "guidance_scale": "*fp32"}
        types |= {"target": "*u8", **dict.fromkeys(sizes, "i32")}
        for on in (True, False):
            flags = {"GUIDED": on, "MASKED": on, "REFLECT": on, "BLOCK": module.BLOCK}
            label = f"{dtype} {'guided masked folded' if on else 'plain'}"
            yield Form(module.guided_euler_step_fwd_kernel, label, types, flags, module.NUM_WARPS)


def norms(module: ModuleType) -> Iterator[Form]:
    """The forms of qk_norm_rope, with rotation: forward and backward."""
    sizes = ("rows", "length", "sequence_stride", "position_stride", "part_stride", "head_stride")
    for width in WIDTHS:
        for dtype in DTYPES:
            common = {"q_weight": "*fp32", "k_weight": "*fp32", "rope": "*fp32"}
            integers = dict.fromkeys(sizes, "i32")
            constants = {"HEADS": 18, "WIDTH": width, "ROPE": True, **module.blocks(width)}
            types = {"qkv": f"*{dtype}", **common, "out": f"*{dtype}", **integers}
            label = f"{dtype} E={width}"
            yield Form(module.qk_norm_rope_fwd_kernel, label, types, constants, module.NUM_WARPS)
            types = {"grad": f"*{dtype}", "qkv": f"*{dtype}", **common}
            types |= {"dqkv": f"*{dtype}", "dweights": "*fp32", **integers}
            constants = {**constants, "TILES": module.BACKWARD_TILES}
            yield Form(module.qk_norm_rope_bwd_kernel, label, types, constants, module.NUM_WARPS)


def gelus(module: ModuleType) -> Iterator[Form]:
    """The forms of gelu_fp8: the MLP of `xl`, and the widest row."""
    for dtype in DTYPES:
        types = {"x": f"*{dtype}", "values": "*fp8e4nv", "scales": "*fp32", "width": "i32"}
        for block in (8192, 16_384):
            warps = module.warps(block)
            constants = {"BLOCK": block}
            label = f"{dtype} D<={block}"
            yield Form(module.gelu_fp8_fwd_kernel, label, types, constants, warps, E4M3_ARCHITECTURES)


def fp8_norms(module: ModuleType) -> Iterator[Form]:
    """The forms of gated_residual_adaln_fp8: `xl` and the widest row, with a gate and without."""
    sizes = ("frames", "tokens", "width", "gate_groups", "gate_clip_stride", "gate_group_stride")
    sizes = (*sizes, "groups", "clip_stride", "group_stride")
    for dtype in DTYPES:
        rows = dict.fromkeys(("x", "y", "gate", "shift", "scale", "residual"), f"*{dtype}")
        types = {
            **rows,
            "values": "*fp8e4nv",
            "row_scale": "*fp32",
            **dict.fromkeys(sizes, "i32"),
            "eps": "fp32",
        }
        for block, gated in ((2048, True), (2048, False), (8192, True)):
            warps = module.warps(block)
            constants = {"GATED": gated, "BLOCK": block}
            label = f"{dtype} D<={block} {'gated' if gated else 'plain'}"
            kernel = module.gated_residual_adaln_fp8_fwd_kernel
            yield Form(kernel, label, types, constants, warps, E4M3_ARCHITECTURES)


def absorbed(module: ModuleType) -> Iterator[Form]:
    """The forms of absorbed_attention: 8, 16 and 32 text tokens with the task token, and the longest."""
    types = {"x": "*bf16", "keys": "*bf16", "bias": "*fp32", "probabilities": "*bf16"}
    types |= dict.fromkeys(("rows", "heads", "length", "width"), "i32")
    for length in (9, 17, 33, 128):
        constants = {"ROWS": module.ROWS, "DEPTH": module.DEPTH, **module.tiles(length)}
        yield Form(
            module.absorbed_attention_fwd_kernel, f"bf16 M={length}", types, constants, module.NUM_WARPS
        )


FORMS = {
    "absorbed_attention": absorbed,
    "gated_residual_adaln_fp8": fp8_norms,
    "gelu_fp8": gelus,
    "guided_euler_step": steps,
    "qk_norm_rope": norms,
}
ODD = {"channels", "frames", "rows", "length", "target_stride", "target", "heads", "tokens", "groups"}
ODD |= {"gate_groups", "eps"}
"""Arguments that need not be divisible by 16 in the models; the others are, and loads rely on it."""


def compile_form(form: Form, architecture: int) -> Any:
    """Compile as Triton would at the first launch on such a device."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = form.kernel.arg_names
    signature = {name: form.types.get(name, "constexpr") for name in names}
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if name in form.types and name not in ODD
    }
    source = ASTSource(fn=form.kernel, signature=signature, constexprs=form.constants, attrs=attributes)
    target = GPUTarget("cuda", architecture, 32)
    return triton.compile(source, target=target, options={"num_warps": form.num_warps})


def resources(compiled: Any, cuobjdump: Path) -> tuple[int, int, int]:
    """Return registers, shared bytes, and bytes of stack and local memory."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(cuobjdump), "-res-usage", file.name]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = RESOURCES.search(text)
    if found is None:
        sys.exit(f"triton-check: want resource usage from cuobjdump, got {text!r}")
    registers, stack, _, local = map(int, found.groups())
    return registers, compiled.metadata.shared, stack + local


def kernels_of(module: ModuleType) -> set[str]:
    """Names of the kernels in a file."""
    return {name for name in vars(module) if name.endswith("_kernel")}


def main() -> None:
    """Compile everything, print the table, end on the first fault of the list."""
    if importlib.util.find_spec("triton") is None:
        print("triton-check: skipped: triton is not installed")
        return
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # as up to now; 3.9 warns where it is unset
    os.environ.setdefault("TRITON_CACHE_DIR", str(ROOT / "build" / "kernels-check" / "triton"))
    import triton

    begin = time.perf_counter()
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    stems = {path.stem for path in (ROOT / "kernels").glob("[!_]*.py")}
    if stems != set(FORMS):
        sys.exit(f"triton-check: want kernels/ to hold {sorted(FORMS)}, got {sorted(stems)}")
    print("registers / shared B".ljust(56), *(f"sm_{a}".rjust(12) for a in ARCHITECTURES))
    faults, count = [], 0
    for stem, forms in FORMS.items():
        module, covered = load(stem), set()
        for form in forms(module):
            covered.add(form.kernel.__name__)
            name, cells = f"{form.kernel.__name__} {form.label}", []
            for architecture in ARCHITECTURES:
                if architecture not in form.architectures:
                    cells.append("-".rjust(12))
                    continue
                registers, shared, local = resources(compile_form(form, architecture), cuobjdump)
                cells.append(f"{registers} / {shared}".rjust(12))
                count += 1
                if local:
                    faults.append(f"{name} on sm_{architecture}: {local} bytes")
            print(name.ljust(56), *cells, flush=True)
        if missed := kernels_of(module) - covered:
            faults.append(f"{', '.join(sorted(missed))} in kernels/{stem}.py: not compiled here")
    if faults:
        sys.exit("triton-check: want no local memory and every kernel compiled, got\n" + "\n".join(faults))
    seconds = time.perf_counter() - begin
    print(f"{count} Triton kernels (triton {triton.__version__}): no spill, no local memory; {seconds:.0f} s")


if __name__ == "__main__":
    main()
