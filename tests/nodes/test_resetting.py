"""How a robot is set up again between two episodes. Whole agents are in test_human.py."""

from __future__ import annotations

import types

import numpy as np
import pytest
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import SetBool, Trigger

from dreamer_ros.deploy import resetting
from dreamer_ros.deploy.resetting import STILL, Resetting
from dreamer_ros.deploy.watchdog import Gate
from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.ros.interfaces import fill
from dreamer_ros.wire.definitions import decode
from tests.nodes.robot import contract_text
from tests.robot.robots import contract as arm

NOWHERE = np.full(2, np.nan)


class Scene:
    """A gate whose messages are kept, and a reset whose episode has just ended."""

    def __init__(self, contract, node=None):
        self.sent, kind = [], contract.command.type

        def note(messages):
            if messages[0] is None:
                return
            message = decode(messages[0], kind)
            self.sent.append(
                message.data.tolist() if hasattr(message, 'data') else [message.linear.x, message.angular.z]
            )

        self.gate = Gate(contract, note, note, lambda: 0)
        self.gate.open()
        self.reset = Resetting(node, contract, self.gate)
        self.reset.begin()

    def tick(self, feedback=NOWHERE):
        self.reset.tick(feedback, self.gate.ticket())
        self.gate.repeat(1e12)


def twist(steps, timeout=60):
    return RobotContract.from_text(contract_text(10, more=f'reset: {{timeout: {timeout}, steps: {steps}}}'), 'r.yaml')


def test_timed_commands_go_on_after_a_stop():
    scene = Scene(twist('[{command: {forward: -0.5, turn: 0}, seconds: 0.3}, {command: {forward: 0, turn: 1}}]'))
    scene.tick()
    scene.gate.hold('estop', 'pressed')
    scene.sent.clear()
    for _ in range(5):
        scene.tick()
    assert scene.reset.pending and {*map(tuple, scene.sent)} == {(0, 0)}
    scene.gate.release('estop')
    scene.sent.clear()
    for _ in range(12):
        assert scene.reset.pending
        scene.tick()
    assert not scene.reset.pending and scene.sent == [[-0.5, 0]] * 2 + [[0, 1]] * 10 and not scene.gate.reasons


def test_a_pose_is_reached_within_the_rate_limits_or_given_up():
    steps = [{'pose': {'shoulder': 1, 'elbow': 0.5}, 'tolerance': 0.1}]
    scene = Scene(arm(reset={'steps': steps, 'timeout': 2.0}))
    scene.gate.start(np.array([0.0, 0.0]))
    scene.tick(np.array([0.0, 0.0]))
    assert scene.sent[-1] == pytest.approx([0.4, 0.1])  # 4 and 1 per second, at 10 Hz
    for _ in range(20):
        scene.tick(np.array([0.95, 0.2]))
    [reason] = scene.gate.reasons.values()
    assert 'moves elbow to 0.5: expected it done within 2 s' in reason and '~/enable true tries again' in reason
    scene.tick(np.array([1.0, 0.5]))
    scene.gate.release('reset')  # as a deactivation does
    scene.tick(np.array([1.0, 0.5]))
    assert scene.reset.pending and list(scene.gate.reasons) == ['reset'], 'a person has to look first'
    scene.reset.again()
    scene.tick(np.array([1.0, 0.5]))
    assert not scene.reset.pending and not scene.gate.reasons


def test_a_person_is_waited_for():
    scene = Scene(twist('[{person: put the cube back}]'))
    for _ in range(3):
        scene.tick()
    assert scene.reset.pending and {*map(tuple, scene.sent)} == {(0, 0)} and 'put the cube back' in scene.reset.doing
    scene.reset.ready()
    scene.tick()
    assert not scene.reset.pending
    with pytest.raises(InputError, match='expected a reset that waits for a person'):
        scene.reset.ready()


def test_while_a_service_works_the_agent_is_silent_unless_something_stops_the_robot(ros_domain):
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=ros_domain)
    node, executor = Node('agent', context=context), SingleThreadedExecutor(context=context)
    executor.add_node(node)
    try:
        steps = '[{service: set_up, type: std_srvs/srv/SetBool, request: {data: true}}]'
        scene, answers, asked = Scene(twist(steps), node), [False, True], []

        def set_up(request, response):
            asked.append(request.data)
            response.success, response.message = answers[len(asked) - 1], 'the door is open'
            return response

        def go_on(until):
            for _ in range(1000):
                scene.tick()
                executor.spin_once(timeout_sec=0.01)
                if until():
                    return
            raise AssertionError('it does not come to an end')

        for _ in range(STILL + 1):
            scene.tick()
        assert scene.sent and {*map(tuple, scene.sent)} == {(0, 0)}
        scene.sent.clear()
        scene.tick()
        assert scene.sent == [] and list(scene.gate.reasons) == ['reset']
        scene.gate.hold('stale', 'no camera')
        scene.tick()
        assert scene.sent == [[0, 0]] * 2, 'one at once, and it is repeated'
        scene.gate.release('stale')
        node.create_service(SetBool, 'set_up', set_up)
        go_on(lambda: 'could not be' in str(scene.gate.reasons))
        assert 'it says no: the door is open' in scene.gate.reasons['reset'] and asked == [True]
        scene.sent.clear()
        scene.tick()
        assert scene.sent == [[0, 0]], 'nobody moves it now'
        scene.reset.again()
        go_on(lambda: not scene.reset.pending)
        assert asked == [True, True] and not scene.gate.reasons
        scene.reset.close()
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.shutdown(context=context)


class ActionServer:
    """Stands in for rclpy's client and an action server: no package of actions is in the wheels of rclpy."""

    def __init__(self, *_):
        self.goals, self.cancelled = [], 0
        self.outcome = Future()

    def server_is_ready(self):
        return True

    def send_goal_async(self, goal):
        self.goals.append(goal)
        sent, self.outcome = Future(), Future()
        sent.set_result(self)
        return sent

    accepted = True

    def get_result_async(self):
        return self.outcome

    def cancel_goal_async(self):
        self.cancelled += 1


def test_a_goal_is_cancelled_by_a_stop_and_sent_again(monkeypatch):
    server = ActionServer()
    monkeypatch.setattr(resetting, 'ActionClient', lambda *_: server)
    monkeypatch.setattr(resetting, 'interface', lambda *_: types.SimpleNamespace(Goal=Trigger.Response))
    scene = Scene(twist('[{action: go_home, type: a_msgs/action/Go, goal: {message: home}}]'))
    for _ in range(STILL + 4):
        scene.tick()
    assert [goal.message for goal in server.goals] == ['home'] and server.cancelled == 0
    scene.gate.hold('estop', 'pressed')
    scene.tick()
    assert server.cancelled == 1
    scene.gate.release('estop')
    for _ in range(STILL + 4):
        scene.tick()
    assert len(server.goals) == 2
    server.outcome.set_result(types.SimpleNamespace(status=resetting.SUCCEEDED))
    scene.tick()
    assert not scene.reset.pending and server.cancelled == 1


@pytest.mark.parametrize(
    'values, sentence',
    [
        ({'data': 1.5}, r'x\.data: expected boolean, got 1.5'),
        ({'dat': True}, "x: expected one of the fields data, got 'dat'"),
        ([1], r'x: expected fields \(data\), got \[1\]'),
    ],
)
def test_requests_that_do_not_fit(values, sentence):
    with pytest.raises(InputError, match=sentence):
        fill(SetBool.Request(), values, 'x')


def test_nested_messages_are_filled():
    from trajectory_msgs.msg import JointTrajectory

    made = JointTrajectory()
    point = {'positions': [0, 1], 'time_from_start': {'sec': 2}}
    fill(made, {'joint_names': ['a', 'b'], 'points': [point], 'header': {'frame_id': 'base'}}, 'goal')
    assert made.joint_names == ['a', 'b'] and made.header.frame_id == 'base'
    assert list(made.points[0].positions) == [0.0, 1.0] and made.points[0].time_from_start.sec == 2
    with pytest.raises(InputError, match=r'goal\.points\.positions: expected'):
        fill(made, {'points': [{'positions': 'far'}]}, 'goal')
