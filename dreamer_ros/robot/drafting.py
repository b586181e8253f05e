"""Writes the contract of a robot from what was heard of it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import DECIDE, ESTOP, IMAGE_TYPES, JOY, SCAN, RobotContract
from dreamer_ros.robot.urdf import JointLimits
from dreamer_ros.wire.images import COMPRESSED, decode_image

JOINT_STATE = 'sensor_msgs/msg/JointState'
# Type of a message -> names and fields of the numbers in it that a policy may read, except for joints.
NUMBERS = {
    'nav_msgs/msg/Odometry': {'forward_speed': 'twist.twist.linear.x', 'turn_speed': 'twist.twist.angular.z'},
    'sensor_msgs/msg/Range': {'range': 'range'},
}
OBSERVED = (*IMAGE_TYPES, JOINT_STATE, SCAN, *NUMBERS)
SCAN_BINS = 16
COMMANDS = (  # the likeliest first
    'geometry_msgs/msg/Twist',
    'geometry_msgs/msg/TwistStamped',
    'std_msgs/msg/Float64MultiArray',
    'trajectory_msgs/msg/JointTrajectory',
    JOINT_STATE,
)
RATES = (10, 5, 2, 1, 0.5, 0.2, 0.1)
IMAGE_SIZE = 64  # pixels
STRANGE = 1.0  # s: older messages have stamps of another clock, or none
CAREFUL = 0.1  # of the speed that a URDF allows
PARAMETERS = (  # of a controller that is commanded
    'joints',
    'interface_name',
    'cmd_vel_timeout',
    *(f'{part}.max_{limit}' for part in ('linear.x', 'angular.z') for limit in ('velocity', 'acceleration')),
)


class Heard(NamedTuple):
    """A topic that was listened to.

    Attributes:
        nodes: full names of its publishers.
        rate: messages per second; 0 if fewer than two came.
        message: the newest; None if none came.
        age: the most seconds from a header's stamp to the message's publication; None without a stamp.
    """

    topic: str
    type: str
    nodes: tuple[str, ...]
    rate: float
    message: Any
    age: float | None


class Obeyed(NamedTuple):
    """A topic that moves something.

    Attributes:
        nodes, publishers: full names of its subscribers, and of its publishers.
        parameters: of its first subscriber, see PARAMETERS.
    """

    topic: str
    type: str
    nodes: tuple[str, ...]
    publishers: tuple[str, ...]
    parameters: Mapping[str, Any]


class Surroundings(NamedTuple):
    """What was found on the wire.

    Attributes:
        limits: of joints, from a URDF, by name.
        simulated: whether the time is that of /clock.
    """

    heard: tuple[Heard, ...]
    obeyed: tuple[Obeyed, ...]
    limits: Mapping[str, JointLimits]
    simulated: bool


def by_likelihood(obeyed: Iterable[Obeyed], wanted: str) -> list[Obeyed]:
    """The wanted topic first, or else that which a policy probably has to command: one that nobody commands now.

    Raises:
        InputError: there is none.
    """
    # A JointState that somebody publishes is a measurement.
    obeyed = [entry for entry in obeyed if entry.type != JOINT_STATE or not entry.publishers or entry.topic == wanted]
    if wanted and wanted not in [entry.topic for entry in obeyed]:
        known = ', '.join(entry.topic for entry in obeyed) or 'none'
        raise InputError(f'{wanted}: expected a topic that something obeys ({known})')
    if not obeyed:
        raise InputError(f'robot: expected a node that subscribes one of {", ".join(COMMANDS)}, found none')

    def order(entry: Obeyed) -> tuple:
        return entry.topic != wanted, bool(entry.publishers), COMMANDS.index(entry.type), len(entry.topic)

    return sorted(obeyed, key=order)


def draft(name: str, around: Surroundings, wanted: str = '') -> str:
    """The text of a contract with comments; what a person must decide says so.

    Args:
        wanted: topic to command; '' for the likeliest.

    Raises:
        InputError: nothing to observe, or nothing to command.
    """
    heard = tuple(entry for entry in around.heard if entry.rate or entry.type in (ESTOP, JOY))
    around = around._replace(heard=heard)
    cameras = [entry for entry in around.heard if entry.type in IMAGE_TYPES]
    seen = [entry for entry in cameras if _decodes(entry) and not _also_raw(entry, cameras)]
    numbers = list(_numbers(around))
    if not seen and not numbers:
        raise InputError('robot: expected a camera, joint states or odometry to observe, heard none')
    names = {entry.topic for entry in seen} | {source['topic'] for source in numbers}
    used = [entry for entry in around.heard if entry.topic in names]
    slowest = min(used, key=lambda entry: entry.rate)
    rate = next((rate for rate in RATES if rate <= 1.05 * slowest.rate), RATES[-1])
    ages = [abs(entry.age) for entry in used if entry.age is not None]
    strange = any(age > max(3 / rate, STRANGE) for age in ages)
    oldest = 0.0 if strange else max(ages, default=0.0)
    max_age = math.ceil(10 * max(3 / slowest.rate, 3 / rate, 2 * oldest)) / 10
    lines = [
        '# Written by `dreamer robot new` from the running robot. sim/README.md explains the keys.',
        '# `dreamer robot check` repeats what a person must decide.',
        *(['# Its time is that of /clock: start everything with use_sim_time:=true.'] if around.simulated else []),
        f'name: {_value(name)}',
        f'rate: {rate:g}  # actions per second; the slowest input comes at {slowest.rate:.3g} Hz',
        f'max_age: {max_age:g}  # s; the oldest message was {oldest:.3f} s old',
        *(['stamps: receive  # headers hold times of another clock'] if strange else []),
        *([f'image_size: [{IMAGE_SIZE}, {IMAGE_SIZE}]'] if seen else []),
        *_cameras(seen, cameras),
        *(['', 'vector:'] if numbers else []),
        *(f'  - {_value(source)}' for source in numbers),
        *_command(around, wanted),
        *_limits(around, wanted),
        *_people(around.heard),
    ]
    text = '\n'.join(lines) + '\n'
    RobotContract.from_text(text, name)  # it is to be used as it is
    return text


# What is observed


def _decodes(entry: Heard) -> bool:
    try:
        decode_image(entry.message, entry.type)
    except InputError:
        return False
    return True


def _also_raw(entry: Heard, cameras: Sequence[Heard]) -> bool:
    return entry.type == COMPRESSED and any(f'{other.topic}/compressed' == entry.topic for other in cameras)


def _cameras(seen: Sequence[Heard], cameras: Sequence[Heard]) -> Iterator[str]:
    if seen:
        yield from ('', 'cameras:')
    for number, entry in enumerate(seen):
        message = entry.message
        pixels = f'{message.width}x{message.height} ' if entry.type != COMPRESSED else ''
        yield f'  # {pixels}{_kind(message)} at {entry.rate:.3g} Hz from {", ".join(entry.nodes)}'
        camera = _value({'topic': entry.topic, 'type': entry.type})
        yield f'  camera{number + 1 if number else ""}: {camera}'
    for entry in cameras:
        if entry.topic not in {other.topic for other in seen}:
            hint = '; a depth camera needs `depth`' if _kind(entry.message) in ('16UC1', '32FC1') else ''
            yield f'{"  " if seen else ""}# left out: {entry.topic} ({_kind(entry.message)}{hint})'


def _kind(message: Any) -> str:
    """What an image says that it is, for a comment: one line of plain characters."""
    text = getattr(message, 'encoding', '') or getattr(message, 'format', '')
    return re.sub(r'[^\w ;:/.-]', '?', str(text)[:40])


def _numbers(around: Surroundings) -> Iterator[dict[str, Any]]:
    """Sources of the vector, each name once."""
    names: set[str] = set()
    for entry in around.heard:
        fields = NUMBERS.get(entry.type, {})
        if entry.type == JOINT_STATE:
            fields = {
                f'{joint}/{quantity}': f'{quantity}[{joint}]'
                for quantity in ('position', 'velocity')
                for joint, value in zip(entry.message.name, getattr(entry.message, quantity))
                # The angle of a wheel says nothing.
                if math.isfinite(value)
                and re.fullmatch(r'[^\[\]]*\D[^\[\]]*', joint)
                and not (quantity == 'position' and math.isinf(around.limits.get(joint, JointLimits(0, 0)).high))
            }
        for name, field in fields.items():
            if name not in names:
                names.add(name)
                yield {'name': name, 'topic': entry.topic, 'type': entry.type, 'field': field}
        if entry.type == SCAN and len(entry.message.ranges) >= SCAN_BINS and 'scan' not in names:
            names.add('scan')
            # As a share of the farthest that is seen.
            farthest = entry.message.range_max
            scale = _rounded(1 / farthest) if 1e-3 < farthest < 1e3 else 1.0
            bins = {'field': 'ranges[:]', 'bins': SCAN_BINS, 'scale': scale}
            yield {'name': 'scan', 'topic': entry.topic, 'type': entry.type, **bins}


# What is commanded


def _command(around: Surroundings, wanted: str) -> Iterator[str]:
    chosen, *others = by_likelihood(around.obeyed, wanted)
    yield from ('', 'command:', f'  # {", ".join(chosen.nodes)} takes it.')
    for entry in others:
        published = f', published by {", ".join(entry.publishers)}' if entry.publishers else ''
        yield f'  # It could be {entry.topic} ({entry.type}{published}).'
    yield from (f'  topic: {_value(chosen.topic)}', f'  type: {chosen.type}', '  axes:')
    axes = list(_twist(chosen) if 'Twist' in chosen.type else _joints(chosen, around))
    if not axes:
        raise InputError(f'{chosen.topic}: expected joint states or a parameter `joints`, which say what it commands')
    for axis, comment in axes:
        yield f'    - {_value(axis)}{f"  # {comment}" if comment else ""}'
    if not any(axis['unit'] in ('rad', 'm') for axis, _ in axes):
        yield '  stop: zero'
    elif all('feedback' in axis for axis, _ in axes):
        yield '  stop: hold'
    else:
        middle = {axis['name']: sum(axis['limits']) / 2 for axis, _ in axes}
        yield f'  stop: {_value(middle)}  # {DECIDE}: where does it stand when it is stopped?'
    timeout = chosen.parameters.get('cmd_vel_timeout')
    if timeout:
        yield f'  controller_timeout: {timeout:g}  # cmd_vel_timeout of {chosen.nodes[0]}'
    else:
        yield f'  # controller_timeout: 0.5  # {DECIDE}: after how many s without a command does the robot stop itself?'


def _twist(chosen: Obeyed) -> Iterator[tuple[dict[str, Any], str]]:
    within = 'twist.' if 'Stamped' in chosen.type else ''
    for name, part, unit, speed in (('forward', 'linear.x', 'm/s', 0.2), ('turn', 'angular.z', 'rad/s', 0.5)):
        told, gain = (chosen.parameters.get(f'{part}.max_{limit}', math.nan) for limit in ('velocity', 'acceleration'))
        known = math.isfinite(told) and told > 0
        limit = told if known else speed
        axis = {'name': name, 'field': f'{within}{part}', 'limits': [-limit, limit], 'unit': unit}
        if math.isfinite(gain) and gain > 0:
            axis['rate_limit'] = gain
        yield axis, f'max_velocity of {chosen.nodes[0]}' if known else f'{DECIDE}: how fast may it be?'


def _joints(chosen: Obeyed, around: Surroundings) -> Iterator[tuple[dict[str, Any], str]]:
    states = [entry for entry in around.heard if entry.type == JOINT_STATE]
    measured = {name: entry for entry in reversed(states) for name in entry.message.name}
    told = [str(name) for name in chosen.parameters.get('joints', ())]
    array = chosen.type == 'std_msgs/msg/Float64MultiArray'
    quantity = str(chosen.parameters.get('interface_name', 'velocity' if array else 'position'))
    for number, joint in enumerate(told or measured):
        axis: dict[str, Any] = {'name': joint, 'field': f'data[{number}]' if array else f'points[0].positions[{joint}]'}
        if chosen.type == JOINT_STATE:
            axis['field'] = f'position[{joint}]'
        entry, limits = measured.get(joint), around.limits.get(joint, JointLimits())
        # A message without the number would be left out as a whole.
        where = math.nan
        if entry is not None:
            where = dict(zip(entry.message.name, getattr(entry.message, quantity, ()))).get(joint, math.nan)
        if math.isfinite(where):
            axis['feedback'] = {'topic': entry.topic, 'type': entry.type, 'field': f'{quantity}[{joint}]'}
        else:
            where = 0.0
        comment = '' if told else f'{DECIDE}: is this joint number {number}? '
        if quantity != 'position':
            known = quantity == 'velocity' and math.isfinite(limits.velocity)
            speed = _rounded(CAREFUL * limits.velocity if known else 0.1)
            axis |= {'limits': [-speed, speed], 'unit': f'{limits.unit}/s' if quantity == 'velocity' else 'Nm'}
            comment += f'{CAREFUL:g} of what the URDF allows' if known else f'{DECIDE}: how fast, or strong, may it be?'
        else:
            known = math.isfinite(limits.low + limits.high)
            bounds = (limits.low, limits.high) if known else (where - 0.2, where + 0.2)
            speed = CAREFUL * limits.velocity if math.isfinite(limits.velocity) else 0.2
            axis |= {'limits': list(map(_rounded, bounds)), 'rate_limit': _rounded(speed), 'unit': limits.unit}
            comment += f'limits of the URDF, {CAREFUL:g} of its speed' if known else f'{DECIDE}: how far may it go?'
        yield axis, comment


# The rest


def _limits(around: Surroundings, wanted: str) -> Iterator[str]:
    """Velocities lead anywhere: the joints stop short of where the URDF ends."""
    chosen = by_likelihood(around.obeyed, wanted)[0]
    measured = {name: entry for entry in around.heard if entry.type == JOINT_STATE for name in entry.message.name}
    rows = []
    for joint in chosen.parameters.get('joints', ()):
        limits = around.limits.get(joint, JointLimits())
        velocity = chosen.parameters.get('interface_name') == 'velocity'
        if velocity and joint in measured and math.isfinite(limits.low + limits.high):
            margin = 0.05 * (limits.high - limits.low)
            source = {'topic': measured[joint].topic, 'type': JOINT_STATE, 'field': f'position[{joint}]'}
            bounds = {'low': _rounded(limits.low + margin), 'high': _rounded(limits.high - margin)}
            rows.append(f'  {_value(joint)}: {_value({**source, **bounds, "axes": {joint: 1}})}')
    yield ''
    if rows:
        yield from (
            '# Beyond these, a little short of those of the URDF, a joint may only move back.',
            'limits:',
            *rows,
            '',
        )


def _people(heard: Sequence[Heard]) -> Iterator[str]:
    stops = [entry.topic for entry in heard if entry.type == ESTOP and re.search('e_?stop|emergency', entry.topic)]
    sticks = [entry.topic for entry in heard if entry.type == JOY]
    unknown = f'# estop: /estop  # {DECIDE}: which std_msgs/Bool stops the robot?'
    yield f'estop: {_value(stops[0])}' if stops else unknown
    for topic in sticks:
        yield f'# joystick: {{topic: {topic}, axes: …}}  # {DECIDE}: does a person take over with it?'
    yield f'# reward: …  # {DECIDE}: a topic, a formula, or labels that are given later?'


def _rounded(value: float) -> float:
    return round(float(value), 6)


def _value(value: Any) -> str:
    """YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=math.inf, allow_unicode=True)
    return text.removesuffix('...\n').strip()
