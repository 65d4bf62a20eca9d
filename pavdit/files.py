"""Durable files: tensors and JSON that are on the disk when the call returns.

Tensors are written in the safetensors format (a length, a JSON header, the raw bytes) by this file and not by
the `safetensors` package, for two reasons: the digest is computed while the bytes pass, and nothing is held
twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a manifest says about a file: its bytes and their sha256."""

    size: int
    sha256: str


def write_durably(path: Path, chunks: Iterable[bytes | memoryview]) -> FileRecord:
    """Write `chunks` to a new file, fsync it, and return what was written.

    Raises:
        OSError: the disk is full or the file exists.
    """
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    return FileRecord(size, digest.hexdigest())


def write_json(path: Path, value: object) -> FileRecord:
    """Write a JSON file durably."""
    return write_durably(path, [json.dumps(value, indent=1).encode() + b"\n"])


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> FileRecord:
    """Write tensors durably as one safetensors file.

    Raises:
        TypeError: a tensor has a dtype that the format does not have.
        OSError: the disk is full or the file exists.
    """
    return write_durably(path, _safetensors_chunks(tensors, metadata or {}))


def tensors_record(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> FileRecord:
    """What `write_tensors` would write."""
    digest, size = hashlib.sha256(), 0
    for chunk in _safetensors_chunks(tensors, metadata or {}):
        digest.update(chunk)
        size += len(chunk)
    return FileRecord(size, digest.hexdigest())


def _safetensors_chunks(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> Iterable[bytes | memoryview]:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in _DTYPES:
            raise TypeError(f"{name}: want one of {', '.join(_DTYPES.values())}, got {tensor.dtype}")
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format wants the data aligned to 8 bytes
    yield struct.pack("<Q", len(text)) + text
    for tensor in tensors.values():
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        yield raw.numpy().data


def file_record(path: Path) -> FileRecord:
    """Read a file through and return its size and sha256."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
        return FileRecord(file.tell(), digest.hexdigest())


def fsync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path`; what is written there takes its place as a whole at the end, or leaves no trace.

    Raises:
        OSError: the directory is missing or full; `path` is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def replace_with_text(path: Path, text: str) -> None:
    """Write a text file so that `path` is either the old file or the whole new one.

    Raises:
        OSError: as for `replacing`.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def replace_with_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> FileRecord:
    """Write a safetensors file so that `path` is either the old file or the whole new one, durably.

    Raises:
        OSError: as for `replacing`.
    """
    with replacing(path) as temporary:
        record = write_tensors(temporary, tensors, metadata)
    fsync_directory(path.parent)
    return record
