"""A person takes over from the policy by moving a joystick, and gives control back by letting go."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
from rclpy.node import Node

from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import JOY, RobotContract
from dreamer_ros.robot.joystick import Hand, Sticks
from dreamer_ros.ros.inbox import PolledSubscription
from dreamer_ros.wire.topics import LATEST, Topic


class Person:
    """Tells from the joystick of a contract whether a person steers. Thread-safe, on the steady clock.

    A person's actions pass the same gate as a policy's. A joystick that falls silent while a person steers stops the
    robot: nobody knows whether the person meant to give it back. The joystick's driver must repeat messages
    while nothing changes, as `joy_node` does.

    Args:
        node: the subscriber.
        contract: of a robot with a joystick.

    Attributes:
        steering: whether the person steers, rather than the policy.
        problem: why the newest message cannot be used; '' if it can.
    """

    def __init__(self, node: Node, contract: RobotContract):
        self._joystick, self._sticks = contract.joystick, Sticks(contract)
        self._subscription = PolledSubscription(node, Topic(self._joystick.topic, JOY, LATEST), LATEST)
        self._lock = threading.Lock()
        self._hand: Hand | None = None
        self._heard = self._used = -math.inf  # monotonic seconds
        self._held: frozenset[str] = frozenset()  # buttons
        self._said: set[str] = set()
        self.steering = False
        self.problem = ''

    def close(self) -> None:
        """Unsubscribe."""
        self._subscription.close()

    def steer(self, commanded: np.ndarray, feedback: np.ndarray) -> np.ndarray | None:
        """The person's action f32[A]; None while the policy steers.

        Args:
            commanded: f64[axes], the last command, NaN where there was none.
            feedback: f64[axes], measured positions, NaN where there are none.
        """
        with self._lock:
            self._take(time.monotonic())
            if not self.steering:
                return None
            return self._sticks.action(self._hand, np.where(np.isnan(commanded), feedback, commanded))

    def said(self) -> set[str]:
        """What the person has said since the last call, see `Hand.said`. A button counts when it goes down."""
        with self._lock:
            self._take(time.monotonic())
            said, self._said = self._said, set()
        return said

    def lost(self, now: float) -> str:
        """A sentence if the joystick is silent while a person steers; for the watchdog."""
        with self._lock:
            self._take(now)
            silent = now - self._heard
            if not self.steering or silent <= self._joystick.max_age:
                return ''
        return f'{self._joystick.topic}: silent for {silent:.1f} s while a person steers; move it, or call ~/enable'

    def dismiss(self) -> None:
        """Give control back to the policy, whatever the joystick said last."""
        with self._lock:
            self.steering = False

    def _take(self, now: float) -> None:
        while (message := self._subscription.take()) is not None:
            try:
                self._hand, self.problem = self._sticks.read(message), ''
            except InputError as error:
                self.problem = str(error)
                continue
            self._heard = now
            self._said |= self._hand.said - self._held
            self._held = self._hand.said
            if self._hand.takes_over:
                self.steering, self._used = True, now
        if self.steering and self._heard - self._used > self._joystick.release:
            self.steering = False
