"""The file between ``pavdit encode`` and ``pavdit decode``: six planes and what made them."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from safetensors import SafetensorError, safe_open

from pavdit.clip import DataError
from pavdit.config import ModelConfig
from pavdit.files import replace_with_tensors
from pavdit.latents import PLANE_NAMES, Planes
from pavdit.pipeline import Pipeline

FORMAT = "pavdit-latents/1"


def config_hash(config: ModelConfig) -> str:
    """12 hex digits that name an autoencoder's architecture."""
    return hashlib.sha256(json.dumps(config.encoding(), sort_keys=True).encode()).hexdigest()[:12]


def write_latents(path: Path, video: Planes, audio: Planes, pipeline: Pipeline) -> None:
    """Write the joint latents of one clip; a file at `path` is replaced as a whole or not at all.

    Raises:
        OSError: the directory is missing or full.
    """
    planes = (video.hw, video.tw, video.th, audio.hw, audio.tw, audio.th)  # (1, C, rows, columns) each
    about = {
        "format": FORMAT,
        "config_hash": config_hash(pipeline.config),
        "autoencoder": pipeline.autoencoder_hash,
    }
    replace_with_tensors(path, dict(zip(PLANE_NAMES, planes, strict=True)), {"pavdit": json.dumps(about)})


def read_latents(path: Path, pipeline: Pipeline) -> tuple[Planes, Planes]:
    """Read what `write_latents` wrote. Latents of other weights of the same architecture give a warning.

    Raises:
        DataError: the file is missing or no latents file, or its latents are of another architecture.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: want a latents file, got {'a directory' if path.exists() else 'no such file'}"
        )
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("pavdit", "{}"))
            if about.get("format") != FORMAT:
                raise DataError(
                    f"{path}: want a {FORMAT} file, got {about.get('format') or 'another safetensors file'}"
                )
            planes = [file.get_tensor(name).to(pipeline.runtime.device) for name in PLANE_NAMES]
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise DataError(f"{path}: want a safetensors file, got {' '.join(str(error).split())}") from None
    want = config_hash(pipeline.config)
    if about["config_hash"] != want:
        raise DataError(f"{path}: want latents of architecture {want}, got {about['config_hash']}")
    if about["autoencoder"] != pipeline.autoencoder_hash:
        sys.stderr.write(
            f"{path}: encoded with weights {about['autoencoder']}, decoded with {pipeline.autoencoder_hash}\n"
        )
    return Planes(*planes[:3]), Planes(*planes[3:])
