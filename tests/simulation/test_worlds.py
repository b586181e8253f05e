"""The robots of sim/ can do what their tasks ask, and their contracts describe them."""

from __future__ import annotations

import dataclasses
import math

import mujoco
import numpy as np
import pytest

from dreamer_ros.config import load_preset
from dreamer_ros.paths import share
from dreamer_ros.robot.contract import load_contract
from dreamer_ros.simulation import make

ROBOTS = {'rover': ('rover_target', 'image'), 'arm': ('arm_reach', 'image'), 'quadruped': ('quadruped_beacon', 'both')}


def test_every_robot_of_sim_is_tried():
    assert {path.parent.name for path in share('sim').glob('*/robot.yaml')} == set(ROBOTS)


@pytest.mark.parametrize('robot', ROBOTS)
def test_a_contract_describes_the_simulated_robot(robot):
    """It takes the policies that a preset for a CPU trains in simulation."""
    task, inputs = ROBOTS[robot]
    config = load_preset('cpu', [])
    environment = make(
        task, image_size=config.env.image_size, inputs=inputs, action_repeat=config.action_repeat_for(task)
    )
    contract = load_contract(robot)
    contract.check(environment.spec)
    same = dict(name='', action_repeat=1)
    ours = dataclasses.replace(contract.spec, **same)
    theirs = dataclasses.replace(environment.spec, **same)
    assert dataclasses.replace(ours, action_low=theirs.action_low, action_high=theirs.action_high) == theirs
    np.testing.assert_allclose(ours.action_low, theirs.action_low, atol=1e-6)
    np.testing.assert_allclose(ours.action_high, theirs.action_high, atol=1e-6)
    assert contract.episode_length == environment.episode_steps
    environment.close()


def test_wheels_of_the_rover_are_those_of_its_contract():
    """A Twist's speeds follow from the size of the wheels and their distance."""
    model = mujoco.MjModel.from_xml_path(str(share('sim', 'rover', 'rover.xml')))
    wheel = model.geom_bodyid.tolist().index(model.body('left_wheel').id)
    radius = model.geom_size[wheel][0]
    distance = model.body_pos[model.body('left_wheel').id][1] - model.body_pos[model.body('right_wheel').id][1]
    matrix = load_contract('rover').command.parts[0].matrix
    np.testing.assert_allclose(matrix, [[radius / 2, radius / 2], [-radius / distance, radius / distance]])


def episode(environment, policy):
    """Observations of one episode."""
    seen = [environment.reset()]
    while not seen[-1].is_last:
        seen.append(environment.step(policy(seen)))
    return seen


def test_a_rover_stays_on_the_ground(rng):
    """Whatever it weighs and wherever it looks: its contacts with the floor do not throw it up."""
    model = mujoco.MjModel.from_xml_path(str(share('sim', 'rover', 'rover.xml')))
    body_mass, body_inertia = model.body_mass.copy(), model.body_inertia.copy()
    for _ in range(30):
        factor, yaw = rng.uniform(0.9, 1.1), rng.uniform(-math.pi, math.pi)
        model.body_mass[:], model.body_inertia[:] = factor * body_mass, factor * body_inertia
        mujoco.mj_setConst(model, mujoco.MjData(model))
        data = mujoco.MjData(model)
        data.qpos[3:7] = math.cos(yaw / 2), 0, 0, math.sin(yaw / 2)
        for _ in range(500):
            mujoco.mj_step(model, data, 4)
            roll_and_pitch_rate = data.qvel[3:5]
            assert np.abs(roll_and_pitch_rate).max() < 0.5


def test_the_arm_reaches_its_ball(rng):
    """With the right joint angles it stays at the ball and earns nearly all; held still or at random far less."""
    environment = make('arm_reach', inputs='vector', seed=5)
    low, high = np.array(environment.spec.action_low), np.array(environment.spec.action_high)
    data, model = environment._world.data, environment._world.model
    scores = {'reach': [], 'still': [], 'random': []}
    for _ in range(6):
        for name in scores:

            def policy(seen, name=name):
                if name == 'random':
                    return rng.uniform(-1, 1, 3)
                if name == 'still':
                    return (seen[0].position - low) / (high - low) * 2 - 1
                x, y, z = data.mocap_pos[0]
                out, up = math.hypot(x, y), z - 0.15
                far, length = math.hypot(out, up), 0.26
                elbow = 2 * math.acos(min(1.0, far / (2 * length)))
                joints = np.array([math.atan2(y, x), math.atan2(out, up) - elbow / 2, elbow])
                return (joints - low) / (high - low) * 2 - 1

            scores[name].append(sum(each.reward for each in episode(environment, policy)))
    assert model.nu == 3 and environment.episode_length == 200
    assert min(scores['reach']) > 180
    assert np.mean(scores['still']) < 90 and np.mean(scores['random']) < 90


def trot(time: float) -> np.ndarray:
    """f64[12]: diagonal legs swing together, three times a second."""
    action = []
    for leg in ('FL', 'FR', 'RL', 'RR'):
        phase = 2 * math.pi * 3 * time + (math.pi if leg in ('FR', 'RL') else 0)
        action += [0, 0.4 * math.cos(phase), max(0.0, -math.sin(phase)) - 0.3]
    return np.array(action)


def test_the_quadruped_walks(rng):
    """It stands with all servos in the middle, walks at a simple trot, and falls when they jerk at random."""
    environment = make('quadruped_beacon', inputs='vector', action_repeat=4, seed=5)
    trunk = environment._world.data.body('trunk').xpos

    still = episode(environment, lambda seen: np.zeros(12))
    assert len(still) == 126 and not still[-1].is_terminal and trunk[2] > 0.22
    assert np.linalg.norm(trunk[:2]) < 0.2
    walk = episode(environment, lambda seen: trot((len(seen) - 1) * 0.08))
    assert len(walk) == 126 and np.linalg.norm(trunk[:2]) > 2.5
    falls = [episode(environment, lambda seen: rng.choice([-1.0, 1.0], 12)) for _ in range(4)]
    assert sum(each[-1].is_terminal for each in falls) >= 3
    scores = [sum(step.reward for step in each) for each in (walk, still, *falls)]
    assert scores[0] > 2 * scores[1] > 0 and max(scores[2:]) < scores[1]


@pytest.mark.parametrize('task, colour', [('arm_reach', (220, 40, 40)), ('quadruped_beacon', (200, 50, 50))])
def test_the_goal_is_seen(task, colour):
    """In a 48x48 image the ball and the beacon are some red pixels."""
    environment = make(task, image_size=(48, 48), seed=2)
    for _ in range(5):
        image = environment.reset().image.astype(int)
        red = (image[:, :, 0] > 100) & (image[:, :, 1:].max(2) < 0.4 * image[:, :, 0])
        assert red.sum() >= 4
