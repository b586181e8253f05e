"""Subscriptions that a loop polls, instead of callbacks that an executor runs.

rclpy's executor rebuilds its Python lists of all entities for each callback. That takes 100 to 200 µs, several times
per step of a lock-step loop. A callback also waits for whatever else the executor does, which an emergency stop
must not. So messages are taken from the middleware directly, by interfaces that are private to rclpy: `PRIVATE` says
whether this rclpy has them. If not, an executor on a thread of its own collects the messages.

No other module uses these private interfaces.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import time
import weakref
from typing import Any

import rclpy.executors
from rclpy.callback_groups import CallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rclpy.subscription import Subscription

from dreamer_ros.errors import InputError
from dreamer_ros.ros import qos
from dreamer_ros.ros.first_publisher import FirstPublisher
from dreamer_ros.wire.topics import QoS, Topic

try:
    from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy

    PRIVATE = hasattr(_rclpy.Subscription, 'take_message') and hasattr(_rclpy, 'WaitSet')
except (ImportError, AttributeError):
    PRIVATE = False

HOUSEKEEPING_PERIOD = 0.025  # seconds between two turns of the executor (0.2 ms each)

Info = Any  # a mapping; its type differs between versions of rclpy


def parse(cdr: bytes, kind: Any) -> Any:
    """The message of a class that CDR bytes hold.

    Raises:
        InputError: they hold none, as only a faulty program would send it.
    """
    try:
        # The last two bits of the header count bytes of padding. Fast CDR reads beyond a message that is shorter.
        if len(cdr) < 4 or len(cdr) - 4 < cdr[3] & 3:
            raise ValueError
        return deserialize_message(cdr, kind)
    except (RuntimeError, ValueError) as error:  # RMWError; text that is not UTF-8
        raise InputError(f'expected a {kind.__name__}, got {len(cdr)} bytes that are none') from error


class PolledSubscription:
    """A subscription without a callback. `take` never blocks and is thread-safe.

    Args:
        node: the subscriber.
        topic: name and type.
        quality: quality of service of the subscription.
        raw: return messages as their CDR bytes.
        single: of one publisher at a time, see `FirstPublisher`.
    """

    def __init__(self, node: Node, topic: Topic, quality: QoS, raw: bool = False, single: bool = False):
        self._node, self._raw = node, raw
        self._listener: _Listener | None = None
        self.message_type = qos.message_type(topic)
        arguments = (qos.profile(quality), raw)
        if PRIVATE:
            self._subscription = node.create_subscription(
                self.message_type, topic.name, _never_called, arguments[0], callback_group=_NotExecuted(), raw=raw
            )
            self.topic_name = self._subscription.topic_name
        else:
            self.topic_name = node.resolve_topic_name(topic.name)
            self._listener = _Listener.of(node)
            self._queue: collections.deque = collections.deque(maxlen=quality.depth)
            self._subscription = self._listener.subscribe(self.message_type, self.topic_name, self._queue, *arguments)
        self._publisher = FirstPublisher(node, self.topic_name) if single else None

    def take_with_info(self) -> tuple[Any, Info] | None:
        """The oldest waiting message and its info from the middleware, or None.

        The info has `source_timestamp` and `received_timestamp` in ns, and with some middlewares `publisher_gid` and
        `publication_sequence_number`.
        """
        taken = self._take()
        while taken and self._publisher and not self._publisher.accepts(taken[1]):
            taken = self._take()
        return taken

    def _take(self) -> tuple[Any, Info] | None:
        if self._listener is None:
            return self._subscription.handle.take_message(self.message_type, self._raw)
        with contextlib.suppress(IndexError):
            return self._queue.popleft()
        return None

    def take(self) -> Any:
        """The oldest waiting message, or None."""
        taken = self.take_with_info()
        return None if taken is None else taken[0]

    def take_latest(self) -> Any:
        """The newest waiting message, or None. Older ones are dropped."""
        latest = None
        while (message := self.take()) is not None:
            latest = message
        return latest

    def close(self) -> None:
        """Unsubscribe."""
        (self._node if self._listener is None else self._listener.node).destroy_subscription(self._subscription)


class Inbox:
    """The subscriptions of one loop. The node's other callbacks run while it waits.

        images = inbox.subscribe(topics.IMAGE, topics.LOCKSTEP_SUBSCRIBER)
        while not stop.is_set():
            inbox.wait(0.1, images)
            while (message := images.take()) is not None: …

    `wait` also spins the executor every 25 ms, so services answer as long as the loop keeps waiting.
    """

    def __init__(self, node: Node):
        self.node = node
        self._subscriptions: list[PolledSubscription] = []
        self._wait_set: Any | None = None
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self._next_housekeeping = 0.0

    def subscribe(self, topic: Topic, quality: QoS, raw: bool = False, single: bool = False) -> PolledSubscription:
        """Make a subscription that `wait` waits for."""
        subscription = PolledSubscription(self.node, topic, quality, raw, single)
        self._subscriptions.append(subscription)
        self._wait_set = None
        return subscription

    def wait(self, timeout: float, *subscriptions: PolledSubscription) -> None:
        """Wait until one of the subscriptions (by default any) has a message.

        Returns after `timeout` seconds or at the next turn of the executor at the latest.
        """
        now = time.monotonic()
        if now >= self._next_housekeeping:
            self.housekeeping()
            now = time.monotonic()
        timeout = min(timeout, self._next_housekeeping - now)
        if timeout <= 0:
            return
        if not self._subscriptions:
            time.sleep(timeout)
        elif PRIVATE:
            if self._wait_set is None:
                self._wait_set = _rclpy.WaitSet(len(self._subscriptions), 0, 0, 0, 0, 0, self.node.context.handle)
            self._wait_set.clear_entities()
            for subscription in subscriptions or self._subscriptions:
                self._wait_set.add_subscription(subscription._subscription.handle)
            self._wait_set.wait(int(timeout * 1e9))
        else:
            queues = [subscription._queue for subscription in subscriptions or self._subscriptions]
            with (arrived := _Listener.of(self.node).arrived):
                arrived.wait_for(lambda: any(queues), timeout)

    def housekeeping(self) -> None:
        """Run one waiting callback of a service, a parameter request or another subscription."""
        self._executor.spin_once(timeout_sec=0.0)
        self._next_housekeeping = time.monotonic() + HOUSEKEEPING_PERIOD


class _NotExecuted(CallbackGroup):
    """Keeps the executor from a subscription's messages, but not from its events (incompatible QoS warnings)."""

    def can_execute(self, entity) -> bool:
        return not isinstance(entity, Subscription)

    def beginning_execution(self, entity) -> bool:
        return True

    def ending_execution(self, entity) -> None:
        pass


def _never_called(message) -> None:
    raise AssertionError('the executor ran the callback of a polled subscription')


class _Listener:
    """Fills the queues of polled subscriptions by callbacks of a hidden node, on a thread of its own."""

    _of_node: weakref.WeakKeyDictionary[Node, _Listener] = weakref.WeakKeyDictionary()

    @classmethod
    def of(cls, node: Node) -> _Listener:
        """The listener of a node."""
        return cls._of_node.get(node) or cls._of_node.setdefault(node, cls(node))

    def __init__(self, node: Node):
        # The arguments of the process would give it the node's own name.
        self.node = Node(
            f'_{node.get_name()}_listener',
            namespace=node.get_namespace(),
            context=node.context,
            use_global_arguments=False,
            enable_rosout=False,
            start_parameter_services=False,
        )
        self.arrived = threading.Condition()
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(self.node)
        threading.Thread(target=self._run, name='listener', daemon=True).start()

    def subscribe(self, kind: Any, name: str, queue: collections.deque, profile: Any, raw: bool) -> Subscription:
        """Make a subscription that appends its messages and their infos to a queue."""

        def keep(message: Any, info: Info) -> None:
            with self.arrived:
                queue.append((message, info))
                self.arrived.notify_all()

        return self.node.create_subscription(kind, name, keep, profile, raw=raw)

    def _run(self) -> None:
        with contextlib.suppress(rclpy.executors.ExternalShutdownException):
            self._executor.spin()
