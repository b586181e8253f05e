"""The robots of robots/ against their doubles: the contract fits, commands arrive, and one is written anew."""

from __future__ import annotations

import time

import numpy as np
import pytest

from dreamer_ros.deploy.robot_check import check_robot
from dreamer_ros.deploy.survey import Survey, look_around
from dreamer_ros.robot.commands import Commands
from dreamer_ros.robot.contract import DECIDE, RobotContract, load_contract
from dreamer_ros.robot.drafting import draft
from dreamer_ros.ros import qos
from tests.robots.fake_robot import NAMES, FakeRobot

SECONDS = 0.5  # of listening


def told(findings, level: str) -> list[str]:
    return [f'{finding.key}: {finding.text}' for finding in findings if finding.level == level]


@pytest.mark.races_clock('messages are to be new')
@pytest.mark.parametrize('name', NAMES)
def test_a_robot_out_of_the_box(ros_domain, name):
    contract = load_contract(name)
    with FakeRobot(name, smaller=8) as robot, Survey(f'/{name}', 'clock' in robot.table) as survey:
        findings = check_robot(contract, survey, SECONDS)
        assert not told(findings, 'error')
        part, topic = contract.command.parts[0], contract.command_topics[0].name
        text = draft(name, look_around(survey, SECONDS, topic), topic)
        new = RobotContract.from_text(text, 'drafted.yaml')
        assert [camera.topic for camera in new.cameras.values()] == [cam.topic for cam in contract.cameras.values()]
        assert [field.text for field in new.command.parts[0].fields] == [field.text for field in part.fields]
        drafted = check_robot(new, survey, SECONDS)
        assert not told(drafted, 'error')
        drive(contract, robot, survey)
    for finding in drafted:  # whatever else it warns of, a person must decide
        assert finding.level == 'ok' or finding.key == 'estop' or DECIDE in finding.text, finding


def drive(contract: RobotContract, robot: FakeRobot, survey: Survey) -> None:
    """Commands arrive; without them the robot stops after its controller's timeout, or never."""
    publishers = [qos.publisher(survey.node, topic) for topic in contract.command_topics]
    commands = Commands(contract)
    values = np.array([axis.limits[1] * 0.5 for axis in contract.command.axes])
    end = time.monotonic() + 5.0
    while min(robot.commands[topic.name] for topic in contract.command_topics) < 4 and time.monotonic() < end:
        for publisher, message in zip(publishers, commands.encode(values, survey.clock.time_ns())):
            publisher.publish(message)
        time.sleep(0.05)
    assert robot.moved() > 0 and time.monotonic() < end, 'it takes no command'
    if all(axis.unit.endswith('/s') for axis in contract.command.axes):
        timeout = contract.command.controller_timeout
        silent, end = time.monotonic(), time.monotonic() + (5.0 if timeout else 0.6)
        while np.abs([*robot.speed.values(), *robot.velocities.values()]).max() > 1e-6 and time.monotonic() < end:
            time.sleep(0.01)
        stopped = time.monotonic() < end
        assert stopped == bool(timeout)
        assert not stopped or time.monotonic() - silent > timeout / 2
