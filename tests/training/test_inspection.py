"""A trained agent looked at: its numbers against slow recomputation, its files, and what it refuses."""

from __future__ import annotations

import dataclasses
import json

import imageio.v3 as iio
import numpy as np
import pytest
import torch

from dreamer_ros.cli.main import main
from dreamer_ros.config import load_preset
from dreamer_ros.episodes.episode import Episode, contract_data
from dreamer_ros.errors import InputError
from dreamer_ros.nets.rssm import State
from dreamer_ros.training import process
from dreamer_ros.training.checkpoint import find_checkpoint, read_checkpoint, write_checkpoint
from dreamer_ros.training.inspection import discounted_returns, inspect_episode, inspection_film, write_inspection
from dreamer_ros.training.learner import Learner
from tests.agents import small
from tests.episodes import bags
from tests.episodes.robot_bags import contract
from tests.training.test_loop import CONFIG, ROBOT, write_bags

LENGTH = 70  # more than the encoder and decoder take at a time


def recorded(rng, spec, length=LENGTH, terminal=False) -> Episode:
    """Random steps of a robot, from a reset to an end."""
    rows = np.arange(length)
    return Episode(
        image=rng.integers(0, 256, (length, *spec.image_size, spec.channels), np.uint8),
        vector=rng.normal(size=(length, len(spec.vector))).astype(np.float32),
        action=rng.uniform(-1, 1, (length, len(spec.action))).astype(np.float32),
        reward=rng.normal(size=length).astype(np.float32),
        is_first=rows == 0,
        is_last=rows == length - 1,
        is_terminal=(rows == length - 1) & terminal,
        stamp=rows * 10**8,
    )


def made(system, seed, spec, *overrides) -> Learner:
    """A learner on the CPU; that of the usual small robot has heads far from zero."""
    learner = Learner(small.config(system, *overrides), spec, 'cpu', seed)
    if spec == small.robot():
        learner.agent.load_state_dict(small.agent(system, seed=seed).state_dict())
    return learner


@pytest.mark.parametrize('system', ['v1', 'v2', 'v3'])
@torch.no_grad()
def test_rewards_and_values_are_those_of_the_running_policy(system, rng, seed, monkeypatch):
    context, spec = 5, small.robot()
    learner, episode = made(system, seed, spec), recorded(rng, spec)
    model, behaviour, policy = learner.agent.model, learner.agent.behaviour, learner.policy
    latent = model.rssm.latent
    quiet = lambda *shape, device=None: latent.noise_from_normal(torch.zeros(*shape, latent.size))  # noqa: E731
    monkeypatch.setattr(latent, 'noise', quiet)
    seen = inspect_episode(learner, episode, context)

    def look(deter, stoch):
        feature = torch.cat([deter, stoch], -1)
        image = model.decode(State(deter, stoch))[0].numpy().astype(float)
        error = np.mean((image - episode.image[t].astype(float)) ** 2) / 255**2
        return error, float(model.predict_reward(feature)), float(behaviour.value(feature))

    state, dreamed, filtered, predicted = torch.zeros(1, policy.state_size), None, [], []
    for t in range(LENGTH):
        if t >= context:
            action = torch.from_numpy(episode.action[None, t - 1])
            dreamed = model.rssm.imagine_step(dreamed, action, quiet(1))
        if t:  # the action that was recorded, not the one this policy would take
            state[:, -small.ACTIONS :] = torch.from_numpy(episode.action[t - 1])
        is_first = torch.from_numpy(episode.is_first[None, t])
        image, noise = torch.from_numpy(episode.image[None, t]), torch.zeros(1, policy.noise_size)
        _, state = policy(image, is_first, state, noise)
        deter, stoch, _ = state.split(policy.sizes, -1)
        if t < context:
            dreamed = State(deter, stoch)
        filtered.append(look(deter, stoch))
        predicted.append(look(*dreamed))
    for names, expected in (
        (('reconstruction_error', 'filtered_reward', 'value'), filtered),
        (('prediction_error', 'predicted_reward'), predicted),
    ):
        for name, values in zip(names, np.transpose(expected)):
            np.testing.assert_allclose(seen.numbers[name], values, rtol=2e-3, atol=2e-3, err_msg=name)
    assert not np.allclose(seen.numbers['filtered_reward'][context:], seen.numbers['predicted_reward'][context:])


@pytest.mark.parametrize('system', ['v1', 'v3'])
@pytest.mark.parametrize('terminal', [False, True])
def test_returns_mean_what_the_value_means(system, terminal, rng, seed):
    spec = small.robot()
    learner, episode = made(system, seed, spec), recorded(rng, spec, 20, terminal)
    numbers = inspect_episode(learner, episode).numbers
    gamma = learner.config.imagination.discount
    own = 0 if system == 'v1' else 1  # Dreamer's value counts the reward of arriving at its own state
    for t in range(20):
        rewards = episode.reward[t + own :].astype(float)
        expected = sum(gamma**k * reward for k, reward in enumerate(rewards))
        assert numbers['discounted_return'][t] == pytest.approx(expected, abs=1e-5)
        if not terminal:  # the last step's value instead of what it gained
            rewards = episode.reward[t + own : 20 - 1 + own].astype(float)
            expected = sum(gamma**k * reward for k, reward in enumerate(rewards))
            expected += gamma ** (19 - t) * numbers['value'][-1]
        assert numbers['bootstrapped_return'][t] == pytest.approx(expected, abs=1e-5)


def test_discounted_returns_of_one_step():
    assert discounted_returns(np.array([3.0]), 0.9, 7.0, True).tolist() == [7.0]


@pytest.mark.parametrize('preset', ['planet_cpu', 'world_models_cpu'])
def test_systems_without_a_value_leave_it_out(preset, rng, tmp_path):
    config = load_preset(preset, ('env.image_size=32',))
    spec = small.robot()
    inspection = inspect_episode(Learner(config, spec, 'cpu'), recorded(rng, spec, 8))
    assert set(inspection.numbers) == {
        'reconstruction_error',
        'prediction_error',
        'reward',
        'filtered_reward',
        'predicted_reward',
    }
    assert all(np.isfinite(values).all() and len(values) == 8 for values in inspection.numbers.values())
    data = json.loads(write_inspection(inspection, tmp_path, 'title', {})[0].read_text())
    assert 'value' not in data and 'discounted_return' not in data


def test_film_shows_the_episode_over_curves_with_a_moving_cursor(rng, seed):
    spec = small.robot(cameras=('left', 'right'))
    learner, episode = made('v2', seed, spec), recorded(rng, spec, 12)
    film = inspection_film(inspect_episode(learner, episode))
    scale = 8
    assert film.dtype == np.uint8 and film.shape[0] == 12 and film.shape[1] % 2 == film.shape[2] % 2 == 0
    assert film.shape[2] == 3 * 2 * 32 * scale
    small_film = film[:, : 32 * scale : scale, : 2 * 32 * scale : scale]
    assert np.array_equal(small_film[:, :, :32], episode.image[..., :3])
    assert np.array_equal(small_film[:, :, 32:], episode.image[..., 3:])
    below = film[:, 32 * scale :].astype(int)
    cursors = [np.flatnonzero((frame == [214, 39, 40]).all(-1).sum(0) > 100).mean() for frame in below]
    assert (np.diff(cursors) > 10).all()


def test_a_robot_without_cameras_has_no_film(rng, seed, tmp_path):
    spec = small.robot(image_size=(0, 0), cameras=(), vector=('hinge/position',))
    inspection = inspect_episode(made('v3', seed, spec, 'env.inputs=vector'), recorded(rng, spec, 12))
    assert inspection.film is None and 'prediction_error' not in inspection.numbers
    paths = write_inspection(inspection, tmp_path / 'out', 'title', {})
    assert [path.name for path in paths] == ['dream.json', 'dream.png'] and all(path.exists() for path in paths)


def test_rewards_that_nobody_knows_are_no_zeros(rng, seed, tmp_path):
    """Those of a robot whose contract has none."""
    spec = small.robot()
    episode = recorded(rng, spec, 12)
    episode.reward[:] = 0.0
    learner = made('v3', seed, spec)
    assert {'reward', 'discounted_return'} <= set(inspect_episode(learner, episode).numbers)
    episode.meta.update(contract_data(contract()))
    inspection = inspect_episode(learner, episode)
    assert set(inspection.numbers) == {
        'reconstruction_error',
        'prediction_error',
        'filtered_reward',
        'predicted_reward',
        'value',
    }
    for path in write_inspection(inspection, tmp_path / 'out', 'title', {}):
        assert path.stat().st_size
    assert json.loads((tmp_path / 'out' / 'dream.json').read_text())['steps'] == 12


def test_an_episode_of_one_step_is_refused(rng, seed):
    spec = small.robot()
    with pytest.raises(InputError, match='at least 2 steps to predict, got 1'):
        inspect_episode(made('v3', seed, spec), recorded(rng, spec, 1))


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A run directory with one checkpoint, and a bag of its robot."""
    for name in ('prepare', 'configure_torch'):  # for the whole process, which is that of the tests
        monkeypatch.setattr(process, name, lambda *_: None)
    Learner(CONFIG, ROBOT, 'cpu').save(tmp_path / 'checkpoints' / '000000001')
    (tmp_path / 'checkpoints' / 'latest').write_text('000000001\n')
    write_bags(tmp_path / 'episodes', [1])
    return tmp_path


def test_command_writes_files_that_can_be_read(checkpoint, capsys, monkeypatch):
    monkeypatch.chdir(checkpoint)
    [bag] = (checkpoint / 'episodes').glob('2*')
    assert main(['dream', str(checkpoint), '--bag', str(bag), '--context', '3']) == 0
    folder = checkpoint / 'dreams' / bag.name
    names = [f'dreams/{bag.name}/dream.{kind}' for kind in ('json', 'png', 'mp4')]
    assert capsys.readouterr().out.split() == names
    film = iio.imread(folder / 'dream.mp4')
    assert film.shape[0] == 21 and film.std() > 0
    assert iio.imread(folder / 'dream.png').shape[1] == 1000
    data = json.loads((folder / 'dream.json').read_text())
    assert (data['steps'], data['context'], data['preset'], data['robot']) == (21, 3, 'cpu', 'test')
    curves = [values for values in data.values() if isinstance(values, list)]
    assert len(curves) == 8 and all(len(values) == 21 and np.isfinite(values).all() for values in curves)
    # a checkpoint by itself is as good as the run
    alone = checkpoint / 'checkpoints' / '000000001'
    assert find_checkpoint(alone) == find_checkpoint(alone / 'learner') == find_checkpoint(checkpoint)


def test_bad_input_is_one_sentence(checkpoint, tmp_path, rng):
    [bag] = (checkpoint / 'episodes').glob('2*')
    other = bags.write_episode(tmp_path, 'other', bags.random_episode(rng, 5))

    def refusal(run, bag, *words):
        with pytest.raises(InputError) as refused:
            main(['dream', str(run), '--bag', str(bag), '--output', str(tmp_path / 'out'), *words])
        assert '\n' not in str(refused.value)
        return str(refused.value)

    assert 'expected a run directory with a checkpoint' in refusal(tmp_path / 'episodes', bag)
    assert 'recorded from another robot' in refusal(checkpoint, other)
    assert 'nothing.mcap' in refusal(checkpoint, tmp_path / 'nothing.mcap')
    assert 'context: expected a whole number from 1' in refusal(checkpoint, bag, '--context', '0')
    assert 'expected from 1 to 20 steps' in refusal(checkpoint, bag, '--context', '21')
    tensors, state, _ = read_checkpoint(find_checkpoint(checkpoint))
    del state['config']
    write_checkpoint(find_checkpoint(checkpoint), tensors, state, {})
    assert 'an earlier version wrote it' in refusal(checkpoint, bag)
    (checkpoint / 'checkpoints' / '000000001' / 'manifest.json').write_text('{')
    assert 'manifest.json: expected JSON' in refusal(checkpoint, bag)
    assert not (tmp_path / 'out').exists()


def test_a_checkpoint_tells_its_config_and_robot(tmp_path):
    config, robot = load_preset('cpu', ('env.image_size=32', 'conv.depth=2')), small.robot(discrete=False)
    Learner(config, robot, 'cpu', 3).save(tmp_path / 'c')
    opened = Learner.open(tmp_path / 'c', 'cpu')
    assert opened.config == config and opened.spec == robot
    other = dataclasses.replace(robot, action=('a', 'b'))
    assert opened.spec != other
