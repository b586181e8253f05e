"""PlaNet: a world model, and a policy that plans in it instead of learning an actor (arXiv 1811.04551)."""
from __future__ import annotations

import math
from typing import Dict, Tuple

import torch
from torch import Tensor, nn

from dreamer_ros.agents.agent import Agent
from dreamer_ros.agents.batch import Batch
from dreamer_ros.agents.inspection import Inspection
from dreamer_ros.agents.planner import cross_entropy_method
from dreamer_ros.agents.world_model import WorldModel
from dreamer_ros.config import Config, PlannerConfig
from dreamer_ros.errors import InputError
from dreamer_ros.nets.rssm import State
from dreamer_ros.spec import RobotSpec


class PlaNet(Agent):
    """A world model that is planned in; nothing but the model is trained.

    Args:
        config: the run's config.
        spec: the robot.

    Raises:
        InputError: the robot's actions are discrete.
    """

    def __init__(self, config: Config, spec: RobotSpec):
        super().__init__()
        if spec.discrete:
            raise InputError(
                f'system planet: expected a robot with continuous actions to plan, those of {spec.name} are discrete')
        self.planner, self.action_size = config.planner, len(spec.action)
        self.model = WorldModel(config, spec)

    def loss(self, batch: Batch) -> Tuple[Tensor, Dict[str, Tensor]]:
        loss, _, metrics = self.model.loss(batch)
        return loss, metrics

    def parameter_groups(self) -> Dict[str, list]:
        return {'model': list(self.model.parameters())}

    def policy(self) -> PlanningPolicy:
        return PlanningPolicy(self.model, self.planner, self.action_size)

    def inspect(self, batch: Batch, context: int = 5) -> Inspection:
        return self.model.inspect(batch, context)


class PlanningPolicy(nn.Module):
    """Filter plus planner as one pure function, the module that is exported to ONNX with the planner unrolled.

    The state is [deter | stoch | previous action]. The noise is [latent | candidates | exploration]: the
    posterior's sample, everything random in the planner, and what is added to the action while collecting.
    An evaluation leaves the first and the last at zero, and draws the candidates (`evaluation_noise`).

    Shares its parameters with the world model it is made from.
    """

    def __init__(self, model: WorldModel, config: PlannerConfig, action_size: int):
        super().__init__()
        rssm = model.rssm
        self.encoder, self.rssm, self.reward = model.encoder, rssm, model.reward
        self.reward_distribution = model.reward_distribution
        self.uses_vector = 'vector' in model.encoder.inputs
        self.config, self.action_size = config, action_size
        self.sizes = [rssm.deter_size, rssm.latent.size, action_size]
        self.state_size = sum(self.sizes)
        # of every step of every candidate in every iteration: its action and its latent sample
        self.candidates = (config.iterations, config.candidates, config.horizon, action_size + rssm.latent.size)
        planning = math.prod(self.candidates)
        self.noise_sizes = [rssm.latent.size, planning, action_size]
        self.noise_size = sum(self.noise_sizes)
        self.evaluation_noise = (rssm.latent.size, rssm.latent.size + planning)

    def forward(self, *inputs: Tensor):
        """Act on one observation.

        Args:
            image: uint8 [B, H, W, channels], unless the robot has no camera.
            vector: float32 [B, N], if the robot has vector inputs.
            is_first: bool [B]; resets the state.
            state: float32 [B, state_size].
            noise: float32 [B, noise_size].

        Returns:
            action float32 [B, A] in [-1, 1], next state float32 [B, state_size].
        """
        *observation, is_first, state, noise = inputs
        deter, stoch, previous = state.split(self.sizes, -1)
        latent_noise, candidates, exploration = noise.split(self.noise_sizes, -1)
        embed = self.encoder(*observation)
        latent_noise = self.rssm.latent.noise_from_normal(latent_noise)
        filtered = self.rssm.observe_step(State(deter, stoch), previous, embed, is_first, latent_noise)
        action = self.plan(filtered, candidates.unflatten(-1, self.candidates).transpose(0, 1))
        action = (action + self.config.exploration_noise * exploration).clamp(-1.0, 1.0)
        return action, torch.cat([filtered.deter, filtered.stoch, action], -1)

    def plan(self, state: State, noise: Tensor) -> Tensor:
        """First action [B, A] of the best plan from states [B, ...]; noise [I, B, N, H, A + latent]."""
        actions, latents = noise.split([self.action_size, self.rssm.latent.size], -1)
        return cross_entropy_method(
            lambda candidates, iteration: self.predicted_return(state, candidates, latents[iteration]),
            actions, self.config.elites)[:, 0]

    def predicted_return(self, state: State, actions: Tensor, noise: Tensor) -> Tensor:
        """Sum of the rewards predicted along one sampled future of each candidate.

        Args:
            state: where the candidates start, [B, ...].
            actions: [B, N, H, A].
            noise: standard normal, of the latents [B, N, H, latent].

        Returns:
            [B, N].
        """
        count = actions.shape[1]
        state = State(*(x.unsqueeze(1).expand(-1, count, -1).flatten(0, 1) for x in state))
        features = []
        for action, step_noise in zip(actions.flatten(0, 1).unbind(1), noise.flatten(0, 1).unbind(1)):
            state = self.rssm.imagine_step(state, action, self.rssm.latent.noise_from_normal(step_noise))
            features.append(state.feature)
        rewards = self.reward_distribution.mean(self.reward(torch.stack(features, 1)))
        return rewards.sum(1).unflatten(0, (-1, count))
