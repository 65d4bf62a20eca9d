"""Sampling steps as CUDA graphs: captured once for a key, replayed with new contents. Knows no model."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

Step = Callable[[Mapping[str, Tensor]], None]
"""A step reads its inputs and writes its result into some of them; the same kernels for any contents."""

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


class CapturedStep:
    """A step and the buffers that it is bound to; nothing outside ever holds one of them."""

    def __init__(self, step: Step, example: Mapping[str, Tensor], capture: Capture) -> None:
        self.buffers = {name: tensor.clone() for name, tensor in example.items()}
        self.replay = capture(lambda: step(self.buffers))

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
        """Copy a buffer out."""
        into.copy_(self.buffers[name])


class StepGraphs:
    """The captured steps of a pipeline, the most recently used `capacity` of them.

    Args:
        capacity: steps to keep; each holds memory for its inputs and intermediate results.
        capture: how to capture; None: as CUDA graphs.

    Attributes:
        lock: held by whoever runs a sample, because the steps share memory.
        captures: steps captured so far.
    """

    def __init__(self, capacity: int = 4, capture: Capture | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"graph: want capacity >= 1, got {capacity}")
        self.capacity = capacity
        self.capture = CudaCapture() if capture is None else capture
        self.lock = threading.RLock()
        self.captures = 0
        self._steps: OrderedDict[Hashable, CapturedStep] = OrderedDict()

    def get(self, key: Hashable, step: Step, example: Mapping[str, Tensor]) -> CapturedStep:
        """The captured step for `key`, captured now where there is none.

        Args:
            key: all that the step's kernels depend on besides the contents of its inputs.
            step: what to capture.
            example: its inputs; their contents are loaded.
        """
        captured = self._steps.pop(key, None)
        if captured is None:
            while len(self._steps) >= self.capacity:
                self._steps.popitem(last=False)  # before the capture, so that its memory is free for it
            captured = CapturedStep(step, example, self.capture)
            self.captures += 1
        captured.load(**example)
        self._steps[key] = captured
        return captured

    def __len__(self) -> int:
        return len(self._steps)

    def clear(self) -> None:
        """Forget every step, for example because the weights have moved."""
        self._steps.clear()
