"""Compares what is on the wire with what a contract says, without publishing anything."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from rclpy.qos import QoSCompatibility, qos_check_compatible

from dreamer_ros.deploy.clocks import SimulatedClock
from dreamer_ros.deploy.command_topic import Obeying, find_obeying, find_server, node_name
from dreamer_ros.deploy.limit_watch import LimitWatch
from dreamer_ros.deploy.stops import EmergencyStop
from dreamer_ros.deploy.survey import LISTENER, Listener, Survey
from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import DECIDE, ESTOP, JOY, Axis, Call, Camera, Goal, Part, Reader, RobotContract, Source
from dreamer_ros.robot.safety import Safety
from dreamer_ros.robot.sensing import Problem, Sensing
from dreamer_ros.robot.urdf import read_limits
from dreamer_ros.ros import qos
from dreamer_ros.ros.interfaces import interface
from dreamer_ros.schema import line_of
from dreamer_ros.wire.topics import QoS, Topic

MATCHING = 0.3  # seconds of listening before the first observation
TOLERANCE = 0.9  # of the contract's rate, at which a camera need not keep up with it
AHEAD = 0.02  # seconds by which a stamp may be newer than its message
OFTEN = 0.2  # of the ticks: a problem this frequent would hold the robot back
SIMULATED = 3600.0  # seconds by which the stamps of a simulation differ from the system time
# What a controller of ros2_control says about the joints that it commands.
JOINTS, TIMEOUT = 'joints', 'cmd_vel_timeout'


class Finding(NamedTuple):
    """What was found about a key of the contract.

    Attributes:
        level: ok; warning: the robot would move nevertheless; error: it would not.
        key: dotted; the one to change.
        text: one line.
        line: of the contract's text, from 1.
    """

    level: Literal['ok', 'warning', 'error']
    key: str
    text: str
    line: int = 0


def check_robot(contract: RobotContract, survey: Survey, seconds: float) -> list[Finding]:
    """Listen, rehearse observations at the contract's rate as the agent makes them, and report.

    Args:
        survey: in the robot's namespace.
        seconds: how long to listen.

    Raises:
        InputError: a type of the contract is not installed.
    """
    check = _Check(contract, survey, seconds)
    try:
        found = list(check.findings())
    finally:
        check.close()
    return [finding._replace(line=finding.line or line_of(contract.text, finding.key)) for finding in found]


class _Check:
    def __init__(self, contract: RobotContract, survey: Survey, seconds: float):
        self._contract, self._survey = contract, survey
        self._node = survey.node
        # As the agent subscribes, but deep enough to count all that comes.
        self._qualities = {
            topic.name: dataclasses.replace(contract.subscription(topic.name), depth=LISTENER.depth)
            for topic in contract.topics
        }
        self._listeners = {topic.name: survey.listen(topic, self._qualities[topic.name]) for topic in contract.topics}
        self._held = ''  # why the limits of the robot's state stop it, or block axes
        self._blocked = ''
        self._limits = LimitWatch(survey.node, contract, self._note, survey.clock)
        self._readers: dict[str, list[tuple[str, Camera | Source]]] = {}
        for key, reader in contract.readers():
            self._readers.setdefault(reader.topic, []).append((key, reader))
        self._estop = EmergencyStop(self._node, contract.estop)
        self._ticks = 0
        self._problems: dict[str, list[Problem]] = {}  # at the ticks since the topic was heard first
        self._oldest: dict[str, int] = {}  # ns, by topic
        self._newest: dict[str, int] = {}
        self._feedback = np.full(len(contract.command.axes), np.nan)
        survey.discover(self._found)
        self._rehearse(seconds)

    def _rehearse(self, seconds: float) -> None:
        sensing, following = Sensing(self._contract), math.inf
        for now in self._survey.rounds(seconds, *self._listeners.values()):
            self._estop.pressed()
            self._held = self._limits(now)
            if following == math.inf:
                following = now + min(MATCHING, seconds / 2)
            if now < following:
                continue
            following += 1 / self._contract.rate
            self._ticks += 1
            for name, listener in self._listeners.items():
                if listener.fresh:
                    received = {'source_timestamp': listener.published}
                    sensing.receive(name, listener.message(), self._survey.clock.received(received))
            sensed = sensing.observe(self._survey.clock.time_ns())
            for topic, age in sensed.ages.items():
                self._oldest[topic] = max(age, self._oldest.get(topic, age))
                self._newest[topic] = min(age, self._newest.get(topic, age))
            for problem in (*sensed.problems, *sensed.reward_problems):
                self._problems.setdefault(problem.topic, []).append(problem)
            if sensed.feedback is not None:
                self._feedback = sensed.feedback

    def close(self) -> None:
        self._estop.close()
        self._limits.close()
        for listener in self._listeners.values():
            listener.close()

    def _note(self, down: np.ndarray, up: np.ndarray, why: str) -> None:
        self._blocked = why

    def _found(self) -> bool:
        """Whether everybody is there whom the contract needs."""
        listeners = self._listeners.values()
        return all(map(self._node.count_publishers, (listener.name for listener in listeners))) and not any(
            self._obeying(part).why for part in self._contract.command.parts
        )

    def _obeying(self, part: Part) -> Obeying:
        receiver, source = part.receiver, self._contract.source
        name = self._node.resolve_topic_name(receiver.name)
        if receiver.action:
            return find_server(self._node, name, receiver.type, source)
        return find_obeying(self._node, Topic(name, receiver.message, receiver.qos.profile), source)

    def findings(self) -> Iterator[Finding]:
        for topic in self._contract.topics:
            yield from self._topic(topic)
        yield from self._clock()
        yield from self._command()
        yield from self._axis_limits()
        yield from self._state_limits()
        yield from self._reset()
        yield from self._stops()

    # What is observed

    def _topic(self, topic: Topic) -> Iterator[Finding]:
        listener, readers = self._listeners[topic.name], self._readers[topic.name]
        key, reader = readers[0]
        needed = any(not (key.startswith(('reward', 'terminal')) or _optional(reader)) for key, reader in readers)
        level: Literal['error', 'warning'] = 'error' if needed else 'warning'
        infos = self._node.get_publishers_info_by_topic(listener.name)
        nodes = ', '.join(sorted({node_name(info) for info in infos}))
        matching = [info for info in infos if info.topic_type == topic.type]
        if not infos:
            yield Finding(level, f'{key}.topic', f'{listener.name}: nobody publishes it{self._similar(listener)}')
        elif not matching:
            carried = ', '.join(sorted({info.topic_type for info in infos}))
            yield Finding(level, f'{key}.type', f'{listener.name} carries {carried} (from {nodes}), not {topic.type}')
        elif problem := _incompatible(matching, self._qualities[topic.name]):
            yield Finding(level, f'{key}.qos', f'{listener.name}: {nodes} does not match a subscriber: {problem}')
        elif not listener.count:
            yield Finding(level, f'{key}.topic', f'{listener.name}: {nodes} publishes it, but nothing came')
        elif problems := self._problems.get(topic.name):
            yield self._judge(level, listener, problems)
        else:
            yield Finding('ok', f'{key}.topic', f'{listener.name}: {self._described(listener, reader)}, from {nodes}')
        ahead = -self._newest.get(topic.name, 0) / 1e9
        if AHEAD < ahead < SIMULATED:
            yield Finding('warning', 'stamps', f'{listener.name} is stamped {ahead:.3f} s ahead: the clocks differ')
        if isinstance(reader, Camera) and 0 < listener.rate < TOLERANCE * self._contract.rate:
            yield Finding(
                'warning',
                'rate',
                f'{listener.name} comes at {listener.rate:.3g} Hz: at {self._contract.rate:g} Hz the same image is '
                'acted upon again',
            )

    def _judge(self, level: Literal['error', 'warning'], listener: Listener, problems: Sequence[Problem]) -> Finding:
        """What the problems of the ticks with a topic mean."""
        last, often = problems[-1], len(problems) > OFTEN * self._ticks
        key, reader = next(
            (pair for pair in self._readers[listener.topic.name] if _names(pair[1], last)),
            self._readers[listener.topic.name][0],
        )
        text = f'{listener.name}: {last.detail}'
        offset = self._offset(listener)
        if last.kind in ('old', 'ahead') and abs(offset) > SIMULATED:
            text, place = f'{listener.name}: {self._foreign_time(offset)}', 'stamps'
        elif last.kind == 'ahead' or listener.stamp == 0:
            place = 'stamps'
        elif last.kind == 'old':
            place = f'{key}.max_age' if reader.max_age else 'max_age'
            text += f'; the oldest was {self._oldest.get(listener.topic.name, 0) / 1e9:.3f} s old'
        elif isinstance(reader, Camera):
            place = f'{key}.{next((part for part in ("crop", "depth") if part in last.detail), "type")}'
        else:
            place = f'{key}.field'
        if not often:
            return Finding('warning', place, f'{text}, at {len(problems)} of {self._ticks} ticks')
        return Finding(level, place, text)

    def _described(self, listener: Listener, reader: Reader) -> str:
        message = listener.message()
        parts = [f'{listener.rate:.3g} Hz']
        if isinstance(reader, Camera):
            pixels = f'{message.width}x{message.height} ' if hasattr(message, 'width') else ''
            parts.append(f'{pixels}{getattr(message, "encoding", "") or getattr(message, "format", "")}')
        oldest = self._oldest.get(listener.topic.name, 0) / 1e6
        limit = min(self._contract.age_limits(reader for _, reader in self._readers[listener.topic.name]).values())
        parts += [f'{listener.size} bytes', f'at most {oldest:.0f} of {1e3 * limit:.0f} ms old']
        return ', '.join(parts)

    def _similar(self, listener: Listener) -> str:
        """'; did you mean …?' with published topics of the same type."""
        same = [name for name, types in self._node.get_topic_names_and_types() if listener.topic.type in types]
        same = [name for name in same if self._node.count_publishers(name)]
        near = difflib.get_close_matches(listener.name, same, 3, 0.0)
        return f'; {listener.topic.type} is on {", ".join(near)}' if near else f', nor any {listener.topic.type}'

    # Time

    def _offset(self, listener: Listener) -> float:
        """Seconds from ROS time to the newest stamp."""
        return 0.0 if not listener.stamp else (listener.stamp - self._survey.clock.time_ns()) / 1e9

    def _foreign_time(self, offset: float) -> str:
        if self._survey.sim_time:
            return f'stamped {abs(offset):.0f} s {"after" if offset > 0 else "before"} /clock, in system time'
        simulated = self._survey.simulated()
        start = (
            ': start the agent with use_sim_time:=true' if simulated is not None else ', and nobody publishes /clock'
        )
        return f'stamped {abs(offset):.0f} s {"ahead" if offset > 0 else "ago"}, in simulated time{start}'

    def _clock(self) -> Iterator[Finding]:
        simulated, clock = self._survey.simulated(), self._survey.clock
        if isinstance(clock, SimulatedClock) and (problem := clock(time.monotonic())):
            yield Finding('error', 'stamps', problem)
        elif simulated is not None:
            yield Finding('ok', 'stamps', f'/clock says {simulated / 1e9:.3f} s')

    # What is commanded

    def _command(self) -> Iterator[Finding]:
        contract, command = self._contract, self._contract.command
        for part in command.parts:
            yield from self._receiver(part)
        try:
            Safety(contract).start(self._feedback)
        except InputError as error:
            names = [axis.name for axis in command.axes]
            yield Finding('error', f'command.axes[{names.index(str(error).partition(":")[0])}].limits', str(error))

    def _receiver(self, part: Part) -> Iterator[Finding]:
        receiver, obeying, place = part.receiver, self._obeying(part), f'command.{part.key}'.strip('.')
        name = self._node.resolve_topic_name(receiver.name)
        key = f'{place}.{"action" if receiver.action else "topic"}'
        if obeying.why:
            yield Finding('error', f'{place}.{obeying.key}', obeying.why)
        else:
            yield Finding('ok', key, f'{name}: {", ".join(obeying.nodes)} takes {receiver.type}')
        others = {node_name(info) for info in self._node.get_publishers_info_by_topic(name)} if receiver.topic else ()
        if others:
            told = ', '.join(sorted(others))
            yield Finding('warning', key, f'{name} is published by {told} too: who spoke last wins')
        for node in obeying.nodes:
            yield from self._controller(node, part, place)

    def _controller(self, node: str, part: Part, place: str) -> Iterator[Finding]:
        """Whether a controller of ros2_control takes as many joints, and stops when the contract says."""
        told = self._survey.parameters(node, (JOINTS, TIMEOUT))
        joints = list(told.get(JOINTS, ()))
        mine = [field.parts[-1].element for field in part.fields if field.parts[-1].element is not None]
        fits = set(mine) == set(joints) if isinstance(mine[0] if mine else 0, str) else len(mine) == len(joints)
        if joints and mine and not fits:
            expected = f'{len(joints)} joints ({", ".join(joints)})'
            yield Finding('error', 'command.axes', f'{node} takes {expected}, the axes are {", ".join(map(str, mine))}')
        timeout = told.get(TIMEOUT)
        expected_timeout = part.receiver.controller_timeout
        if timeout and expected_timeout != timeout:
            yield Finding(
                'warning',
                f'{place}.controller_timeout',
                f'{node} stops after {timeout:g} s without a command, the contract says {expected_timeout}',
            )

    def _axis_limits(self) -> Iterator[Finding]:
        receiver = self._contract.command.parts[0].receiver
        name, text = self._survey.description(self._node.resolve_topic_name(receiver.name))
        if not text:
            return
        try:
            joints = read_limits(text, name)
        except InputError as error:
            yield Finding('warning', 'command.axes', str(error))
            return
        for number, axis in enumerate(self._contract.command.axes):
            joint, quantity = commanded_joint(axis)
            if joint not in joints or not quantity:
                continue
            limits = joints[joint]
            low, high = (limits.low, limits.high) if quantity == 'position' else (-limits.velocity, limits.velocity)
            slack = 1e-3 * (axis.limits[1] - axis.limits[0])
            inside = low - slack <= axis.limits[0] and axis.limits[1] <= high + slack
            yield Finding(
                'ok' if inside else 'warning',
                f'command.axes[{number}].limits',
                f'{axis.name}: {list(axis.limits)} {"within" if inside else "beyond"} the {quantity} of {joint} in '
                f'{name}, {low:g} to {high:g}',
            )

    def _state_limits(self) -> Iterator[Finding]:
        """Whether the robot stands within the limits of its state, and whether those can be read at all."""
        for name, limit in self._contract.limits.items():
            told = f'limit {name}: '
            said = [part for part in f'{self._held}; {self._blocked}'.split('; ') if part.startswith(told)]
            level: Literal['ok', 'warning', 'error'] = 'ok'
            if said:
                level = 'error' if said[0] in self._held else 'warning'
            text = said[0].removeprefix(told) if said else f'{limit.topic}: within'
            yield Finding(level, f'limits.{name}', text)

    def _reset(self) -> Iterator[Finding]:
        """Whether somebody offers the services and actions that set the robot up again."""
        offered = dict(self._node.get_service_names_and_types())
        for number, step in enumerate(self._contract.reset.steps if self._contract.reset else ()):
            if not isinstance(step, (Call, Goal)):
                continue
            key, name = f'reset.steps[{number}]', step.service if isinstance(step, Call) else step.action
            name = self._node.resolve_service_name(name)
            try:
                interface(step.type, key)
            except InputError as error:
                yield Finding('error', key, str(error))
                continue
            kinds = offered.get(name if isinstance(step, Call) else f'{name}/_action/send_goal', [])
            fits = any(kind.removesuffix('_SendGoal') == step.type for kind in kinds)
            told = f'{name}: offered' if fits else f'{name}: nobody offers {step.type}, as a reset needs it'
            yield Finding('ok' if fits else 'warning', key, told)

    # People

    def _stops(self) -> Iterator[Finding]:
        contract = self._contract
        estop = self._estop.topic
        if self._estop.pressed():
            yield Finding('error', 'estop', f'{estop}: the emergency stop is pressed')
        else:
            yield self._published('estop', estop, ESTOP, 'nothing can stop the robot from there')
        if contract.joystick:
            topic = self._node.resolve_topic_name(contract.joystick.topic)
            yield self._published('joystick.topic', topic, JOY, 'nobody can take over')
        for number, line in enumerate(contract.text.splitlines()):
            if DECIDE in line.partition('#')[2]:
                yield Finding('warning', '', line.partition('#')[2].strip(), number + 1)

    def _published(self, key: str, topic: str, kind: str, otherwise: str) -> Finding:
        """Whether somebody publishes what people press."""
        infos = self._node.get_publishers_info_by_topic(topic)
        nodes = ', '.join(sorted(node_name(info) for info in infos if info.topic_type == kind))
        if nodes:
            return Finding('ok', key, f'{topic}: from {nodes}')
        return Finding('warning', key, f'{topic}: nobody publishes {kind} there, so {otherwise}')


def commanded_joint(axis: Axis) -> tuple[str, Literal['position', 'velocity', '']]:
    """The joint that an axis commands, and what of it, as far as its field, feedback and unit tell."""
    [path, *more] = axis.gains
    for text in (path, axis.feedback.path if axis.feedback else ''):
        match = re.search(r'(position|velocit)\w*\[([^\]]*\D[^\]]*)\]$', text)
        if match and not more:
            return match[2], 'velocity' if match[1] == 'velocit' else 'position'
    kinds: dict[str, Literal['position', 'velocity']] = {'rad': 'position', 'm': 'position'}
    kinds |= {'rad/s': 'velocity', 'm/s': 'velocity'}
    return axis.name, kinds.get(axis.unit, '')


def _optional(reader: Camera | Source) -> bool:
    return isinstance(reader, Source) and reader.optional


def _names(reader: Camera | Source, problem: Problem) -> bool:
    return isinstance(reader, Source) and problem.detail.find(f'{reader.path}:') >= 0


def _incompatible(infos: Iterable, quality: QoS) -> str:
    """Why no publisher of these matches a subscription; '' if one does."""
    mine = qos.profile(quality)
    for info in infos:
        verdict, reason = qos_check_compatible(info.qos_profile, mine)
        if verdict != QoSCompatibility.ERROR:
            return ''
    return reason
