"""The robot contract: one YAML that says how a robot's own topics become observations and its commands actions.

sim/README.md explains the keys. A contract gives the same RobotSpec as a simulator, so that policies fit both.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import AfterValidator, Discriminator, Tag, model_validator
from pydantic import Field as Key

from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text
from dreamer_ros.paths import share
from dreamer_ros.robot.expressions import Expression
from dreamer_ros.schema import Count, Expected, Fault, Mismatch, Model, Name, Positive, Range, check, load_yaml
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
PERIOD_TOLERANCE = 0.01  # by how much of it a policy's control period may differ from the robot's
LIMIT_TOLERANCE = 1e-6  # by how much of its range a limit may


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
        contract = _contract(check(ContractFile, load_yaml(text, source), source), text, source)
        try:
            contract.spec  # what a RobotSpec refuses, such as the names of cameras
            _check_fields(contract.command)
        except InputError as error:
            raise InputError(f'{source}: {error}') from error
        return contract

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
            vector=tuple(entry.name for entry in self.vector),
            action=tuple(choices or (axis.name for axis in axes)),
            action_low=(0.0,) * len(choices) if choices else tuple(axis.limits[0] for axis in axes),
            action_high=(1.0,) * len(choices) if choices else tuple(axis.limits[1] for axis in axes),
            control_period=1 / self.rate,
            action_repeat=1,
            cameras=tuple(camera.name for camera in self.cameras),
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
        readers: list[Camera | Source] = [*self.cameras, *self.sources]
        found = {reader.topic: reader.type for reader in readers}
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


# The file: its keys, what each may hold, and how they fit together


def _matching(pattern: str) -> AfterValidator:
    """For texts that match a regular expression as a whole."""

    def check_text(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return AfterValidator(check_text)


def _type(name: str) -> str:
    definition(name)
    return name


TopicName = Annotated[str, _matching(f'/?{NAMES}'), Expected('the name of a topic')]
Stick = Annotated[str, _matching(r'(axes|buttons)\[\d+\]'), Expected('a stick or button such as axes[1] or buttons[4]')]
PublicKey = Annotated[str, _matching('[0-9a-f]{64}'), Expected('an ed25519 key of 64 hexadecimal digits')]
Variable = Annotated[str, _matching('[A-Za-z_][A-Za-z0-9_]*'), Expected('a name of letters, digits and underscores')]
MessageType = Annotated[Name, AfterValidator(_type)]


class _Reader(Model):
    topic: TopicName = Key(description="relative to the robot's namespace, or absolute")
    type: MessageType = Key(description='of its messages, in full')
    max_age: Positive | None = Key(None, description="s after which a message counts as missing; the contract's")


class _CropFile(Model):
    x: int = Key(ge=0, description='pixels left of it')
    y: int = Key(ge=0, description='pixels above it')
    width: Count = Key(description='pixels')
    height: Count = Key(description='pixels')


class _CameraFile(_Reader):
    type: Literal[IMAGE_TYPES] = Key(  # type: ignore[valid-type]  # one table says which
        description='of its messages, in full'
    )
    crop: _CropFile | None = Key(None, description='the part of the image that is used; all of it')


class _SourceFile(_Reader):
    field: Name = Key(description='path of the number in a message')

    @model_validator(mode='after')
    def _is_there(self):
        try:
            Field.parse(self.field, self.type)
        except InputError as error:
            raise Fault('field', str(error)) from error
        return self


class _InputFile(_SourceFile):
    name: Name = Key(description='of the number that the policy reads')
    scale: float = Key(1.0, description='times the field')
    offset: float = Key(0.0, description='added after scaling')
    clip: Range | None = Key(None, description='bounds of the result; none')


class _TermFile(_SourceFile):
    default: float | None = Key(None, description='value while there is no message, or an old one; none')


class _ExpressionFile(Model):
    fields: dict[Variable, _TermFile] = Key({}, description='the numbers that the expression names')
    expression: Name = Key(description='formula over the names of the fields')

    @model_validator(mode='after')
    def _can_be_read(self):
        try:
            Expression(self.expression, self.fields)
        except InputError as error:
            raise Fault('expression', str(error)) from error
        return self


_FormulaFile = Annotated[
    Annotated[_TermFile, Tag('field')] | Annotated[_ExpressionFile, Tag('expression')],
    Discriminator(lambda data: 'expression' if isinstance(data, dict) and 'expression' in data else 'field'),
]


class _AxisFile(Model):
    name: Name = Key(description='of what is commanded')
    field: Name | None = Key(None, description='path of the field of the message that it is')
    fields: dict[str, float] = Key({}, description='instead: gain for each field of the message')
    limits: Range = Key(description='what actions -1 and 1 stand for, in its unit')
    rate_limit: Positive | None = Key(None, description='greatest change in units per second; none')
    unit: str = Key('', description='for people')
    feedback: _SourceFile | None = Key(None, description='where the axis stands now, in the same unit')

    @model_validator(mode='after')
    def _fits(self):
        if bool(self.field) == bool(self.fields):
            raise Mismatch('field', 'either field or fields', 'both' if self.field else 'neither')
        if not self.limits[0] < self.limits[1]:
            raise Mismatch('limits', '[low, high] that differ', list(self.limits))
        return self

    @property
    def gains(self) -> dict[str, float]:
        return {self.field: 1.0} if self.field else self.fields

    def check_within(self, value: float, key: str) -> None:
        if not self.limits[0] <= value <= self.limits[1]:
            raise Mismatch(key, f'a value within its limits {list(self.limits)}', value)


class _QosFile(Model):
    depth: Count = Key(1, description='messages kept')
    reliability: Literal['reliable', 'best_effort'] = Key('reliable', description='of the publisher')


class _CommandFile(Model):
    topic: TopicName = Key(description="relative to the robot's namespace, or absolute")
    type: Literal[tuple(COMMAND_FIELDS)] = Key(  # type: ignore[valid-type]  # one table says which
        description='of its messages, in full'
    )
    axes: tuple[_AxisFile, ...] = Key(description='what is commanded, in the order of the actions')
    choices: dict[str, dict[str, float]] = Key({}, description='of a robot with discrete actions: values of the axes')
    stop: Annotated[
        Literal['zero', 'hold'] | dict[str, float], Expected('one of zero, hold, or a value for each axis')
    ] = Key(description='what is commanded when the robot must stop')
    frame_id: str = Key('', description='of the header, where the type has one')
    qos: _QosFile = _QosFile()
    controller_timeout: Positive | None = Key(
        None, description="s without a command after which the robot's own controller stops it; it never does"
    )

    @model_validator(mode='after')
    def _fits(self):
        names = [axis.name for axis in self.axes]
        if not names:
            raise Mismatch('axes', 'at least one', [])
        if len(set(names)) < len(names):
            raise Mismatch('axes', 'different names', names)
        pattern, example = COMMAND_FIELDS[self.type]
        for number, axis in enumerate(self.axes):
            for text in axis.gains:
                if not re.fullmatch(pattern, text):
                    key = f'axes[{number}].{"field" if axis.field else "fields"}'
                    raise Mismatch(key, f'a field of {self.type} such as {example}', text)
        if isinstance(self.stop, dict):
            self._check_pose(self.stop, 'stop')
        for axis in self.axes:
            if self.stop == 'zero' and not axis.limits[0] <= 0 <= axis.limits[1]:
                raise Mismatch('stop', f'another, because 0 is not within the limits of {axis.name}', self.stop)
            if self.stop == 'hold' and axis.feedback is None:
                raise Mismatch('stop', f'feedback of {axis.name}, which says where to hold it', 'none')
        for name, pose in self.choices.items():
            self._check_pose(pose, f'choices.{name}')
        if len(self.choices) == 1:
            raise Mismatch('choices', 'at least 2', list(self.choices))
        return self

    def _check_pose(self, pose: Mapping[str, float], key: str) -> None:
        for axis in self.axes:
            if axis.name not in pose:
                raise Fault(f'{key}.{axis.name}', 'expected a number, but it is missing')
            axis.check_within(pose[axis.name], f'{key}.{axis.name}')
        for name in set(pose) - {axis.name for axis in self.axes}:
            raise Mismatch(key, f'the axes {", ".join(axis.name for axis in self.axes)}', name)


class _JoystickFile(Model):
    topic: TopicName = Key('joy', description='of sensor_msgs/Joy')
    axes: dict[str, dict[Stick, float]] = Key(
        {}, description='for each axis of the command, what a stick at 1 adds to it, in its unit'
    )
    choices: dict[str, Stick] = Key({}, description='instead, of a robot with discrete actions: their buttons')
    mode: Literal['absolute', 'relative'] = Key(
        'absolute', description='sticks say where the axes are to be, or move them, per second'
    )
    takeover: Stick | None = Key(None, description='held down while a person steers; whatever is moved takes over')
    dead_zone: Positive = Key(0.1, description='what a stick must exceed to count')
    release: Positive = Key(1.0, description='s of rest after which the policy goes on')
    max_age: Positive = Key(
        0.5, description='s without a message, while a person steers, after which the robot is stopped'
    )

    def check_moves(self, command: _CommandFile) -> None:
        """Refuse what the robot does not have."""
        used, unused = ('choices', 'axes') if command.choices else ('axes', 'choices')
        known = list(command.choices) or [axis.name for axis in command.axes]
        for name in getattr(self, used):
            if name not in known:
                raise Mismatch(f'joystick.{used}', f'{used} of the command ({", ".join(known)})', name)
        if getattr(self, unused):
            raise Mismatch(f'joystick.{unused}', f'{used} alone, as of the command', list(getattr(self, unused)))
        if not (any(self.axes.values()) or self.choices):
            raise Mismatch('joystick', f'{used} that it moves', 'none')
        if self.mode == 'relative' and command.choices:
            raise Mismatch('joystick.mode', 'absolute for a robot with discrete actions', self.mode)


class ContractFile(Model):
    """The keys of a robot contract."""

    name: Name = Key(description='of the robot')
    rate: float = Key(ge=0.01, le=1000, description='actions per second')
    max_age: Positive = Key(description='s from measurement to action after which a message counts as missing')
    stamps: Literal['header', 'receive'] = Key('header', description='when a message counts as measured')
    image_size: Annotated[tuple[Count, Count] | None, Expected('[height, width] in pixels')] = Key(
        None, description="height and width in pixels of every camera's image as the policy sees it"
    )
    cameras: dict[str, _CameraFile] = Key({}, description='where images come from, by name')
    vector: tuple[_InputFile, ...] = Key((), description='the numbers that the policy reads')
    command: _CommandFile = Key(description='how the robot is moved')
    reward: _FormulaFile | None = Key(None, description='of every step; labelled later')
    terminal: _FormulaFile | None = Key(None, description='ends the episode for good where it is not 0; never')
    episode_length: Count | None = Key(None, description='actions per episode; until somebody ends it')
    estop: TopicName = Key('estop', description='std_msgs/Bool topic that stops the robot while true')
    joystick: _JoystickFile | None = Key(None, description='how a person takes over; nobody does')
    public_key: PublicKey | None = Key(
        None, description='policies must be signed for this ed25519 key, 64 hexadecimal digits; no signatures'
    )

    @model_validator(mode='after')
    def _fits(self):
        if not self.cameras and not self.vector:
            raise ValueError('expected cameras or vector, something to observe, got neither')
        if self.cameras and self.image_size is None:
            raise Fault('image_size', 'expected [height, width] in pixels, but it is missing')
        names = [entry.name for entry in self.vector]
        if len(set(names)) < len(names):
            raise Mismatch('vector', 'different names', names)
        types: dict[str, str] = {}
        for key, topic, type_name in self._topics():
            known = types.setdefault(topic, type_name)
            if known != type_name:
                if key == 'estop':
                    raise Mismatch(key, f'a topic of {ESTOP}, but {topic} is one of {known} elsewhere', topic)
                raise Mismatch(f'{key}.type', f'{known}, as elsewhere for {topic}', type_name)
        if self.joystick:
            self.joystick.check_moves(self.command)
        return self

    def _topics(self) -> Iterator[tuple[str, str, str]]:
        """(key, topic, type) of whatever is read or written."""
        readers: list[tuple[str, Any]] = [(f'cameras.{name}', camera) for name, camera in self.cameras.items()]
        readers += [(f'vector[{number}]', entry) for number, entry in enumerate(self.vector)]
        readers += [('command', self.command)]
        for number, axis in enumerate(self.command.axes):
            readers += [(f'command.axes[{number}].feedback', axis.feedback)] if axis.feedback else []
        for key, formula in (('reward', self.reward), ('terminal', self.terminal)):
            if isinstance(formula, _ExpressionFile):
                readers += [(f'{key}.fields.{name}', term) for name, term in formula.fields.items()]
            elif formula:
                readers += [(key, formula)]
        for key, reader in readers:
            yield key, reader.topic, reader.type
        yield 'estop', self.estop, ESTOP
        if self.joystick:
            yield 'joystick', self.joystick.topic, JOY


# From the file to the contract


def _contract(file: ContractFile, text: str, source: str) -> RobotContract:
    def max_age(reader: _Reader) -> float:
        return file.max_age if reader.max_age is None else reader.max_age

    def read(reader: _SourceFile) -> Source:
        default = reader.default if isinstance(reader, _TermFile) else None
        return Source(reader.topic, reader.type, Field.parse(reader.field, reader.type), max_age(reader), default)

    def formula(given: _TermFile | _ExpressionFile | None) -> Formula | None:
        if given is None:
            return None
        if isinstance(given, _TermFile):
            return Formula(Expression('value', ['value']), {'value': read(given)})
        return Formula(
            Expression(given.expression, given.fields), {name: read(term) for name, term in given.fields.items()}
        )

    infinite = (-math.inf, math.inf)
    return RobotContract(
        name=file.name,
        rate=file.rate,
        stamps=file.stamps,
        image_size=file.image_size if file.cameras else (0, 0),
        cameras=tuple(
            Camera(name, camera.topic, camera.type, _crop(camera), max_age(camera))
            for name, camera in file.cameras.items()
        ),
        vector=tuple(
            Input(entry.name, read(entry), entry.scale, entry.offset, entry.clip or infinite) for entry in file.vector
        ),
        command=_command(file.command, read),
        reward=formula(file.reward),
        terminal=formula(file.terminal),
        episode_length=file.episode_length,
        estop=file.estop,
        joystick=_joystick(file.joystick, file.command) if file.joystick else None,
        public_key=file.public_key,
        text=text,
        source=source,
    )


def _command(file: _CommandFile, read: Callable[[_SourceFile], Source]) -> Command:
    axes = tuple(
        Axis(
            axis.name,
            tuple((Field.parse(text, file.type), gain) for text, gain in axis.gains.items()),
            axis.limits,
            axis.rate_limit or math.inf,
            axis.unit,
            read(axis.feedback) if axis.feedback else None,
        )
        for axis in file.axes
    )

    def pose(values: Mapping[str, float]) -> tuple[float, ...]:
        return tuple(values[axis.name] for axis in axes)

    stops = {'hold': None, 'zero': (0.0,) * len(axes)}
    return Command(
        topic=file.topic,
        type=file.type,
        axes=axes,
        choices={name: pose(values) for name, values in file.choices.items()},
        stop=pose(file.stop) if isinstance(file.stop, dict) else stops[file.stop],
        stop_at_once=file.stop == 'zero',
        frame_id=file.frame_id,
        qos=QoS(depth=file.qos.depth, reliable=file.qos.reliability == 'reliable'),
        controller_timeout=file.controller_timeout,
    )


def _check_fields(command: Command) -> None:
    """Whether the axes fill the message, and can be told from it again.

    Raises:
        InputError: they do not.
    """
    texts = [field.text for field in command.fields]
    expected = ''
    if np.linalg.matrix_rank(command.matrix) < len(command.axes):
        expected = 'axes that can be told apart in the message, each with fields of its own'
    elif command.type == 'std_msgs/msg/Float64MultiArray':
        if {f'data[{number}]' for number in range(len(texts))} - set(texts):
            expected = f'the elements from data[0] to data[{len(texts) - 1}]'
    else:
        joints: dict[str, set] = {}
        for field in command.fields:
            attribute, element = field.parts[-1]
            if isinstance(element, str):
                joints.setdefault(attribute, set()).add(element)
        if len(set(map(frozenset, joints.values()))) > 1:
            expected = f'the same joints in {" and ".join(joints)}'
    if expected:
        raise InputError(f'command.axes: expected {expected}, got {", ".join(texts)}')


def _crop(camera: _CameraFile) -> Crop | None:
    return Crop(**camera.crop.model_dump()) if camera.crop else None


def _joystick(file: _JoystickFile, command: _CommandFile) -> Joystick:
    def stick(text: str) -> Field:
        return Field.parse(text, JOY)

    gains = (tuple((stick(text), gain) for text, gain in file.axes.get(axis.name, {}).items()) for axis in command.axes)
    return Joystick(
        topic=file.topic,
        gains=() if command.choices else tuple(gains),
        relative=file.mode == 'relative',
        choices=tuple((name, stick(file.choices[name])) for name in command.choices if name in file.choices),
        takeover=stick(file.takeover) if file.takeover else None,
        dead_zone=file.dead_zone,
        release=file.release,
        max_age=file.max_age,
    )
