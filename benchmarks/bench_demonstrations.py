"""What demonstrations are worth: a task learnt with and without ten of them.

A released policy plays as the person. Its episodes, marked `human`, are what the first run begins with. Both runs learn
the task over ROS from the same seed; the output tells the return of each evaluation, by env steps.

    python -m benchmarks.bench_demonstrations --steps 200000
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from dreamer_ros import simulation
from dreamer_ros.config import load_preset
from dreamer_ros.episodes.episode import Episode
from dreamer_ros.formats.npz import ARRAYS, write_arrays
from dreamer_ros.policy.loader import policy_file
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.training.rollout import vector_of

# Joint states instead of images: an update takes a fraction of the time, and what is compared is the same.
COMMON = ('schedule.overlap=false', 'env.inputs=vector', 'loss.representation=reconstruction')
SHOWN = ('replay.demonstrations=0.25', 'actor.imitation=1', 'actor.imitation_updates=3000', 'replay.validation=0')


def record(task: str, policy: str, overrides: tuple[str, ...], episodes: int, folder: Path) -> float:
    """Have a policy that sees images play, and write what another robot perceives; the mean return."""
    config = load_preset('cpu', overrides)
    runner = PolicyRunner(policy_file(policy), seed=0)
    options = {'image_size': runner.spec.image_size, 'action_repeat': config.action_repeat_for(task), 'seed': 10**6}
    environment = simulation.make(task, inputs='both', **options)
    spec = dataclasses.replace(environment.spec, image_size=(0, 0), cameras=())
    folder.mkdir(parents=True, exist_ok=True)
    returns = []
    try:
        for number in range(episodes):
            seen, actions = [environment.reset()], []
            while not seen[-1].is_last:
                actions.append(runner.act(seen[-1].image, None, not actions, explore=False))
                seen.append(environment.step(actions[-1]))
            vector = np.stack([vector_of(each, environment.spec) for each in seen])
            reward = np.array([each.reward for each in seen[1:]])
            stamps = (1 + np.arange(len(seen)) + 10_000 * number) * round(spec.control_period * 1e9)
            episode = Episode.of_transitions(
                None, vector, np.stack(actions), reward, stamps, True, seen[-1].is_terminal
            )
            episode.meta = {'mode': 'human'}
            write_arrays(folder / f'{number:03d}{ARRAYS}', episode, spec)
            returns.append(float(reward.sum()))
    finally:
        environment.close()
    return float(np.mean(returns))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--task', default='cartpole_swingup_sparse')
    parser.add_argument('--policy', default='cartpole_swingup')
    parser.add_argument('--demonstrations', type=int, default=10)
    parser.add_argument('--steps', type=int, default=200_000)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--folder', type=Path, default=Path('runs/demonstrations'))
    parser.add_argument('--override', action='append', default=[])
    given = parser.parse_args()
    common = (*COMMON, *given.override)
    shown = given.folder / 'shown'
    mean = record(given.task, given.policy, common, given.demonstrations, shown)
    print(f'{given.demonstrations} demonstrations, mean return {mean:.1f}', flush=True)
    for name, overrides in (('with', (*common, *SHOWN, f'replay.bags={shown.absolute()}')), ('without', common)):
        logdir = given.folder / name
        command = [sys.executable, '-m', 'dreamer_ros.cli', 'train', given.task, '--logdir', str(logdir)]
        command += ['--steps', str(given.steps), '--seed', str(given.seed), '--evaluate-every', '5', '--episodes', '0']
        command += ['--override', *overrides]
        subprocess.run(command, check=True)
        rows = [json.loads(line) for line in (logdir / 'metrics.jsonl').read_text().splitlines()]
        found = [(row['step'], row['return_evaluate']) for row in rows if 'return_evaluate' in row]
        print(name, ', '.join(f'{step}: {value:.0f}' for step, value in found), flush=True)


if __name__ == '__main__':
    main()
