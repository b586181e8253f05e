"""Judges a robot's state by the limits of its contract: which way an axis may not go, or why the robot must stop."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import POSES, BoxLimit, NumberLimit, RobotContract, ScanLimit
from dreamer_ros.wire.topics import Topic


class Reading(NamedTuple):
    """A number of a robot's state with its bounds.

    Attributes:
        text: what it is, for people; '' where the limit's name says enough.
        gains: by axis of the command, whether it raises (more than 0) or lowers the number. Empty if no axis can lead
            back, so that the robot stops.
    """

    text: str
    value: float
    low: float | None
    high: float | None
    gains: Mapping[str, float]


class Judgement(NamedTuple):
    """What the limits demand.

    Attributes:
        stop: why the robot must stop; '' if it need not.
        limited: why axes are limited; '' if none is.
        down, up: bool[A], axes that must not go further down or up.
    """

    stop: str
    limited: str
    down: np.ndarray
    up: np.ndarray


class StateLimits:
    """Remembers the newest readings of each limit. Not thread-safe.

    Args:
        contract: of the robot.
    """

    def __init__(self, contract: RobotContract):
        self._limits = contract.limits
        self._axes = [axis.name for axis in contract.command.axes]
        self._ages = {name: contract.age_limit(limit) for name, limit in self._limits.items()}
        self._readings: dict[str, list[Reading]] = {}
        self._measured: dict[str, float] = {}  # seconds of a steady clock
        self._unread: dict[str, str] = {}  # why the newest message could not be read
        types = {limit.topic: limit.type for limit in self._limits.values()}
        self.topics = tuple(Topic(topic, kind, contract.subscription(topic)) for topic, kind in types.items())

    def receive(self, topic: str, message: Any, measured: float) -> None:
        """Receive a message. A limit whose number it lacks keeps its reading.

        Args:
            topic: its name in the contract.
            measured: when it was measured, in seconds of a steady clock.
        """
        for name, limit in self._limits.items():
            if limit.topic == topic:
                try:
                    self._readings[name], self._measured[name] = list(_read(limit, message)), measured
                    self._unread.pop(name, None)
                except InputError as error:  # robots often publish the states of some joints here, of others there
                    self._unread[name] = f' ({error})'

    def judge(self, now: float) -> Judgement:
        """What the limits demand at a time of the steady clock."""
        stops, limits = [], []
        down, up = np.zeros((2, len(self._axes)), bool)
        for name, limit in self._limits.items():
            if problem := self._problem(name, now):
                stops.append(f'limit {name}: {limit.topic}: {problem}')
                continue
            for reading in self._readings[name]:
                violated = _violated(reading)
                if not violated:
                    continue
                sentence = f'limit {name}: {reading.text}{violated}'
                if not reading.gains or not math.isfinite(sum(reading.gains.values())) or math.isnan(reading.value):
                    stops.append(sentence)
                    continue
                limits.append(sentence)
                too_high = reading.high is not None and reading.value > reading.high
                for axis, gain in reading.gains.items():
                    place = self._axes.index(axis)
                    up[place] |= (gain > 0) == too_high and gain != 0
                    down[place] |= (gain < 0) == too_high and gain != 0
        return Judgement('; '.join(stops), '; '.join(limits), down, up)

    def _problem(self, name: str, now: float) -> str:
        """Why the readings of a limit cannot be used; '' if they can."""
        unread = self._unread.get(name, '')
        if name not in self._measured:
            return f'nothing came yet{unread}'
        age, most = now - self._measured[name], self._ages[name]
        return f'{age:.3f} s old, expected at most {most:g} s{unread}' if age > most else ''


def nearest(scan: Any, low: float, high: float) -> float:
    """Distance in m of what a sensor_msgs/LaserScan sees nearest in a sector.

    Rays that end nowhere are infinite, or beyond the scanner's range. A ray below that range, or of negative
    infinity, sees something very near. Zero and NaN say nothing.

    Args:
        low, high: the sector in degrees.

    Returns:
        Infinity if nothing is there, NaN if no ray of the sector says anything.
    """
    ranges = np.asarray(scan.ranges, np.float64)
    angles = np.degrees(scan.angle_min + np.arange(len(ranges)) * scan.angle_increment)
    # Rounding must not lose a ray at the edge.
    rays = ranges[(angles - low + 1e-3) % 360.0 <= min(high - low, 360.0) + 2e-3]
    if (rays == -np.inf).any():
        return 0.0
    seen = rays[(rays > 0) & (rays <= scan.range_max)]
    if len(seen):
        return float(seen.min())
    return math.inf if (rays > scan.range_max).any() else math.nan


def _read(limit: NumberLimit | ScanLimit | BoxLimit, message: Any) -> Iterable[Reading]:
    """The readings of a limit in a message.

    Raises:
        InputError: the message lacks the element or the joint.
    """
    if isinstance(limit, NumberLimit):
        yield Reading(f'{limit.field.text} ', limit.field.read(message), limit.low, limit.high, limit.axes)
    elif isinstance(limit, ScanLimit):
        yield Reading('', nearest(message, *limit.angles), limit.low, None, limit.axes)
    else:
        yield from _position(limit, message)


def _position(limit: BoxLimit, message: Any) -> Iterable[Reading]:
    pose = message
    for attribute in POSES[limit.type]:
        pose = getattr(pose, attribute)
    q = pose.orientation
    # A quaternion of other length is no orientation: headers of robots without one are zero.
    turned = 0.9 < q.w * q.w + q.x * q.x + q.y * q.y + q.z * q.z < 1.1
    yaw = math.atan2(2 * (q.w * q.z + q.x * q.y), 1 - 2 * (q.y * q.y + q.z * q.z)) if turned else math.nan
    moves = {'x': (math.cos(yaw), -math.sin(yaw)), 'y': (math.sin(yaw), math.cos(yaw))}
    for name in ('x', 'y', 'z'):
        bounds = getattr(limit.box, name)
        if bounds is None:
            continue
        gains: dict[str, float] = dict(limit.up)
        if name != 'z':
            ahead, aside = moves[name]
            gains = {axis: sign * ahead for axis, sign in limit.forward.items()}
            for axis, sign in limit.left.items():
                gains[axis] = gains.get(axis, 0.0) + sign * aside
        low, high = bounds
        yield Reading(f'{name} ', getattr(pose.position, name), low, high, gains)


def _violated(reading: Reading) -> str:
    """What is wrong with a number; '' if it is within its bounds."""
    value, low, high = reading.value, reading.low, reading.high
    if math.isnan(value):
        return 'expected a number, got none'
    if low is not None and value < low:
        return f'{value:.4g}, expected at least {low:g}'
    if high is not None and value > high:
        return f'{value:.4g}, expected at most {high:g}'
    return ''
