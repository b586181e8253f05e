"""A person at a joystick, and the ends and beginnings of episodes that people ask for, over ROS."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import pytest
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState, Joy
from std_srvs.srv import Trigger

from dreamer_ros.episodes.bag_reader import read_metadata
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.wire import codecs
from tests.nodes.faults import scene
from tests.nodes.robot import NAMESPACE
from tests.nodes.test_robot_agent import wait_for

RATE = 5.0  # slow enough for machines on which ten processes share two cores
RELEASE = 0.6
MORE = f"""
joystick: {{axes: {{forward: {{"axes[1]": 1.2}}}}, release: {RELEASE}, max_age: 0.4}}
reward:
  fields: {{speed: {{topic: joint_states, type: sensor_msgs/msg/JointState, field: "velocity[wheel]"}}}}
  expression: 2 * speed - 0.25
"""


class Joystick:
    """Repeats what its sticks say, as joy_node does, on a thread of its own."""

    def __init__(self, node):
        self._publisher = node.create_publisher(Joy, 'joy', 10)
        self._ending = threading.Event()
        self.forward = None  # None for a joystick that is switched off
        self.buttons = [0, 0, 0]
        self._thread = threading.Thread(target=self._repeat, daemon=True)
        self._thread.start()

    def _repeat(self):
        while not self._ending.wait(0.03):
            if self.forward is not None:
                self._publisher.publish(Joy(axes=[0.0, self.forward], buttons=self.buttons))

    def close(self):
        self._ending.set()
        self._thread.join()


RESET = """
joystick: {axes: {forward: {"axes[1]": 1.2}}, success: "buttons[1]", failure: "buttons[2]"}
reward: {verdict: 5, failure: -1}
reset: {steps: [{command: {forward: -0.3, turn: 0}, seconds: 0.6}, {service: set_up}]}
"""


@pytest.fixture
def robot(ros_domain, tmp_path, request):
    recorder = None
    with scene(tmp_path, ros_domain, RATE, more=getattr(request, 'param', MORE)) as made:
        made.joystick = Joystick(made.ears.node)
        with (tmp_path / 'recorder.log').open('w') as log:
            recorder = subprocess.Popen(
                [
                    sys.executable,
                    '-m',
                    'dreamer_ros.nodes.recorder',
                    '--ros-args',
                    '-r',
                    f'__ns:={NAMESPACE}',
                    '-p',
                    f'contract:={tmp_path}/robot.yaml',
                    '-p',
                    f'folder:={tmp_path}/bags',
                ],
                stdout=log,
                stderr=log,
            )
        try:
            made.ready()
            yield made
        finally:
            recorder.terminate()
            recorder.wait(30)
            made.joystick.close()
            print(made.log.read_text(), (tmp_path / 'recorder.log').read_text())


def forward(ears, count=5):
    """Whether the newest commands are a joystick's: 1.2 m/s at 1, and never a turn."""
    newest = ears.commands[-count:]
    return [round(command.forward, 4) for command in newest], {command.turn for command in newest}


def end_episode(ears):
    assert ears.call(Trigger, 'end_episode', Trigger.Request()).success


def whole_bags(folder):
    return sorted(folder.glob('bags/[!.]*'))


@pytest.mark.races_clock('five commands in a row have to be in time')
def test_a_person_takes_over_gives_back_and_is_recorded(robot):
    ears, joystick = robot.ears, robot.joystick
    actions = []
    ears.node.create_subscription(Joy, 'action', actions.append, QoSProfile(depth=1000))
    wait_for(lambda: end_episode_is_possible(ears))
    ears.spin(0.5)
    before = len(whole_bags(robot.folder))
    joystick.forward = 0.0
    ears.spin(0.5)
    assert {message.header.frame_id for message in actions} == {'policy/1/evaluate'}, 'at rest it takes nothing over'

    joystick.forward = 0.5
    wait_for(lambda: forward(ears) == ([0.6] * 5, {0.0}))
    joystick.forward = 2.5
    wait_for(lambda: forward(ears) == ([2.0] * 5, {0.0}))  # its limit: the same safety as for a policy
    joystick.forward = 0.0
    began = time.monotonic()
    wait_for(lambda: forward(ears, 2) == ([0.0] * 2, {0.0}))
    robot.ready()
    assert time.monotonic() - began > RELEASE - 0.2, 'it gives back after a moment'
    ears.spin(0.5)
    assert actions[-1].header.frame_id == 'policy/1/evaluate'
    end_episode(ears)
    wait_for(lambda: len(whole_bags(robot.folder)) > before)

    bags = whole_bags(robot.folder)[before:]
    episodes = [episode for bag in bags for episode in read_episodes(bag, robot.contract.spec)[0]]
    sent = {codecs.stamp_to_ns(message.header.stamp): message.header.frame_id for message in actions}
    done = [
        (action, sent[stamp])
        for episode in episodes
        for stamp, action in zip(episode.stamp, episode.action)
        if stamp in sent
    ]
    for episode in episodes:  # the wheel turns at 0.5
        assert (episode.reward[1:] == 0.75).all() and episode.reward[0] == (0.0 if episode.is_first[0] else 0.75)
    by_hand = [action for action, mode in done if mode == 'human']
    told = [
        is_human for episode in episodes for stamp, is_human in zip(episode.stamp, episode.is_human) if stamp in sent
    ]
    assert told == [mode == 'human' for _, mode in done]
    counts = Counter(mode for _, mode in done)
    assert counts['human'] > 5 and counts['policy/1/evaluate'] >= 2
    for action in by_hand:  # of 2 m/s
        assert action[1] == 0 and np.isclose(action[0], [0, 0.3, 1.0]).any()
    data = [read_metadata(bag)['custom_data'] for bag in bags]
    assert len(by_hand) <= sum(int(entry['human_steps']) for entry in data) <= list(sent.values()).count('human')
    assert any(entry['mode'] == 'human' for entry in data), 'no evaluation of the policy'

    joystick.forward = 1.0
    wait_for(lambda: forward(ears) == ([1.2] * 5, {0.0}))
    began = time.time_ns()
    joystick.forward = None
    stop = ears.first_stop(began)
    assert stop is not None and stop.received - began < 2e9
    time.sleep(RELEASE + 0.5)
    assert ears.commands[-1].is_stop, 'a joystick that fell silent does not give back by itself'
    wait_for(lambda: 'joy: silent for' in robot.log.read_text())
    ears.enable()
    robot.ready()
    assert 1.2 not in {round(command.forward, 4) for command in ears.commands[-5:]}


def end_episode_is_possible(ears):
    return ears.call(Trigger, 'end_episode', Trigger.Request()).success


def test_pauses_and_resets_end_and_begin_episodes(robot):
    """~/end_episode, ~/enable and an emergency stop write is_last, and what comes after them is_first."""
    ears = robot.ears
    steps = []
    ears.node.create_subscription(JointState, 'step', lambda message: steps.append(codecs.read_step(message)), 1000)

    def pause():
        ears.enable(False)
        assert ears.first_stop(time.time_ns() - 10**9)
        wait_for(lambda: ears.spin(0.1) or steps[-1].is_last)
        ears.spin(0.5)
        assert steps[-1].is_last, 'nothing is recorded while it rests'
        ears.enable(True)

    def press():
        ears.press(True)
        assert ears.first_stop(time.time_ns() - 10**9)
        wait_for(lambda: ears.spin(0.1) or steps[-1].is_last)
        ears.press(False)
        ears.spin(0.3)
        assert steps[-1].is_last
        ears.enable(True)

    for interrupt in (lambda: end_episode(ears), pause, press):
        ears.spin(0.5)
        wait_for(lambda: ears.spin(0.1) or (steps and not steps[-1].is_last))
        steps.clear()
        interrupt()
        robot.ready()
        wait_for(lambda: ears.spin(0.1) or any(step.is_first for step in steps))
        flags = [(step.is_first, step.is_last) for step in steps]
        last, first = flags.index((False, True)), flags.index((True, False))
        assert first == last + 1, flags
        assert not steps[last].is_terminal and steps[first].reward == 0.0


def test_it_waits_after_every_episode_until_somebody_has_set_it_up(ros_domain, tmp_path):
    with scene(tmp_path, ros_domain, RATE, more='episode_length: 20', pause=True) as robot:
        ears, steps = robot.ears, []
        ears.node.create_subscription(JointState, 'step', lambda message: steps.append(codecs.read_step(message)), 1000)
        wait_for(lambda: ears.spin(0.05) or any(step.is_last for step in steps))
        count = len(steps)
        ears.spin(1.0)
        assert len(steps) == count and ears.commands[-1].is_stop
        wait_for(lambda: '~/enable true begins the next one' in robot.log.read_text())
        ears.enable()
        wait_for(lambda: ears.spin(0.05) or len(steps) > count + 5)
        assert steps[count].is_first and steps[count - 1].is_last
        robot.ready()


@pytest.mark.parametrize('robot', [RESET], indirect=True)
def test_a_verdict_ends_an_episode_and_the_robot_is_set_up_again(robot):
    ears, asked, answers = robot.ears, [], [False, True, True]
    steps = []
    ears.node.create_subscription(JointState, 'step', steps.append, 1000)

    def set_up(request, response):
        asked.append(ears.commands[-1])
        response.success = answers.pop(0)
        return response

    ears.node.create_service(Trigger, 'set_up', set_up)
    wait_for(lambda: ears.spin(0.1) or len(steps) > 3)
    robot.joystick.forward = 0.0
    ears.spin(0.5)
    robot.joystick.buttons = [0, 1, 0]
    wait_for(lambda: ears.spin(0.1) or asked)
    last = dict(zip(steps[-1].name, steps[-1].position))
    assert (last['verdict/joystick'], last['reward'], last['is_last'], last['is_terminal']) == (1, 5, 1, 1)
    assert asked[0].is_stop, 'nobody drives while the service works'
    back = [command for command in ears.commands if command.sent > codecs.stamp_to_ns(steps[-1].header.stamp)]
    assert [round(command.forward, 3) for command in back if not command.is_stop] == [-0.3] * 3
    wait_for(lambda: ears.spin(0.1) or 'stopped: the robot could not be set up again' in robot.log.read_text())
    count = len(steps)
    ears.spin(1.0)
    assert len(steps) == count and ears.commands[-1].is_stop, 'it stays stopped'
    ears.enable()
    wait_for(lambda: ears.spin(0.1) or len(steps) > count + 2)
    assert len(asked) == 2
    assert codecs.read_step(steps[count]).is_first, 'the button is still held, which is nothing new'
    assert ears.call(Trigger, 'fail', Trigger.Request()).message == 'the episode ends as a failure'
    wait_for(lambda: ears.spin(0.1) or len(whole_bags(robot.folder)) >= 2)
    data = [read_metadata(bag)['custom_data'] for bag in whole_bags(robot.folder)]
    said = [(entry.get('verdict'), entry.get('verdict_by'), float(entry['return'])) for entry in data[-2:]]
    assert said == [('success', 'joystick', 5.0), ('failure', 'person', -1.0)]
