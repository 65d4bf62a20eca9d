"""Run bad calls in children of this process, so that a crash ends a child and not pytest.

``python -m bad_calls.worker`` prints one JSON line per call: its label and what became of it. A child that
dies is bisected to its call, and another one goes on behind it. Children are forks, which is safe while this
process has started no thread, and saves the import of torch for each.
"""

from __future__ import annotations

import faulthandler
import json
import os
import resource
import signal
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

MEMORY_BYTES = 3 << 30
"""Beyond what the process has: a huge size ends in an exception, not in a machine without memory."""
SECONDS = 120
"""For all calls of one child; a call that never ends dies by SIGALRM and counts as a crash."""

Call = Callable[[], str]


def in_child(calls: Sequence[Call]) -> tuple[list[str], int]:
    """Make the calls in a fork; return the verdicts of those that ended, and the child's exit code."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(reader)
            faulthandler.disable()
            signal.alarm(SECONDS)
            with os.fdopen(writer, "w", buffering=1) as out:
                for call in calls:
                    out.write(f"{json.dumps(call())}\n")
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as lines:
        verdicts = [json.loads(line) for line in lines if line.endswith("\n")]
    _, status = os.waitpid(child, 0)
    return verdicts, os.waitstatus_to_exitcode(status)


def bisect(calls: Sequence[Call]) -> int:
    """Return how many of the last calls a child needs to die; 1: the last one alone."""
    low, high = 1, len(calls)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if in_child(calls[-middle:])[1] else (middle + 1, high)
    return low


def verdicts_of(calls: Sequence[Call]) -> Iterator[str]:
    """One verdict per call, whatever dies."""
    start = 0
    while start < len(calls):
        verdicts, code = in_child(calls[start:])
        yield from verdicts
        start += len(verdicts)
        if code:
            needed = bisect(calls[start - len(verdicts) : start + 1])
            before = "" if needed == 1 else f" after the {needed - 1} calls before it"
            yield f"CRASH: want an exception, got {_cause(code)}{before}"
            start += 1


def _cause(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _limit_memory() -> None:
    if "asan" in os.environ.get("LD_PRELOAD", ""):
        return  # its shadow memory takes terabytes of addresses; ASAN_OPTIONS limits allocations
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))


def main() -> None:
    """Run the calls of the targets named on the command line, or of all."""
    from bad_calls import targets
    from bad_calls.judge import calls_of

    torch = targets.torch
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)  # with it torch.empty is filled with NaN
    torch.utils.deterministic.fill_uninitialized_memory = True
    _limit_memory()
    wanted = sys.argv[1:]
    for kind, names, find in (
        ("public", targets.public_names(), targets.public_targets),
        ("raw", targets.raw_names(), targets.raw_targets),
    ):
        for name in names:
            if wanted and f"{kind}:{name}" not in wanted:
                continue
            calls = [call for target in find(name) for call in calls_of(target)]
            for call, verdict in zip(calls, verdicts_of([c.run for c in calls]), strict=True):
                row = {"of": f"{kind}:{name}", "call": call.label, "verdict": verdict}
                sys.stdout.write(f"{json.dumps(row)}\n")


if __name__ == "__main__":
    main()
