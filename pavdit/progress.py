"""Progress of long work: a bar on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

QUIET_SECONDS = 15.0
"""Between lines where the output is no terminal."""


@contextmanager
def progress(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """Around the work; what it yields is called with how much is done, and of how much."""
    printed = time.monotonic()
    with Progress(console=console, disable=not console.is_terminal) as shown:
        bar = shown.add_task(what)

        def tell(done: int, total: int) -> None:
            nonlocal printed
            shown.update(bar, completed=done, total=total)
            if not console.is_terminal and time.monotonic() - printed >= QUIET_SECONDS:
                printed = time.monotonic()
                console.print(f"{what}: {done} of {total}")

        yield tell
