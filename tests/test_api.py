"""`import dreamer_ros`: environments, policies, training, episodes and runs from Python."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import dreamer_ros
from dreamer_ros.errors import InputError
from tests.learners import write_preset

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / 'tests' / 'data'
SMALL = {'image_size': (32, 32), 'episode_length': 40, 'action_repeat': 4}


@pytest.fixture
def tiny(tmp_path) -> str:
    """A preset that learns nothing, fast."""
    return write_preset(
        tmp_path / 'tiny.yaml',
        'env.action_repeat={default: 50}',
        'schedule.prefill=20',
        'schedule.replay_ratio=8',
        'schedule.publish_every=4',
        'schedule.log_every=2',
        'schedule.overlap=false',
    )


def fresh(code: str) -> str:
    """What a new interpreter prints."""
    command = [sys.executable, '-c', code]
    return subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True, timeout=240).stdout


def test_importing_the_package_is_light():
    code = 'import sys, dreamer_ros; dir(dreamer_ros); {}; print(*sorted({{n.partition(".")[0] for n in sys.modules}}))'
    assert not set(fresh(code.format('0')).split()) & {'numpy', 'torch', 'mujoco', 'rclpy', 'onnxruntime', 'gymnasium'}
    used = 'dreamer_ros.load_policy, dreamer_ros.open_run, dreamer_ros.read_episodes, dreamer_ros.train'
    assert not set(fresh(code.format(used)).split()) & {'torch', 'mujoco', 'rclpy', 'gymnasium', 'tensorboard'}


def test_every_public_name_is_there():
    for name in dreamer_ros.__all__:
        assert getattr(dreamer_ros, name).__doc__ and name in dir(dreamer_ros)
    with pytest.raises(AttributeError, match="'dreamer_ros' has no attribute 'mak'"):
        dreamer_ros.mak  # noqa: B018


@pytest.mark.parametrize(
    'task, options',
    [
        ('cartpole_swingup', {}),
        ('cartpole_swingup', {'inputs': 'both'}),
        ('cartpole_swingup', {'inputs': 'vector'}),
        ('rover_target', {}),
        ('rover_target_discrete', {}),
    ],
)
def test_an_environment_keeps_gymnasiums_rules(task, options):
    environment = dreamer_ros.make(task, seed=1, render_mode='rgb_array', **{**SMALL, **options})
    check_env(environment, skip_render_check=True)
    assert environment.render().shape == (240, 320, 3)
    environment.close()


def test_an_episode_ends_by_its_time_limit_and_seeds_repeat_it():
    environment = dreamer_ros.make('cartpole_swingup', seed=3, **SMALL)
    assert environment.action_space.shape == (1,) and environment.observation_space.shape == (32, 32, 3)
    played = []
    for options in ({}, {}, {'seed': 3}, {'seed': 4}):
        observation, info = environment.reset(**options)
        seen, ends = [observation], []
        while not ends or not ends[-1][1]:
            observation, reward, *end, info = environment.step(np.float32([0.5]))
            assert isinstance(reward, float) and info == {}
            seen.append(observation)
            ends.append(end)
        assert ends == [[False, False]] * 9 + [[False, True]]
        played.append(np.stack(seen))
    assert np.array_equal(played[0], played[2])
    assert not np.array_equal(played[0], played[1]) and not np.array_equal(played[0], played[3])
    environment.close()


def test_a_terminal_state_is_no_truncation(tmp_path):
    folder = shutil.copytree(ROOT / 'sim' / 'rover', tmp_path / 'rover')
    file = folder / 'rover_target.yaml'
    file.write_text(file.read_text().replace('above: 60', 'above: 0'))
    environment = dreamer_ros.make(str(file), seed=0, **SMALL)
    environment.reset()
    assert environment.step(environment.action_space.sample())[2:4] == (True, False)
    environment.close()


def test_bad_options_are_told():
    for options, message in (
        ({'render_mode': 'human'}, "render_mode: expected None or rgb_array, got 'human'"),
        ({'inputs': 'smell'}, 'inputs: expected one of image, vector, both'),
        ({'seed': -1}, 'seed: expected a whole number from 0 to 4294967295, got -1'),
        ({'image_size': (50, 50)}, 'image_size: expected multiples of 16 from 32 to 256, .* got .50x50'),
    ):
        with pytest.raises(InputError, match=message):
            dreamer_ros.make('cartpole_swingup', **options)
    with pytest.raises(InputError, match="task: 'walker_wlk' is unknown; did you mean walker_walk"):
        dreamer_ros.make('walker_wlk')
    environment = dreamer_ros.make('rover_target_discrete', **SMALL)
    environment.reset()
    with pytest.raises(InputError, match='action of rover_target_discrete: expected 0 to 3, got 4'):
        environment.step(4)
    environment.close()


def test_a_preset_says_what_its_agent_sees():
    environment = dreamer_ros.make('cartpole_balance')
    assert environment.observation_space.shape == (48, 48, 3) and environment.robot_spec.action_repeat == 8
    environment.close()
    environment = dreamer_ros.make('walker_walk', 'dreamerv3_1m', image_size=(32, 48))
    assert environment.observation_space.shape == (32, 48, 3) and environment.robot_spec.action_repeat == 2
    environment.close()


def test_tasks_are_registered_with_gymnasium():
    import dreamer_ros.simulation.gym_env  # noqa: F401

    names = {name for name in gymnasium.registry if name.startswith('dreamer_ros/')}
    assert {'dreamer_ros/walker_walk-v0', 'dreamer_ros/rover_target-v0'} <= names
    environment, own = gymnasium.make('dreamer_ros/walker_walk-v0'), dreamer_ros.make('walker_walk')
    assert environment.observation_space == own.observation_space
    own.close()
    environment.close()
    environment = gymnasium.make('dreamer_ros/rover_target-v0', **SMALL)
    observation, _ = environment.reset(seed=0)
    assert environment.observation_space.contains(observation)
    environment.close()


def test_a_policy_plays_where_it_was_trained():
    policy = dreamer_ros.load_policy(DATA / 'dreamer')
    assert policy.version == 3 and policy.metadata['system'] == 'dreamer'
    environment = dreamer_ros.make('rover_target_discrete', robot_spec=policy.robot_spec, seed=0)
    assert environment.robot_spec == policy.robot_spec
    observation, _ = environment.reset()
    first = policy.act(observation)
    assert environment.action_space.contains(first)
    observation, *_ = environment.step(first)
    second = [policy.act(observation), policy.act(observation)]
    policy.reset()
    environment.reset(seed=0)
    assert policy.act(environment.reset(seed=0)[0]) == first, 'nothing is left of the episode before'
    assert all(environment.action_space.contains(action) for action in second)
    environment.close()
    with pytest.raises(InputError, match=r'expected an image uint8\[32, 32, 3\], got uint8\[32, 40, 3\]'):
        policy.act(np.zeros((32, 40, 3), np.uint8))


def test_a_released_policy_is_found_by_its_name():
    policy = dreamer_ros.load_policy('cartpole_swingup')
    image = np.zeros(policy.robot_spec.image_shape, np.uint8)
    action = policy.act({'image': image, 'vector': None}, explore=True)
    assert action.dtype == np.float32 and action.shape == (1,) and abs(action[0]) <= 1
    with pytest.raises(InputError, match='policy hover: expected an ONNX file, a manifest, or one of the released'):
        dreamer_ros.load_policy('hover')


def test_episodes_are_read_from_a_run_a_folder_and_a_bag(tmp_path):
    [bag, _] = sorted((DATA / 'dreamer' / 'episodes').iterdir())
    for path, count in ((DATA / 'dreamer', 2), (DATA / 'dreamer' / 'episodes', 2), (bag, 1), (DATA / 'robot', 1)):
        episodes = list(dreamer_ros.read_episodes(path))
        assert len(episodes) == count
        for episode in episodes:
            assert isinstance(episode, dreamer_ros.Episode) and episode.image.shape == (len(episode), 32, 32, 3)
    with pytest.raises(InputError, match='expected a bag, a folder of bags or a run, found none'):
        dreamer_ros.read_episodes(tmp_path)


def test_a_bag_that_cannot_be_read_is_warned_of(tmp_path):
    folder = Path(shutil.copytree(DATA / 'dreamer' / 'episodes', tmp_path / 'episodes'))
    next(min(folder.iterdir()).glob('*.mcap')).write_bytes(b'')
    with pytest.warns(UserWarning, match=f'bag .*{min(folder.iterdir()).name}'):
        assert len(list(dreamer_ros.read_episodes(folder))) == 1


def test_a_run_is_opened():
    run = dreamer_ros.open_run(DATA / 'dreamer')
    assert run.config.system == 'dreamer' and run.robot_spec.discrete
    assert run.metrics[-1]['updates'] == 10 and [path.name for path in run.checkpoints] == ['000000011']
    assert [round(episode.total_reward, 2) for episode in run.episodes] == [25.97, 27.73]
    assert run.load_policy().version == 3
    empty = dreamer_ros.open_run(DATA / 'planet')
    assert list(empty.episodes) == []
    with pytest.raises(InputError, match='expected a policy named by'):
        empty.load_policy()
    with pytest.raises(InputError, match='expected a run directory with config.yaml in it, found none'):
        dreamer_ros.open_run(DATA)


def test_training_from_bags(tiny, tmp_path):
    bags = shutil.copytree(DATA / 'dreamer' / 'episodes', tmp_path / 'bags')
    options = {'logdir': tmp_path / 'run', 'device': 'cpu', 'overrides': {'schedule.batch': 3}}
    run = dreamer_ros.train(bags=[bags], preset=tiny, updates=3, **options)
    assert run.path == tmp_path / 'run'
    assert run.config.schedule.batch == 3 and run.metrics[-1]['updates'] == 3
    assert run.load_policy().robot_spec.discrete
    with pytest.raises(InputError, match='expected a task or bags to learn from, got neither'):
        dreamer_ros.train()
    with pytest.raises(InputError, match='expected steps with a task, or updates with bags'):
        dreamer_ros.train('cartpole_balance', updates=3)


def test_the_example_of_the_readme(tiny, tmp_path, monkeypatch, capsys):
    section = (ROOT / 'README.md').read_text().partition('## From Python')[2]
    [example] = re.findall(r'```python\n(.*?)```', section.partition('\n## ')[0], re.S)
    short = example.replace("'cartpole_swingup'", f"'cartpole_swingup', steps=2000, evaluations=1, preset={tiny!r}", 1)
    assert short != example and len(example.splitlines()) <= 12
    monkeypatch.chdir(tmp_path)
    made = {}
    exec(short, made)
    assert float(capsys.readouterr().out.splitlines()[-1].split()[-1]) >= 0.0
    run = made['run']
    assert (tmp_path / run.path).parent == tmp_path / 'runs' and run.robot_spec.name == 'cartpole_swingup'
    assert run.metrics[-1]['updates'] >= 4 and run.checkpoints
    assert run.load_policy().act(np.zeros((32, 32, 3), np.uint8)).shape == (1,)
