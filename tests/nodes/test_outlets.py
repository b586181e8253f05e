"""Commands that go to an action server. They need control_msgs, which a ROS installation has and the wheels do not."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import rclpy
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.executors import MultiThreadedExecutor, SingleThreadedExecutor
from rclpy.node import Node

from dreamer_ros.deploy.command_topic import Receivers
from dreamer_ros.deploy.outlets import outlet
from dreamer_ros.robot.commands import Commands
from tests.robot.robots import contract

action = pytest.importorskip('control_msgs.action')
TYPE = 'control_msgs/action/GripperCommand'
FEEDBACK = {'topic': 'joint_states', 'type': 'sensor_msgs/msg/JointState', 'field': 'position[elbow]'}


def robot(stop, type_name: str = TYPE):
    axis = {'name': 'grip', 'field': 'command.position', 'limits': [0, 1], 'feedback': FEEDBACK}
    return contract(command={'action': 'grip', 'type': type_name, 'axes': [axis], 'stop': stop})


class Gripper:
    """An action server that goes on with each goal until another comes or it is cancelled."""

    def __init__(self, context):
        self.node = Node('gripper', context=context)
        self.goals, self.cancelled, self.asked, self.accepts = [], 0, 0, True
        self._current = None
        self._server = ActionServer(
            self.node,
            action.GripperCommand,
            'grip',
            self._execute,
            goal_callback=lambda goal: GoalResponse.ACCEPT if self.accepts else GoalResponse.REJECT,
            cancel_callback=self._cancel,
        )

    def _cancel(self, goal):
        self.asked += 1
        return CancelResponse.ACCEPT

    def _execute(self, handle):
        self._current = handle
        self.goals.append(handle.request.command.position)
        while self._current is handle and not handle.is_cancel_requested and handle.is_active:
            time.sleep(0.005)
        if handle.is_cancel_requested:
            self.cancelled += 1
            handle.canceled()
        else:
            handle.abort()
        return action.GripperCommand.Result()

    def close(self):
        self._current = None
        time.sleep(0.05)
        self._server.destroy()
        self.node.destroy_node()


@pytest.fixture
def scene(ros_domain):
    """(the agent's node, a function that adds the action server)."""
    ours, theirs = contexts = rclpy.Context(), rclpy.Context()
    for context in contexts:
        rclpy.init(context=context)
    node = Node('agent', context=ours)
    executors = [SingleThreadedExecutor(context=ours), MultiThreadedExecutor(4, context=theirs)]
    executors[0].add_node(node)
    threads = [threading.Thread(target=each.spin, daemon=True) for each in executors]
    grippers = []

    def serve():
        grippers.append(Gripper(theirs))
        executors[1].add_node(grippers[0].node)
        return grippers[0]

    for thread in threads:
        thread.start()
    yield node, serve
    for gripper in grippers:
        gripper.close()
    for each in executors:
        each.shutdown()
    node.destroy_node()
    for context in contexts:
        rclpy.shutdown(context=context)


def until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, 'it did not happen'
        time.sleep(0.005)


def goal(of, position: float) -> bytes:
    return Commands(of).encode(np.array([position]), 0)[0]


def test_a_goal_whenever_the_command_changes_and_a_stop_that_cancels(scene):
    node, serve = scene
    holding = robot('hold')
    grip = outlet(node, holding.command.parts[0], '/grip')
    watched = Receivers(node, holding, ['/grip'], [grip], '/agent_guard')
    assert watched.check(0.0) == f'/grip: expected an action server of {TYPE}, found none' and not grip.matched
    gripper = serve()
    until(lambda: grip.matched)
    watched.look()
    assert not watched.check(0.0)
    grip.stop(None)
    for position in (0.25, 0.5):
        for _ in range(5):
            grip.send(goal(holding, position))
            until(lambda: grip._answer.done())
        until(lambda position=position: position in gripper.goals)
    assert gripper.goals == [0.25, 0.5] and not gripper.asked, 'nothing is cancelled that never ran'
    until(lambda: (grip.stop(None), gripper.cancelled)[1])
    until(lambda: (grip.stop(None), not grip._running)[1])
    asked = gripper.asked
    for _ in range(5):
        grip.stop(None)
    grip.send(goal(holding, 0.5))
    until(lambda: len(gripper.goals) == 3)
    assert gripper.asked == asked, 'once the server knows of the stop, it is left alone'
    grip.close()


def test_a_stop_that_is_a_pose_is_a_goal(scene):
    node, serve = scene
    opening, said = robot({'grip': 1}), []
    grip, gripper = outlet(node, opening.command.parts[0], '/grip', complain=said.append), serve()
    until(lambda: grip.matched)
    grip.send(goal(opening, 0.25))
    until(lambda: gripper.goals == [0.25])
    for _ in range(5):
        grip.stop(goal(opening, 1.0))
    until(lambda: gripper.goals == [0.25, 1.0])
    gripper.accepts = False
    until(lambda: (grip.send(goal(opening, 0.5)), said)[1])
    assert said[0] == '/grip: the action server refused a goal'
    gripper.accepts = True
    until(lambda: (grip.send(goal(opening, 0.5)), 0.5 in gripper.goals)[1])
    grip.close()


def test_a_guard_cancels_what_may_run(scene):
    """It does not know whether its agent sent a goal."""
    node, serve = scene
    holding = robot('hold')
    gripper = serve()
    grip, guard = (outlet(node, holding.command.parts[0], '/grip', alone=alone) for alone in (False, True))
    until(lambda: grip.matched and guard.matched)
    grip.send(goal(holding, 0.25))
    until(lambda: gripper.goals)
    guard.stop(None)
    until(lambda: gripper.cancelled == 1)
    grip.close()
    guard.close()


def test_an_action_of_another_type_is_named(scene):
    node, serve = scene
    axis = {'name': 'a', 'field': 'trajectory.points[0].positions[a]', 'limits': [-1, 1]}
    other = 'control_msgs/action/FollowJointTrajectory'
    arm = contract(command={'action': 'grip', 'type': other, 'axes': [axis], 'stop': 'zero'})
    grip = outlet(node, arm.command.parts[0], '/grip')
    watched = Receivers(node, arm, ['/grip'], [grip], '/agent_guard')
    serve()

    def named():
        time.sleep(0.1)
        for each in watched._watched:
            each._next = 0.0
        watched.look()
        return f'/grip is an action of {TYPE}, robot.yaml says {other}' == watched.check(0.0)

    until(named)
    grip.close()
