"""The agent node alone: the test plays the robot and the trainer."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import String

from dreamer_ros import launcher
from dreamer_ros.nodes import agent as agent_module
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.ros import qos
from dreamer_ros.wire import codecs, topics
from tests.nodes.conftest import NAMESPACE, PATIENCE
from tests.policy.tiny import spec as tiny_spec
from tests.policy.tiny import tiny_policy

SPEC = tiny_spec()
PERIOD = round(SPEC.control_period * 1e9)


@pytest.fixture(scope='module')
def policies(tmp_path_factory):
    """Manifests of two versions of a small policy, and their files."""
    from dreamer_ros.policy.export import Exporter

    folder = tmp_path_factory.mktemp('policies')
    return {
        version: (
            Exporter(tiny_policy(SPEC, seed=version), SPEC).write(
                folder / f'policy_{version}.onnx', dict(system='tiny', preset='tiny', step=version, version=version)
            ),
            folder / f'policy_{version}.onnx',
        )
        for version in (1, 2)
    }


class Robot:
    """Publishes observations of noise and takes the answers."""

    def __init__(self, peer):
        self._peer = peer
        self._publishers = {
            topic: qos.publisher(peer.node, topic) for topic in (topics.STEP, topics.IMAGE, topics.SPEC, topics.POLICY)
        }
        self.answers = []
        self._subscription = peer.listen(topics.ACTION, self.answers.append)
        self._rng = np.random.default_rng(0)
        self.stamp = 10**18
        self.announce(SPEC)

    def announce(self, spec):
        self._publishers[topics.SPEC].publish(String(data=spec.to_json()))

    def offer(self, manifest):
        self._publishers[topics.POLICY].publish(String(data=manifest.to_json()))

    def ready(self):
        self._peer.until(lambda: self._publishers[topics.STEP].get_subscription_count() > 1, 'the agent')

    def look(self, is_first=False, is_last=False):
        """Publish a new observation; returns its image."""
        self.stamp += PERIOD
        image = self._rng.integers(0, 256, (*SPEC.image_size, 3), np.uint8)
        self.send(image, is_first, is_last)
        return image

    def send(self, image, is_first, is_last=False):
        self._sent = image, is_first, is_last
        step, message = (self._publishers[topic].msg_type() for topic in (topics.STEP, topics.IMAGE))
        codecs.fill_step(step, codecs.Step(self.stamp, 0.0, is_first, is_last, False))
        codecs.fill_image(message, image, self.stamp)
        self._publishers[topics.STEP].publish(step)
        self._publishers[topics.IMAGE].publish(message)

    def answer(self):
        """The next answer: action, frame_id; its stamp must be that of the observation."""
        for _ in range(10):  # asks again as the simulator does: best effort may lose a message
            self._peer.spin_until(lambda: self.answers, 1.0)
            if self.answers:
                break
            self.send(*self._sent)
        message = self.answers.pop(0)
        assert codecs.stamp_to_ns(message.header.stamp) == self.stamp
        return np.array(message.axes, np.float32), message.header.frame_id

    def actor(self):
        """Who answers a new observation."""
        self.look()
        return self.answer()[1]

    def episode(self, length):
        """Play one; returns images, actions and the set of frame_ids."""
        played = []
        for k in range(length):
            image = self.look(k == 0, k == length - 1)
            played.append((image, *self.answer()))
        images, actions, frames = zip(*played)
        return images, np.stack(actions), set(frames)


def test_random_then_policies(start, peer, policies):
    agent = start('agent', evaluate_every=3, seed=5)
    robot = Robot(peer)
    robot.ready()
    _, actions, frames = robot.episode(20)
    assert frames == {'random'}
    assert np.abs(actions).max() <= 1 and actions.std() > 0.3

    robot.offer(policies[1][0])
    peer.until(lambda: robot.actor() == 'policy/1/explore', 'the first policy')
    images, actions, frames = robot.episode(6)
    assert frames == {'policy/1/explore'}
    assert not actions[-1].any(), 'the answer to the last observation is zeros'

    # Every third episode is deterministic, and equals the runner's actions with the state carried.
    runner = PolicyRunner(policies[1][1], SPEC)
    images, actions, frames = robot.episode(6)
    assert frames == {'policy/1/evaluate'}
    expected = [runner.act(image, None, k == 0, explore=False) for k, image in enumerate(images[:-1])]
    np.testing.assert_allclose(actions[:-1], expected, atol=1e-6)

    # A repeated stamp gets the same answer and does not advance the state; a new version swaps in.
    image = robot.look(is_first=True)
    first = robot.answer()
    robot.send(image, True)
    again = robot.answer()
    assert first[1] == again[1] and np.array_equal(first[0], again[0])
    robot.offer(policies[2][0])
    peer.until(lambda: robot.actor() == 'policy/2/explore', 'the second policy')

    # What can't be loaded changes nothing, and is said.
    robot.offer(policies[1][0].model_copy(update={'sha256': '0' * 64, 'version': 3}))
    robot.offer(policies[1][0].model_copy(update={'spec_hash': 'another', 'version': 4}))
    peer.until(lambda: robot.actor() and 'another' in agent.output, 'the complaint')
    assert 'keeping version 2' in agent.output
    assert robot.actor() == 'policy/2/explore'

    resident = next(line for line in open(f'/proc/{agent.pid}/status') if line.startswith('VmRSS'))
    print(resident)
    assert int(resident.split()[1]) < 250_000
    assert agent.stop() == 0


def test_evaluation_waits_for_a_policy(start, peer, policies):
    agent = start('agent', mode='evaluate')
    robot = Robot(peer)
    peer.until(lambda: 'waiting for a policy on /sim0/policy' in agent.output, 'saying what it waits for')
    robot.offer(policies[1][0])
    robot.ready()
    for _ in range(2):
        assert robot.episode(3)[2] == {'policy/1/evaluate'}


def test_newest_observation_wins(peer, policies, monkeypatch):
    """While the agent thinks, an episode begins and goes on: one answer, with a fresh state.

    In this process, where it can be told when it thinks: one that is frozen from outside may wake up to any part of
    what was sent to it.
    """
    thinking, go_on = threading.Event(), threading.Event()

    class Thinker(PolicyRunner):
        def act(self, *arguments, **options):
            thinking.set()
            assert go_on.wait(PATIENCE)
            return super().act(*arguments, **options)

    monkeypatch.setattr('dreamer_ros.policy.loader.PolicyRunner', Thinker)
    node = Node(
        'agent',
        namespace=NAMESPACE,
        context=peer.node.context,
        parameter_overrides=[Parameter('mode', value='evaluate'), Parameter('policy', value=str(policies[1][1]))],
    )
    stop = threading.Event()
    agent = threading.Thread(target=agent_module.Agent(node, stop).run)
    agent.start()
    try:
        robot = Robot(peer)
        robot.ready()
        go_on.set()
        robot.episode(5)
        go_on.clear()
        thinking.clear()
        robot.look(is_first=True)
        peer.until(thinking.is_set, 'the beginning of an inference')
        before = robot.stamp
        robot.look(is_first=True)
        robot.look()
        image = robot.look()
        peer.spin(0.5)
        go_on.set()
        peer.until(lambda: len(robot.answers) > 1, 'two answers')
        peer.spin(0.2)
    finally:
        stop.set()
        go_on.set()
        agent.join()
        node.destroy_node()
    assert [codecs.stamp_to_ns(answer.header.stamp) for answer in robot.answers] == [before, robot.stamp]
    expected = PolicyRunner(policies[1][1], SPEC).act(image, None, True, explore=False)
    np.testing.assert_allclose(robot.answers[1].axes, expected, atol=1e-6)


def test_another_robot(start, peer, policies, monkeypatch):
    monkeypatch.setenv(launcher.VARIABLE, 'a launch')  # by hand, it soon takes an unheard robot for the policy's own
    agent = start('agent', mode='evaluate', policy=policies[1][1])
    robot = Robot(peer)
    robot.announce(tiny_spec(actions=3))
    assert agent.wait() == 2
    assert agent.output.splitlines()[-1].startswith(f'error: policy {policies[1][1]}: expected a policy for tiny')


@pytest.mark.parametrize('module', ['agent', 'recorder', 'evaluator'])
def test_imports_neither_torch_nor_mujoco(module):
    code = (
        f'import sys, dreamer_ros.nodes.{module}\n'
        'print([name for name in ("torch", "mujoco", "dm_control") if name in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'
