"""Functions of tensors as CUDA graphs: captured once a key, replayed on new contents. Knows no model."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

Function = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Reads its inputs, may write into them, returns its results; the same kernels for any contents."""

Capture = Callable[[Callable[[], None]], Callable[[], None]]
"""Turns a call into one that does the same work on the same memory, at less cost."""

WARM_UPS = 3
"""Runs before the capture, on its stream: libraries choose and allocate on their first calls."""


class CudaCapture:
    """Captures calls as CUDA graphs that share one memory pool, so they must not run side by side."""

    def __init__(self) -> None:
        self.pool: Any = None

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        """Warm up, capture, and return the replay."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                function()
        torch.cuda.current_stream().wait_stream(stream)
        self.pool = self.pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # thread_local: another thread may use the device meanwhile
        with torch.cuda.graph(graph, stream=stream, pool=self.pool, capture_error_mode="thread_local"):
            function()
        return graph.replay


class Captured:
    """A function and the buffers that it is bound to; nothing outside ever holds one of them.

    Attributes:
        buffers: what the function reads.
        results: what it returned; a replay gives them new contents.
    """

    def __init__(self, function: Function, example: Mapping[str, Tensor], capture: Capture) -> None:
        self.function = function  # a graph reads memory that only the function keeps: weights, tables
        self.buffers = {name: tensor.clone() for name, tensor in example.items()}
        self.results: Mapping[str, Tensor] = {}
        self.replay = capture(self._run)

    def _run(self) -> None:
        self.results = self.function(self.buffers)

    def load(self, **tensors: Tensor) -> None:
        """Copy new contents in.

        Raises:
            ValueError: a name, a shape or a dtype is not the captured one.
        """
        for name, tensor in tensors.items():
            buffer = self.buffers.get(name)
            if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
                want = "no such input" if buffer is None else f"{tuple(buffer.shape)} {buffer.dtype}"
                raise ValueError(f"graph: {name}: want {want}, got {tuple(tensor.shape)} {tensor.dtype}")
            buffer.copy_(tensor)

    def store(self, name: str, into: Tensor) -> None:
        """Copy a result out."""
        into.copy_(self.results[name])


class Graphs:
    """The captured functions of a pipeline, the most recently used `capacity` of them.

    Args:
        capacity: how many to keep; each holds memory for its inputs and results, all share the rest.
        capture: how to capture; None: as CUDA graphs.

    Attributes:
        lock: held by whoever replays, until the results are copied out, because all share memory.
        captures: functions captured so far.
    """

    def __init__(self, capacity: int = 8, capture: Capture | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"graph: want capacity >= 1, got {capacity}")
        self.capacity = capacity
        self.capture = CudaCapture() if capture is None else capture
        self.lock = threading.RLock()
        self.captures = 0
        self._kept: OrderedDict[Hashable, Captured] = OrderedDict()

    def get(
        self,
        key: Hashable,
        function: Function,
        inputs: Mapping[str, Tensor],
        example: Callable[[], Mapping[str, Tensor]] | None = None,
    ) -> Captured:
        """The captured function for `key` and the shapes of the inputs, captured now where there is none.

        Args:
            key: all that the function's kernels and the memory they read depend on besides its inputs.
            function: what to capture.
            inputs: of the function; their contents are loaded.
            example: gives inputs for the warm-ups, of a function that writes into more than its inputs and
                must not do so then; None: `inputs`.
        """
        key = key, tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in inputs.items())
        captured = self._kept.pop(key, None)
        if captured is None:
            while len(self._kept) >= self.capacity:
                self._kept.popitem(last=False)  # before the capture, so that its memory is free for it
            captured = Captured(function, inputs if example is None else example(), self.capture)
            self.captures += 1
        captured.load(**inputs)
        self._kept[key] = captured
        return captured

    def __len__(self) -> int:
        return len(self._kept)

    def clear(self) -> None:
        """Forget everything, and give its memory back."""
        self._kept.clear()


def call(
    graphs: Graphs | None, key: Hashable, function: Function, inputs: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """The function's results on these inputs, as the caller's own; by a replay where there are `graphs`."""
    if graphs is None:
        return function(inputs)
    with graphs.lock:
        captured = graphs.get(key, function, inputs)
        captured.replay()
        return {name: result.clone() for name, result in captured.results.items()}


def version_of(weights: Iterable[Tensor]) -> int:
    """Changes when a weight moves or is written to: what was captured before read the old ones."""
    return hash(tuple((w.data_ptr(), 0 if w.is_inference() else w._version) for w in weights))
