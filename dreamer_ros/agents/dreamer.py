"""Dreamer in all its versions: a world model, a behaviour learned inside it, and the policy they form."""

from __future__ import annotations

import torch
from torch import Tensor

from dreamer_ros.agents.actor_critic import ActorCritic
from dreamer_ros.agents.filter_policy import FilterPolicy
from dreamer_ros.agents.system import Agent, Batch, Inspection
from dreamer_ros.agents.world_model import WorldModel
from dreamer_ros.config import DreamerConfig
from dreamer_ros.nets.rssm import State
from dreamer_ros.spec import RobotSpec


class Dreamer(Agent):
    """World model, actor and critic. V1, V2 and V3 differ by config only."""

    def __init__(self, config: DreamerConfig, spec: RobotSpec):
        super().__init__()
        self.model = WorldModel(config, spec)
        self.behaviour = ActorCritic(config, self.model.rssm.feature_size, len(spec.action), spec.discrete)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of all losses; each reaches only the parameters it trains, so one backward pass serves all."""
        model_loss, states, metrics = self.model.loss(batch)
        behaviour_loss, behaviour_metrics = self.behaviour.loss(self.model, states, batch)
        return model_loss + behaviour_loss, {**metrics, **behaviour_metrics}

    def parameter_groups(self) -> dict[str, list]:
        return {
            'model': list(self.model.parameters()),
            'actor': list(self.behaviour.actor.parameters()),
            'critic': list(self.behaviour.critic.parameters()),
        }

    def probes(self) -> list:
        return self.model.probes()

    def after_update(self, batch: Batch) -> dict[str, Tensor]:
        self.behaviour.update_slow_critic()
        return {}

    def policy(self) -> Policy:
        return Policy(self.model, self.behaviour)

    @torch.no_grad()
    def inspect(self, batch: Batch, context: int = 5) -> Inspection:
        return self.model.inspect(batch, context, self.behaviour.value)


class Policy(FilterPolicy):
    """Filter plus actor. All-zero noise gives the mode of the latent and of the action, the median of a tanh-normal."""

    def __init__(self, model: WorldModel, behaviour: ActorCritic):
        super().__init__(model, behaviour.action_size, behaviour.action_size, behaviour.exploration_noise)
        self.actor, self.distribution = behaviour.actor, behaviour.distribution

    def act(self, state: State, noise: Tensor) -> Tensor:
        return self.distribution.sample(self.actor(state.feature), noise)
