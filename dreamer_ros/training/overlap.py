"""Two cores, one update: the behaviour dreams on one while the world model trains on the other.

The behaviour of update k starts from the posterior states of batch k − 1 and dreams in a copy of the world model
as update k − 1 left it, so nothing is shared while both run and the result does not depend on timing. The price is
that actor and critic see each batch one update later. On a small model this beats giving both cores to every
operator, which are too short to be split.
"""

from __future__ import annotations

import concurrent.futures
import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dreamer_ros.nets.rssm import State

if TYPE_CHECKING:
    from dreamer_ros.training.learner import Learner


class Overlap:
    """The behaviour's half of an update, on a worker thread between `start` and `finish`."""

    def __init__(self, learner: Learner):
        self.learner = learner
        self.model = copy.deepcopy(learner.agent.model).requires_grad_(False)
        self.worker = concurrent.futures.ThreadPoolExecutor(
            1, 'behaviour', initializer=torch.set_flush_denormal, initargs=(True,)
        )
        self.states: State | None = None
        self.running: concurrent.futures.Future | None = None

    @torch.no_grad()
    def start(self) -> None:
        """Begin to train actor and critic on the previous batch, if there was one."""
        if self.states is None:
            return
        torch._foreach_copy_(list(self.model.parameters()), list(self.learner.agent.model.parameters()))
        # Noise is drawn here: the generator is one for all threads.
        noise = self.learner.agent.behaviour.draw(
            self.model, self.states.deter[..., 0].numel(), self.states.deter.device
        )
        self.running = self.worker.submit(self._train, self.states, noise)

    def _train(self, states: State, noise) -> dict[str, Tensor]:
        behaviour = self.learner.agent.behaviour
        with self.learner.autocast():
            loss, metrics = behaviour.loss(self.model, states, noise=noise)
        loss.backward()
        metrics.update(self.learner.optimizer.step('actor', 'critic'))
        behaviour.update_slow_critic()
        return metrics

    def finish(self, states: State) -> dict[str, Tensor]:
        """Wait for the behaviour; its metrics. `states` [B, T, ...] are what the next dream starts from."""
        self.states = State(states.deter.detach(), states.stoch.detach())
        if self.running is None:
            return {}
        metrics, self.running = self.running.result(), None
        return metrics

    def state_tensors(self) -> dict[str, Tensor]:
        """The states the next dream starts from, for a checkpoint."""
        return {} if self.states is None else self.states._asdict()

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restore what `state_tensors` gave."""
        device = self.learner.device
        self.states = State(**{name: value.to(device) for name, value in tensors.items()}) if tensors else None
