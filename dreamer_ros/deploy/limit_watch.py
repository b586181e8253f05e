"""Keeps a robot within the limits of its contract, on the watchdog's thread."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
from rclpy.node import Node

from dreamer_ros.deploy.clocks import SystemClock
from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.robot.limits import StateLimits
from dreamer_ros.ros.inbox import PolledSubscription
from dreamer_ros.wire import codecs
from dreamer_ros.wire.fields import has_header

Block = Callable[[np.ndarray, np.ndarray, str], None]


class LimitWatch:
    """A check that the robot is within its limits. Beyond some of them it blocks axes instead of failing.

    It has subscriptions of its own, so neither a stalled executor nor a stalled control loop hides the state.

    Args:
        node: the subscriber.
        contract: of the robot.
        block: gets the axes that must not go further, see `Gate.block`.
        clock: of the robot.
    """

    def __init__(self, node: Node, contract: RobotContract, block: Block, clock: SystemClock):
        self._block, self._clock = block, clock
        self._limits = StateLimits(contract)
        self._subscriptions = {
            topic.name: (
                PolledSubscription(node, topic, topic.qos),
                contract.stamps == 'header' and has_header(topic.type),
            )
            for topic in self._limits.topics
        }

    def close(self) -> None:
        """Unsubscribe."""
        for subscription, _ in self._subscriptions.values():
            subscription.close()

    def __call__(self, now: float) -> str:
        for topic, (subscription, by_header) in self._subscriptions.items():
            while (taken := subscription.take_with_info()) is not None:
                message, info = taken
                with contextlib.suppress(InputError):  # no stamp, no age
                    stamp = codecs.stamp_to_ns(message.header.stamp) if by_header else self._clock.received(info)
                    age = max(0, self._clock.time_ns() - stamp) / 1e9
                    self._limits.receive(topic, message, self._clock.seconds() - age)
        judgement = self._limits.judge(self._clock.seconds())
        self._block(judgement.down, judgement.up, judgement.limited)
        return judgement.stop
