"""The robot contract: one YAML that says how a robot's own topics become observations and its commands actions.

sim/README.md explains the keys. A contract gives the same RobotSpec as a simulator, so that policies fit both.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text
from dreamer_ros.paths import share
from dreamer_ros.robot.expressions import Expression
from dreamer_ros.sections import Range, Section, parse_yaml
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire.definitions import definition
from dreamer_ros.wire.fields import Field
from dreamer_ros.wire.images import COMPRESSED, Crop
from dreamer_ros.wire.topics import NAMES, SENSOR, QoS, Topic

IMAGE_TYPES = ('sensor_msgs/msg/Image', COMPRESSED)
JOY = 'sensor_msgs/msg/Joy'
ESTOP = 'std_msgs/msg/Bool'
# Type of a command -> what paths of its fields look like, and an example.
COMMAND_FIELDS = {
    'geometry_msgs/msg/Twist': (r'(linear|angular)\.[xyz]', 'linear.x'),
    'geometry_msgs/msg/TwistStamped': (r'twist\.(linear|angular)\.[xyz]', 'twist.linear.x'),
    'std_msgs/msg/Float64MultiArray': (r'data\[\d+\]', 'data[0]'),
    'trajectory_msgs/msg/JointTrajectory': (
        r'points\[0\]\.(positions|velocities|accelerations|effort)\[.*\D.*\]',
        'points[0].positions[elbow]',
    ),
    'sensor_msgs/msg/JointState': (r'(position|velocity|effort)\[.*\D.*\]', 'position[elbow]'),
    JOY: (r'axes\[\d+\]', 'axes[0]'),
}
RATES = (0.01, 1000.0)  # actions per second
PERIOD_TOLERANCE = 0.01  # by how much of it a policy's control period may differ from the robot's
LIMIT_TOLERANCE = 1e-6  # by how much of its range a limit may

_TOPIC = re.compile(f'/?{NAMES}')
_EXPRESSION_NAME = re.compile(r'[A-Za-z_][A-Za-z0-9_]*')


class Camera(NamedTuple):
    """Where a camera's images come from; `max_age` in s."""

    name: str
    topic: str
    type: str
    crop: Crop | None
    max_age: float


class Source(NamedTuple):
    """A number in the messages of a topic.

    Attributes:
        max_age: s; an older one counts as missing.
        default: its value while it is missing; None for none.
    """

    topic: str
    type: str
    field: Field
    max_age: float
    default: float | None = None


class Input(NamedTuple):
    """A number that the policy reads: the source's times `scale` plus `offset`, then clipped."""

    name: str
    source: Source
    scale: float
    offset: float
    clip: Range


class Formula(NamedTuple):
    """A number computed from others."""

    expression: Expression
    sources: Mapping[str, Source]


class Axis(NamedTuple):
    """One physical quantity that is commanded.

    Attributes:
        gains: what one unit of it adds to each field of the message.
        limits: in its unit; what actions -1 and 1 stand for.
        rate_limit: its greatest change in units per second; infinite for none.
        unit: for people.
        feedback: where it stands now, in the same unit; None where the robot does not tell.
    """

    name: str
    gains: tuple[tuple[Field, float], ...]
    limits: Range
    rate_limit: float
    unit: str
    feedback: Source | None


@dataclasses.dataclass(frozen=True)
class Command:
    """How the robot is commanded.

    Attributes:
        axes: A of them, in the order of the action unless there are choices.
        choices: of a robot with discrete actions: name -> f64[A]; empty for any other.
        stop: f64[A] in the units of the axes, or None to hold what was commanded last.
        stop_at_once: without regard to rate limits: to zero, not to a pose.
        frame_id: of the header, where the type has one.
        qos: of the publisher.
        controller_timeout: s without a command after which the robot's own controller stops it; None where it
            never does. It is set there, not here: this is what people and the stand-in of the hardware rely on.
    """

    topic: str
    type: str
    axes: tuple[Axis, ...]
    choices: Mapping[str, tuple[float, ...]]
    stop: tuple[float, ...] | None
    stop_at_once: bool
    frame_id: str
    qos: QoS
    controller_timeout: float | None

    @functools.cached_property
    def fields(self) -> tuple[Field, ...]:
        """Every field of the message that an axis writes, F of them."""
        return tuple(dict.fromkeys(field for axis in self.axes for field, _ in axis.gains))

    @functools.cached_property
    def matrix(self) -> np.ndarray:
        """f64[F, A]: its product with the axes' values gives the fields' values."""
        matrix = np.zeros((len(self.fields), len(self.axes)))
        for number, axis in enumerate(self.axes):
            for field, gain in axis.gains:
                matrix[self.fields.index(field), number] = gain
        return matrix


class Joystick(NamedTuple):
    """How a person takes over from the policy, with a sensor_msgs/Joy.

    Attributes:
        gains: for each axis of the command, what one unit of a stick adds to its value, in its unit; with `relative`
            per second.
        relative: sticks move the axes from where they are; otherwise they say where, and at rest that is 0.
        choices: of a robot with discrete actions, instead: (choice, button or stick) each, the first one in use wins.
        takeover: held down while a person steers; None if whatever is in use takes over.
        dead_zone: what a stick must exceed to be in use.
        release: s of rest after which the policy goes on.
        max_age: s without a message, while a person steers, after which the robot is stopped.
    """

    topic: str
    gains: tuple[tuple[tuple[Field, float], ...], ...]
    relative: bool
    choices: tuple[tuple[str, Field], ...]
    takeover: Field | None
    dead_zone: float
    release: float
    max_age: float


@dataclasses.dataclass(frozen=True)
class RobotContract:
    """A validated contract; make it with `load_contract` or `RobotContract.from_text`.

    Attributes:
        name: of the robot.
        rate: actions per second.
        stamps: when a message counts as measured: its `header` stamp, or when it was received (`receive`).
        image_size: (height, width) in pixels of every camera's image as the policy sees it; (0, 0) without cameras.
        cameras, vector: the inputs of the policy in their order.
        command: its output.
        reward: None where it is labelled later.
        terminal: ends the episode for good where it is not 0; None for never.
        episode_length: actions per episode; None for no limit.
        estop: std_msgs/Bool topic that stops the robot while true.
        joystick: None if nobody takes over.
        public_key: ed25519, 64 hexadecimal digits; policies must be signed for it. None for no signatures.
        text, source: the YAML as it was read, and the name of its file.
    """

    name: str
    rate: float
    stamps: str
    image_size: tuple[int, int]
    cameras: tuple[Camera, ...]
    vector: tuple[Input, ...]
    command: Command
    reward: Formula | None
    terminal: Formula | None
    episode_length: int | None
    estop: str
    joystick: Joystick | None
    public_key: str | None
    text: str = dataclasses.field(repr=False)
    source: str

    @classmethod
    def from_text(cls, text: str, source: str) -> RobotContract:
        """Read a contract; `source` names its file in every error.

        Raises:
            InputError: not YAML, an unknown or missing key, or a value that does not fit; names file and key.
        """
        return _Reader(text, source).contract

    @property
    def period_ns(self) -> int:
        """Nanoseconds between two actions."""
        return round(1e9 / self.rate)

    @functools.cached_property
    def spec(self) -> RobotSpec:
        """What the robot looks like to an agent."""
        axes, choices = self.command.axes, self.command.choices
        return RobotSpec(
            name=self.name,
            image_size=self.image_size,
            vector=[entry.name for entry in self.vector],
            action=list(choices) if choices else [axis.name for axis in axes],
            action_low=[0.0] * len(choices) if choices else [axis.limits[0] for axis in axes],
            action_high=[1.0] * len(choices) if choices else [axis.limits[1] for axis in axes],
            control_period=1 / self.rate,
            action_repeat=1,
            cameras=[camera.name for camera in self.cameras],
            discrete=bool(choices),
        )

    @functools.cached_property
    def sources(self) -> tuple[Source, ...]:
        """Every number that is read from a topic: of the inputs, reward, end and feedback."""
        formulas = [formula for formula in (self.reward, self.terminal) if formula]
        return (
            *(entry.source for entry in self.vector),
            *(source for formula in formulas for source in formula.sources.values()),
            *(axis.feedback for axis in self.command.axes if axis.feedback),
        )

    @functools.cached_property
    def topics(self) -> tuple[Topic, ...]:
        """What is subscribed to observe the robot, each topic once."""
        found = {reader.topic: reader.type for reader in (*self.cameras, *self.sources)}
        return tuple(Topic(name, type_name, SENSOR) for name, type_name in found.items())

    @property
    def command_topic(self) -> Topic:
        """What is published to move it."""
        return Topic(self.command.topic, self.command.type, self.command.qos)

    def check(self, policy: RobotSpec) -> None:
        """Refuse a policy, or a simulated robot, of another spec; names and action repeats may differ.

        Raises:
            InputError: naming the key of the contract that does not fit.
        """
        for key, expected, got in self._differences(policy):
            raise InputError(f'{self.source}: {key}: expected {expected}, as for {policy.name}, got {got}')

    def _differences(self, policy: RobotSpec) -> Iterator[tuple[str, object, object]]:
        """(key, what the policy expects there, what the contract has) of whatever does not fit."""
        mine = self.spec
        if policy.cameras != mine.cameras:
            yield 'cameras', _listed(policy.cameras), _listed(mine.cameras)
        if policy.image_size != mine.image_size:
            yield 'image_size', list(policy.image_size), list(mine.image_size)
        yield from _name_differences('vector', policy.vector, mine.vector)
        if policy.discrete or mine.discrete:
            if (policy.discrete, policy.action) != (mine.discrete, mine.action):
                yield (
                    'command.choices',
                    _listed(policy.action if policy.discrete else ()),
                    _listed(mine.action if mine.discrete else ()),
                )
        else:
            yield from _name_differences('command.axes', policy.action, mine.action)
            for number, axis in enumerate(self.command.axes):
                low, high = policy.action_low[number], policy.action_high[number]
                if not np.allclose((low, high), axis.limits, rtol=0, atol=LIMIT_TOLERANCE * (high - low)):
                    yield f'command.axes[{number}].limits', [low, high], list(axis.limits)
        if abs(policy.control_period * self.rate - 1) > PERIOD_TOLERANCE:
            yield 'rate', f'{1 / policy.control_period:g}', f'{self.rate:g}'


def _name_differences(
    key: str, expected: tuple[str, ...], got: tuple[str, ...]
) -> Iterator[tuple[str, object, object]]:
    for number, (theirs, mine) in enumerate(zip(expected, got)):
        if theirs != mine:
            yield f'{key}[{number}].name', theirs, mine
    if len(expected) != len(got):
        yield key, _listed(expected), _listed(got)


def _listed(names: tuple[str, ...]) -> str:
    return ', '.join(names) or 'none'


def load_contract(robot: str | Path) -> RobotContract:
    """Read a contract.

    Args:
        robot: path of a YAML file, or the name of a robot in `sim/`.

    Raises:
        InputError: no such file, or it is not a valid contract.
    """
    path = Path(robot)
    if path.suffix not in ('.yaml', '.yml'):
        known = sorted(file.parent.name for file in share('sim').glob('*/robot.yaml'))
        if str(robot) not in known:
            raise InputError(f'robot: expected a contract file (.yaml) or one of {", ".join(known)}, got {robot}')
        path = share('sim', str(robot), 'robot.yaml')
    return RobotContract.from_text(read_text(path), str(path))


class _Reader:
    """Takes a contract out of its YAML, key by key."""

    def __init__(self, text: str, source: str):
        top = parse_yaml(text, source)
        self._types: dict[str, str] = {}  # of each topic
        self._max_age = float(top.positive('max_age'))
        cameras = tuple(self._camera(name, section) for name, section in top.sections('cameras').items())
        vector = tuple(self._input(section) for section in top.items('vector'))
        image_size = self._image_size(top) if cameras else (0, 0)
        command = self._command(top.section('command'))
        reward = self._formula(top.section('reward')) if top.has('reward') else None
        terminal = self._formula(top.section('terminal')) if top.has('terminal') else None
        self.contract = RobotContract(
            name=top.text('name'),
            rate=self._rate(top),
            stamps=top.choice('stamps', ('header', 'receive'), default='header'),
            image_size=image_size,
            cameras=cameras,
            vector=vector,
            command=command,
            reward=reward,
            terminal=terminal,
            episode_length=top.count('episode_length', default=None),
            estop=self._estop(top),
            joystick=self._joystick(top.section('joystick'), command) if top.has('joystick') else None,
            public_key=self._public_key(top),
            text=text,
            source=source,
        )
        top.finish()
        if not cameras and not vector:
            top.fail('', 'cameras or vector, something to observe', 'neither')
        if len({entry.name for entry in vector}) < len(vector):
            top.fail('vector', 'different names', [entry.name for entry in vector])
        try:
            self.contract.spec  # what a RobotSpec refuses, such as the names of cameras
        except InputError as error:
            top.refuse('', error)

    # Topics and fields

    def _topic(self, section: Section, key: str = 'topic', **default) -> str:
        topic = section.text(key, **default)
        if not _TOPIC.fullmatch(topic):
            section.fail(key, 'the name of a topic', topic)
        return topic

    def _observed(self, section: Section, options: tuple[str, ...] = ()) -> tuple[str, str, float]:
        """Topic, type and maximum age."""
        topic = self._topic(section)
        type_name = section.choice('type', options) if options else section.text('type')
        try:
            definition(type_name)
        except InputError as error:
            section.refuse('type', error)
        self._only_type(section, topic, type_name)
        return topic, type_name, float(section.positive('max_age', default=self._max_age))

    def _only_type(self, section: Section, topic: str, type_name: str) -> None:
        if self._types.setdefault(topic, type_name) != type_name:
            section.fail('type', f'{self._types[topic]}, as elsewhere for {topic}', type_name)

    def _source(self, section: Section, default: float | None = None) -> Source:
        topic, type_name, max_age = self._observed(section)
        text = section.text('field')
        try:
            field = Field.parse(text, type_name)
        except InputError as error:
            section.refuse('field', error)
        return Source(topic, type_name, field, max_age, default)

    def _camera(self, name: str, section: Section) -> Camera:
        crop = None
        if section.has('crop'):
            edges = section.section('crop')
            crop = Crop(edges.count('x', 0), edges.count('y', 0), edges.count('width'), edges.count('height'))
            edges.finish()
        topic, type_name, max_age = self._observed(section, IMAGE_TYPES)
        section.finish()
        return Camera(name, topic, type_name, crop, max_age)

    def _rate(self, top: Section) -> float:
        rate = float(top.positive('rate'))
        if not RATES[0] <= rate <= RATES[1]:
            top.fail('rate', f'{RATES[0]:g} to {RATES[1]:g} actions per second', rate)
        return rate

    def _estop(self, top: Section) -> str:
        topic = self._topic(top, 'estop', default='estop')
        if self._types.setdefault(topic, ESTOP) != ESTOP:
            top.fail('estop', f'a topic of {ESTOP}, but {topic} is one of {self._types[topic]} elsewhere', topic)
        return topic

    def _image_size(self, top: Section) -> tuple[int, int]:
        size = top.numbers('image_size')
        if len(size) != 2 or not all(side == int(side) >= 1 for side in size):
            top.fail('image_size', '[height, width] in pixels', list(size))
        return int(size[0]), int(size[1])

    def _input(self, section: Section) -> Input:
        entry = Input(
            section.text('name'),
            self._source(section),
            float(section.number('scale', default=1.0)),
            float(section.number('offset', default=0.0)),
            section.range('clip', default=(-math.inf, math.inf)),
        )
        section.finish()
        return entry

    def _formula(self, section: Section) -> Formula:
        """`{topic, type, field}` of one number, or `{expression, fields: {name: {topic, type, field}}}`."""
        if not section.has('expression'):
            return Formula(Expression('value', ['value']), {'value': self._term(section)})
        sources = {}
        for name, term in section.sections('fields').items():
            if not _EXPRESSION_NAME.fullmatch(name):
                section.fail('fields', 'names of letters, digits and underscores', name)
            sources[name] = self._term(term)
        text = section.text('expression')
        try:
            expression = Expression(text, sources)
        except InputError as error:
            section.refuse('expression', error)
        section.finish()
        return Formula(expression, sources)

    def _term(self, section: Section) -> Source:
        default = section.number('default', default=None)
        source = self._source(section, None if default is None else float(default))
        section.finish()
        return source

    # The command

    def _command(self, section: Section) -> Command:
        topic = self._topic(section)
        type_name = section.choice('type', tuple(COMMAND_FIELDS))
        self._only_type(section, topic, type_name)
        axes = tuple(self._axis(axis, type_name) for axis in section.items('axes'))
        if not axes:
            section.fail('axes', 'at least one', [])
        names = [axis.name for axis in axes]
        if len(set(names)) < len(names):
            section.fail('axes', 'different names', names)
        qos = section.section('qos')
        timeout = section.positive('controller_timeout', default=None)
        stop, at_once = self._stop(section, axes)
        command = Command(
            topic=topic,
            type=type_name,
            axes=axes,
            choices=self._choices(section, axes),
            stop=stop,
            stop_at_once=at_once,
            frame_id=section.text('frame_id', default=''),
            qos=QoS(
                depth=qos.count('depth', default=1),
                reliable=qos.choice('reliability', ('reliable', 'best_effort'), default='reliable') == 'reliable',
            ),
            controller_timeout=None if timeout is None else float(timeout),
        )
        qos.finish()
        section.finish()
        self._check_fields(command, section)
        return command

    def _check_fields(self, command: Command, section: Section) -> None:
        """Whether the axes fill the message, and can be told from it again."""
        texts = [field.text for field in command.fields]
        if np.linalg.matrix_rank(command.matrix) < len(command.axes):
            section.fail('axes', 'axes that can be told apart in the message, each with fields of its own', texts)
        if command.type == 'std_msgs/msg/Float64MultiArray':
            missing = {f'data[{number}]' for number in range(len(texts))} - set(texts)
            if missing:
                section.fail('axes', f'the elements from data[0] to data[{len(texts) - 1}]', texts)
        lists: dict[str, set] = {}
        for field in command.fields:
            attribute, joint = field.parts[-1]
            lists.setdefault(attribute, set()).add(joint)
        if not isinstance(joint, int) and len(set(map(frozenset, lists.values()))) > 1:
            section.fail('axes', f'the same joints in {" and ".join(lists)}', texts)

    def _axis(self, section: Section, type_name: str) -> Axis:
        name = section.text('name')
        if section.has('fields'):
            fields = section.section('fields')
            gains = {text: float(fields.number(text)) for text in fields.keys()}
            key = 'fields'
        else:
            gains, key = {section.text('field'): 1.0}, 'field'
        parsed = []
        for text, gain in gains.items():
            if not re.fullmatch(COMMAND_FIELDS[type_name][0], text):
                section.fail(key, f'a field of {type_name} such as {COMMAND_FIELDS[type_name][1]}', text)
            parsed.append((Field.parse(text, type_name), gain))
        limits = section.range('limits')
        if not limits[0] < limits[1]:
            section.fail('limits', '[low, high] that differ', list(limits))
        feedback = section.section('feedback') if section.has('feedback') else None
        axis = Axis(
            name,
            tuple(parsed),
            limits,
            float(section.positive('rate_limit', default=math.inf)),
            section.text('unit', default=''),
            self._source(feedback) if feedback else None,
        )
        if feedback:
            feedback.finish()
        section.finish()
        return axis

    def _choices(self, section: Section, axes: tuple[Axis, ...]) -> dict[str, tuple[float, ...]]:
        choices = {name: self._pose(choice, axes) for name, choice in section.sections('choices').items()}
        if len(choices) == 1:
            section.fail('choices', 'at least 2', list(choices))
        return choices

    def _pose(self, section: Section, axes: tuple[Axis, ...]) -> tuple[float, ...]:
        """A value of every axis, within its limits."""
        pose = tuple(float(section.number(axis.name)) for axis in axes)
        section.finish()
        for axis, value in zip(axes, pose):
            if not axis.limits[0] <= value <= axis.limits[1]:
                section.fail(axis.name, f'a value within its limits {list(axis.limits)}', value)
        return pose

    def _stop(self, section: Section, axes: tuple[Axis, ...]) -> tuple[tuple[float, ...] | None, bool]:
        """`zero`, `hold` or `{axis: value}`: the values, and whether they are for at once."""
        if not section.is_text('stop'):
            return self._pose(section.section('stop'), axes), False
        stop = section.choice('stop', ('zero', 'hold'))
        for axis in axes:
            if stop == 'zero' and not axis.limits[0] <= 0 <= axis.limits[1]:
                section.fail('stop', f'another, because 0 is not within the limits of {axis.name}', stop)
            if stop == 'hold' and axis.feedback is None:
                section.fail('stop', f'feedback of {axis.name}, which says where to hold it', 'none')
        return (None, False) if stop == 'hold' else ((0.0,) * len(axes), True)

    def _joystick(self, section: Section, command: Command) -> Joystick:
        topic = self._topic(section, default='joy')
        self._only_type(section, topic, JOY)
        gains, choices = [], []
        if command.choices:
            buttons = section.section('choices')
            choices = [
                (name, self._stick(buttons, name, buttons.text(name))) for name in command.choices if buttons.has(name)
            ]
            buttons.finish()
        else:
            sticks = section.sections('axes')
            for axis in command.axes:
                stick = sticks.pop(axis.name, None)
                gains.append(
                    ()
                    if stick is None
                    else tuple((self._stick(stick, text, text), float(stick.number(text))) for text in stick.keys())
                )
            for name in sticks:
                section.fail('axes', f'axes of the command ({", ".join(axis.name for axis in command.axes)})', name)
        if not any(gains) and not choices:
            section.fail('', f'{"choices" if command.choices else "axes"} that it moves', 'none')
        relative = (
            not command.choices and section.choice('mode', ('absolute', 'relative'), default='absolute') == 'relative'
        )
        takeover = section.text('takeover', default=None)
        joystick = Joystick(
            topic,
            tuple(gains),
            relative,
            tuple(choices),
            None if takeover is None else self._stick(section, 'takeover', takeover),
            float(section.positive('dead_zone', default=0.1)),
            float(section.positive('release', default=1.0)),
            float(section.positive('max_age', default=0.5)),
        )
        section.finish()
        return joystick

    def _stick(self, section: Section, key: str, text: str) -> Field:
        """A stick or a button of a sensor_msgs/Joy."""
        if not re.fullmatch(r'(axes|buttons)\[\d+\]', text):
            section.fail(key, 'a stick or button such as axes[1] or buttons[4]', text)
        return Field.parse(text, JOY)

    def _public_key(self, top: Section) -> str | None:
        key = top.text('public_key', default=None)
        if key is not None and not re.fullmatch('[0-9a-f]{64}', key):
            top.fail('public_key', 'an ed25519 key of 64 hexadecimal digits', key)
        return key
