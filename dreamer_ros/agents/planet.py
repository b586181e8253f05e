"""PlaNet: a world model, and a policy that plans in it instead of learning an actor (arXiv 1811.04551)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dreamer_ros.agents.filter_policy import FilterPolicy
from dreamer_ros.agents.system import Agent, Batch, Inspection
from dreamer_ros.agents.world_model import WorldModel
from dreamer_ros.config import PlanetConfig, PlannerConfig
from dreamer_ros.errors import InputError
from dreamer_ros.nets.rssm import State
from dreamer_ros.spec import RobotSpec

MINIMUM_VARIANCE = 1e-6  # of the planner's normal


class PlaNet(Agent):
    """Trains a world model alone, and plans in it.

    Raises:
        InputError: the robot's actions are discrete.
    """

    def __init__(self, config: PlanetConfig, spec: RobotSpec):
        super().__init__()
        if spec.discrete:
            raise InputError(
                f'system planet: expected a robot with continuous actions to plan, those of {spec.name} are discrete'
            )
        self.planner, self.action_size = config.planner, len(spec.action)
        self.model = WorldModel(config, spec)

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        loss, _, metrics = self.model.loss(batch)
        return loss, metrics

    def parameter_groups(self) -> dict[str, list]:
        return {'model': list(self.model.parameters())}

    def probes(self) -> list:
        return self.model.probes()

    def policy(self) -> PlanningPolicy:
        return PlanningPolicy(self.model, self.planner, self.action_size)

    def inspect(self, batch: Batch, context: int = 5) -> Inspection:
        return self.model.inspect(batch, context)


class PlanningPolicy(FilterPolicy):
    """Filter plus planner, which is exported unrolled.

    The noise it acts with is everything random in the planner. An evaluation draws that (`evaluation_noise`),
    and leaves the posterior's sample and exploration at zero.
    """

    def __init__(self, model: WorldModel, config: PlannerConfig, action_size: int):
        latent = model.rssm.latent.size
        # every step of a candidate needs noise for its action and its latent sample
        candidates = (config.iterations, config.candidates, config.horizon, action_size + latent)
        planning = math.prod(candidates)
        super().__init__(model, action_size, planning, config.exploration_noise)
        self.config, self.candidates = config, candidates
        self.reward, self.reward_distribution = model.reward, model.reward_distribution
        self.evaluation_noise = (latent, latent + planning)

    def act(self, state: State, noise: Tensor) -> Tensor:
        """First action [B, A] of the best plan from states [B, ...]."""
        noise = noise.unflatten(-1, self.candidates).transpose(0, 1)  # [I, B, N, H, A + latent]
        actions, latents = noise.split([self.action_size, self.rssm.latent.size], -1)
        return cross_entropy_method(
            lambda candidates, iteration: self.predicted_return(state, candidates, latents[iteration]),
            actions,
            self.config.elites,
        )[:, 0]

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


def cross_entropy_method(score: Callable[[Tensor, int], Tensor], noise: Tensor, elites: int) -> Tensor:
    """The cross-entropy method (PlaNet, algorithm 2): search the sequence of actions in [−1, 1] with the highest score.

    Starts at N(0, 1); every iteration draws candidates, clips them, scores them and refits mean and variance of a
    diagonal normal to the best. Written without control flow on values, so that it exports to ONNX unrolled.

    Args:
        score: of candidates [B, N, H, A] in one iteration (counted from 0), [B, N].
        noise: standard normal [I, B, N, H, A] for I iterations. All zeros leave every candidate at the mean, 0.
        elites: how many of the N candidates are refitted to.

    Returns:
        The mean of the last iteration, [B, H, A].
    """
    mean = torch.zeros_like(noise[0, :, :1])
    std = mean + 1.0
    for iteration, drawn in enumerate(noise.unbind(0)):
        candidates = (mean + std * drawn).clamp(-1.0, 1.0)
        best = score(candidates, iteration).topk(elites, -1, sorted=False).indices
        rows = best[:, :, None, None].expand(-1, -1, *candidates.shape[2:])
        chosen = candidates.gather(1, rows)
        mean = chosen.mean(1, keepdim=True)
        std = ((chosen - mean).square().mean(1, keepdim=True) + MINIMUM_VARIANCE).sqrt()
    return mean.squeeze(1)
