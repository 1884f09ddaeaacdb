"""A function of tensors as one CUDA graph: launched at once, with buffers of its own, and the host waits for nothing.

    graph = Graph(function, images, text)     # runs it a few times, then records what it launches
    output = graph(images, text)              # equal shapes from now on; what was returned before is left alone

The function must not look at values on the device: no ``if tensor``, no ``item()``, no boolean index, no copy from the
host. A backbone whose forward keeps to that says so (``static``).
"""

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3
"""Calls before the recording, in which libraries choose their kernels and take their workspaces."""


class Graph:
    """``function`` for inputs of the shapes of ``inputs``; weights may change in place, but not move.

    ``pool``: memory that graphs share (`torch.cuda.graph_pool_handle`) which never run at the same time.
    """

    def __init__(self, function: Callable[..., Tensor], *inputs: Tensor, pool: tuple[int, int] | None = None) -> None:
        with torch.inference_mode(False), torch.no_grad(), torch.cuda.device(inputs[0].device):
            self._inputs = [one.clone() for one in inputs]
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    function(*self._inputs)
            torch.cuda.current_stream().wait_stream(aside)
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, pool=pool):
                self._output = function(*self._inputs)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The function's output."""
        with torch.no_grad():
            for own, given in zip(self._inputs, inputs, strict=True):
                own.copy_(given)
            self._graph.replay()
            return self._output.clone()
