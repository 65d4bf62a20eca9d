"""Where compiled code is kept between processes, so that only the first start on a machine compiles."""

from __future__ import annotations

import os
from pathlib import Path

INDUCTOR_DIR = "TORCHINDUCTOR_CACHE_DIR"
"""The compiler's own variable. Its default lies in the temporary directory, which a restart empties."""


def cache_dir() -> Path:
    """The compiler's directory: its own variable, else ``$PAVDIT_CACHE_DIR``, else the user's cache."""
    if INDUCTOR_DIR in os.environ:
        return Path(os.environ[INDUCTOR_DIR])
    if "PAVDIT_CACHE_DIR" in os.environ:
        return Path(os.environ["PAVDIT_CACHE_DIR"]) / "compiled"
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "pavdit" / "compiled"


def use_cache() -> Path:
    """Make the compiler use `cache_dir`, from now on in this process.

    Raises:
        OSError: the directory cannot be made or written to; the message names it.
    """
    path = cache_dir()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"{path}: want a directory for compiled code, got: {error.strerror}") from None
    if not os.access(path, os.W_OK):
        raise OSError(f"{path}: want a directory that can be written to, for compiled code")
    os.environ[INDUCTOR_DIR] = str(path)
    return path
