"""Runs a batch in two halves, the lanes, each on its own thread, forward and backward.

An update of a small model consists of thousands of operators, most of them too short to be shared by cores. Two
threads that each run all operators on half of the rows finish sooner than two that share every operator. Results
do not depend on timing: a parameter's gradient is the sum of those of the lanes, in their order.
"""

from __future__ import annotations

import concurrent.futures
import functools
import threading
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

_worker: concurrent.futures.ThreadPoolExecutor | None = None
_lane = threading.local()  # .busy: this thread is working in a lane


def open_lanes() -> None:
    """Let `by_rows` use a second thread from now on. Give torch's operators half of the cores each."""
    global _worker
    if _worker is None:
        _worker = concurrent.futures.ThreadPoolExecutor(
            1, 'lane', initializer=torch.set_flush_denormal, initargs=(True,)
        )


def close_lanes() -> None:
    """Let `by_rows` work in the calling thread alone again."""
    global _worker
    if _worker is not None:
        _worker.shutdown()
        _worker = None


def are_open() -> bool:
    """Whether `by_rows` uses two threads."""
    return _worker is not None


def by_rows(
    function: Callable[..., tuple[Tensor, ...]], *inputs: Tensor, modules: Sequence[nn.Module] = (), dim: int = 0
) -> tuple[Tensor, ...]:
    """function(*inputs), half of the rows in each lane. The function must treat rows independently.

    Args:
        function: gives a tuple of tensors. Random numbers come from outside: both threads share one generator.
        inputs, dim: tensors whose dimension `dim` holds the rows, also in the outputs.
        modules: all that the function trains. A gradient reaches their parameters and the inputs, nothing else.
    """
    first = inputs[0]
    if _worker is None or getattr(_lane, 'busy', False) or first.device.type != 'cpu' or first.shape[dim] < 2:
        return function(*inputs)
    halves = list(zip(*(x.chunk(2, dim) for x in inputs)))
    if torch.is_grad_enabled():
        parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        outputs = _Lanes.apply(function, len(inputs), *(x for half in halves for x in half), *parameters)
        results = outputs[: len(outputs) // 2], outputs[len(outputs) // 2 :]
    else:
        results = _both([lambda half=half: function(*half) for half in halves])
    return tuple(torch.cat(pair, dim) for pair in zip(*results))


class _Lanes(torch.autograd.Function):
    """A node of the graph that holds one inner graph per lane and walks them at the same time."""

    @staticmethod
    def forward(ctx, function, count: int, *inputs: Tensor):
        halves, ctx.parameters = (inputs[:count], inputs[count : 2 * count]), list(inputs[2 * count :])
        ctx.leaves = [[x.detach().requires_grad_(x.requires_grad) for x in half] for half in halves]

        def lane(leaves: Sequence[Tensor]):
            with torch.enable_grad():
                return function(*leaves)

        ctx.inner = _both([lambda leaves=leaves: lane(leaves) for leaves in ctx.leaves])
        inner = [x for outputs in ctx.inner for x in outputs]
        outputs = [x.detach() for x in inner]
        ctx.mark_non_differentiable(*(y for x, y in zip(inner, outputs) if not x.requires_grad))
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *gradients: Tensor):
        half = len(gradients) // 2

        def lane(leaves: Sequence[Tensor], outputs: Sequence[Tensor], own: Sequence[Tensor]) -> list:
            outputs, own = zip(*((x, gradient) for x, gradient in zip(outputs, own) if x.requires_grad))
            sources = [*(x for x in leaves if x.requires_grad), *ctx.parameters]
            found = iter(torch.autograd.grad(outputs, sources, own, allow_unused=True))
            return [next(found) if x.requires_grad else None for x in leaves] + list(found)

        left, right = _both(
            [
                functools.partial(lane, *arguments)
                for arguments in zip(ctx.leaves, ctx.inner, (gradients[:half], gradients[half:]))
            ]
        )
        count = len(ctx.leaves[0])
        sums = (a if b is None else b if a is None else a + b for a, b in zip(left[count:], right[count:]))
        return None, None, *left[:count], *right[:count], *sums


def _both(jobs: Sequence[Callable]) -> list:
    """Results of two jobs; the first runs here, the second on the worker, with the same modes of torch."""
    grad = torch.is_grad_enabled()
    dtype, autocast = torch.get_autocast_dtype('cpu'), torch.is_autocast_enabled('cpu')

    def work(job: Callable):
        _lane.busy = True
        try:
            # Autocast has one cache of weights for all threads, which they would clear for each other.
            with torch.set_grad_enabled(grad), torch.autocast('cpu', dtype, enabled=autocast, cache_enabled=False):
                return job()
        finally:
            _lane.busy = False

    second = _worker.submit(work, jobs[1])
    try:
        first = work(jobs[0])
    finally:
        concurrent.futures.wait([second])
    return [first, second.result()]
