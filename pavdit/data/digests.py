"""What files hold, as digests that are computed once."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pavdit.clip import DataError
from pavdit.files import file_record, replace_with_text

HASHING_THREADS = 4

SETTLED_SECONDS = 2.0
"""A file that changed less than this before it was read may change again within the clock's tick."""


class FileDigests:
    """The sha256 of files, remembered in a JSON file while a file's stamp stays as it was.

    The stamp is inode, size and time of last change; the last is the kernel's own (ctime), which moves with
    every write and rename and which no tool sets back.

    Args:
        path: where they are remembered; one that cannot be read is computed anew.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.known: dict[str, list[object]] = json.loads(path.read_text())
        except (OSError, ValueError):
            self.known = {}

    def of(self, files: Iterable[Path]) -> dict[Path, str]:
        """The digest of each file.

        Raises:
            DataError: a file cannot be read.
        """
        distinct = list(dict.fromkeys(files))
        with ThreadPoolExecutor(HASHING_THREADS) as pool:
            return dict(zip(distinct, pool.map(self._digest, distinct), strict=True))

    def save(self) -> None:
        """Remember what was computed; the file is replaced as a whole.

        Raises:
            OSError: the disk is full.
        """
        replace_with_text(self.path, json.dumps(self.known))

    def _digest(self, file: Path) -> str:
        try:
            status = file.stat()
            stamp = [status.st_ino, status.st_size, status.st_ctime_ns]
            before = self.known.get(str(file.absolute()), [])
            if before[1:] == stamp:
                return str(before[0])
            digest = file_record(file).sha256
        except OSError as error:
            raise DataError(f"{file}: want a file that can be read, got {error.strerror}") from None
        if time.time() - status.st_ctime > SETTLED_SECONDS:
            self.known[str(file.absolute())] = [digest, *stamp]
        return digest
