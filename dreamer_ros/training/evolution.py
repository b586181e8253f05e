"""The controller of a World Models run, evolved again: in dreams of any temperature, or in the simulator."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from dreamer_ros.agents.world_models_2018 import WorldModels
from dreamer_ros.errors import InputError
from dreamer_ros.policy.export import Exporter
from dreamer_ros.training.checkpoint import find_checkpoint
from dreamer_ros.training.learner import Learner
from dreamer_ros.training.progress import count_bar
from dreamer_ros.training.rollout import Player, play_side_by_side
from dreamer_ros.training.run_directory import RunDirectory


def open_world_models(run: Path) -> Learner:
    """The learner of a run's latest checkpoint.

    Raises:
        InputError: there is none, it is of another system, or it has seen no episode.
    """
    learner = Learner.open(find_checkpoint(run))
    if learner.config.system != 'world_models':
        raise InputError(f'run {run}: expected one of system world_models, got {learner.config.system}')
    if not learner.agent.firsts:
        raise InputError(
            f'run {run}: expected a checkpoint that has seen an episode begin, got one after {learner.updates} updates'
        )
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
        self._players = [Player(spec.name, learner.config.env, spec.action_repeat, seed + n) for n in range(count)]
        self.episode_steps = self._players[0].episode_steps
        self._folder = tempfile.TemporaryDirectory(prefix='dreamer-')
        self._versions = 0

    def play(self, episodes: int) -> list[float]:
        """Returns of deterministic episodes."""
        self._versions += 1
        path = Path(self._folder.name) / f'{self._versions}.onnx'
        self._exporter.write(path, {'version': self._versions})
        returns = play_side_by_side(self._players, episodes, path)
        path.unlink()
        return returns

    def play_random(self, episodes: int) -> list[float]:
        """Returns of episodes with actions at random; before any other episode."""
        return play_side_by_side(self._players, episodes, None)

    def close(self) -> None:
        """End the simulators."""
        for player in self._players:
            player.close()
        self._folder.cleanup()


def evolve(run: Path, place: str, temperature: float | None, generations: int, seed: int) -> Path:
    """Evolve a controller for a run's V and M from nothing, and add it to the run's policies.

    Shows a bar. Ctrl-C ends the evolution after the first generation or later with what it has reached.

    In a dream the fitness is what `controller` in the run's config says. In the simulator it is the mean
    return of `controller.rollouts` deterministic episodes, less the same decay.

    Args:
        run: a run directory.
        place: `dream` or `simulator`.
        temperature: of the dreams; None takes `memory.temperature` of the run.
        generations: of CMA-ES.
        seed: of all sampling.

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
        population = agent.evolution.population
        bar = count_bar(generations * population, 'candidates')
        try:
            for _ in range(generations):
                if simulators is None:
                    values = agent.evolve(None, temperature)
                    reached = _reached(agent, values['dream_fitness'], values['best_dream_fitness'])
                    bar.set_postfix_str(reached, refresh=False)
                    bar.update(population)
                else:
                    fitness = simulated_generation(learner, simulators, bar.update)
                    reached = _reached(agent, fitness.mean(), fitness.max())
                    bar.set_postfix_str(reached)
        except KeyboardInterrupt:
            if not agent.evolution.generation:
                raise
            agent.controller.set(agent.evolution.mean.float())  # a candidate may have been playing
            bar.write(f'stopped after {int(agent.evolution.generation)} of {generations} generations', file=sys.stderr)
        finally:
            bar.close()
            if simulators is not None:
                simulators.close()
        version = directory.newest_policy_version() + 1
        where = 'simulator' if place == 'simulator' else f'dream at temperature {temperature:g}'
        metadata = learner.policy_metadata(version, evolved=where)
        manifest = directory.write_policy(
            version, lambda path: Exporter(learner.policy, learner.spec).write(path, metadata)
        )
        return Path(manifest.uri)
    finally:
        directory.close()


def _reached(agent: WorldModels, mean: Tensor, best: Tensor) -> str:
    return f'generation {int(agent.evolution.generation)}: fitness {float(mean):.1f}, best {float(best):.1f}'


def simulated_generation(learner: Learner, simulators: Simulators, scored: Callable[[], None]) -> Tensor:
    """One generation of CMA-ES with fitness from the simulator [population]; C becomes the new mean.

    Args:
        scored: called after each candidate.
    """
    agent, settings = learner.agent, learner.config.controller

    def fitness(candidates: Tensor) -> Tensor:
        values = []
        for candidate in candidates:
            agent.controller.set(candidate)
            returns = torch.tensor(simulators.play(settings.rollouts))
            values.append(returns.mean() - settings.decay * candidate.square().mean().cpu())
            scored()
        return torch.stack(values)

    values = agent.evolution.step(fitness)
    agent.controller.set(agent.evolution.mean.float())
    return values
