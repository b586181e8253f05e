"""Listens to a running robot: what is published, how often and how old, and what its nodes say of themselves."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import rclpy
from rcl_interfaces.msg import ParameterType, ParameterValue
from rcl_interfaces.srv import GetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions

from dreamer_ros.deploy.clocks import SimulatedClock, SystemClock
from dreamer_ros.deploy.command_topic import is_onlooker, node_name
from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import ESTOP, JOY
from dreamer_ros.robot.drafting import COMMANDS, OBSERVED, PARAMETERS, Heard, Obeyed, Surroundings, by_likelihood
from dreamer_ros.robot.urdf import read_limits
from dreamer_ros.ros.inbox import PolledSubscription
from dreamer_ros.wire import codecs
from dreamer_ros.wire.fields import has_header
from dreamer_ros.wire.topics import CLOCK, QoS, Topic

# Deep enough for what comes between two rounds. A best-effort subscriber hears every publisher.
LISTENER = QoS(depth=100, reliable=False)
ROUND = 0.002  # seconds between two rounds
DESCRIPTION = 'robot_description'  # last part of the name of the topic of a URDF
LATCHED = QoS(depth=1, transient_local=True)
STRING = 'std_msgs/msg/String'
LOOK_PERIOD = 0.1  # seconds between two looks at the graph
QUIET, DISCOVERY = 1.0, 5.0  # seconds without a change of the graph that will do, and that are waited at most
PATIENCE = 1.0  # seconds for a node to tell its parameters


class Listener:
    """Counts the messages of a topic and keeps the newest one.

    Attributes:
        name: full name of the topic.
        count: messages that came.
        published: when the newest was published, in ns of system time.
        fresh: whether it came since `message` was called.
    """

    def __init__(self, node: Node, topic: Topic, quality: QoS = LISTENER):
        self.topic = topic
        self._subscription = PolledSubscription(node, topic, quality, raw=True)
        self.name = self._subscription.topic_name
        self.count = 0
        self.published = self._first = 0
        self.fresh = False
        self._cdr = b''

    def close(self) -> None:
        """Unsubscribe."""
        self._subscription.close()

    def poll(self) -> None:
        """Take what came."""
        while (taken := self._subscription.take_with_info()) is not None:
            self._cdr, info = taken
            self.published = info['source_timestamp']
            self._first = self._first or self.published
            self.count += 1
            self.fresh = True

    @property
    def rate(self) -> float:
        """Messages per second; 0 before the second one."""
        return (self.count - 1) * 1e9 / (self.published - self._first) if self.published > self._first else 0.0

    @property
    def size(self) -> int:
        """Bytes of the newest message."""
        return len(self._cdr)

    @property
    def stamp(self) -> int | None:
        """Nanoseconds of the newest message's header; None without a header, or if that holds no time."""
        with contextlib.suppress(InputError):
            return codecs.header_stamp(self._cdr) if has_header(self.topic.type) else None
        return None

    def message(self) -> Any:
        """The newest message; None before the first."""
        self.fresh = False
        return deserialize_message(self._cdr, self._subscription.message_type) if self.count else None


class Survey:
    """A hidden node that listens. Use it as a context manager.

    Args:
        namespace: that of the robot's relative topics.
        sim_time: take the time from /clock.

    Attributes:
        node: the hidden node.
        sim_time: the same.
        clock: that time.
    """

    def __init__(self, namespace: str = '/', sim_time: bool = False):
        self.sim_time = sim_time
        self._context = rclpy.Context()
        rclpy.init(context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = Node(
            '_survey',
            namespace=namespace,
            context=self._context,
            use_global_arguments=False,
            enable_rosout=False,
            start_parameter_services=False,
        )
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self.node)
        self.clock = SimulatedClock(self.node, QUIET) if sim_time else SystemClock()
        self._clock = self.listen(CLOCK)
        self._descriptions: dict[str, Listener] = {}
        self._next_look = self._changed = 0.0
        self._discovered = time.monotonic() + DISCOVERY
        self._graph: list[Any] = []

    def __enter__(self) -> Survey:
        return self

    def __exit__(self, *_) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self._context)

    def listen(self, topic: Topic, quality: QoS = LISTENER) -> Listener:
        """Listen to a topic.

        Raises:
            InputError: its type is not installed.
        """
        return Listener(self.node, topic, quality)

    def rounds(self, seconds: float, *listeners: Listener) -> Iterator[float]:
        """Poll listeners for that long; yields the monotonic time after every round."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            self._executor.spin_once(timeout_sec=0.0)  # answers of services
            if now >= self._next_look:
                self._next_look = now + LOOK_PERIOD
                self._look(now)
            for listener in (self._clock, *self._descriptions.values(), *listeners):
                listener.poll()
            yield now
            time.sleep(ROUND)

    def simulated(self) -> int | None:
        """Nanoseconds that /clock says; None if nobody publishes it."""
        message = self._clock.message()
        return None if message is None else message.clock.sec * 1_000_000_000 + message.clock.nanosec

    def description(self, near: str) -> tuple[str, str]:
        """Name and text of the URDF on the `robot_description` that shares most with a topic's name; '' without one."""
        heard = [listener for listener in self._descriptions.values() if listener.count]
        if not heard:
            return '', ''
        found = max(heard, key=lambda listener: len(os.path.commonprefix([listener.name, near])))
        return found.name, found.message().data

    def discover(self, complete: Callable[[], bool]) -> None:
        """Wait until a condition of the graph holds, or as long as the middleware may take to know everybody."""
        for _ in self.rounds(self._discovered - time.monotonic()):
            if complete():
                return

    def quiet(self) -> bool:
        """Whether nothing was found for a moment."""
        return time.monotonic() - self._changed > QUIET

    def _look(self, now: float) -> None:
        topics = self.node.get_topic_names_and_types()
        graph = [*self.node.get_node_names(), *((name, self.node.count_publishers(name)) for name, _ in topics)]
        if graph != self._graph:
            self._graph, self._changed = graph, now
        for name, kinds in topics:
            if name.endswith(f'/{DESCRIPTION}') and kinds == [STRING] and name not in self._descriptions:
                self._descriptions[name] = self.listen(Topic(name, STRING, LATCHED), LATCHED)

    def parameters(self, remote: str, names: Sequence[str]) -> Mapping[str, Any]:
        """Those parameters of a node that it has; none if it does not answer."""
        service = f'{remote}/get_parameters'
        if service not in dict(self.node.get_service_names_and_types()):
            return {}
        client: Any = self.node.create_client(GetParameters, service)
        answers: dict[str, Any] = {}
        for _ in self.rounds(PATIENCE):
            if not answers and client.service_is_ready():
                # One by one: a node in C++ answers nothing if it lacks one of several.
                answers = {name: client.call_async(GetParameters.Request(names=[name])) for name in names}
            if answers and all(answer.done() for answer in answers.values()):
                break
        self.node.destroy_client(client)
        told = {name: answer.result().values for name, answer in answers.items() if answer.done()}
        found = {name: _plain(values[0]) for name, values in told.items() if values}
        return {name: value for name, value in found.items() if value is not None}


def look_around(survey: Survey, seconds: float, command: str) -> Surroundings:
    """Listen to whatever a contract could name.

    Args:
        seconds: how long to listen.
        command: topic that is to be commanded; '' for the likeliest.

    Raises:
        InputError: nothing takes commands, or the description of the robot cannot be read.
    """
    node = survey.node

    def complete() -> bool:
        topics = node.get_topic_names_and_types()
        takes = any(set(kinds) & set(COMMANDS) and node.count_subscribers(name) for name, kinds in topics)
        return survey.quiet() and takes

    survey.discover(complete)
    topics = [Topic(name, kind, LISTENER) for name, kinds in node.get_topic_names_and_types() for kind in kinds]
    published = {topic: _nodes(node.get_publishers_info_by_topic(topic.name), topic.type) for topic in topics}
    # One type of each: no process can subscribe a topic with two.
    audible = {topic.name: topic for topic in topics if published[topic] and topic.type in (*OBSERVED, ESTOP, JOY)}
    listeners = [survey.listen(topic) for topic in audible.values()]
    counts: dict[str, int] = {}
    ages: dict[str, float] = {}
    for _ in survey.rounds(seconds, *listeners):
        for listener in listeners:
            if listener.count != counts.get(listener.name, 0) and listener.stamp is not None:
                arrived = survey.clock.time_ns() if survey.sim_time else listener.published
                age = (arrived - listener.stamp) / 1e9
                ages[listener.name] = max(age, ages.get(listener.name, age), key=abs)
            counts[listener.name] = listener.count
    for listener in listeners:
        listener.close()
    heard = [
        Heard(
            listener.name,
            listener.topic.type,
            published[listener.topic],
            listener.rate,
            listener.message(),
            ages.get(listener.name),
        )
        for listener in listeners
    ]
    obeyed = []
    for topic in topics:
        nodes = _nodes(node.get_subscriptions_info_by_topic(topic.name), topic.type)
        nodes = tuple(name for name in nodes if not is_onlooker(name))
        if nodes and topic.type in COMMANDS:
            obeyed.append(Obeyed(topic.name, topic.type, nodes, published[topic], {}))
    chosen, *others = by_likelihood(obeyed, command)
    chosen = chosen._replace(parameters=survey.parameters(chosen.nodes[0], PARAMETERS))
    name, text = survey.description(chosen.topic)
    limits = read_limits(text, name) if text else {}
    return Surroundings(tuple(heard), (chosen, *others), limits, survey.sim_time)


def _nodes(infos: Iterable, kind: str) -> tuple[str, ...]:
    """Full names of the nodes of endpoints of a type."""
    return tuple(sorted({node_name(info) for info in infos if info.topic_type == kind}))


def _plain(value: ParameterValue) -> Any:
    """A parameter's value; None if it is not set."""
    kinds = {
        ParameterType.PARAMETER_BOOL: 'bool_value',
        ParameterType.PARAMETER_INTEGER: 'integer_value',
        ParameterType.PARAMETER_DOUBLE: 'double_value',
        ParameterType.PARAMETER_STRING: 'string_value',
        ParameterType.PARAMETER_STRING_ARRAY: 'string_array_value',
    }
    return getattr(value, kinds[value.type]) if value.type in kinds else None
