"""Sends a robot's commands to those who obey them: subscribers of topics, and action servers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from action_msgs.srv import CancelGoal
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rclpy.task import Future

from dreamer_ros.robot.contract import Part, Receiver, RobotContract
from dreamer_ros.ros import qos
from dreamer_ros.ros.interfaces import interface
from dreamer_ros.wire.topics import Topic


class TopicOutlet:
    """Publishes to one topic; stops through a publisher of their own, which a stuck command does not delay.

    Args:
        node: the publisher.
        topic: by its full name.
        alone: send nothing but stops.
    """

    def __init__(self, node: Node, topic: Topic, alone: bool):
        self._node = node
        self._publisher = qos.publisher(node, topic)
        self._stops = self._publisher if alone else qos.publisher(node, topic)

    def send(self, message: bytes) -> None:
        """Publish a command."""
        self._publisher.publish(message)

    def stop(self, message: bytes | None) -> None:
        """Publish a stop; None where nothing is known to hold."""
        if message is not None:
            self._stops.publish(message)

    @property
    def matched(self) -> int:
        """How many subscribers the middleware has matched."""
        return self._publisher.get_subscription_count()

    def close(self) -> None:
        """Publish no more."""
        for publisher in {self._publisher, self._stops}:
            self._node.destroy_publisher(publisher)


class ActionOutlet:
    """Sends goals to one action server: one whenever the command has changed, and the server has answered the last.

    A stop is a goal of its own, or, where the robot is to hold its place, cancels all goals of the server.

    Args:
        node: the client.
        receiver: the action server.
        name: its full name.
        running: whether a goal may be running already, of a process before.
        complain: gets one sentence, from the executor of the node.
    """

    def __init__(self, node: Node, receiver: Receiver, name: str, running: bool, complain: Callable[[str], None]):
        kind = interface(receiver.type or '', f'action {name}')
        self._node, self._name, self._complain, self._kind = node, name, complain, kind.Goal
        self._hold = receiver.stop_rule == 'hold'
        self._goals: Any = ActionClient(node, kind, name)
        self._cancel: Any = node.create_client(CancelGoal, f'{name}/_action/cancel_goal')
        self._running = running
        self._sent: bytes | None = None
        self._answer: Future | None = None  # to the last goal
        self._cancelled: Future | None = None
        self._final = False  # the last goal was known to the server when it was cancelled

    def send(self, message: bytes) -> None:
        """Send a goal if the command has changed. While the server has not answered the last one, nothing is sent."""
        if message != self._sent and (self._answer is None or self._answer.done()):
            self._send(message)

    def stop(self, message: bytes | None) -> None:
        """Cancel the goals until that is known to have worked, or send the stop as a goal."""
        if not self._hold:
            if message is not None and message != self._sent:
                self._send(message)
            return
        if self._running and self._final and self._cancelled is not None and self._cancelled.done():
            self._running, self._sent = False, None
        if self._running:
            self._final = self._answer is None or self._answer.done()
            if self._cancelled is not None:
                self._cancel.remove_pending_request(self._cancelled)
            self._cancelled = self._cancel.call_async(CancelGoal.Request())  # without an id: all goals

    def _send(self, message: bytes) -> None:
        self._sent, self._running, self._final = message, True, False
        self._answer = self._goals.send_goal_async(deserialize_message(message, self._kind))
        self._answer.add_done_callback(self._answered)

    def _answered(self, answer: Future) -> None:
        if answer is self._answer and not answer.cancelled() and not answer.result().accepted:
            self._sent = None  # the next command tries again
            self._complain(f'{self._name}: the action server refused a goal')

    @property
    def matched(self) -> int:
        """1 once the action server is there."""
        return int(self._goals.server_is_ready() and self._cancel.service_is_ready())

    def close(self) -> None:
        """Send no more."""
        self._goals.destroy()
        self._node.destroy_client(self._cancel)


Outlet = TopicOutlet | ActionOutlet


def outlet(
    node: Node, part: Part, name: str, alone: bool = False, complain: Callable[[str], None] = lambda sentence: None
) -> Outlet:
    """The outlet for one receiver of a command.

    Args:
        node: the sender.
        part: of the contract.
        name: full name of the topic or action.
        alone: for a guard, which sends nothing but stops.
        complain: gets one sentence about a problem.
    """
    receiver = part.receiver
    if receiver.action:
        return ActionOutlet(node, receiver, name, alone, complain)
    return TopicOutlet(node, Topic(name, receiver.message, receiver.qos.profile), alone)


def send(outlets: Sequence[Outlet], messages: Sequence[bytes | None]) -> None:
    """Send a command: a message for each outlet."""
    for each, message in zip(outlets, messages):
        if message is not None:
            each.send(message)


def stop(outlets: Sequence[Outlet], messages: Sequence[bytes | None]) -> None:
    """Send a stop: a message for each outlet, None where nothing is known to hold."""
    for each, message in zip(outlets, messages):
        each.stop(message)


def full_names(node: Node, contract: RobotContract) -> tuple[str, ...]:
    """Of the topic or action of each receiver."""
    return tuple(node.resolve_topic_name(part.receiver.name) for part in contract.command.parts)
