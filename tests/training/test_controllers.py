"""Evolving controllers for a trained run: in its dreams, in the simulator, and over temperatures."""

import json

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from dreamer_ros import simulation
from dreamer_ros.agents.cma_es import CMAES
from dreamer_ros.cli.main import main
from dreamer_ros.config import load_preset
from dreamer_ros.errors import InputError
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.training.controllers import Simulators, evolve, open_world_models, simulated_generation
from dreamer_ros.training.learner import Learner
from dreamer_ros.training.run_directory import RunDirectory, latest_policy

REPEAT = 100  # an episode of ten actions
SMALL = (
    'env.image_size=32',
    'conv.depth=2',
    'mlp.units=9',
    'vae.latent=3',
    'memory.units=6',
    'controller.population=4',
    'controller.rollouts=2',
    'controller.horizon=5',
    'controller.decay=0.1',
    'controller.every=0',
    f'env.action_repeat={{default: {REPEAT}}}',
)


@pytest.fixture(scope='module')
def spec():
    environment = simulation.make('cartpole_balance', image_size=(32, 32), action_repeat=REPEAT)
    yield environment.spec
    environment.close()


def trained_run(path, spec, preset='world_models_cpu', overrides=SMALL, updates=2):
    """A run directory whose checkpoint has made some updates on made-up batches."""
    config = load_preset(preset, overrides)
    learner, rng = Learner(config, spec, 'cpu', 0), np.random.default_rng(0)
    shape = (4, 8)
    flags = {key: np.zeros(shape, bool) for key in ('is_first', 'is_last', 'is_terminal', 'is_human')}
    flags['is_first'][:, 0] = True
    for _ in range(updates):
        learner.update(
            {
                'image': rng.integers(0, 256, (*shape, 32, 32, 3), np.uint8),
                'vector': np.zeros((*shape, 0), np.float32),
                'action': rng.uniform(-1, 1, (*shape, 1)).astype(np.float32),
                'reward': rng.uniform(0, 1, shape).astype(np.float32),
                **flags,
            }
        )
    directory = RunDirectory(path, config, spec)
    directory.save_checkpoint(learner.updates, learner.save, {})
    directory.close()
    return path


@pytest.mark.parametrize('place', ['dream', 'simulator'])
def test_evolved_controller_becomes_a_policy_of_the_run(place, tmp_path, spec, capsys):
    run = trained_run(tmp_path / 'run', spec, overrides=(*SMALL, 'controller.rollouts=1'))
    command = ['evolve', str(run), '--in', place, '--generations', '2', '--seed', '7']
    assert main([*command, '--temperature', '1.15']) == 0
    assert main([*command, '--temperature', '0.4']) == 0
    printed, shown = capsys.readouterr()
    assert str(latest_policy(run)) in printed
    assert shown.count('8/8 candidates, generation 2: fitness') >= 2
    runners = [PolicyRunner(run / 'policies' / f'policy_{n:06d}.onnx', spec) for n in (1, 2)]
    assert [runner.version for runner in runners] == [1, 2]
    where = 'simulator' if place == 'simulator' else 'dream at temperature 1.15'
    assert runners[0].metadata['evolved'] == where and runners[0].metadata['system'] == 'world_models'
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    first, second = (runner.act(image, None, True, False) for runner in runners)
    assert first.any()
    assert np.array_equal(first, second) == (place == 'simulator')  # which knows no temperature


def test_what_has_evolved_before_ctrl_c_is_kept(tmp_path, spec, monkeypatch, capsys):
    run = trained_run(tmp_path / 'run', spec)

    def interrupted(after):
        def step(self, fitness, original=CMAES.step):
            if int(self.generation) == after:
                raise KeyboardInterrupt
            return original(self, fitness)

        return step

    monkeypatch.setattr(CMAES, 'step', interrupted(2))
    evolve(run, 'dream', None, 5, 0)
    assert 'stopped after 2 of 5 generations' in capsys.readouterr().err
    assert PolicyRunner(run / 'policies' / 'policy_000001.onnx', spec).version == 1
    monkeypatch.undo()
    monkeypatch.setattr(CMAES, 'step', interrupted(0))
    with pytest.raises(KeyboardInterrupt):
        evolve(run, 'dream', None, 5, 0)
    assert latest_policy(run).name == 'policy_000001.onnx'


def test_fitness_in_the_simulator_is_the_return_of_the_candidate(tmp_path, spec, monkeypatch):
    learner = open_world_models(trained_run(tmp_path / 'run', spec))
    seen, agent = [], learner.agent
    simulators = Simulators(learner, 'cartpole_balance', learner.config.controller.rollouts, seed=3)
    try:
        assert simulators.episode_steps == 10
        original = simulators.play

        def play():
            seen.append((agent.controller.weight.clone(), original()))
            return seen[-1][1]

        monkeypatch.setattr(simulators, 'play', play)
        fitness = simulated_generation(learner, simulators, lambda: None)
    finally:
        simulators.close()
    assert len({tuple(weight.flatten().tolist()) for weight, _ in seen}) == 4  # a controller each
    assert all(len(returns) == 2 and 0 < min(returns) <= max(returns) <= 1000 for _, returns in seen)
    means = torch.tensor([np.mean(returns) for _, returns in seen])
    assert (means - fitness > 0).all() and (means - fitness < 0.1).all()  # less a decay of 0.1 times 0.1²
    assert int(agent.evolution.generation) == 1


def test_temperature_experiment(tmp_path, spec, capsys):
    run = trained_run(tmp_path / 'run', spec)
    command = ['temperature', str(run), '--values', '0.1', '1.3', '--generations', '2', '--episodes', '3']
    assert main(command) == 0
    shown = capsys.readouterr().err
    assert 'temperature 0.1: ' in shown and 'temperature 1.3: ' in shown and '4/4 generations' in shown
    result = json.loads((run / 'temperature.json').read_text())
    assert [row['temperature'] for row in result['rows']] == [0.1, 1.3]
    assert (result['task'], result['episodes'], result['generations']) == ('cartpole_balance', 3, 2)
    scores = [result['random'], *(row[key] for row in result['rows'] for key in ('dream', 'simulator'))]
    assert all(np.isfinite(score['mean']) and score['std'] >= 0 for score in scores)
    assert all(0 < row['simulator']['mean'] <= 1000 for row in result['rows'])
    assert result['rows'][0]['dream'] != result['rows'][1]['dream']
    assert iio.imread(run / 'temperature.png').shape[0] > 100


def test_what_cannot_be_evolved_is_told(tmp_path, spec):
    with pytest.raises(InputError, match='expected a run directory with a checkpoint'):
        open_world_models(tmp_path)
    with pytest.raises(InputError, match='has seen an episode begin, got one after 0 updates'):
        open_world_models(trained_run(tmp_path / 'untrained', spec, updates=0))
    small = ('env.image_size=32', f'env.action_repeat={{default: {REPEAT}}}', 'schedule.overlap=false')
    other = trained_run(tmp_path / 'dreamer', spec, 'cpu', small, updates=0)
    with pytest.raises(InputError, match='expected one of system world_models, got dreamer'):
        open_world_models(other)
    for wrong in ('0', '-1', 'inf', 'hot'):
        with pytest.raises(InputError, match='temperature: expected a (finite )?number'):
            main(['evolve', str(tmp_path), '--temperature', wrong])
