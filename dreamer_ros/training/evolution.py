"""The controller of a World Models run, evolved again: in dreams of any temperature, or in the simulator."""
from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Callable, List, Optional

import torch
from torch import Tensor

from dreamer_ros.errors import InputError
from dreamer_ros.policy.export import Exporter
from dreamer_ros.training.checkpoint import find_checkpoint
from dreamer_ros.training.learner import Learner
from dreamer_ros.training.player import Player, play_side_by_side
from dreamer_ros.training.run import RunDirectory


def open_world_models(run: Path) -> Learner:
    """The learner of a run's latest checkpoint.

    Raises:
        InputError: there is none, it is of another system, or it has seen no episode.
    """
    learner = Learner.open(find_checkpoint(run))
    if learner.config.system != 'world_models':
        raise InputError(f'run {run}: expected one of system world_models, got {learner.config.system}')
    if not learner.agent.firsts:
        raise InputError(f'run {run}: expected a checkpoint that has seen an episode begin, got one after '
                         f'{learner.updates} updates')
    return learner


class Simulators:
    """Several simulators that score the policy of a learner as it is.

    Args:
        learner: of system world_models.
        count: simulators that play side by side.
        seed: of initial states.

    Attributes:
        episode_steps: actions of an episode that nothing but the time limit ends.
    """

    def __init__(self, learner: Learner, count: int, seed: int):
        spec = learner.spec
        self._exporter = Exporter(learner.policy, spec)
        self._players = [Player(spec.name, learner.config.env, spec.action_repeat, seed + n)
                         for n in range(count)]
        self.episode_steps = self._players[0].episode_steps
        self._folder = tempfile.TemporaryDirectory(prefix='dreamer-')
        self._versions = 0

    def play(self, episodes: int) -> List[float]:
        """Returns of deterministic episodes."""
        self._versions += 1
        path = Path(self._folder.name) / f'{self._versions}.onnx'
        self._exporter.write(path, {'version': self._versions})
        returns = play_side_by_side(self._players, episodes, path)
        path.unlink()
        return returns

    def play_random(self, episodes: int) -> List[float]:
        """Returns of episodes with actions at random; before any other episode."""
        return play_side_by_side(self._players, episodes, None)

    def close(self) -> None:
        """End the simulators."""
        for player in self._players:
            player.close()
        self._folder.cleanup()


def evolve(run: Path, place: str, temperature: Optional[float], generations: int, seed: int,
           report: Callable[[str], None]) -> Path:
    """Evolve a controller for a run's V and M from nothing, and add it to the run's policies.

    In a dream the fitness is what `controller` in the run's config says. In the simulator it is the mean
    return of `controller.rollouts` deterministic episodes, less the same decay.

    Args:
        run: a run directory.
        place: `dream` or `simulator`.
        temperature: of the dreams; None takes `memory.temperature` of the run.
        generations: of CMA-ES.
        seed: of all sampling.
        report: gets a line now and then.

    Returns:
        the policy file.

    Raises:
        InputError: no run of World Models with a checkpoint, or somebody trains in it.
    """
    learner = open_world_models(run)
    agent, settings = learner.agent, learner.config.controller
    temperature = learner.config.memory.temperature if temperature is None else temperature
    directory = RunDirectory(run, learner.config, learner.spec)
    try:
        torch.manual_seed(seed)
        agent.evolution.reset()
        simulators = None
        if place == 'simulator':
            simulators = Simulators(learner, min(settings.rollouts, len(os.sched_getaffinity(0))), seed)
        try:
            for generation in range(1, generations + 1):
                if simulators is None:
                    values = agent.evolve(None, temperature)
                    mean, best = float(values['dream_fitness']), float(values['best_dream_fitness'])
                else:
                    fitness = simulated_generation(learner, simulators)
                    mean, best = float(fitness.mean()), float(fitness.max())
                if generation % max(1, generations // 10) == 0 or generation == generations:
                    report(f'generation {generation} of {generations}: fitness {mean:.1f}, best {best:.1f}')
        finally:
            if simulators is not None:
                simulators.close()
        version = directory.newest_policy_version() + 1
        where = 'simulator' if place == 'simulator' else f'dream at temperature {temperature:g}'
        metadata = learner.policy_metadata(version, evolved=where)
        manifest = directory.write_policy(
            version, lambda path: Exporter(learner.policy, learner.spec).write(path, metadata))
        return Path(manifest.uri)
    finally:
        directory.close()


def simulated_generation(learner: Learner, simulators: Simulators) -> Tensor:
    """One generation of CMA-ES with fitness from the simulator [population]; C becomes the new mean."""
    agent, settings = learner.agent, learner.config.controller

    def fitness(candidates: Tensor) -> Tensor:
        values = []
        for candidate in candidates:
            agent.controller.set(candidate)
            returns = torch.tensor(simulators.play(settings.rollouts))
            values.append(returns.mean() - settings.decay * candidate.square().mean().cpu())
        return torch.stack(values)

    values = agent.evolution.step(fitness)
    agent.controller.set(agent.evolution.mean.float())
    return values
