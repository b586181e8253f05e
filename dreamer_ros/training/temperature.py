"""The temperature experiment of World Models: a controller's score in its dream and in the simulator.

At a low temperature a dream is nearly certain, and a controller learns to use the model's mistakes: its
score in the dream is high, in the simulator low. A higher temperature makes the dream harder and such tricks
useless, until it is too random to learn in (arXiv 1803.10122, table 2).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dreamer_ros.files import write_file
from dreamer_ros.training.evolution import Simulators, open_world_models
from dreamer_ros.training.progress import count_bar
from dreamer_ros.viewing.figures import new_figure, save_figure

FILE, PICTURE = 'temperature.json', 'temperature.png'


def measure(run: Path, values: Sequence[float], generations: int, episodes: int, seed: int) -> list[Path]:
    """Evolve a controller in the dream at each temperature, and score it in both worlds. Shows a bar.

    Scores are returns of whole episodes, predicted by the dream at the same temperature and earned in the
    simulator by the deterministic policy. Every temperature starts from the same seed and first images.

    Args:
        run: a run directory of system world_models, with a checkpoint.
        values: temperatures.
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
    simulators = Simulators(learner, min(episodes, len(os.sched_getaffinity(0))), seed)
    bar = count_bar(len(values) * generations, 'generations')
    try:
        random = _score(simulators.play_random(episodes))
        for temperature in values:
            torch.manual_seed(seed)
            agent.evolution.reset()
            for _ in range(generations):
                agent.evolve(None, temperature)
                bar.set_postfix_str(f'temperature {temperature:g}', refresh=False)
                bar.update()
            noise = agent.dream_noise(episodes, simulators.episode_steps)
            controller = agent.evolution.mean.float()[None]
            dreamed = agent.dream(controller, agent.starts(None, episodes), temperature, noise)[0]
            rows.append(
                {
                    'temperature': temperature,
                    'dream': _score(dreamed.tolist()),
                    'simulator': _score(simulators.play(episodes)),
                }
            )
            bar.write(_line(rows[-1]), file=sys.stderr)
    finally:
        bar.close()
        simulators.close()
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
    write_file(run / FILE, json.dumps(result, indent=1) + '\n')
    return [run / FILE, plot(result, run / PICTURE)]


def _score(returns: list[float]) -> dict:
    return {'mean': float(np.mean(returns)), 'std': float(np.std(returns))}


def _line(row: dict) -> str:
    dream, real = row['dream'], row['simulator']
    return (
        f'temperature {row["temperature"]:g}: {dream["mean"]:.1f} ± {dream["std"]:.1f} in the dream, '
        f'{real["mean"]:.1f} ± {real["std"]:.1f} in the simulator'
    )


def plot(result: dict, path: Path) -> Path:
    """Draw both scores over the temperature, with one standard deviation over episodes."""
    figure = new_figure(720, 480, dpi=120)
    axis = figure.subplots()
    temperatures = [row['temperature'] for row in result['rows']]
    for key, colour in (('dream', 'tab:purple'), ('simulator', 'tab:orange')):
        scores = [row[key] for row in result['rows']]
        means, deviations = ([score[part] for score in scores] for part in ('mean', 'std'))
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
