"""The house stands: imports go down, one stem per op, native ops behind one door."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "pavdit"
LEVELS = {
    "config": 0, "clip": 0, "kernels": 0, "spans": 0, "progress": 0, "files": 0,
    "ops": 1, "latents": 1, "encoders": 1, "media": 1, "nn": 1, "weights": 1,
    "audio": 2,
    "mdsa": 3, "stdit": 3, "flow": 3, "text": 3, "metrics": 3, "contact_sheet": 3,
    "data": 4, "evaluation": 4,
    "tasks": 1, "options": 4, "provenance": 5, "runtime": 4, "compile_cache": 0, "generated": 2,
    "train": 5, "sampling": 5, "codec": 5, "agreement": 5, "batching": 5, "synthesis": 5, "pipeline": 5,
    "baselines": 5.5,
    "cli": 6,
}  # fmt: skip
STRANGERS = {"mdsa", "stdit", "flow", "text", "metrics"}
"""Parts of level 3 never import each other."""


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports_of(path: Path) -> set[str]:
    """Modules of this package that a file imports anywhere, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else str(node.module))
    return {name for name in found if name == "pavdit" or name.startswith("pavdit.")}


def part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


IMPORTS = {name: imports_of(path) for name, path in MODULES.items()}


@pytest.mark.parametrize("module", [name for name in MODULES if part(name)])
def test_imports_go_down_only(module):
    for target in IMPORTS[module]:
        own, other = part(module), part(target)
        if not other or own == other:
            continue
        assert LEVELS[other] <= LEVELS[own], f"{module} imports {target}, which is above it"
        assert not (own in STRANGERS and other in STRANGERS), f"{module} imports its neighbour {target}"


def test_the_core_knows_no_baseline():
    knows = {name for name, targets in IMPORTS.items() if any(part(t) == "baselines" for t in targets)}
    assert {part(name) for name in knows} <= {"baselines", "cli"}


def test_no_module_imports_in_a_circle():
    list(
        TopologicalSorter(
            {m: {t for t in targets if t != m} for m, targets in IMPORTS.items()}
        ).static_order()
    )


def test_every_part_has_a_level():
    assert {part(name) for name in MODULES if part(name)} <= LEVELS.keys() | {"__main__", "_C"}


def stems(folder: str, pattern: str) -> set[str]:
    return {path.stem.removeprefix("test_") for path in (ROOT / folder).glob(pattern)}


def test_one_stem_per_op():
    ops = {stem for stem in stems("pavdit/ops", "*.py") if not stem.startswith("_")}
    assert ops, "no ops found"
    assert ops == stems("tests/ops", "test_*.py") - {"library", "bad_calls", "large"}
    for folder, pattern in (("csrc/cpu", "*.cpp"), ("csrc/cuda", "*.cu"), ("benchmarks/ops", "*.py")):
        extra = {stem for stem in stems(folder, pattern) if not stem.startswith("_")} - ops - {"capability"}
        assert not extra, f"{folder}: {extra} name no op"


def test_native_ops_have_one_door():
    for name, path in MODULES.items():
        if part(name) != "ops":
            assert "torch.ops.pavdit" not in path.read_text(), f"{path}: call pavdit.ops instead"
