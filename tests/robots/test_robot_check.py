"""What `dreamer robot check` finds wrong, and in which line; doubles of real robots are the wire."""

from __future__ import annotations

import json

import pytest
import yaml
from std_msgs.msg import Bool

from dreamer_ros.cli.main import main
from dreamer_ros.deploy.robot_check import check_robot
from dreamer_ros.deploy.survey import LATCHED, Survey
from dreamer_ros.paths import share
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.ros import qos
from tests.robots.fake_robot import FakeRobot

SECONDS = 0.3


def altered(name: str, change) -> RobotContract:
    """A robot's contract with a change, as text with lines of its own."""
    content = yaml.safe_load(share('robots', f'{name}.yaml').read_text())
    change(content)
    return RobotContract.from_text(yaml.safe_dump(content, sort_keys=False), 'robot.yaml')


def set_at(*path):
    """set_at('cameras', 'camera', 'topic', '/x') changes one value."""

    def change(content):
        *way, last, value = path
        for key in way:
            content = content[key]
        content[last] = value

    return change


JOINT = {'name': 'lost', 'topic': '/joint_states', 'type': 'sensor_msgs/msg/JointState', 'field': 'position[lost]'}
# What is changed; key, words of the text, and what stands in the line.
WRONG = [
    (
        lambda content: (
            content['command'].update(type='geometry_msgs/msg/Twist'),
            content['command']['axes'][0].update(field='linear.x'),
            content['command']['axes'][1].update(field='angular.z'),
        ),
        ('command.type', 'TwistStamped (/create3_repub)', 'type: geometry_msgs/msg/Twist'),
    ),
    (
        set_at('cameras', 'camera', 'topic', '/oakd/rgb/image_raw'),
        ('cameras.camera.topic', 'Image is on /oakd/rgb/preview/image_raw', 'topic: /oakd/rgb/image_raw'),
    ),
    (
        set_at('cameras', 'camera', 'type', 'sensor_msgs/msg/CompressedImage'),
        ('cameras.camera.type', 'carries sensor_msgs/msg/Image (from /oakd)', 'type: sensor_msgs/msg/CompressedImage'),
    ),
    (
        set_at('cameras', 'camera', 'crop', {'x': 0, 'y': 0, 'width': 999, 'height': 9}),
        ('cameras.camera.crop', 'at least 999x9 pixels', 'crop:'),
    ),
    (lambda content: content['vector'].append(JOINT), ('vector[3].field', 'left_wheel_joint', 'position[lost]')),
    (set_at('max_age', 0.0001), ('max_age', 'expected at most 0.0001 s; the oldest was', 'max_age: 0.0001')),
    (set_at('command', 'topic', '/cmd'), ('command.topic', 'found none', 'topic: /cmd')),
]


@pytest.mark.races_clock('messages are to be new and nodes to be found in time')
def test_what_would_keep_a_robot_from_moving(ros_domain, tmp_path, capsys, monkeypatch):
    right = altered('turtlebot4', lambda content: content.update(estop='estop'))
    with FakeRobot('turtlebot4', smaller=8), Survey('/turtlebot4') as ears:
        assert 'error' not in {finding.level for finding in check_robot(right, ears, SECONDS)}
        monkeypatch.setattr(ears, 'discover', lambda complete: None)  # it knows everybody
        for change, (key, words, line) in WRONG:
            contract = altered('turtlebot4', change)
            errors = [finding for finding in check_robot(contract, ears, SECONDS) if finding.level == 'error']
            assert key in [finding.key for finding in errors], (key, errors)
            found = next(finding for finding in errors if finding.key == key)
            assert words in found.text
            assert line in contract.text.splitlines()[found.line - 1]
        path = tmp_path / 'robot.yaml'
        path.write_text(right.text)
        arguments = ['robot', 'check', str(path), 'seconds:=0.6']
        pressed = ears.node.create_publisher(Bool, '/turtlebot4/estop', qos.profile(LATCHED))
        assert main([*arguments, '--json']) == 0
        findings = json.loads(capsys.readouterr().out)
        assert {finding['level'] for finding in findings} == {'ok', 'warning'}
        pressed.publish(Bool(data=True))
        assert main(arguments) == 1
        printed = capsys.readouterr().out.splitlines()
        line = path.read_text().splitlines().index('estop: estop') + 1
        assert f'{path}:{line}: error: estop: /turtlebot4/estop: the emergency stop is pressed' in printed
        assert printed[-1] == 'the robot would not move: 1 errors, 1 warnings'


@pytest.mark.races_clock('messages are to be new')
def test_an_arm_that_does_not_fit_its_controller(ros_domain):
    """Fewer joints than the controller has, limits beyond the URDF, and a joint that stands beyond its limits."""

    def change(content):
        del content['command']['axes'][-1], content['limits']['wrist_3']
        content['command']['axes'][0]['limits'] = [-9, 9]

    with FakeRobot('ur5e', smaller=8) as robot, Survey('/ur5e') as ears:
        findings = {
            (finding.level, finding.key): finding.text
            for finding in check_robot(altered('ur5e', change), ears, SECONDS)
        }
        assert 'takes 6 joints' in findings['error', 'command.axes']
        assert 'beyond the velocity of shoulder_pan_joint' in findings['warning', 'command.axes[0].limits']
        robot.velocities['elbow_joint'] = 0.8
        findings = check_robot(altered('ur5e', lambda content: None), ears, SECONDS)
        [error] = [finding for finding in findings if finding.level == 'error']
        assert error.key == 'command.axes[2].limits' and 'it stands at 0.8' in error.text


def test_simulated_time_is_told_from_clocks_that_differ(ros_domain):
    contract = altered('gazebo_turtlebot4', lambda content: None)
    with FakeRobot('gazebo_turtlebot4', smaller=8):
        with Survey('/sim') as ears:
            errors = [finding for finding in check_robot(contract, ears, SECONDS) if finding.level == 'error']
        assert {finding.key for finding in errors} == {'stamps', 'limits.ahead'}
        told = [finding.text for finding in errors if finding.key == 'stamps']
        assert told and all('in simulated time: start the agent with use_sim_time:=true' in text for text in told)


@pytest.mark.races_clock('messages are to be new')
def test_a_new_contract_is_written_once(ros_domain, tmp_path, capsys):
    path = tmp_path / 'mine.yaml'
    with FakeRobot('so101', smaller=8):
        topic = '/follower/trajectory_controller/joint_trajectory'
        assert main(['robot', 'new', 'mine', f'output:={path}', f'topic:={topic}', 'seconds:=0.4']) == 0
        assert main(['robot', 'check', str(path), '--seconds', '0.4']) == 0
    printed = capsys.readouterr().out
    assert 'the robot would move' in printed and f'{path}: written' in printed
    with pytest.raises(ValueError, match='expected a new file'):
        main(['robot', 'new', 'mine', '--output', str(path)])
