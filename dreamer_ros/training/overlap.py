"""Two cores, one update: actor and critic dream on one while the world model trains on the other.

The dreams of update k start from the posterior states of batch k − 1, in a copy of the world model as update k − 1
left it. So nothing is shared while both run, and the result does not depend on timing. The price is that actor and
critic see each batch one update later. On a small model this beats giving both cores to every operator, because the
operators are too short to be split.
"""

from __future__ import annotations

import concurrent.futures
import copy
from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from dreamer_ros.agents.actor_critic import DreamNoise
from dreamer_ros.agents.dreamer import Dreamer
from dreamer_ros.agents.system import Batch
from dreamer_ros.nets.rssm import State
from dreamer_ros.training.optimizers import Optimizer


class Overlap:
    """Makes updates whose two halves run at the same time.

    Args:
        agent, optimizer: what is trained.
        autocast: the precision of the dreams, for the thread that enters it.
    """

    def __init__(self, agent: Dreamer, optimizer: Optimizer, autocast: Callable[[], AbstractContextManager]):
        self._agent, self._optimizer, self._autocast = agent, optimizer, autocast
        self._model = copy.deepcopy(agent.model).requires_grad_(False)
        self._worker = concurrent.futures.ThreadPoolExecutor(
            1, 'actor_critic', initializer=torch.set_flush_denormal, initargs=(True,)
        )
        self._states: State | None = None  # [B, T, ...], what the next dream starts from

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Train the world model on this batch, actor and critic on the one before, if there was one; metrics."""
        dreaming = None if self._states is None else self._start(self._states)
        # In float32 whatever the dream uses: autocast has one cache of weights for all threads. Two threads would
        # clear it for each other at random times, which changes the rounding from run to run.
        loss, states, metrics = self._agent.model.loss(batch)
        loss.backward()
        metrics.update(self._optimizer.step('model'))
        self._states = State(*(x.detach() for x in states))
        return metrics if dreaming is None else {**metrics, **dreaming.result()}

    @torch.no_grad()
    def _start(self, states: State) -> concurrent.futures.Future[dict[str, Tensor]]:
        torch._foreach_copy_(list(self._model.parameters()), list(self._agent.model.parameters()))
        # Noise is drawn here: the generator is one for all threads.
        noise = self._agent.behaviour.draw(self._model, states.deter[..., 0].numel(), states.deter.device)
        return self._worker.submit(self._train, states, noise)

    def _train(self, states: State, noise: DreamNoise) -> dict[str, Tensor]:
        behaviour = self._agent.behaviour
        with self._autocast():
            loss, metrics = behaviour.loss(self._model, states, noise=noise)
        loss.backward()
        metrics.update(self._optimizer.step('actor', 'critic'))
        behaviour.update_slow_critic()
        return metrics

    def state_tensors(self) -> dict[str, Tensor]:
        """The states that the next dream starts from, for a checkpoint."""
        return {} if self._states is None else self._states._asdict()

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` gave."""
        device = next(self._model.parameters()).device
        self._states = State(**{name: value.to(device) for name, value in tensors.items()}) if tensors else None
