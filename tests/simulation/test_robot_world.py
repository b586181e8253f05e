"""Worlds made of files: the rover of sim/, a robot in a foreign folder, mistakes in task files."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import pytest
import yaml

from dreamer_ros.errors import InputError
from dreamer_ros.schema import describe, reference
from dreamer_ros.simulation import make
from dreamer_ros.simulation.task_file import TaskFile

ARM = """
<mujoco>
  <worldbody>
    <camera name="above" pos="0 0 2"/>
    <light name="lamp" pos="0 0 3" diffuse="0.5 0.5 0.5"/>
    <body name="arm"><joint name="shoulder" type="hinge" axis="0 0 1"/>
      <geom name="link" type="capsule" fromto="0 0 0 0.5 0 0" size="0.03" rgba="0.5 0.5 0.5 1"/>
      <site name="hand" pos="0.5 0 0"/>
    </body>
    <body name="ball" pos="0 0 0.3"><freejoint/><geom name="ball" size="0.04"/></body>
    <body name="goal" mocap="true"><geom type="box" size="0.05 0.05 0.05" contype="0" conaffinity="0"/></body>
  </worldbody>
  <actuator><motor joint="shoulder" ctrlrange="-2 2"/></actuator>
</mujoco>
"""
ARM_TASK = {
    'model': 'arm.xml',
    'control_period': 0.02,
    'reward': [{'type': 'closeness', 'from': 'hand', 'to': 'goal', 'near': 0.1, 'far': 0.6}],
}


@pytest.fixture
def arm(tmp_path):
    """`arm(**changes)` writes the arm's task file with some keys changed and makes its environment."""
    opened = []
    (tmp_path / 'arm.xml').write_text(ARM)

    def open_one(remove=(), seed=0, model_text=None, inputs='image', **changes):
        if model_text:
            (tmp_path / 'arm.xml').write_text(model_text)
        task = {key: value for key, value in {**ARM_TASK, **changes}.items() if key not in remove}
        path = tmp_path / 'arm_reach.yaml'
        path.write_text(yaml.safe_dump(task))
        opened.append(make(str(path), seed=seed, inputs=inputs))
        return opened[-1]

    yield open_one
    for environment in opened:
        environment.close()


def drive_by_sight(image):
    """Wheel commands that turn until the red target is seen and drive to it until it is large."""
    red, green, blue = np.moveaxis(image.astype(int), -1, 0)
    seen = (red > 80) & (green < red / 3) & (blue < red / 3)
    if seen.sum() < 3:
        return [-0.35, 0.35]
    middle = (image.shape[1] - 1) / 2
    turn = (np.nonzero(seen)[1].mean() - middle) / middle
    forward = np.clip(4 * (0.3 - seen.mean()), 0, 1)
    return np.clip([forward + 0.5 * turn, forward - 0.5 * turn], -1, 1)


def returns(environment, policy, episodes):
    scores = []
    for _ in range(episodes):
        observation = environment.reset()
        scores.append(0.0)
        while not observation.is_last:
            observation = environment.step(policy(observation.image))
            scores[-1] += observation.reward
    return scores


def test_the_rover_finds_its_target_by_sight_and_not_by_chance():
    environment = make('rover_target', action_repeat=2, seed=11)
    random = np.random.default_rng(0)
    by_sight = returns(environment, drive_by_sight, 5)
    by_chance = returns(environment, lambda image: random.uniform(-1, 1, 2), 5)
    environment.close()
    assert min(by_sight) > 280 and np.mean(by_sight) > 340, by_sight
    assert np.mean(by_chance) < 130, by_chance
    assert max(by_sight) <= environment._world.default_length


def test_the_rover_drives_forwards_and_turns():
    environment = make('rover_target', seed=2)
    model, data = environment._world.model, environment._world.data
    environment.reset()
    rover = data.body('rover')
    data.qpos[:7] = [0, 0, 0.07, 1, 0, 0, 0]  # in the middle, looking along x
    data.mocap_pos[0] = [0, 2, 0.25]
    for _ in range(20):
        environment.advance([0.5, 0.5])
    assert rover.xpos[0] == pytest.approx(0.07 * 6 * 1.0, rel=0.15), 'a second at 6 rad/s on 7 cm wheels'
    assert abs(rover.xpos[1]) < 0.02
    before = math.atan2(rover.xmat[3], rover.xmat[0])
    for _ in range(10):
        environment.advance([-0.3, 0.3])
    assert math.atan2(rover.xmat[3], rover.xmat[0]) - before > 0.5, 'right wheel forwards turns left'
    assert environment.reset().joint_names == ('left_wheel', 'right_wheel')
    assert model.camera('front').id == 1 and environment.cameras[0].name == 'front'
    environment.close()


def test_the_rover_starts_apart_from_the_target():
    world = make('rover_target', seed=5)._world
    starts = []
    for episode in range(50):
        world.reset(episode)
        rover, target = world.data.body('rover').xpos[:2].copy(), world.data.body('target').xpos[:2].copy()
        assert math.dist(rover, target) >= 1.2
        assert (abs(rover) <= 1.9).all() and (abs(target) <= 2.1).all()
        starts.append([*rover, *target])
    assert (np.std(starts, axis=0) > 0.8).all()


def test_a_robot_in_a_foreign_folder(arm):
    environment = arm(
        reset={
            'joints': {'shoulder': [90, 90]},
            'bodies': [{'body': 'goal', 'x': [0.3, 0.3], 'y': [0, 0], 'yaw': [90, 90]}],
        }
    )
    assert environment.spec.name == 'arm_reach' and environment.spec.action == ('actuator0',)
    assert environment.spec.action_high == (2,) and environment.spec.control_period == 0.02
    assert environment.cameras[0].name == 'above'
    observation = environment.reset()
    assert observation.joint_names == ('shoulder',) and observation.position == pytest.approx([math.pi / 2])
    world = environment._world
    assert world.data.body('goal').xmat.reshape(3, 3)[:, 0] == pytest.approx([0, 1, 0], abs=1e-9)
    reward = environment.step([0]).reward
    distance = math.dist(world.data.site('hand').xpos, world.data.body('goal').xpos)
    assert reward == pytest.approx(0.1 ** ((distance - 0.1) / 0.5))


def test_discrete_actions_are_the_controls_of_the_task_file():
    environment = make('rover_target_discrete', seed=2)
    spec = environment.spec
    assert spec.discrete and spec.action == ('stop', 'forward', 'left', 'right')
    assert spec.action_low == (0, 0, 0, 0) and spec.action_high == (1, 1, 1, 1)
    environment.reset()
    wheels = ([0, 0], [8, 8], [-3, 3], [3, -3])
    for action, control in zip(np.eye(4), wheels):
        environment.step(action)
        assert np.array_equal(environment._world.data.ctrl, control)
    environment.step([0.1, 0.2, 0.4, 0.3])
    assert np.array_equal(environment._world.data.ctrl, wheels[2]), 'the largest is taken'
    environment.step(np.zeros(4))
    assert np.array_equal(environment._world.data.ctrl, wheels[0])
    with pytest.raises(InputError, match='expected 4 values .stop, forward, left, right.'):
        environment.step([1, 0])
    environment.close()


def test_a_world_seen_through_several_cameras(arm):
    two = ARM.replace('<light', '<camera name="side" pos="0 -2 0" xyaxes="1 0 0 0 0 1"/><light')
    environment = arm(model_text=two, camera=['side', 'above'])
    assert [camera.name for camera in environment.cameras] == ['side', 'above']
    assert environment.spec.cameras == ('side', 'above') and environment.reset().image.shape == (64, 64, 6)


def test_a_world_without_joints_has_no_vector(arm):
    still = ARM.replace('<joint name="shoulder" type="hinge" axis="0 0 1"/>', '<joint name="shoulder" type="ball"/>')
    with pytest.raises(InputError, match='inputs: expected hinge or slide joints in arm_reach'):
        arm(model_text=still.replace('ctrlrange="-2 2"', 'gear="0 0 1 0 0 0"'), inputs='vector')


def reward_of(environment, action):
    environment.reset()
    return environment.step(action).reward


def test_reward_terms(arm):
    goal = {'bodies': [{'body': 'goal', 'x': [1, 1], 'y': [1, 1], 'z': [0, 0]}]}
    cosine = math.cos(math.radians(45))  # from the arm's root, which looks along x
    between = {'from': 'arm', 'to': 'goal'}
    facing = reward_of(arm(reset=goal, reward=[{'type': 'facing', **between, 'weight': 2}]), [0])
    assert facing == pytest.approx(2 * cosine)
    behind = {'bodies': [{'body': 'goal', 'x': [-1, -1]}]}
    assert reward_of(arm(reset=behind, reward=[{'type': 'facing', **between}]), [0]) == 0
    assert reward_of(arm(reward=[{'type': 'effort', 'weight': -1}]), [0.5]) == pytest.approx(-0.25)
    near = {'from': 'arm', 'to': 'goal', 'near': 0.5, 'far': 1}
    assert reward_of(arm(reward=[{'type': 'closeness', **near}]), [0]) == 1


def test_progress_sums_to_the_distance_covered(arm):
    environment = arm(
        reset={'bodies': [{'body': 'goal', 'y': [0.6, 0.6]}]},
        reward=[{'type': 'progress', 'from': 'hand', 'to': 'goal'}],
    )
    for _ in range(2):  # the second episode must not count from the end of the first
        environment.reset()
        data = environment._world.data
        start = math.dist(data.site('hand').xpos, data.body('goal').xpos)
        total = sum(environment.step([0.3]).reward for _ in range(20))
        assert total == pytest.approx(start - math.dist(data.site('hand').xpos, data.body('goal').xpos))
        assert total > 0.01


@pytest.mark.parametrize(
    'end, after',
    [
        ({'type': 'height', 'of': 'ball', 'below': 0.0}, 0.2473),  # falls 0.3 m: sqrt(2 · 0.3 / 9.81) s
        ({'type': 'distance', 'from': 'ball', 'to': 'goal', 'above': 0.5}, 0.4039),  # 0.8 m
    ],
)
def test_end_is_terminal_and_pays_once(arm, end, after):
    environment = arm(end=[{**end, 'reward': -5}], reward=[{'type': 'effort'}])
    environment._world.model.geom_contype[:] = 0  # nothing is in the way of the fall
    environment._world.model.geom_conaffinity[:] = 0
    observations = [environment.reset()]
    while not observations[-1].is_last:
        observations.append(environment.step([0]))
    assert (len(observations) - 1) * 0.02 == pytest.approx(after, abs=0.021)
    assert observations[-1].is_terminal and observations[-1].reward == -5
    assert all(observation.reward == 0 for observation in observations[:-1])


def test_tilt(arm):
    environment = arm(end=[{'type': 'tilt', 'of': 'ball', 'above': 30}])
    environment.reset()
    assert not environment.step([0]).is_last
    address = environment._world.model.joint(1).qposadr[0]
    half = math.radians(40) / 2
    environment._world.data.qpos[address + 3 : address + 7] = [math.cos(half), math.sin(half), 0, 0]
    assert environment.step([0]).is_terminal


def test_randomise_stays_in_its_ranges_around_the_original(arm):
    factors = {'light': [0.5, 1.5], 'colour': [0.8, 1.2], 'friction': [0.5, 2], 'mass': [0.5, 2]}
    environment = arm(randomise=factors)
    model = environment._world.model
    original = mujoco.MjModel.from_xml_string(ARM)
    drawn = []
    for _ in range(30):
        environment.reset()
        drawn.append(
            [
                model.light('lamp').diffuse[0] / original.light('lamp').diffuse[0],
                model.geom('link').rgba[0] / original.geom('link').rgba[0],
                model.geom('ball').friction[0] / original.geom('ball').friction[0],
                model.body('ball').mass[0] / original.body('ball').mass[0],
            ]
        )
        assert model.body_subtreemass[0] == pytest.approx(model.body_mass.sum()), 'derived constants follow'
        assert model.geom('link').rgba[3] == 1
    low, high = np.transpose(list(factors.values()))
    assert (np.array(drawn) >= low - 1e-6).all() and (np.array(drawn) <= high + 1e-6).all()
    assert (np.ptp(drawn, axis=0) > 0.5 * (high - low)).all()


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'camara': 'above'}, 'camara'),
        ({'remove': ['control_period']}, 'control_period .a number above 0. is missing'),
        ({'control_period': 'fast'}, 'control_period: expected a number above 0, got .fast'),
        ({'control_period': 0.003}, 'multiple of the physics timestep 0.002, got 0.003'),
        ({'episode_length': 2.5}, 'episode_length: expected a whole number'),
        ({'camera': 'front'}, 'name of a camera .above., got .front'),
        ({'camera': []}, 'camera: expected a name or a list of different names, got'),
        ({'camera': ['above', 'above']}, 'camera: expected a name or a list of different names, got'),
        ({'actions': {'continuous': {}}}, 'unknown key actions.continuous; expected one of discrete'),
        ({'actions': {'discrete': {'go': [1]}}}, 'actions.discrete: expected at least 2 choices, got .go'),
        ({'actions': {'discrete': {'go': [1], 'back': 'slowly'}}}, 'actions.discrete.back: expected a list of numbers'),
        (
            {'actions': {'discrete': {'go': [1], 'back': [-3]}}},
            r'discrete.back: expected a control .* .-2 to 2., got .-3',
        ),
        (
            {'actions': {'discrete': {'go': [1], 'back': [1, 2]}}},
            r'discrete.back: expected a control .*, got .1.0, 2.0',
        ),
        ({'model': 'leg.xml'}, 'leg.xml, which does not exist'),
        ({'reward': []}, 'at least one term'),
        ({'reward': [{'type': 'joy'}]}, r'reward\[0\].type: expected one of closeness, progress, facing, effort'),
        ({'reward': [{'type': 'facing', 'from': 'hand', 'to': 'moon'}]}, 'got .moon'),
        ({'reward': [{'type': 'facing', 'from': 'hand'}]}, r'reward\[0\].to .a name. is missing'),
        ({'reward': [{'type': 'effort', 'near': 1}]}, r'unknown key reward\[0\].near; expected one of weight'),
        ({'reward': [{**ARM_TASK['reward'][0], 'far': 0.1}]}, r'far: expected more than near'),
        ({'reset': {'joints': {1: [0, 1]}}}, 'reset.joints.1: expected a name, got 1'),
        ({'reward': ['effort']}, r'reward\[0\]: expected a mapping'),
        ({'end': [{'type': 'tilt', 'of': 'arm'}]}, r'end\[0\]: expected either below or above'),
        ({'end': {'type': 'tilt'}}, 'end: expected a list'),
        ({'reset': {'body': []}}, 'unknown key reset.body; did you mean bodies'),
        ({'reset': {'bodies': [{'body': 'arm'}]}}, 'freejoint or mocap="true", got .arm'),
        ({'reset': {'bodies': [{'body': 'goal', 'x': [1, -1]}]}}, r'bodies\[0\].x: expected .low, high.'),
        ({'reset': {'bodies': [{'body': 'goal', 'x': [0, 1], 'apart': {'ball': 9}}]}}, 'no place for .goal'),
        ({'reset': {'joints': {'elbow': [0, 1]}}}, 'name of a joint .shoulder., got .elbow'),
        ({'randomise': {'gravity': [1, 2]}}, 'randomise.gravity; expected one of light, colour, friction, mass'),
        ({'randomise': {'mass': [0, 2]}}, 'randomise.mass: expected .low, high., factors above 0, got'),
    ],
)
def test_mistakes_in_a_task_file(arm, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        arm(**changes)
    assert 'arm_reach.yaml' in str(caught.value) and '\n' not in str(caught.value)


def test_files_that_are_no_task(tmp_path, arm):
    with pytest.raises(InputError, match='nowhere.yaml: expected a text file'):
        make(str(tmp_path / 'nowhere.yaml'))
    broken = tmp_path / 'broken.yaml'
    for text, message in (('model: [unclosed', 'expected YAML'), ('', 'expected a mapping')):
        broken.write_text(text)
        with pytest.raises(InputError, match=f'broken.yaml: {message}'):
            make(str(broken))
    (tmp_path / 'arm.xml').write_text('<mujoco><worldbody><geom/></worldbody>')
    with pytest.raises(InputError, match='does not compile'):
        arm()
    (tmp_path / 'arm.xml').write_text('<mujoco><worldbody><geom size="1"/></worldbody></mujoco>')
    with pytest.raises(InputError, match='at least one camera'):
        arm()


def test_every_key_is_described():
    for row in describe(TaskFile):
        assert row.help, row.key
    assert '| `reward[].from` | name |  | required | a site or a body |' in reference(TaskFile)
