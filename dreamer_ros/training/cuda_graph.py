"""Records the gradients of an update as a CUDA graph, and replays it.

An update of a Dreamer is some fifteen thousand kernels of a few microseconds each. Starting one takes the processor
longer than running it takes the GPU. A CUDA graph starts all of them at once. It repeats kernels and addresses alone:
decisions of Python code are those of the recording.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dreamer_ros.agents.system import Batch

Gradients = Callable[[Batch], dict[str, Tensor]]
WARMING = 3  # updates before the recording; libraries choose their algorithms in them


class Recording:
    """Computes the gradients of a batch by replaying a recorded computation.

    Args:
        compute: leaves gradients in the parameters and returns metrics. For batches of one shape it must run the
            same operations, read nothing back from the GPU, change its state in place and draw from torch's generator.
        parameters: those that may get a gradient.
    """

    def __init__(self, compute: Gradients, parameters: Sequence[Tensor]):
        self._compute, self._parameters = compute, list(parameters)
        self._calls = 0
        self._batch: Batch | None = None  # where the recorded work finds its batch
        self._replay: Callable[[], None] | None = None
        self._gradients: list[Tensor | None] = []
        self._metrics: dict[str, Tensor] = {}

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        """Compute the gradients of a batch; returns metrics."""
        self._calls += 1
        if self._calls <= WARMING:
            self._batch = Batch(*(x.clone() for x in batch))
            return warm(lambda: self._compute(batch), batch.reward.device)
        if [x.shape for x in batch] != [x.shape for x in self._batch]:
            return self._compute(batch)
        for own, given in zip(self._batch, batch):
            own.copy_(given)
        if self._calls == WARMING + 1:
            self._record()
        if self._replay is None:
            return self._compute(batch)
        self._replay()
        for parameter, gradient in zip(self._parameters, self._gradients):
            parameter.grad = gradient
        return {name: value.clone() for name, value in self._metrics.items()}

    def _record(self) -> None:
        self._clear()  # else each replay would add to the gradients
        try:
            self._replay, self._metrics = capture(lambda: self._compute(self._batch), self._batch.reward.device)
            self._gradients = [parameter.grad for parameter in self._parameters]
        except RuntimeError as error:
            warnings.warn(
                'the update cannot be recorded as a CUDA graph, it goes on several times slower without: '
                + str(error).splitlines()[0]
            )
            self._clear()

    def _clear(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None


def warm(work: Callable[[], dict[str, Tensor]], device: torch.device) -> dict[str, Tensor]:
    """Run work on a stream of its own. CUDA asks for this at least once before a capture."""
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            result = work()
        torch.cuda.current_stream().wait_stream(stream)
    return result


def capture(
    work: Callable[[], dict[str, Tensor]], device: torch.device
) -> tuple[Callable[[], None], dict[str, Tensor]]:
    """Record work without doing it. Returns a function that does it, and the tensors that this fills."""
    # A capture that fails leaves its stream current. The outer stream context makes ours current again.
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)):
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on using the GPU meanwhile.
        with torch.cuda.graph(graph, capture_error_mode='thread_local'):
            result = work()
    return graph.replay, result
