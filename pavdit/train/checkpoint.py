"""Checkpoints that are whole or absent, whatever kills the process.

Saving has two phases: every file is written into ``.tmp-step-…`` and fsynced, last the manifest with their
sizes and sha256; then one rename makes it ``step-…`` and the parent is fsynced. A committed checkpoint is
never written again, and the latest is the highest step whose manifest verifies. What is exported
(`pavdit.train.export`) is such a directory under a name of its own, its tensors in one file or in parts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from typing_extensions import TypeVar

from pavdit.clip import DataError
from pavdit.config import RunConfig, SystemModel, SystemRun, one_line
from pavdit.files import FileRecord, file_record, fsync_directory, write_json, write_tensors

FORMAT = "pavdit/2"
OLDER_FORMATS = ("pavdit/1",)
"""Of earlier versions, whose manifests say no digest of themselves."""


class CheckpointError(DataError):
    """A checkpoint that is missing, damaged, or of another architecture; the message is one line."""


class OtherCheckpointError(CheckpointError):
    """A checkpoint of an earlier version or of another system: not damaged, so nothing may take its place."""


Run = TypeVar("Run", bound=SystemRun, default=RunConfig)


@dataclass(frozen=True, slots=True)
class Checkpoint(Generic[Run]):
    """A verified checkpoint directory.

    Attributes:
        path: the directory.
        step: updates done.
        config: the resolved configuration of its run.
        state: the JSON state that the trainer left.
        files: what the manifest says of each file.
    """

    path: Path
    step: int
    config: Run
    state: dict[str, Any]
    files: Mapping[str, FileRecord]

    @property
    def model_hash(self) -> str:
        """Names the averaged weights: 12 hex digits of each model, the autoencoder's first."""
        return "+".join(self._hash(name) for name in ("autoencoder", "ema") if self.has(name))

    @property
    def training(self) -> dict[str, float]:
        """Updates (``step``) and, where they were counted, ``seconds``."""
        seconds = self.state.get("seconds")
        return {"step": self.step} | ({} if seconds is None else {"seconds": round(seconds, 1)})

    def _hash(self, name: str) -> str:
        digests = [self.files[part].sha256 for part in self.parts(name)]
        whole = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
        return whole[:12]

    def parts(self, name: str) -> list[str]:
        """The files that hold `name`: ``NAME.safetensors``, or ``NAME-00001-of-00002.safetensors`` and on."""
        pattern = re.compile(rf"{re.escape(name)}(-\d{{5}}-of-\d{{5}})?\.safetensors")
        return sorted(file for file in self.files if pattern.fullmatch(file))

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Read ``NAME.safetensors``, or all its parts, into CPU memory.

        Raises:
            CheckpointError: the checkpoint has no such file, or it is damaged.
        """
        if not self.has(name):
            raise CheckpointError(
                f"{self.path}: want a checkpoint with {name}.safetensors, got one of {', '.join(self.files)}"
            )
        tensors: dict[str, Tensor] = {}
        for path in (self.path / part for part in self.parts(name)):
            try:
                tensors |= load_file(path)
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path}: want a safetensors file, got {error}") from None
        return tensors

    def has(self, name: str) -> bool:
        """Whether the checkpoint holds ``NAME.safetensors``, whole or in parts."""
        return bool(self.parts(name))


def step_directory(run_dir: Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step."""
    return run_dir / f"step-{step:08d}"


def begin(run_dir: Path, step: int) -> Path:
    """An empty directory to write files of a checkpoint into, before `commit`.

    Raises:
        FileExistsError: this step is committed already.
    """
    final = step_directory(run_dir, step)
    if final.exists():
        raise FileExistsError(f"{final}: want a step that is not saved yet, got a directory")
    return temporary_beside(final)


def temporary_beside(final: Path) -> Path:
    """An empty directory that `publish` gives the name `final`."""
    temporary = final.with_name(f".tmp-{final.name}-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def commit(
    temporary: Path,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    config: SystemRun,
) -> Path:
    """Publish what `begin` began as the checkpoint of its run's `step`; arguments and errors as there."""
    final = step_directory(temporary.parent, step)
    return publish(temporary, final, step, tensors=tensors, state=state, config=config)


def publish(
    temporary: Path,
    final: Path,
    step: int,
    *,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any],
    config: SystemRun,
) -> Path:
    """Add the rest, and the manifest of all files, then give the directory its name.

    Args:
        temporary: from `temporary_beside`, with whatever else was written into it.
        final: where the checkpoint goes; nothing is there yet.
        step: updates done.
        tensors: file stem to named tensors.
        state: anything JSON.
        config: resolved configuration of the run.

    Returns:
        The committed directory.

    Raises:
        OSError: the disk is full; earlier checkpoints are untouched and nothing of this one remains.
    """
    try:
        files: dict[str, FileRecord] = {}
        for path in sorted(path for path in temporary.rglob("*") if path.is_file()):
            files[str(path.relative_to(temporary))] = file_record(path)
            fsync_directory(path.parent)
        for stem, named in tensors.items():
            name = f"{stem}.safetensors"
            files[name] = write_tensors(temporary / name, named)
        files["config.json"] = write_json(temporary / "config.json", config.model_dump(mode="json"))
        files["state.json"] = write_json(temporary / "state.json", dict(state))
        records = {name: {"size": r.size, "sha256": r.sha256} for name, r in files.items()}
        manifest = {"format": FORMAT, "step": step, "files": records}
        write_json(temporary / "manifest.json", manifest | {"sha256": _digest(manifest)})
        fsync_directory(temporary)
        temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    fsync_directory(final.parent)
    return final


def _digest(manifest: Mapping[str, Any]) -> str:
    """Of what the manifest says, so that a flipped bit of it does not pass."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def open_checkpoint(path: Path, kind: type[Run] = RunConfig) -> Checkpoint[Run]:  # type: ignore[assignment]
    """Open a checkpoint directory, or the latest one of a run directory, and verify every byte.

    Args:
        path: the directory.
        kind: what its configuration is: of which system.

    Raises:
        CheckpointError: nothing is there, a file is missing or differs from the manifest, or it is another
            system's.
    """
    if not path.is_dir():
        raise CheckpointError(
            f"{path}: want a checkpoint or run directory, got {'a file' if path.exists() else 'nothing'}"
        )
    if (path / "manifest.json").is_file():
        return _open(path, kind)
    found, damaged = latest(path, kind)
    if found is None:
        raise CheckpointError(f"{path}: want a checkpoint, got {_count(damaged, 'damaged one') or 'none'}")
    return found


def system_of(path: Path) -> str | None:
    """The system that a checkpoint, or the newest one of a run directory, says that it is of.

    None: ours, or there is nothing to read, of which `open_checkpoint` tells.
    """
    steps = sorted(path.glob("step-*"))
    place = path if (path / "manifest.json").is_file() or not steps else steps[-1]
    try:
        tree = _read_json(place / "config.json")
    except CheckpointError:
        return None
    return tree.get("system") if isinstance(tree, dict) else None


def latest(
    run_dir: Path,
    kind: type[Run] = RunConfig,  # type: ignore[assignment]
) -> tuple[Checkpoint[Run] | None, list[Path]]:
    """The highest step whose manifest verifies, and the damaged directories above it.

    Raises:
        OtherCheckpointError: the highest step but for damaged ones is of an earlier version, or of another
            system than `kind`.
    """
    damaged: list[Path] = []
    for path in sorted(run_dir.glob("step-*"), reverse=True):
        try:
            return _open(path, kind), damaged
        except OtherCheckpointError:
            raise
        except CheckpointError:
            damaged.append(path)
    return None, damaged


def _open(path: Path, kind: type[Run]) -> Checkpoint[Run]:
    manifest = _read_json(path / "manifest.json")
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        got = manifest.get("format") if isinstance(manifest, dict) else type(manifest).__name__
        older = got in OLDER_FORMATS and "sha256" not in manifest
        raise (OtherCheckpointError if older else CheckpointError)(
            f"{path}/manifest.json: want format {FORMAT}, got {got}"
        )
    if manifest.pop("sha256", None) != _digest(manifest):
        raise CheckpointError(f"{path}/manifest.json: want the sha256 of what it says, got another")
    files = {name: FileRecord(**record) for name, record in manifest["files"].items()}
    for name, want in sorted(files.items()):
        try:
            got = file_record(path / name)
        except OSError as error:
            raise CheckpointError(
                f"{path / name}: want the file of the manifest, got {error.strerror}"
            ) from None
        if got != want:
            raise CheckpointError(
                f"{path / name}: want {want.size} bytes with sha256 {want.sha256[:12]}…, "
                f"got {got.size} bytes with {got.sha256[:12]}…"
            )
    tree = _read_json(path / "config.json")
    want_system, system = kind.model_fields["system"].default, tree.get("system")
    if system != want_system:
        raise OtherCheckpointError(
            f"{path}: want weights of {want_system or 'pavdit itself'}, got those of the system "
            f"{system or 'pavdit itself'}"
        )
    try:
        config = kind.model_validate(tree)
    except ValidationError as error:
        raise CheckpointError(f"{path}/config.json: {one_line(error)}") from None
    return Checkpoint(path, manifest["step"], config, _read_json(path / "state.json"), files)


def _read_json(path: Path) -> Any:  # noqa: ANN401 (JSON)
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: want a JSON file, got {' '.join(str(error).split())}") from None


def sweep(run_dir: Path) -> None:
    """Remove what a killed save left. Only the process that holds the run's lock may call this."""
    for orphan in run_dir.glob(".tmp-step-*"):
        shutil.rmtree(orphan, ignore_errors=True)


def prune(run_dir: Path, keep: int) -> None:
    """Keep the newest `keep`. A directory is renamed before it is emptied, so none is ever half there."""
    for path in sorted(run_dir.glob("step-*"), reverse=True)[keep:]:
        doomed = path.with_name(f".tmp-{path.name}-old")
        path.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def set_aside(damaged: list[Path]) -> None:
    """Rename damaged checkpoints out of the way of the steps that will be saved again."""
    for path in damaged:
        target = path.with_name(f"damaged-{path.name}")
        shutil.rmtree(target, ignore_errors=True)
        path.rename(target)


def load_weights(module: nn.Module, tensors: Mapping[str, Tensor], source: Path | str) -> None:
    """Copy tensors into a module.

    Raises:
        CheckpointError: names or shapes differ; the message counts and names them.
    """
    own = module.state_dict()
    missing, unexpected = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in sorted(own.keys() & tensors.keys())
        if own[name].shape != tensors[name].shape
    ]
    faults = [
        _count(missing, "missing"),
        _count(unexpected, "unexpected"),
        _count(shapes, "of another shape"),
    ]
    if any(faults):
        raise CheckpointError(
            f"{source}: want the {len(own)} tensors of this architecture, "
            f"got {', '.join(filter(None, faults))}"
        )
    module.load_state_dict(dict(tensors))


def _count(names: list[Any], what: str) -> str:
    if not names:
        return ""
    shown = ", ".join(map(str, names[:3])) + (", …" if len(names) > 3 else "")
    return f"{len(names)} {what} ({shown})"


def require_architecture(checkpoint: Checkpoint[Any], want: SystemModel, part: str) -> None:
    """Refuse a checkpoint whose models are not those of `want`.

    Raises:
        CheckpointError: names every option that differs, with both values.
    """
    ours, theirs = want.architecture(part), checkpoint.config.model.architecture(part)
    different = [key for key in ours if ours[key] != theirs.get(key)]
    if different:
        raise CheckpointError(
            f"{checkpoint.path}: want {'an' if part == 'autoencoder' else 'a'} {part} with "
            f"{', '.join(f'{key} {ours[key]}' for key in different)}, "
            f"got {', '.join(f'{key} {theirs.get(key)}' for key in different)}"
        )
