"""Say what this machine gives pavdit: versions, devices, and what implements every op and why."""

from __future__ import annotations

import argparse
import json
from typing import Any

SHIPPED = 256, 64
"""Tokens of a frame of P and width of a head in `xl`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pavdit doctor``."""
    parser.add_argument("--json", action="store_true", help="for programs")


def run(arguments: argparse.Namespace) -> int:
    """Print the report."""
    from pavdit.cli.main import OK

    facts = report()
    if arguments.json:
        print(json.dumps(facts, indent=1))
        return OK
    for name, value in facts.items():
        if name != "ops":
            print(f"{name:<10} {value}")
    width = max(len(op["op"]) for op in facts["ops"])
    for op in facts["ops"]:
        print(f"{op['op']:<{width}}  {op['device']:<5} {op['implementation']:<10} {op['reason']}")
    return OK


def report() -> dict[str, Any]:
    """Facts by name; ``ops`` is a list of op, device, implementation, reason."""
    import dataclasses
    import importlib
    import platform
    from importlib.metadata import PackageNotFoundError, version

    import av
    import torch

    from pavdit.compile_cache import cache_dir
    from pavdit.nn.flash import find_flash
    from pavdit.ops import _library
    from pavdit.ops.scaled_linear import fp8_missing
    from pavdit.runtime import Runtime
    from pavdit.weights import bundled_names

    importlib.import_module("pavdit.ops")  # defines every op
    try:
        own = version("pavdit")
    except PackageNotFoundError:
        own = "not installed, run from its source"
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    ffmpeg = ", ".join(f"{name} {'.'.join(map(str, v))}" for name, v in sorted(av.library_versions.items()))
    runtime, flash = Runtime.choose("cuda" if gpus else "cpu"), find_flash()
    return {
        "pavdit": own,
        "weights": ", ".join(bundled_names()) or "none bundled",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cpu": f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads",
        "cuda": f"{torch.version.cuda}: {', '.join(gpus) or 'no device'}" if torch.version.cuda else "none",
        "fp8": fp8_missing(torch.device("cuda" if gpus else "cpu")) or "torch._scaled_mm",
        "av": f"{av.__version__} ({ffmpeg})",
        "graph": str(runtime.graph),
        "compile": str(runtime.compile),
        "cache": str(cache_dir()),
        "attention": f"{runtime.attention_of(*SHIPPED)} (frames of {SHIPPED[0]} tokens)",
        "flash": f"generation {flash.generation}" if flash else "none that imports",
        "ops": [dataclasses.asdict(status) for status in _library.report()],
    }
