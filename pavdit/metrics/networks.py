"""Networks of metrics come from files of the user, and what measured a number is named beside it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pavdit.clip import DataError
from pavdit.files import file_record


@dataclass(frozen=True, slots=True)
class Network:
    """A network that is ready to run.

    Attributes:
        name: of its file.
        sha256: of its file.
        run: the network; what it takes and gives stands where it was loaded.
    """

    name: str
    sha256: str
    run: Callable[..., Tensor]

    def described(self) -> dict[str, str]:
        """For a report."""
        return {"name": self.name, "sha256": self.sha256}


def sha256_of(path: Path) -> str:
    """The digest of a network's file.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    try:
        return file_record(path).sha256
    except OSError as error:
        raise DataError(f"{path}: want a network's file, got {error.strerror}") from None


def is_torchscript(path: Path) -> bool:
    """Whether a file is a torchscript archive, which carries its own code, and not only weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def read_state(path: Path) -> dict[str, Tensor]:
    """Weights by name from a safetensors file or one of ``torch.save``; no code of the file is run.

    Raises:
        DataError: it is neither, or holds something else.
    """
    try:
        state = load_file(path)
    except SafetensorError:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # what is no such file ends in whatever its bytes lead to
            reason = " ".join(str(error).split())[:80]
            raise DataError(
                f"{path}: want safetensors, weights of torch.save or torchscript, got {reason}"
            ) from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"{path}: want tensors by name, got {type(state).__name__}")
    return dict(state)


def fill(module: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load exactly the weights of `module`.

    Raises:
        DataError: a weight is missing, has another shape, or is one too many.
    """
    want = module.state_dict()
    wrong = [name for name in want if name not in state or state[name].shape != want[name].shape]
    wrong += [name for name in state if name not in want]
    if wrong:
        raise DataError(
            f"{path}: want the {len(want)} weights of {type(module).__name__}, "
            f"got {len(wrong)} that are missing, strange or of another shape, first {wrong[0]}"
        )
    module.load_state_dict(dict(state))


def load_script(path: Path, device: torch.device) -> torch.jit.ScriptModule:
    """A torchscript archive, for inference.

    Raises:
        DataError: there is none, or it cannot be loaded.
    """
    try:
        return torch.jit.load(str(path), map_location=device).eval()
    except (RuntimeError, ValueError, OSError) as error:
        raise DataError(
            f"{path}: want a torchscript archive, got {' '.join(str(error).split())[:80]}"
        ) from None


def load_audio_network(path: Path, device: torch.device) -> Network:
    """Any network of yours that maps sound to an embedding, such as AudioCLIP's or VGGish's, as torchscript.

    Returns:
        ``run``: ``(B, S)`` float32 at the rate that it was trained for, to ``(B, D)``, or ``(B, K, D)`` for
        K pieces of every wave.

    Raises:
        DataError: there is none, or it cannot be loaded.
    """
    digest = sha256_of(path)
    script = load_script(path, device)

    @torch.inference_mode()
    def run(wave: Tensor) -> Tensor:
        try:
            embedding = script(wave.to(device))
        except RuntimeError as error:
            raise DataError(
                f"{path}: want a network of (B, S) waves, got {' '.join(str(error).split())[-120:]}"
            ) from None
        if not isinstance(embedding, Tensor) or embedding.ndim not in (2, 3) or len(embedding) != len(wave):
            got = tuple(embedding.shape) if isinstance(embedding, Tensor) else type(embedding).__name__
            raise DataError(f"{path}: want embeddings (B, D) or (B, K, D) for B = {len(wave)}, got {got}")
        return embedding.float()

    return Network(path.name, digest, run)
