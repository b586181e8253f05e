"""Watches the ROS graph for other publishers of a robot's command, and for those who obey it."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rclpy.action import get_action_names_and_types
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dreamer_ros.deploy.outlets import Outlet
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.wire.topics import Topic

LOOK_PERIOD = 1.0  # seconds between two looks at the ROS graph
# Seconds for which a killed node may stay in the graph: the middleware's usual lease of 20, and some more.
GHOST_TIME = 25.0
_UNTIL = 'the robot is not commanded until somebody listens'
# The middleware's names for a node of which it has seen only an endpoint, as happens briefly with every node.
_UNKNOWN = re.compile(r'_NODE_NAME_UNKNOWN_|_CREATED_BY_BARE_DDS_APP_')
# Subscribers that do not obey: recorders, and the hidden nodes of tools such as `ros2 topic echo`.
_ONLOOKER = re.compile(r'.*/(recorder|rosbag2_recorder\w*|_.*)')


class CommandTopic:
    """The other publishers of a topic of a robot's command, and its subscribers.

    A publisher whose name could be that of this agent, its killed predecessor or one of their guards counts only
    after `GHOST_TIME`.

    Args:
        node: the agent.
        topic: the command, by its full name.
        source: name of the contract, for messages.
        outlet: the agent's.
        own: number of publishers of each of the agent's nodes, by the node's full name.

    Attributes:
        others: names of the other publishers.
        unheard: one sentence about why nobody obeys; '' if somebody does.
    """

    def __init__(self, node: Node, topic: Topic, source: str, outlet: Outlet, own: dict[str, int]):
        self._node, self._topic, self._source, self._outlet, self._own = node, topic, source, outlet, own
        self._since: dict[str, float] = {}
        self._next = 0.0
        self.others: tuple[str, ...] = ()
        self.unheard = _nobody(topic)

    def look(self) -> list[str]:
        """Look at the graph, at most once per `LOOK_PERIOD`; returns new warnings."""
        now = time.monotonic()
        if now < self._next:
            return []
        self._next = now + LOOK_PERIOD
        return [*self._look_for_publishers(now), *self._look_for_subscribers()]

    def check(self, now: float) -> str:
        """Why nobody obeys; '' if somebody does. For the watchdog."""
        # The middleware itself matches types and QoS, and reports at once when a subscriber leaves.
        return self.unheard or ('' if self._outlet.matched else _nobody(self._topic))

    def _look_for_publishers(self, now: float) -> Iterable[str]:
        publishers = Counter(map(node_name, self._node.get_publishers_info_by_topic(self._topic.name)))
        publishers.subtract(self._own)
        self._since = {name: self._since.get(name, now) for name, count in publishers.items() if count > 0}
        before = self.others
        self.others = tuple(
            sorted(
                name for name, since in self._since.items() if now - since > GHOST_TIME or not self._may_be_ours(name)
            )
        )
        newcomers = [name for name in self.others if name not in before]
        if newcomers:
            yield (
                f'{", ".join(newcomers)} publishes {self._topic.name} too: the robot obeys the newest message, '
                'and nothing that stops this agent stops the others'
            )

    def _look_for_subscribers(self) -> Iterable[str]:
        before, self.unheard = self.unheard, find_obeying(self._node, self._topic, self._source).why
        if self.unheard and self.unheard != before:
            yield f'{self.unheard}; {_UNTIL}'

    def _may_be_ours(self, name: str) -> bool:
        return name in self._own or bool(_UNKNOWN.search(name))


class CommandAction:
    """The server of an action of a robot's command. Who else sends it goals, the graph does not tell.

    Args:
        node: the agent.
        name: full name of the action.
        type_name: of the action.
        source: name of the contract, for messages.
        outlet: the agent's.

    Attributes:
        others: empty.
        unheard: one sentence about why nobody obeys; '' if somebody does.
    """

    others: tuple[str, ...] = ()

    def __init__(self, node: Node, name: str, type_name: str, source: str, outlet: Outlet):
        self._node, self._name, self._type, self._source, self._outlet = node, name, type_name, source, outlet
        self._next = 0.0
        self.unheard = self._nobody()

    def look(self) -> list[str]:
        """Look at the graph, at most once per `LOOK_PERIOD`; returns new warnings."""
        now = time.monotonic()
        if now < self._next:
            return []
        self._next = now + LOOK_PERIOD
        before = self.unheard
        self.unheard = '' if self._outlet.matched else self._look()
        return [f'{self.unheard}; {_UNTIL}'] if self.unheard and self.unheard != before else []

    def check(self, now: float) -> str:
        """Why nobody obeys; '' if somebody does. For the watchdog."""
        return '' if self._outlet.matched else self.unheard or self._nobody()

    def _look(self) -> str:
        return find_server(self._node, self._name, self._type, self._source).why or self._nobody()

    def _nobody(self) -> str:
        return _no_server(self._name, self._type)


class Receivers:
    """All who are commanded. A command leaves only while each of them is there.

    Args:
        node: the agent.
        contract: of the robot.
        names, outlets: of each receiver, see `outlets.full_names`.
        guard: full name of the guard's node.
    """

    def __init__(
        self, node: Node, contract: RobotContract, names: Sequence[str], outlets: Sequence[Outlet], guard: str
    ):
        self._watched: list[CommandTopic | CommandAction] = []
        # A topic's outlet has two publishers, see there.
        own = {node.get_fully_qualified_name(): 2, guard: 1}
        for part, name, each in zip(contract.command.parts, names, outlets):
            receiver = part.receiver
            if receiver.action:
                self._watched.append(CommandAction(node, name, receiver.type or '', contract.source, each))
            else:
                topic = Topic(name, receiver.message, receiver.qos.profile)
                self._watched.append(CommandTopic(node, topic, contract.source, each, own))

    @property
    def others(self) -> tuple[str, ...]:
        """Names of the other publishers of the robot's command."""
        return tuple(dict.fromkeys(name for each in self._watched for name in each.others))

    def look(self) -> list[str]:
        """Look at the graph, at most once per `LOOK_PERIOD`; returns new warnings."""
        return [warning for each in self._watched for warning in each.look()]

    def check(self, now: float) -> str:
        """Why somebody does not obey; '' if all do. For the watchdog."""
        return next((reason for each in self._watched if (reason := each.check(now))), '')


class Obeying(NamedTuple):
    """Who obeys a command.

    Attributes:
        nodes: full names of the subscribers that do.
        key: of the contract's command, that does not fit the others: topic, action, type or qos.
        why: one sentence about why nobody obeys; '' if somebody does.
    """

    nodes: tuple[str, ...]
    key: str = ''
    why: str = ''


def find_obeying(node: Node, topic: Topic, source: str) -> Obeying:
    """Look in the graph for subscribers that obey a command.

    Args:
        node: any.
        topic: the command, by its full name.
        source: name of the contract, for the sentence.
    """
    found, others = [], []
    for info in node.get_subscriptions_info_by_topic(topic.name):
        name = node_name(info)
        if is_onlooker(name):
            continue
        if info.topic_type != topic.type:
            others.append(
                Obeying(
                    (),
                    'type',
                    f'{topic.name} has a subscriber of {info.topic_type} ({name}), {source} says {topic.type}',
                )
            )
        elif wanted := _wanted(info.qos_profile, topic):
            asks = f'{topic.name} has a subscriber that asks for {wanted} messages ({name})'
            others.append(Obeying((), 'qos', f'{asks}, which those of {source} are not'))
        else:
            found.append(name)
    if found:
        return Obeying(tuple(found))
    return others[0] if others else Obeying((), 'topic', _nobody(topic))


def find_server(node: Node, name: str, type_name: str, source: str) -> Obeying:
    """Look in the graph for the server of an action. Arguments as for `find_obeying`."""
    servers = sorted({node_name(info) for info in node.get_publishers_info_by_topic(f'{name}/_action/status')})
    strange = sorted(set(dict(get_action_names_and_types(node)).get(name, ())) - {type_name})
    if servers and strange:
        return Obeying((), 'type', f'{name} is an action of {strange[0]}, {source} says {type_name}')
    return Obeying(tuple(servers)) if servers else Obeying((), 'action', _no_server(name, type_name))


def _no_server(name: str, type_name: str) -> str:
    return f'{name}: expected an action server of {type_name}, found none'


def node_name(info) -> str:
    """Full name of an endpoint's node."""
    return f'{info.node_namespace.rstrip("/")}/{info.node_name}'


def is_onlooker(name: str) -> bool:
    """Whether a node does not obey what it subscribes, to judge by its name."""
    return bool(_ONLOOKER.fullmatch(name)) and not _UNKNOWN.search(name)


def _wanted(profile: QoSProfile, topic: Topic) -> str:
    """The quality of service that a subscriber asks for and the command does not offer; '' for none."""
    if profile.reliability == ReliabilityPolicy.RELIABLE and not topic.qos.reliable:
        return 'reliable'
    if profile.durability == DurabilityPolicy.TRANSIENT_LOCAL and not topic.qos.transient_local:
        return 'transient_local'
    return ''


def _nobody(topic: Topic) -> str:
    return f'{topic.name}: expected a subscriber of {topic.type}, found none'
