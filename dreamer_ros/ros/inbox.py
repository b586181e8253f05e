"""Messages of the per-step topics, taken without the executor.

rclpy's executor rebuilds its Python lists of every entity for each callback, 100–200 µs that a lock-step loop
would pay several times per step. An Inbox keeps one wait set for the few subscriptions a loop lives on, and
lets the executor serve everything else (services, parameters, rare topics) at a low rate.
"""

from __future__ import annotations

import time
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.node import Node
from rclpy.subscription import Subscription

from dreamer_ros.ros import qos
from dreamer_ros.wire.topics import QoS, Topic

HOUSEKEEPING_PERIOD = 0.025  # seconds between two turns of the executor (0.2 ms each)


class TakenByHand(CallbackGroup):
    """Keeps the executor off the subscriptions, but not off their events (incompatible QoS warnings)."""

    def can_execute(self, entity) -> bool:
        return not isinstance(entity, Subscription)

    def beginning_execution(self, entity) -> bool:
        return True

    def ending_execution(self, entity) -> None:
        pass


class Inbox:
    """The subscriptions of one loop, and the node's other business in between.

    Uses what `rclpy.wait_for_message` uses, so it runs on Humble and later:

        images = inbox.subscribe(topics.IMAGE, topics.LOCKSTEP_SUBSCRIBER)
        while not stop.is_set():
            inbox.wait(0.1, images)
            while (message := inbox.take(images)) is not None: …

    `wait` also turns the executor every 25 ms, so services answer as long as the loop keeps waiting.
    """

    def __init__(self, node: Node):
        self._node = node
        self._group = TakenByHand()
        self._subscriptions: list[Subscription] = []
        self._wait_set: Any | None = None
        self._executor = SingleThreadedExecutor(context=node.context)
        self._executor.add_node(node)
        self._next_housekeeping = 0.0

    def subscribe(self, topic: Topic, quality: QoS, raw: bool = False) -> Subscription:
        """A subscription to `take` from; with `raw`, messages come as their CDR bytes."""
        subscription = self._node.create_subscription(
            qos.message_type(topic),
            topic.name,
            _never_called,
            qos.profile(quality),
            callback_group=self._group,
            raw=raw,
        )
        self._subscriptions.append(subscription)
        self._wait_set = None
        return subscription

    def take(self, subscription: Subscription) -> Any:
        """The oldest message that waits, or None."""
        taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
        return None if taken is None else taken[0]

    def take_with_info(self, subscription: Subscription) -> tuple[Any, dict[str, Any]] | None:
        """The oldest message that waits and what the middleware says of it (`source_timestamp` in ns and, where it
        can, `publisher_gid` and `publication_sequence_number`), or None.
        """
        return subscription.handle.take_message(subscription.msg_type, subscription.raw)

    def take_publication_time(self, subscription: Subscription) -> int | None:
        """Take the oldest message that waits; when it was published, in nanoseconds, or None without one."""
        taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
        return None if taken is None else taken[1]['source_timestamp']

    def take_latest(self, subscription: Subscription) -> Any:
        """The newest message that waits, or None; older ones are dropped."""
        latest = None
        while (message := self.take(subscription)) is not None:
            latest = message
        return latest

    def wait(self, timeout: float, *subscriptions: Subscription) -> None:
        """Return when one of the subscriptions (all of them if none is named) has a message, at the latest
        after `timeout` seconds or at the next turn of the executor.
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
            return
        if self._wait_set is None:
            self._wait_set = _rclpy.WaitSet(len(self._subscriptions), 0, 0, 0, 0, 0, self._node.context.handle)
        self._wait_set.clear_entities()
        for subscription in subscriptions or self._subscriptions:
            self._wait_set.add_subscription(subscription.handle)
        self._wait_set.wait(int(timeout * 1e9))

    def housekeeping(self) -> None:
        """Run one callback that is due: a service, a parameter request, another subscription."""
        self._executor.spin_once(timeout_sec=0.0)
        self._next_housekeeping = time.monotonic() + HOUSEKEEPING_PERIOD


def _never_called(message) -> None:
    raise AssertionError('the executor ran a callback of an Inbox subscription')
