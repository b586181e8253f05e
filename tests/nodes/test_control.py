"""Single ticks of the control loop: who ends an episode, with what reward, and what follows."""

from __future__ import annotations

import types

import numpy as np
import pytest

from dreamer_ros.deploy.camera_reward import CameraReward
from dreamer_ros.deploy.control import Behaviour, Control
from dreamer_ros.deploy.resetting import Resetting
from dreamer_ros.deploy.stops import Deadline
from dreamer_ros.deploy.watchdog import Gate
from dreamer_ros.policy.classifier import Hysteresis
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.robot.sensing import Sensed
from dreamer_ros.wire.codecs import Verdict
from tests.nodes.robot import contract_text


class Loop:
    """A loop whose camera shows `brightness`, and whose steps are kept: (flags, reward, verdict)."""

    def __init__(self, more):
        contract = RobotContract.from_text(contract_text(10, more=more), 'robot.yaml')
        self.brightness, self.time, self.steps = 0, 0, []
        self.gate = Gate(contract, lambda cdr: None, lambda cdr: None, lambda: 0)
        self.gate.open()
        self.reset = Resetting(None, contract, self.gate)
        camera_reward = None
        if hasattr(contract.reward, 'classifier'):
            camera_reward = CameraReward.__new__(CameraReward)  # the file is tested elsewhere
            camera_reward._classifier = lambda image: image.mean() / 255
            camera_reward._says, camera_reward.success = contract.reward, False
            camera_reward._decide = Hysteresis(contract.reward.above, contract.reward.below, contract.reward.steps)
        inputs = types.SimpleNamespace(observe=self._observe, waited=lambda now: None, sent=None)
        publisher = types.SimpleNamespace(publish=self._publish)
        self.control = Control(
            contract,
            inputs,
            types.SimpleNamespace(current=None),
            self.gate,
            publisher,
            Behaviour(training=True, evaluate_every=0, episode_length=0, pause=False, seed=0),
            types.SimpleNamespace(time_ns=lambda: self.time),
            Deadline(''),
            None,
            self.reset,
            camera_reward,
            print,
        )

    def _observe(self, stamp):
        image = np.full((32, 32, 3), self.brightness, np.uint8)
        return Sensed(image, np.zeros(1), np.full(2, np.nan), {'camera/image_raw': 0}, (), 0.0, False, ())

    def _publish(self, stamp, sensed, flags, action, mode, verdict):
        self.steps.append((flags, sensed.reward, verdict))

    def tick(self, count=1):
        for _ in range(count):
            self.time += 10**8
            self.control._tick(0.0, 1e12, types.SimpleNamespace(steer=lambda *age: None))
        return self.steps[-1]


LAST, FOR_GOOD = (False, True, False), (False, True, True)


@pytest.mark.parametrize(
    'reward, success, expected',
    [
        ('{verdict: 3, failure: -2}', True, (FOR_GOOD, 3.0)),
        ('{verdict: 3, failure: -2}', False, (FOR_GOOD, -2.0)),
        ('{verdict: 3}', None, (LAST, 0.0)),
        ('{classifier: x.onnx, value: 4}', True, (FOR_GOOD, 4.0)),
        ('{classifier: x.onnx, value: 4}', False, (FOR_GOOD, 0.0)),
        ('null', True, (LAST, 0.0)),
    ],
)
def test_what_a_person_says_is_the_end_and_the_reward(reward, success, expected):
    loop = Loop(f'reward: {reward}')
    loop.tick(3)
    verdict = None if success is None else Verdict(success, 'person')
    loop.control.end_episode(verdict)
    assert loop.tick() == (*expected, verdict)
    assert loop.tick()[0] == (True, False, False), 'the next one begins'


def test_a_success_in_the_picture_ends_the_episode_and_holds_the_robot_until_it_is_gone():
    loop = Loop('reward: {classifier: x.onnx, above: 0.8, below: 0.4, steps: 2, value: 4}')
    assert loop.tick(3) == ((False, False, False), 0.0, None)
    loop.brightness = 250
    assert not loop.tick()[0][1], 'one picture is none'
    assert loop.tick() == (FOR_GOOD, 4.0, Verdict(True, 'classifier'))
    loop.brightness = 150
    count = len(loop.steps)
    loop.tick(3)
    assert len(loop.steps) == count and list(loop.gate.reasons) == ['end']
    loop.brightness = 50
    assert loop.tick()[0] == (True, False, False)


def test_a_success_that_does_not_end_the_episode_earns_at_every_step():
    loop = Loop('reward: {classifier: x.onnx, steps: 1, ends: false}')
    loop.tick(2)
    loop.brightness = 250
    assert [loop.tick()[:2] for _ in range(3)] == [((False, False, False), 1.0)] * 3


def test_the_reset_comes_before_the_next_episode_also_where_the_task_has_ended():
    loop = Loop(
        'reward: {classifier: x.onnx, steps: 1}\nreset: {steps: [{command: {forward: 1, turn: 0}, seconds: 0.5}]}'
    )
    loop.tick(3)
    loop.brightness = 250
    loop.tick()
    count = len(loop.steps)
    loop.tick(4)
    assert loop.reset.pending and not loop.gate.reasons and loop.gate.values.tolist() == [1, 0]
    loop.tick()
    assert not loop.reset.pending and len(loop.steps) == count
    loop.brightness = 0
    assert loop.tick()[0] == (True, False, False)
