"""Data parallelism: several learner processes, each with an equal share of every batch.

Rank 0 is the trainer. It owns robots, replay, checkpoints and policies, samples each batch and hands out its shares.
The other ranks follow (worker.py). Each computes the gradients of its share and takes the same step with their average,
so parameters, optimisers and slow copies stay equal bit for bit. N learners make the update that one would make of the
whole batch, up to rounding and to the noise, which is each rank's own. Most losses are means over the batch, whose
gradients average. Other statistics in losses are those of the whole batch (nets/collective.py). Only the contrastive
loss takes its negatives from each share.

CPU tensors travel by gloo, those on GPUs by NCCL.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import subprocess
import sys
import threading
from contextlib import AbstractContextManager

import torch
from torch import Tensor, distributed

from dreamer_ros.agents.system import Batch
from dreamer_ros.errors import InputError
from dreamer_ros.launcher import end_with_parent, torchrun_rank

FOREVER = datetime.timedelta(days=3650)  # a rank may wait for robots that are switched off
PATIENCE = 10.0  # seconds for the other ranks to end
CPU = torch.device('cpu')


def form(size: int, threads: int) -> AbstractContextManager[Team | None]:
    """Rank 0's team: the ranks started by torchrun, else `size` processes on this machine; None for one."""
    if torchrun_rank() is not None:
        end_with_parent(signal.SIGTERM)
        return Team(threads)
    return Team.start(size, threads) if size > 1 else contextlib.nullcontext()


class Team:
    """The ranks, as one of them sees them. Use as a context manager: at its end rank 0 ends the others.

    Args:
        threads: of each learner on a CPU; rank 0 tells the others.
        store: where the ranks meet; None takes what torchrun has put into the environment.
        rank, size: this rank and the number of ranks, with a store.
    """

    def __init__(self, threads: int = 0, store: distributed.Store | None = None, rank: int = -1, size: int = -1):
        self._threads = threads
        self._children: list[subprocess.Popen] = []
        self._closing = threading.Event()
        backend = 'cpu:gloo,cuda:nccl' if torch.cuda.is_available() else 'gloo'
        distributed.init_process_group(backend, timeout=FOREVER, store=store, rank=rank, world_size=size)
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()
        self._local_rank = self.rank if store else int(os.environ['LOCAL_RANK'])
        self._local_size = self.size if store else int(os.environ['LOCAL_WORLD_SIZE'])

    @classmethod
    def start(cls, size: int, threads: int) -> Team:
        """Become rank 0 of `size` processes on this machine, and start the others."""
        store = distributed.TCPStore('127.0.0.1', 0, size, True, FOREVER, wait_for_workers=False)
        children, closing = [], threading.Event()
        for rank in range(1, size):
            command = [sys.executable, '-m', 'dreamer_ros.training.worker', *map(str, (store.port, rank, size))]
            children.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True))
            threading.Thread(target=_watch, args=(rank, children[-1], closing), daemon=True).start()
        team = cls(threads, store, 0, size)
        team._children, team._closing = children, closing
        return team

    def device(self, name: str) -> str:
        """This rank's own GPU where `name` asks for one without saying which.

        Raises:
            InputError: fewer GPUs than learners on this machine.
        """
        if name not in ('auto', 'cuda') or not torch.cuda.is_available():
            return name
        if torch.cuda.device_count() < self._local_size:
            raise InputError(
                f'learners: expected a GPU for each of the {self._local_size} on this machine, found '
                f'{torch.cuda.device_count()}; device:=cpu learns without'
            )
        torch.cuda.set_device(self._local_rank)
        return f'cuda:{self._local_rank}'

    def synchronise(self, tensors: dict[str, Tensor], state: dict, device: str) -> None:
        """Rank 0: give all ranks a learner's tensors and state, and the type of its device."""
        shapes = {name: (tuple(x.shape), x.dtype) for name, x in tensors.items()}
        self._send({'state': state, 'shapes': shapes, 'device': device, 'threads': self._threads})
        for name in shapes:
            _broadcast(tensors[name].detach().cpu().contiguous())

    def share(self, batch: Batch) -> Batch:
        """Rank 0: begin an update on all ranks. Returns this rank's share of the batch."""
        # From the learner's own stream, so that a resumed run draws the same noise on all ranks.
        seed = int(torch.randint(2**62, ()))
        self._send({'seed': seed, 'batch': [(tuple(x.shape), x.dtype) for x in batch]})
        return Batch(*(self._scatter(x.shape, x.dtype, x.device, x) for x in batch))

    def receive(self) -> dict | None:
        """Other ranks: the next order of rank 0: take a state (`state`), update (`seed`), or None to end."""
        orders = [None]
        distributed.broadcast_object_list(orders, 0, device=CPU)
        return orders[0]

    def receive_tensors(self, order: dict) -> dict[str, Tensor]:
        """Other ranks: the tensors of a state."""
        shapes = order['shapes'].items()
        return {name: _broadcast(torch.empty(shape, dtype=dtype)) for name, (shape, dtype) in shapes}

    def receive_share(self, order: dict, device: torch.device) -> Batch:
        """Other ranks: their share of the batch of an update."""
        return Batch(*(self._scatter(shape, dtype, device) for shape, dtype in order['batch']))

    def _scatter(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, whole: Tensor | None = None
    ) -> Tensor:
        """This rank's rows of a tensor that rank 0 holds whole."""
        part = torch.empty(shape[0] // self.size, *shape[1:], dtype=dtype, device=device)
        if part.numel():
            parts = None if whole is None else [x.view(torch.uint8) for x in whole.contiguous().chunk(self.size)]
            distributed.scatter(part.view(torch.uint8), parts)
        return part

    def _send(self, order: dict | None) -> None:
        distributed.broadcast_object_list([order], 0, device=CPU)

    def __enter__(self) -> Team:
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self._closing.set()
        # Within an update the others wait for its next step and not for an order. They are killed.
        in_order = kind is None or issubclass(kind, InputError)
        if in_order and self.rank == 0:
            self._send(None)
        for child in self._children:
            if not in_order:
                child.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(PATIENCE)
                continue
            child.kill()
            child.wait()
        if in_order:
            distributed.destroy_process_group()


def _watch(rank: int, child: subprocess.Popen, closing: threading.Event) -> None:
    """Kill this process when a rank dies. The others would wait for ever, and a run resumes after a crash."""
    code = child.wait()
    if not closing.is_set():
        print(f'error: learner {rank} ended with code {code}', file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)


def _broadcast(x: Tensor) -> Tensor:
    if x.numel():
        distributed.broadcast(x, 0)
    return x
