"""Evolves the controller of a World Models run again: in dreams of any temperature, or in the simulator."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dreamer_ros.errors import InputError
from dreamer_ros.files import write_file
from dreamer_ros.policy.export import Exporter
from dreamer_ros.training.checkpoint import find_checkpoint
from dreamer_ros.training.learner import Learner
from dreamer_ros.training.progress import count_bar
from dreamer_ros.training.rollout import Player, play_side_by_side
from dreamer_ros.training.run_directory import RunDirectory, saved_task
from dreamer_ros.viewing.figures import new_figure, save_figure


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


def _task(run: Path, learner: Learner) -> str:
    return saved_task(run) or learner.spec.name


class Simulators:
    """Several simulators that score the policy of a learner as it is.

    Args:
        learner: of system world_models.
        task: what it has learnt.
        episodes: of each score; as many simulators play side by side as there are cores for them.
        seed: of initial states.

    Attributes:
        episode_steps: actions of an episode that nothing but the time limit ends.
    """

    def __init__(self, learner: Learner, task: str, episodes: int, seed: int):
        spec, count = learner.spec, min(episodes, len(os.sched_getaffinity(0)))
        self._exporter, self._episodes = Exporter(learner.policy, spec), episodes
        options = spec.simulator_options()
        self._players = [Player(task, seed + n, **options) for n in range(count)]
        self.episode_steps = self._players[0].episode_steps
        self._folder = tempfile.TemporaryDirectory(prefix='dreamer-')
        self._versions = 0

    def play(self) -> list[float]:
        """Returns of deterministic episodes."""
        self._versions += 1
        path = Path(self._folder.name) / f'{self._versions}.onnx'
        self._exporter.write(path, {'version': self._versions})
        returns = play_side_by_side(self._players, self._episodes, path)
        path.unlink()
        return returns

    def play_random(self) -> list[float]:
        """Returns of episodes with actions at random; before any other episode."""
        return play_side_by_side(self._players, self._episodes, None)

    def close(self) -> None:
        """End the simulators."""
        for player in self._players:
            player.close()
        self._folder.cleanup()


def simulated_generation(learner: Learner, simulators: Simulators, scored: Callable[[], object]) -> Tensor:
    """One generation of CMA-ES with fitness from the simulator [population]; C becomes the new mean.

    Args:
        scored: called after each candidate.
    """
    agent, decay = learner.agent, learner.config.controller.decay

    def fitness(candidates: Tensor) -> Tensor:
        values = []
        for candidate in candidates:
            agent.controller.set(candidate)
            values.append(np.mean(simulators.play()) - decay * float(candidate.square().mean()))
            scored()
        return torch.tensor(values, dtype=torch.float32)

    values = agent.evolution.step(fitness)
    agent.controller.set(agent.evolution.mean.float())
    return values


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
        The policy file.

    Raises:
        InputError: no run of World Models with a checkpoint, or somebody trains in it.
    """
    learner = open_world_models(run)
    agent = learner.agent
    temperature = learner.config.memory.temperature if temperature is None else temperature
    with contextlib.ExitStack() as open_now:
        directory = open_now.enter_context(contextlib.closing(RunDirectory(run, learner.config, learner.spec)))
        torch.manual_seed(seed)
        agent.evolution.reset()
        population = agent.evolution.population
        if place == 'simulator':
            simulators = Simulators(learner, _task(run, learner), learner.config.controller.rollouts, seed)
            open_now.callback(simulators.close)
        bar = open_now.enter_context(count_bar(generations * population, 'candidates'))
        try:
            for number in range(1, generations + 1):
                if place == 'simulator':
                    fitness = simulated_generation(learner, simulators, bar.update)
                    mean, best = fitness.mean(), fitness.max()
                else:
                    values = agent.evolve(None, temperature)
                    mean, best = values['dream_fitness'], values['best_dream_fitness']
                    bar.update(population)
                bar.set_postfix_str(f'generation {number}: fitness {float(mean):.1f}, best {float(best):.1f}')
        except KeyboardInterrupt:
            if not agent.evolution.generation:
                raise
            agent.controller.set(agent.evolution.mean.float())  # a candidate may have been playing
            done = int(agent.evolution.generation)
            bar.write(f'stopped after {done} of {generations} generations', file=sys.stderr)
        where = 'simulator' if place == 'simulator' else f'dream at temperature {temperature:g}'
        version = directory.newest_policy_version() + 1
        metadata = learner.policy_metadata(version, evolved=where)
        exporter = Exporter(learner.policy, learner.spec)
        return Path(directory.write_policy(version, lambda path: exporter.write(path, metadata)).uri)


def compare_temperatures(
    run: Path, temperatures: Sequence[float], generations: int, episodes: int, seed: int
) -> list[Path]:
    """Evolve a controller in the dream at each temperature, and score it in the dream and in the simulator.

    At a low temperature a dream is nearly certain, and a controller learns to use the model's mistakes: its score in
    the dream is high, in the simulator low. A higher temperature makes the dream harder and such tricks useless, until
    it is too random to learn in (arXiv 1803.10122, table 2).

    Scores are returns of whole episodes, predicted by the dream at the same temperature and earned in the simulator
    by the deterministic policy. Every temperature starts from the same seed and first images. Shows a bar.

    Args:
        run: a run directory of system world_models, with a checkpoint.
        temperatures: of the dreams.
        generations: of CMA-ES, for each.
        episodes: of each score.
        seed: of all sampling.

    Returns:
        temperature.json and temperature.png in the run directory.

    Raises:
        InputError: no run of World Models with a checkpoint.
    """
    learner = open_world_models(run)
    agent, rows = learner.agent, []
    with contextlib.ExitStack() as open_now:
        simulators = Simulators(learner, _task(run, learner), episodes, seed)
        open_now.callback(simulators.close)
        bar = open_now.enter_context(count_bar(len(temperatures) * generations, 'generations'))
        random = _score(simulators.play_random())
        for temperature in temperatures:
            torch.manual_seed(seed)
            agent.evolution.reset()
            for _ in range(generations):
                agent.evolve(None, temperature)
                bar.update()
            noise = agent.dream_noise(episodes, simulators.episode_steps)
            controller = agent.evolution.mean.float()[None]
            dreamed = agent.dream(controller, agent.starts(None, episodes), temperature, noise)[0]
            dream, real = _score(dreamed.tolist()), _score(simulators.play())
            scored = {'dream': dream, 'simulator': real}
            rows.append({'temperature': temperature, **scored})
            scores = (f'{s["mean"]:.1f} ± {s["std"]:.1f} in the {place}' for place, s in scored.items())
            bar.write(f'temperature {temperature:g}: {", ".join(scores)}', file=sys.stderr)
    result = {
        'task': learner.spec.name,
        'preset': learner.config.preset,
        'updates': learner.updates,
        'generations': generations,
        'episodes': episodes,
        'seed': seed,
        'random': random,
        'rows': rows,
    }
    write_file(run / 'temperature.json', json.dumps(result, indent=1) + '\n')
    return [run / 'temperature.json', _plot(result, run / 'temperature.png')]


def _score(returns: list[float]) -> dict:
    return {'mean': float(np.mean(returns)), 'std': float(np.std(returns))}


def _plot(result: dict, path: Path) -> Path:
    """Both scores over the temperature, with one standard deviation over episodes."""
    figure = new_figure(720, 480, dpi=120)
    axis = figure.subplots()
    temperatures = [row['temperature'] for row in result['rows']]
    for key, colour in (('dream', 'tab:purple'), ('simulator', 'tab:orange')):
        means, deviations = ([row[key][part] for row in result['rows']] for part in ('mean', 'std'))
        axis.errorbar(temperatures, means, deviations, fmt='o-', capsize=3, color=colour, label=f'score in the {key}')
    axis.axhline(result['random']['mean'], color='0.6', linestyle='--', label='random, in the simulator')
    axis.set(
        xlabel='temperature of the dream it evolved in',
        ylabel='episode return',
        title=f'{result["task"]}, {result["preset"]}, {result["updates"]} updates',
    )
    axis.grid(alpha=0.3)
    axis.legend(fontsize='small')
    return save_figure(figure, path)
