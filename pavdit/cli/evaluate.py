"""How near generated clips are to real ones, by a named protocol: distances, sync, copies."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from rich.console import Console

    from pavdit.cli.evaluate_model import ModelSide
    from pavdit.clip import ClipSpec
    from pavdit.evaluation.compare import Networks
    from pavdit.evaluation.protocol import Windows
    from pavdit.evaluation.sets import EvaluationSet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``pavdit evaluate``."""
    parser.add_argument("--self-test", action="store_true", help="cases with known answers, and nothing else")
    parser.add_argument(
        "--generated",
        type=Path,
        nargs="+",
        metavar="DIR|MODEL",
        help="a folder of clips; or a checkpoint, run or bundled weights of ours or of a sibling system, "
        "which make them first: MODEL at once, MODEL:two-step or MODEL:two-step-sound-first one stream after "
        "the other; several stand in one table",
    )
    parser.add_argument(
        "--reference", type=Path, metavar="DIR|bounce", help="a folder of real clips, or the procedural set"
    )
    parser.add_argument(
        "--protocol",
        default="clean",
        metavar="NAME|FILE",
        help="mmdiffusion, styleganv, pvdm, clean, or a .yaml (default: clean)",
    )
    parser.add_argument("--n", type=int, help="clips of either side (default: the protocol's, 2048)")
    parser.add_argument("--resolution", type=int, help="one of the protocol's (default: its first)")
    networks = parser.add_argument_group("networks", "numbers that want one are left out without it")
    networks.add_argument("--i3d", type=Path, metavar="PATH", help="Kinetics-400 weights: FVD, KVD, IS-I3D")
    networks.add_argument("--yamnet", type=Path, metavar="PATH", help="yamnet_int8.npz: FAD-YAMNet")
    networks.add_argument(
        "--audio-network", type=Path, metavar="PATH", help="torchscript from waves to embeddings: FAD"
    )
    networks.add_argument(
        "--audio-rate", type=int, metavar="HZ", help="that it wants (default: the protocol's)"
    )
    parser.add_argument(
        "--training",
        type=Path,
        metavar="DIR",
        help="whose nearest clips are looked for (default: a model's own training set)",
    )
    parser.add_argument("--training-clips", type=int, default=1000, help="of it, at most (default: 1000)")
    parser.add_argument("--bootstrap", type=int, default=200, help="draws of the intervals (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default: 0)")
    parser.add_argument("--steps", type=int, help="of a model's sampler (default: as configured)")
    parser.add_argument("--guidance", type=float, help="of ours (default: as configured)")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", type=Path, metavar="FILE", help="of the report (default: OUT/report.json)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("evaluation"),
        metavar="OUT",
        help="folder of the report, its pictures, a model's clips, and the cache of features "
        "(default: evaluation); the same command goes on where it was interrupted",
    )


def run(arguments: argparse.Namespace) -> int:
    """Check the arguments, make the clips of a model, compare, report."""
    from rich.console import Console

    from pavdit.cli.main import INTERRUPTED_AND_SAVED
    from pavdit.train.models import choose_device

    console = Console(stderr=True, markup=False, highlight=False, soft_wrap=True)
    device = choose_device(arguments.device)
    require(arguments)
    if arguments.self_test:
        return self_test(arguments.i3d, device)
    try:
        return evaluate(arguments, device, console)
    except KeyboardInterrupt:
        console.print(f"interrupted; the same command goes on with what is in {arguments.output}")
        return INTERRUPTED_AND_SAVED


def require(arguments: argparse.Namespace) -> None:
    """Raise ValueError for arguments that are missing, or out of range."""
    if not arguments.self_test:
        for name in ("generated", "reference"):
            if getattr(arguments, name) is None:
                raise ValueError(f"--{name}: want a folder of clips, got none")
    for name, least in (("n", 2), ("training_clips", 2), ("bootstrap", 0), ("audio_rate", 1), ("seed", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')}: want at least {least}, got {value}")
    twice = next((one for one in arguments.generated or [] if arguments.generated.count(one) > 1), None)
    if twice is not None:
        raise ValueError(f"--generated: want each once, got {twice} twice")
    if arguments.audio_rate is not None and arguments.audio_network is None:
        raise ValueError("--audio-rate: want --audio-network beside it, got none")


def self_test(i3d: Path | None, device: torch.device) -> int:
    """Print every check; 1 where one is wrong."""
    from pavdit.cli.main import FAULT, OK
    from pavdit.evaluation.self_test import checks
    from pavdit.metrics.i3d import load_i3d

    network = None if i3d is None else load_i3d(i3d, device)
    if network is None:
        print("without --i3d the published FVD of black against white clips is left out")
    else:
        print(f"I3D: {network.name}, sha256 {network.sha256}")
    right = True
    for check in checks(network):
        print(check, flush=True)
        right &= check.is_right
    return OK if right else FAULT


def evaluate(arguments: argparse.Namespace, device: torch.device, console: Console) -> int:
    """The work."""
    from pavdit.cli.evaluate_model import ModelSide, is_model
    from pavdit.cli.evaluate_report import Compared, print_reports, write_reports
    from pavdit.cli.main import OK
    from pavdit.data.digests import FileDigests
    from pavdit.evaluation.compare import Comparison
    from pavdit.evaluation.features import FeatureCache
    from pavdit.evaluation.measures import Sampling
    from pavdit.evaluation.pictures import draw_curves, draw_sheet
    from pavdit.evaluation.protocol import load_protocol
    from pavdit.evaluation.sets import FolderSet

    begin = time.monotonic()
    output: Path = arguments.output
    protocol, digest = load_protocol(arguments.protocol)
    spec = protocol.spec(arguments.resolution)
    count = arguments.n or protocol.num_clips
    networks = load_networks(arguments, device)
    output.mkdir(parents=True, exist_ok=True)
    digests = FileDigests(output / "files.json")

    def folder(path: Path, windows: Windows, most: int) -> FolderSet:
        return FolderSet(path, protocol, spec, windows, most, arguments.seed, digests)

    named: list[Path] = arguments.generated
    models = [ModelSide.open(one, arguments, spec, console) if is_model(one) else None for one in named]
    if str(arguments.reference) == "bounce":
        reference: EvaluationSet = bounce_reference(models, spec, count)
    else:
        reference = folder(arguments.reference, protocol.reference_windows, count)
    cache = FeatureCache(output / "features", console)
    sampling = Sampling(arguments.bootstrap, arguments.seed, console)
    compared: list[Compared] = []
    for one, model in zip(named, models, strict=True):
        clips = one if model is None else model.make(reference, min(count, len(reference)))
        generated = folder(clips, protocol.generated_windows, count)
        training: EvaluationSet | str = "want --training DIR"
        if arguments.training is not None:
            training = folder(arguments.training, "first", arguments.training_clips)
        elif model is not None:
            training = model.training(spec, arguments.training_clips, folder)
        comparison = Comparison(generated, reference, protocol, spec, cache, device)
        report = comparison.run(networks, training, sampling)
        rebuilt = (
            "want a model as --generated"
            if model is None
            else model.reconstruction(reference, spec, sampling)
        )
        if isinstance(rebuilt, str):
            report.left_out["PSNR of reconstruction"] = rebuilt
        else:
            report.results += rebuilt
        compared.append(Compared(str(one), model, generated, report))
    draw_sheet([*(one.clips for one in compared), reference], spec, output / "contact-sheet.png")
    curves = {one.name: one.report.results for one in compared}
    if reason := draw_curves(curves, output / "curves.png"):
        compared[0].report.left_out["curves.png"] = reason
    print_reports(compared, reference, protocol, console)
    facts: dict[str, object] = {
        "protocol": protocol.model_dump(mode="json") | {"sha256": digest},
        "resolution": spec.height,
        "asked_for": count,
        "device": str(device),
        "seconds": round(time.monotonic() - begin, 1),
    }
    write_reports(arguments.json or output / "report.json", facts, compared, reference)
    return OK


def load_networks(arguments: argparse.Namespace, device: torch.device) -> Networks:
    """What was given, before anything else takes time.

    Raises:
        DataError: a file is missing, or is something else.
    """
    from pavdit.evaluation.compare import Networks
    from pavdit.metrics.i3d import load_i3d
    from pavdit.metrics.networks import load_audio_network
    from pavdit.metrics.yamnet import load_yamnet

    def given(path: Path | None, load: Any) -> Any:
        return None if path is None else load(path, device)

    return Networks(
        given(arguments.i3d, load_i3d),
        given(arguments.yamnet, load_yamnet),
        given(arguments.audio_network, load_audio_network),
        arguments.audio_rate,
    )


def bounce_reference(models: Sequence[ModelSide | None], spec: ClipSpec, count: int) -> EvaluationSet:
    """Procedural clips that no training saw, of the scenes that every model knows."""
    from pavdit.evaluation.sets import BOUNCE_SEED, BounceSet

    known = [model.pipe.data.scenes for model in models if model is not None and model.pipe.data is not None]
    return BounceSet(count, spec, BOUNCE_SEED, "simple" if "simple" in known else "all")
