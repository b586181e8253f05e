"""Episodes as an agent sees them: every task, seeds, action repeat, limits, ends, bad input."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import mujoco
import numpy as np
import pytest

from dreamer_ros.errors import InputError
from dreamer_ros.simulation import VISUAL_TASKS, make, task_names
from dreamer_ros.wire.codecs import read_vector

# One for each domain of the suite that the visual tasks leave out.
OTHER_TASKS = (
    'dog_walk',
    'fish_swim',
    'humanoid_stand',
    'humanoid_CMU_stand',
    'lqr_lqr_6_2',
    'manipulator_bring_peg',
    'point_mass_easy',
    'stacker_stack_2',
    'swimmer_swimmer6',
)


@pytest.fixture
def open_environment():
    """`make` whose environments are closed after the test."""
    opened = []

    def open_one(task, **options):
        opened.append(make(task, **options))
        return opened[-1]

    yield open_one
    for environment in opened:
        environment.close()


def episode(environment, steps, seed=0):
    """Random actions for some steps; returns the observations from the reset on."""
    random = np.random.default_rng(seed)
    seen = [environment.reset()]
    while len(seen) <= steps and not seen[-1].is_last:
        seen.append(environment.step(random.uniform(-1, 1, len(environment.spec.action))))
    return seen


def same(first, second):
    return (
        np.array_equal(first.image, second.image)
        and np.array_equal(first.position, second.position)
        and np.array_equal(first.velocity, second.velocity)
        and first.reward == second.reward
    )


def test_the_visual_tasks_are_the_twenty_of_the_paper():
    assert len(set(VISUAL_TASKS)) == 20
    assert set(VISUAL_TASKS) <= set(task_names())
    assert set(OTHER_TASKS) <= set(task_names())
    assert {'humanoid_run', 'dog_fetch', 'manipulator_bring_ball', 'rover_target'} <= set(task_names())


@pytest.mark.parametrize('task', VISUAL_TASKS)
def test_visual_task(task, open_environment):
    environment = open_environment(task, action_repeat=2)
    seen = episode(environment, 5)
    spec = environment.spec
    assert spec.name == task
    assert len(set(spec.action)) == len(spec.action) == len(spec.action_low) == len(spec.action_high)
    assert spec.control_period == pytest.approx(2 * environment._world.control_step)
    assert [observation.is_first for observation in seen] == [True] + [False] * 5
    assert seen[0].reward == 0
    for observation in seen:
        assert observation.image.shape == (64, 64, 3) and observation.image.dtype == np.uint8
        assert observation.image.std() > 10, 'the image is almost of one colour'
        assert len(observation.joint_names) == len(observation.position) == len(observation.velocity) > 0
        assert np.isfinite([observation.reward, *observation.position, *observation.velocity]).all()
        assert not observation.is_last and not observation.is_terminal
    assert not np.array_equal(seen[0].position, seen[-1].position)


@pytest.mark.parametrize('task', OTHER_TASKS)
def test_other_task(task, open_environment):
    seen = episode(open_environment(task, image_size=(32, 32)), 2)
    assert seen[-1].image.std() > 3 and np.isfinite(seen[-1].reward)


@pytest.mark.parametrize('task', ['cartpole_swingup', 'walker_walk', 'rover_target'])
def test_equal_seeds_give_equal_episodes_and_others_do_not(task, open_environment):
    first, second, other = (open_environment(task, seed=seed) for seed in (3, 3, 4))
    for _ in range(2):  # interleaved, so that the rendering contexts alternate
        runs = [episode(environment, 10) for environment in (first, second, other)]
        assert all(same(a, b) for a, b in zip(runs[0], runs[1]))
        assert not same(runs[0][0], runs[2][0])
    assert not same(first.reset(), first.reset()), 'each episode starts elsewhere'


@pytest.mark.parametrize('task', ['finger_turn_hard', 'swimmer_swimmer6', 'lqr_lqr_2_1', 'rover_target'])
def test_an_episode_follows_from_seed_and_number(task, open_environment):
    """Whatever was played before."""
    first, second = open_environment(task, seed=5), open_environment(task, seed=5)
    assert first.model_digest() == second.model_digest() != open_environment('pendulum_swingup').model_digest()
    episode(first, 7)
    episode(first, 3)
    third, again = first.reset(), second.reset(2)
    assert first.episode == second.episode == 2 and same(third, again)
    actions = np.random.default_rng(1).uniform(-1, 1, (20, len(first.spec.action)))
    assert all(same(first.step(action), second.step(action)) for action in actions)
    assert not same(first.reset(), second.reset(2))


@pytest.mark.parametrize('task', ['cartpole_balance', 'rover_target'])
def test_action_repeat_sums_rewards(task, open_environment):
    once, repeated = open_environment(task), open_environment(task, action_repeat=4)
    once.reset()
    repeated.reset()
    for action in (0.3, -0.8, 1.0):
        action = np.full(len(once.spec.action), action)
        singles = [once.step(action) for _ in range(4)]
        four = repeated.step(action)
        assert four.reward == pytest.approx(sum(observation.reward for observation in singles))
        assert np.array_equal(four.image, singles[-1].image)
    assert repeated.spec.control_period == pytest.approx(4 * once.spec.control_period)


@pytest.mark.parametrize('task', ['cheetah_run', 'finger_turn_hard', 'humanoid_walk'])
def test_suite_task_is_step_by_step_that_of_dm_control(task, open_environment):
    environment = open_environment(task, seed=7, image_size=(16, 16))
    from dm_control import suite  # loads OpenGL: after ours is prepared

    reference = suite.load(*task.split('_', 1), task_kwargs={'random': 7})
    random = np.random.default_rng(0)
    for number in range(2):
        environment.reset()
        reference.task.random.seed([7, number])
        reference.reset()
        for _ in range(20):
            action = random.uniform(-1, 1, len(environment.spec.action))
            low, high = reference.action_spec().minimum, reference.action_spec().maximum
            expected = reference.step(low + (action + 1) / 2 * (high - low))
            assert environment.step(action).reward == expected.reward
            assert np.array_equal(environment._world.data.qpos, reference.physics.data.qpos)


def test_time_limit_cuts_the_last_action_short_and_is_not_terminal(open_environment):
    environment = open_environment('cartpole_balance', action_repeat=3, episode_length=7)
    seen = episode(environment, 100)
    assert [observation.is_last for observation in seen] == [False, False, False, True]
    assert not seen[-1].is_terminal
    assert seen[1].reward > 2.5 and 0.8 < seen[-1].reward <= 1  # near the upright 1 per control step
    with pytest.raises(RuntimeError, match='reset'):
        environment.step([0])
    assert environment.reset().is_first


@pytest.mark.parametrize('task, steps', [('pendulum_swingup', 1000), ('rover_target', 500)])
def test_default_episode_length(task, steps, open_environment):
    environment = open_environment(task, action_repeat=10, image_size=(16, 16))
    assert len(episode(environment, 10_000)) == 1 + steps // 10


def test_discount_zero_is_terminal(open_environment):
    environment = open_environment('lqr_lqr_2_1')  # ends when it comes to rest at the origin
    environment.reset()
    world = environment._world
    world.data.qpos[:] = world.data.qvel[:] = 0
    mujoco.mj_forward(world.model, world.data)
    last = environment.step([0])
    assert last.is_last and last.is_terminal


@pytest.mark.parametrize('task', ['cheetah_run', 'rover_target'])
def test_unstable_physics_ends_the_episode(task, open_environment):
    environment = open_environment(task, action_repeat=2)
    sound = episode(environment, 3)[-1]
    environment._world.data.qvel[0] = np.nan
    last = environment.step(np.zeros(len(environment.spec.action)))
    assert last.is_last and not last.is_terminal and last.reward == 0
    assert np.array_equal(last.image, sound.image) and np.array_equal(last.position, sound.position)
    assert np.isfinite(environment.reset().position).all()
    assert not environment.step(np.zeros(len(environment.spec.action))).is_last


def test_actions_are_clipped_and_scaled_to_the_actuators(open_environment):
    environment = open_environment('quadruped_walk')  # limits differ: yaw ±1, lift -1..1.1, extend ±0.8
    spec = environment.spec
    assert spec.action_low[:3] == (-1, -1, -0.8) and spec.action_high[:3] == (1, 1.1, 0.8)
    environment.reset()
    for action, control in (
        (1, spec.action_high),
        (7, spec.action_high),
        (-1, spec.action_low),
        (0, np.add(spec.action_low, spec.action_high) / 2),
    ):
        environment.advance(np.full(12, action))
        assert environment._world.data.ctrl == pytest.approx(np.array(control))


def test_joint_states_are_the_scalar_joints(open_environment):
    observation = open_environment('humanoid_walk').reset()
    assert len(observation.joint_names) == 21, 'the free joint of the trunk is no joint of the robot'
    assert {'right_knee', 'left_elbow'} <= set(observation.joint_names)
    knee = observation.joint_names.index('right_knee')
    environment = open_environment('humanoid_walk')
    environment.reset()
    assert observation.position[knee] == environment._world.data.joint('right_knee').qpos[0]


def test_two_cameras_are_two_single_ones(open_environment):
    options = dict(seed=3, image_size=(32, 48))
    both = open_environment('quadruped_walk', cameras=['global', 3], **options)
    assert both.spec.cameras == ('global', 'egocentric') and both.spec.image_shape == (32, 48, 6)
    runs = [
        episode(environment, 3)
        for environment in (
            both,
            open_environment('quadruped_walk', cameras=['global'], **options),
            open_environment('quadruped_walk', cameras=[3], **options),
        )
    ]
    for seen, first, second in zip(*runs):
        assert np.array_equal(seen.image, np.concatenate([first.image, second.image], -1))
        assert not np.array_equal(first.image, second.image)


def test_the_usual_camera_has_the_usual_name(open_environment):
    for cameras, names in (
        (['0'], ('camera',)),
        (['fixed'], ('camera',)),
        ([1], ('lookatcart',)),
        (['1', '0'], ('lookatcart', 'fixed')),
    ):
        spec = open_environment('cartpole_swingup', cameras=cameras, image_size=(16, 16)).spec
        assert spec.cameras == names
        # what a spec says of the cameras finds them again
        again = () if names == ('camera',) else names
        assert open_environment('cartpole_swingup', cameras=again, image_size=(16, 16)).spec == spec


@pytest.mark.parametrize('inputs', ['vector', 'both'])
def test_joint_states_as_inputs(inputs, open_environment):
    environment = open_environment('cartpole_swingup', inputs=inputs)
    spec = environment.spec
    assert spec.vector == ('slider/position', 'hinge_1/position', 'slider/velocity', 'hinge_1/velocity')
    for observation in episode(environment, 5):
        joints = types.SimpleNamespace(
            name=observation.joint_names, position=observation.position, velocity=observation.velocity
        )
        data = environment._world.data
        assert observation.image.shape == spec.image_shape == ((64, 64, 3) if inputs == 'both' else (0, 0, 0))
        assert read_vector(joints, spec.vector).shape == (4,)
    assert read_vector(joints, spec.vector) == pytest.approx(np.concatenate([data.qpos, data.qvel]), rel=1e-6)
    assert not observation.is_last


def test_alias(open_environment):
    assert open_environment('ball_in_cup_catch').spec == open_environment('cup_catch').spec


@pytest.mark.parametrize(
    'action, message',
    [([np.nan], 'numbers'), ([0, 0], 'expected 1 values'), ([], 'expected 1 values'), (0.5, 'expected 1 values')],
)
def test_bad_actions_are_refused_and_cost_nothing(action, message, open_environment):
    environment = open_environment('cartpole_swingup')
    environment.reset()
    before = environment._world.data.qpos.copy()
    with pytest.raises(InputError, match=message):
        environment.step(action)
    assert np.array_equal(environment._world.data.qpos, before)


@pytest.mark.parametrize(
    'task, options, message',
    [
        ('walker_wlak', {}, 'did you mean walker_walk'),
        ('catch', {}, 'cup_catch'),
        ('zzzzzzzz', {}, 'expected one of acrobot_swingup'),
        ('cartpole_swingup', {'cameras': ['nose']}, '0 fixed, 1 lookatcart; got .nose'),
        ('cartpole_swingup', {'cameras': [2]}, '0 fixed, 1 lookatcart; got 2'),
        ('cartpole_swingup', {'cameras': [-1]}, 'got -1'),
        ('cartpole_swingup', {'cameras': [0, 'fixed']}, 'expected different ones, got 0, fixed'),
        ('cartpole_swingup', {'cameras': [0], 'inputs': 'vector'}, 'expected none with inputs vector'),
        ('cartpole_swingup', {'inputs': 'sound'}, 'image, vector, both'),
        ('cartpole_swingup', {'render': 'pretty'}, 'fast, shadows, suite'),
        ('cartpole_swingup', {'image_size': (64, 5000)}, 'image_size'),
        ('cartpole_swingup', {'image_size': (64,)}, 'image_size'),
        ('cartpole_swingup', {'action_repeat': 0}, 'action_repeat'),
        ('cartpole_swingup', {'episode_length': 0}, 'episode_length'),
        ('cartpole_swingup', {'seed': -1}, 'seed'),
    ],
)
def test_bad_input(task, options, message):
    with pytest.raises(InputError, match=message) as caught:
        make(task, **options)
    assert '\n' not in str(caught.value)


def run_python(code, **variables):
    environment = {key: value for key, value in os.environ.items() if key not in ('MUJOCO_GL', 'DISPLAY')}
    return subprocess.run(
        [sys.executable, '-c', code], env={**environment, **variables}, text=True, capture_output=True, timeout=60
    )


def test_no_opengl_is_one_sentence():
    result = run_python(
        'from dreamer_ros.errors import run_main\n'
        'from dreamer_ros.simulation import make\n'
        'raise SystemExit(run_main(lambda: make("cartpole_swingup")))',
        MUJOCO_GL='egl',
        PYOPENGL_PLATFORM='glx',
    )
    assert result.returncode == 2
    assert 'apt install libegl1 libgl1-mesa-dri' in result.stderr and result.stderr.count('\n') == 1


def test_works_when_mujoco_was_imported_before_and_exits_in_silence():
    result = run_python(
        'import mujoco\n'
        'from dreamer_ros.simulation import make\n'
        'environment = make("cheetah_run")\n'
        'assert environment.reset().image.std() > 10\n'
    )
    assert result.returncode == 0, result.stderr
    # Without a display, importing mujoco before MUJOCO_GL is set makes GLFW complain; nothing else may.
    assert all('glfw' in line.lower() or 'warnings.warn' in line for line in result.stderr.splitlines())


def test_importing_the_package_loads_no_simulator():
    result = run_python('import sys, dreamer_ros.simulation; print("mujoco" in sys.modules)')
    assert result.stdout.strip() == 'False', result.stderr
