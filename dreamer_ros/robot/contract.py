"""The robot contract: one YAML that says how a robot's own topics become observations and its commands actions.

sim/README.md explains the keys. A contract gives the same RobotSpec as a simulator, so that policies fit both.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import AfterValidator, Discriminator, PrivateAttr, Tag, ValidationInfo, field_validator, model_validator
from pydantic import Field as Key

from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text
from dreamer_ros.paths import share
from dreamer_ros.robot.expressions import Expression
from dreamer_ros.schema import Count, Expected, Fault, Mismatch, Model, Name, Positive, Range, check, load_yaml
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire.definitions import definition, goal_type
from dreamer_ros.wire.fields import Field
from dreamer_ros.wire.images import COMPRESSED, View
from dreamer_ros.wire.topics import LATEST, NAMES, SENSOR, QoS, Topic

IMAGE_TYPES = ('sensor_msgs/msg/Image', COMPRESSED)
JOY = 'sensor_msgs/msg/Joy'
SCAN, RANGE, CLOUD = (f'sensor_msgs/msg/{name}' for name in ('LaserScan', 'Range', 'PointCloud2'))
# Distances: type of a message -> its list or number of them, and what holds their bounds.
DISTANCES = {SCAN: ('ranges', 'range_min', 'range_max'), RANGE: ('range', 'min_range', 'max_range')}
# Type of a message -> attributes that lead to its geometry_msgs/Pose.
POSES = {
    'nav_msgs/msg/Odometry': ('pose', 'pose'),
    'geometry_msgs/msg/PoseWithCovarianceStamped': ('pose', 'pose'),
    'geometry_msgs/msg/PoseStamped': ('pose',),
}
ESTOP = 'std_msgs/msg/Bool'
PERIOD_TOLERANCE = 0.01  # by how much of it a policy's control period may differ from the robot's
DECIDE = 'decide yourself'  # in a comment: what no program can know
LIMIT_TOLERANCE = 1e-6  # by how much of its range a limit may


def _matching(pattern: str) -> AfterValidator:
    """Annotates texts that must match a regular expression as a whole."""

    def check_text(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError
        return text

    return AfterValidator(check_text)


def _type(name: str) -> str:
    if name == CLOUD:
        raise InputError(
            f'{CLOUD}: a policy reads no point clouds: expected {SCAN}, which pointcloud_to_laserscan makes of them, '
            'or the depth image of the same camera'
        )
    definition(name)
    return name


TopicName = Annotated[str, _matching(f'/?{NAMES}'), Expected('the name of a topic')]
Stick = Annotated[str, _matching(r'(axes|buttons)\[\d+\]'), Expected('a stick or button such as axes[1] or buttons[4]')]
PublicKey = Annotated[str, _matching('[0-9a-f]{64}'), Expected('an ed25519 key of 64 hexadecimal digits')]
Variable = Annotated[str, _matching('[A-Za-z_][A-Za-z0-9_]*'), Expected('a name of letters, digits and underscores')]
MessageType = Annotated[Name, AfterValidator(_type)]


class Qos(Model):
    """Quality of service of a publisher or subscription."""

    depth: Count = Key(1, description='messages kept')
    reliability: Literal['reliable', 'best_effort'] = Key('reliable', description='whether lost messages are repeated')
    durability: Literal['volatile', 'transient_local'] = Key(
        'volatile', description='transient_local: late subscribers get the last messages'
    )

    @property
    def profile(self) -> QoS:
        """The same for the table of topics."""
        return QoS(self.depth, self.reliability == 'reliable', self.durability == 'transient_local')


class Reader(Model):
    """What reads a topic."""

    topic: TopicName = Key(description="relative to the robot's namespace, or absolute")
    type: MessageType = Key(description='of its messages, in full')
    max_age: Positive | None = Key(None, description="s after which a message counts as missing; the contract's")
    qos: Qos | None = Key(None, description='of the subscription; best effort, volatile, 1 message')


class Camera(View, Reader):
    """Where a camera's images come from."""

    type: Literal[IMAGE_TYPES] = Key(  # type: ignore[valid-type]  # one table says which
        description='of its messages, in full'
    )


class Source(Reader):
    """A number in the messages of a topic."""

    path: Name = Key(alias='field', description='path of the number in a message')

    @field_validator('path')
    @classmethod
    def _exists(cls, path: str, info: ValidationInfo) -> str:
        if 'type' in info.data and Field.parse(path, info.data['type']).span and 'bins' not in cls.model_fields:
            raise InputError(f'expected the path of one number, got {path!r}')
        return path

    @functools.cached_property
    def field(self) -> Field:
        """Where the number stands in a message."""
        return Field.parse(self.path, self.type)

    @property
    def size(self) -> int:
        """How many numbers it gives."""
        return 1

    @property
    def optional(self) -> bool:
        """Whether it may be missing."""
        return False

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from sources of the same topic that read other numbers."""
        return self.path, -1

    def read(self, message: Any) -> tuple[float, ...]:
        """As many numbers as its size.

        Raises:
            InputError: the message lacks the element or the joint.
        """
        return (self.field.read(message),)


class Number(Source):
    """A number that may be missing."""

    default: float | None = Key(
        None, description='value of the field while no message holds it, or only one older than max_age; none'
    )

    @property
    def optional(self) -> bool:
        """Whether it may be missing."""
        return self.default is not None

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from sources of the same topic that read other numbers."""
        return self.path, 0

    def read(self, message: Any) -> tuple[float, ...]:
        """See `Source.read`. Distances that are not known are the greatest (see `_distances`)."""
        return tuple(_distances(self, message, np.array([self.field.read(message)])).tolist())


def _distances(source: Source, message: Any, numbers: np.ndarray) -> np.ndarray:
    """Numbers f64[N], of which distances in a LaserScan or Range become finite (REP 117).

    Infinity, NaN, 0 and what exceeds the sensor's range mean that nothing was seen, and become the range. Minus
    infinity means something too near, and becomes the least distance.
    """
    attribute, least, greatest = DISTANCES.get(source.type, ('', '', ''))
    if source.field.parts[0].attribute != attribute:
        return numbers
    most = getattr(message, greatest)
    numbers = np.where(numbers == -np.inf, getattr(message, least), numbers)
    return np.where((numbers > 0) & (numbers <= most), numbers, most)


class Input(Number):
    """What the policy reads: the field times `scale` plus `offset`, then clipped. A field of several elements gives as
    many numbers, or one per bin, which are called `NAME/0` and so on.
    """

    name: Name = Key(description='of the number that the policy reads')
    bins: Count | None = Key(
        None, description='parts of equal size into which several elements are divided, each of which gives its least'
    )
    scale: float = Key(1.0, description='times the field')
    offset: float = Key(0.0, description='added after scaling')
    clip: Range | None = Key(None, description='bounds of the result; none')

    @model_validator(mode='after')
    def _fits(self):
        span = self.field.span
        if self.bins and not span:
            raise Mismatch('field', 'several elements, such as ranges[:], because of bins', self.path)
        if span and not self.bins and (span.first is None or span.last is None or not 0 <= span.first < span.last):
            raise Mismatch('field', 'bins, or the first and the last element, such as data[0:8]', self.path)
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Of the numbers."""
        return tuple(f'{self.name}/{number}' for number in range(self.size)) if self.field.span else (self.name,)

    @property
    def size(self) -> int:
        """How many numbers it gives."""
        span = self.field.span
        return self.bins or (span.last - span.first if span else 1)

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from sources of the same topic that read other numbers."""
        return self.path, self.bins or 0

    def read(self, message: Any) -> tuple[float, ...]:
        """See `Number.read`."""
        if not self.field.span:
            return super().read(message)
        numbers = self.field.read_all(message)
        if len(numbers) < self.size:
            raise InputError(f'{self.path}: expected at least {self.size} elements, got {len(numbers)}')
        numbers = _distances(self, message, numbers)
        if self.bins:
            numbers = np.fmin.reduceat(numbers, np.arange(self.bins) * len(numbers) // self.bins)
        return tuple(numbers.tolist())


class Term(Number):
    """A number that a reward or an end is computed from."""

    expression: ClassVar[Expression] = Expression('value', ['value'])

    @property
    def sources(self) -> Mapping[str, Term]:
        """As those of a Formula."""
        return {'value': self}


class Formula(Model):
    """A number computed from others."""

    sources: dict[Variable, Term] = Key({}, alias='fields', description='the numbers that the expression names')
    text: Name = Key(alias='expression', description='formula over the names of the fields')

    @field_validator('text')
    @classmethod
    def _can_be_read(cls, text: str, info: ValidationInfo) -> str:
        if 'sources' in info.data:
            Expression(text, info.data['sources'])
        return text

    @functools.cached_property
    def expression(self) -> Expression:
        """The formula, compiled."""
        return Expression(self.text, self.sources)


class VerdictReward(Model):
    """What a person says ends the episode for good, and is the reward of its last step."""

    success: float = Key(alias='verdict', description='reward of a success that a person told')
    failure: float = Key(0.0, description='reward of a failure that a person told')

    def of(self, success: bool) -> float:
        """The reward of a step that ends the episode."""
        return self.success if success else self.failure


class ClassifierReward(Model):
    """What the camera shows is the reward."""

    classifier: Name = Key(description='ONNX file of `dreamer reward train`, beside the contract or absolute')
    above: float = Key(0.9, ge=0, le=1, description='probability from which it is a success')
    below: float = Key(0.5, ge=0, le=1, description='probability below which it is none any more')
    steps: Count = Key(2, description='how many steps in a row have to show a success')
    value: float = Key(1.0, description='reward of a step that shows success')
    ends: bool = Key(True, description='a success ends the episode for good')

    def of(self, success: bool) -> float:
        """The reward of a step."""
        return self.value if success else 0.0

    @model_validator(mode='after')
    def _fits(self):
        if self.below > self.above:
            raise Mismatch('below', f'at most above ({self.above:g})', self.below)
        return self


def _by_key(*tags: str) -> Discriminator:
    """Tells the models of a union apart by a key that only one of them has; the last one is the default."""

    def tag(data: Any) -> str:
        return next((tag for tag in tags if isinstance(data, dict) and tag in data), tags[-1])

    return Discriminator(tag)


_TermOrFormula = Annotated[
    Annotated[Formula, Tag('expression')] | Annotated[Term, Tag('field')], _by_key('expression', 'field')
]
_Reward = Annotated[
    Annotated[VerdictReward, Tag('verdict')]
    | Annotated[ClassifierReward, Tag('classifier')]
    | Annotated[Formula, Tag('expression')]
    | Annotated[Term, Tag('field')],
    _by_key('verdict', 'classifier', 'expression', 'field'),
]


Signs = dict[Name, Annotated[Literal[-1, 1], Expected('1 or -1')]]


class NumberLimit(Source):
    """Bounds of a number in the messages of a topic, such as a joint's position or the distance of a Range."""

    low: float | None = Key(None, description='least value; none')
    high: float | None = Key(None, description='greatest value; none')
    axes: Signs = Key(
        {},
        description='for axes of the command, whether they raise (1) or lower (-1) the number. Beyond a bound they may '
        'only lead back; without any the robot stops',
    )

    @model_validator(mode='after')
    def _fits(self):
        if self.low is None and self.high is None:
            raise Mismatch('low', 'low, high or both', 'neither')
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise Mismatch('high', f'more than low, {self.low:g}', self.high)
        return self

    @property
    def moves(self) -> tuple[Signs, ...]:
        """The axes that are limited, in all their meanings."""
        return (self.axes,)


class ScanLimit(Reader):
    """The least distance of what a laser scanner sees in a sector."""

    type: Literal[SCAN] = Key(description='of its messages, in full')  # type: ignore[valid-type]
    angles: Range = Key(description='the sector in degrees, counterclockwise from where the scanner looks')
    low: Positive = Key(description='least distance in m')
    axes: Signs = Key(
        {},
        description='for axes of the command, whether they raise (1) or lower (-1) the distance. Below the least one '
        'they may only lead away; without any the robot stops',
    )

    @property
    def moves(self) -> tuple[Signs, ...]:
        """The axes that are limited, in all their meanings."""
        return (self.axes,)


class Box(Model):
    """Where a robot may be, in m in the frame of its position."""

    x: Range | None = Key(None, description='[low, high] in m; anywhere')
    y: Range | None = Key(None, description='[low, high] in m; anywhere')
    z: Range | None = Key(None, description='[low, high] in m; anywhere')

    @model_validator(mode='after')
    def _fits(self):
        if not (self.x or self.y or self.z):
            raise Mismatch('x', 'x, y or z', 'none')
        return self


class BoxLimit(Reader):
    """A box that the robot must not leave."""

    type: Literal[tuple(POSES)] = Key(  # type: ignore[valid-type]  # one table says which
        description='of its messages, in full'
    )
    box: Box = Key(description='where the robot may be')
    forward: Signs = Key(
        {},
        description='axes of the command that move the robot forward (1) or backward (-1). Outside they may only lead '
        'back; without axes the robot stops',
    )
    left: Signs = Key({}, description='the same to its left')
    up: Signs = Key({}, description='the same upward, for z')

    @property
    def moves(self) -> tuple[Signs, ...]:
        """The axes that are limited, in all their meanings."""
        return self.forward, self.left, self.up


Limit = Annotated[
    Annotated[NumberLimit, Tag('field')] | Annotated[ScanLimit, Tag('angles')] | Annotated[BoxLimit, Tag('box')],
    _by_key('angles', 'box', 'field'),
]


class Axis(Model):
    """One physical quantity that is commanded."""

    name: Name = Key(description='of what is commanded')
    field: Name | None = Key(None, description='path of the field of the message that it is')
    fields: dict[str, float] = Key({}, description='instead: gain for each field of the message')
    limits: Range = Key(description='what actions -1 and 1 stand for, in its unit')
    rate_limit: Positive | None = Key(None, description='greatest change in units per second; none')
    unit: str = Key('', description='for people')
    feedback: Source | None = Key(None, description='where the axis stands now, in the same unit')
    to: Name | None = Key(None, description='name of its receiver, where there are several')

    @model_validator(mode='after')
    def _fits(self):
        if bool(self.field) == bool(self.fields):
            raise Mismatch('field', 'either field or fields', 'both' if self.field else 'neither')
        if not self.limits[0] < self.limits[1]:
            raise Mismatch('limits', '[low, high] that differ', list(self.limits))
        return self

    @property
    def gains(self) -> Mapping[str, float]:
        """What one unit of the axis adds to each field of the message."""
        return {self.field: 1.0} if self.field else self.fields


_Stop = Annotated[Literal['zero', 'hold'] | dict[str, float], Expected('one of zero, hold, or a value for each axis')]


class Receiver(Model):
    """Who is commanded: the subscribers of a topic, or an action server.

    `controller_timeout` is set in the robot's own controller, not here. People and the stand-in of the hardware
    rely on it.
    """

    topic: TopicName | None = Key(None, description="relative to the robot's namespace, or absolute")
    action: TopicName | None = Key(
        None, description='instead of a topic: name of an action server, which gets a goal whenever the command changes'
    )
    type: Name | None = Key(None, description='of the messages or the action, in full')
    constants: dict[str, float] = Key({}, description='values of further fields of the message')
    stop_rule: _Stop | None = Key(None, alias='stop', description='what is commanded when the robot must stop')
    frame_id: str = Key('', description='of the header, where the type has one')
    qos: Qos = Key(Qos(), description='of the publisher; reliable, volatile, 1 message')
    controller_timeout: Positive | None = Key(
        None, description="s without a command after which the robot's own controller stops it; it never does"
    )

    @property
    def name(self) -> str:
        """Of the topic or the action."""
        return self.topic or self.action or ''

    @functools.cached_property
    def message(self) -> str:
        """Type of the messages, or of the goals of an action."""
        return goal_type(self.type or '') if self.action else self.type or ''


class Part(NamedTuple):
    """What one receiver gets.

    Attributes:
        key: of the receiver in the contract.
        axes: i64[N], the axes that it gets.
        fields: of its messages, that axes write.
        matrix: f64[F, N], whose product with the axes' values gives the fields' values.
        constants: further fields with their values.
    """

    key: str
    receiver: Receiver
    axes: np.ndarray
    fields: tuple[Field, ...]
    matrix: np.ndarray
    constants: tuple[tuple[Field, float], ...]


class Command(Receiver):
    """How the robot is commanded. With several receivers, what is said of a receiver stands with each of them."""

    axes: tuple[Axis, ...] = Key(description='what is commanded, in the order of the actions')
    choices: dict[str, dict[str, float]] = Key({}, description='of a robot with discrete actions: values of the axes')
    receivers: dict[Name, Receiver] = Key({}, description='instead of one topic or action: several, by name')

    @functools.cached_property
    def parts(self) -> tuple[Part, ...]:
        """What each receiver gets, in the order of the contract."""
        return tuple(self._part(name) for name in self.receivers or (None,))

    def _part(self, name: str | None) -> Part:
        """What a receiver gets, the only one if it has no name.

        Raises:
            Fault: a field is none of the message.
        """
        receiver, key = (self.receivers[name], f'receivers.{name}') if name else (self, '')
        places = [number for number, axis in enumerate(self.axes) if axis.to == name]
        fields: dict[str, Field] = {}
        for number in places:
            kind = 'field' if self.axes[number].field else 'fields'
            for text in self.axes[number].gains:
                fields[text] = _written(text, receiver, f'axes[{number}].{kind}')
        constants = tuple(
            (_written(text, receiver, f'{key}.constants'.strip('.')), value)
            for text, value in receiver.constants.items()
        )
        matrix = np.array([[self.axes[number].gains.get(text, 0.0) for number in places] for text in fields])
        return Part(key, receiver, np.array(places, int), tuple(fields.values()), matrix, constants)

    @functools.cached_property
    def stop(self) -> np.ndarray:
        """f64[A] in the units of the axes, NaN for those that hold what was commanded last."""
        values = np.full(len(self.axes), np.nan)
        for part in self.parts:
            rule = part.receiver.stop_rule
            if rule != 'hold':
                values[part.axes] = [rule[self.axes[k].name] if isinstance(rule, dict) else 0.0 for k in part.axes]
        return values

    @functools.cached_property
    def stop_at_once(self) -> np.ndarray:
        """bool[A]: without regard to rate limits, to zero, not to a pose."""
        rules = {k: part.receiver.stop_rule for part in self.parts for k in part.axes.tolist()}
        return np.array([rules[k] == 'zero' for k in range(len(self.axes))])

    def pose(self, values: Mapping[str, float]) -> tuple[float, ...]:
        """Values by the names of the axes in the order of the axes."""
        return tuple(values[axis.name] for axis in self.axes)

    @model_validator(mode='after')
    def _fits(self):
        names = [axis.name for axis in self.axes]
        if not names:
            raise Mismatch('axes', 'at least one', [])
        if len(set(names)) < len(names):
            raise Mismatch('axes', 'different names', names)
        self._check_receivers()
        for part in self.parts:
            self._check_stop(part)
            _check_fields(part)
        for name, pose in self.choices.items():
            self.check_pose(pose, f'choices.{name}')
        if len(self.choices) == 1:
            raise Mismatch('choices', 'at least 2', list(self.choices))
        return self

    def _check_receivers(self) -> None:
        """Whether each has a name and a type, and each axis a receiver."""
        if self.receivers:
            alone = sorted(self.model_fields_set & Receiver.model_fields.keys())
            if alone:
                raise Mismatch('receivers', 'them to say', alone[0].replace('stop_rule', 'stop'))
        for name, receiver in (self.receivers or {'': self}).items():
            key = f'receivers.{name}.' if name else ''
            if bool(receiver.topic) == bool(receiver.action):
                raise Mismatch(f'{key}topic', 'either topic or action', 'both' if receiver.topic else 'neither')
            if not receiver.type:
                raise Fault(f'{key}type', 'expected a type of messages or of an action, but it is missing')
            if receiver.stop_rule is None:
                raise Fault(f'{key}stop', 'expected one of zero, hold, or a value for each axis, but it is missing')
            try:
                definition(receiver.message)
            except InputError as error:
                raise Fault(f'{key}type', str(error)) from error
        for number, axis in enumerate(self.axes):
            if axis.to not in (self.receivers or (None,)):
                known = f'one of the receivers {", ".join(self.receivers)}' if self.receivers else 'no receiver'
                raise Mismatch(f'axes[{number}].to', known, axis.to)
        names = [receiver.name for receiver in self.receivers.values()]
        if len(set(names)) < len(names):
            raise Mismatch('receivers', 'different topics and actions', names)

    def _check_stop(self, part: Part) -> None:
        rule, key = part.receiver.stop_rule, f'{part.key}.stop'.strip('.')
        axes = tuple(self.axes[k] for k in part.axes)
        if isinstance(rule, dict):
            self.check_pose(rule, key, axes)
        for axis in axes:
            if rule == 'zero' and not axis.limits[0] <= 0 <= axis.limits[1]:
                raise Mismatch(key, f'another, because 0 is not within the limits of {axis.name}', 'zero')
            if rule == 'hold' and axis.feedback is None:
                raise Mismatch(key, f'feedback of {axis.name}, which says where to hold it', 'none')

    def check_pose(self, pose: Mapping[str, float], key: str, axes: tuple[Axis, ...] = ()) -> None:
        """Refuse values that are not one for each axis (by default all of them), within its limits."""
        axes = axes or self.axes
        for axis in axes:
            if axis.name not in pose:
                raise Fault(f'{key}.{axis.name}', 'expected a number, but it is missing')
            value = pose[axis.name]
            if not axis.limits[0] <= value <= axis.limits[1]:
                raise Mismatch(f'{key}.{axis.name}', f'a value within its limits {list(axis.limits)}', value)
        for name in set(pose) - {axis.name for axis in axes}:
            raise Mismatch(key, f'the axes {", ".join(axis.name for axis in axes)}', name)


def _written(text: str, receiver: Receiver, key: str) -> Field:
    """A field of a receiver's messages that is written.

    Raises:
        Fault: there is no such field, or it cannot be written; names the key.
    """
    try:
        field = Field.parse(text, receiver.message)
    except InputError as error:
        raise Fault(key, str(error)) from error
    if field.span or any(isinstance(part.element, str) for part in field.parts[:-1]):
        raise Mismatch(key, 'the path of one number, with names of joints at its end alone', text)
    return field


def _check_fields(part: Part) -> None:
    """Whether the axes of a receiver fill its message, and can be told from it again."""
    key, expected = (f'{part.key}.' if part.key else '') + 'axes', ''
    fields = [*part.fields, *(field for field, _ in part.constants)]
    texts = [field.text for field in fields]
    lists: dict[tuple, dict[type, set]] = {}  # the elements of each list that are written, by number or by name
    for field in fields:
        attribute, element = field.parts[-1]
        if element is not None:
            lists.setdefault((*field.parts[:-1], attribute), {}).setdefault(type(element), set()).add(element)
    joints = {path: names[str] for path, names in lists.items() if str in names}
    if not part.axes.size:
        expected = 'at least one axis that goes there'
    elif np.linalg.matrix_rank(part.matrix) < len(part.axes) or len(set(texts)) < len(texts):
        expected = 'axes that can be told apart in the message, each with fields of its own'
    elif len(set(map(frozenset, joints.values()))) > 1:
        expected = f'the same joints in {" and ".join(path[-1] for path in joints)}'
    elif part.receiver.type != JOY:  # whose other axes rest
        for path, elements in lists.items():
            numbers = elements.get(int, set())
            if set(range(len(numbers))) != numbers:
                expected = f'the elements from {path[-1]}[0] to {path[-1]}[{len(numbers) - 1}]'
    if expected:
        raise Mismatch(key, expected, texts)


class Joystick(Model):
    """How a person takes over from the policy, with a sensor_msgs/Joy."""

    topic: TopicName = Key('joy', description='of sensor_msgs/Joy')
    axes: dict[str, dict[Stick, float]] = Key(
        {}, description='for each axis of the command, what a stick at 1 adds to it, in its unit'
    )
    choices: dict[str, Stick] = Key({}, description='instead, of a robot with discrete actions: their buttons')
    mode: Literal['absolute', 'relative'] = Key(
        'absolute', description='sticks say where the axes are to be, or move them, per second'
    )
    takeover: Stick | None = Key(None, description='held down while a person steers; whatever is moved takes over')
    success: Stick | None = Key(None, description='pressed to end the episode as a success; only ~/succeed does')
    failure: Stick | None = Key(None, description='pressed to end the episode as a failure; only ~/fail does')
    ready: Stick | None = Key(None, description='pressed when the robot is set up again; only ~/ready says so')
    dead_zone: Positive = Key(0.1, description='what a stick must exceed to count')
    release: Positive = Key(1.0, description='s of rest after which the policy goes on')
    max_age: Positive = Key(
        0.5, description='s without a message, while a person steers, after which the robot is stopped'
    )

    def check_moves(self, command: Command) -> None:
        """Refuse what the robot does not have."""
        used, unused = ('choices', 'axes') if command.choices else ('axes', 'choices')
        known = list(command.choices) or [axis.name for axis in command.axes]
        for name in getattr(self, used):
            if name not in known:
                raise Mismatch(f'joystick.{used}', f'{used} of the command ({", ".join(known)})', name)
        if getattr(self, unused):
            raise Mismatch(f'joystick.{unused}', f'{used} alone, as of the command', list(getattr(self, unused)))
        if not (any(self.axes.values()) or self.choices or self.success or self.failure or self.ready):
            raise Mismatch('joystick', f'{used} that it moves', 'none')
        if self.mode == 'relative' and command.choices:
            raise Mismatch('joystick.mode', 'absolute for a robot with discrete actions', self.mode)


class Drive(Model):
    """Commands the robot for a time."""

    command: dict[str, float] = Key(description='value of each axis, commanded for `seconds`')
    seconds: Positive = Key(1.0, description='how long; time in which something stops the robot does not count')


class Pose(Model):
    """Commands the robot until it stands somewhere."""

    pose: dict[str, float] = Key(description='value of each axis, commanded until the feedback of all says it')
    tolerance: Positive = Key(0.05, description="by how much feedback may differ, in the axes' units")


class Call(Model):
    """Calls a service. One that answers `success: false` fails."""

    service: TopicName = Key(description="name of the service, relative to the robot's namespace, or absolute")
    type: Annotated[str, _matching(r'\w+/srv/\w+'), Expected('a type such as std_srvs/srv/Trigger')] = Key(
        'std_srvs/srv/Trigger', description='of the service, in full'
    )
    request: dict[str, Any] = Key({}, description='fields of the request that are not zero')


class Goal(Model):
    """Has an action server do it. A stop cancels the goal, which is sent again afterwards."""

    action: TopicName = Key(description="name of the action, relative to the robot's namespace, or absolute")
    type: Annotated[str, _matching(r'\w+/action/\w+'), Expected('a type such as nav2_msgs/action/NavigateToPose')] = (
        Key(description='of the action, in full')
    )
    goal: dict[str, Any] = Key({}, description='fields of the goal that are not zero')


class Ask(Model):
    """Waits until a person says that it is done, with the joystick's `ready` or by ~/ready."""

    person: Name = Key(description='what a person is asked to do; they may drive the robot with the joystick')


_ResetStep = Annotated[
    Annotated[Drive, Tag('command')]
    | Annotated[Pose, Tag('pose')]
    | Annotated[Call, Tag('service')]
    | Annotated[Goal, Tag('action')]
    | Annotated[Ask, Tag('person')],
    _by_key('pose', 'service', 'action', 'person', 'command'),
]


class Reset(Model):
    """How the robot is set up again between two episodes."""

    steps: tuple[_ResetStep, ...] = Key(description='what is done, one after the other')
    timeout: Positive = Key(60.0, description='s for all of it, after which the robot stays stopped until ~/enable')

    def check_steps(self, command: Command) -> None:
        """Refuse what the robot can not do."""
        if not self.steps:
            raise Mismatch('reset.steps', 'at least one', [])
        for number, step in enumerate(self.steps):
            key = f'reset.steps[{number}]'
            if isinstance(step, Drive):
                command.check_pose(step.command, f'{key}.command')
            elif isinstance(step, Pose):
                command.check_pose(step.pose, f'{key}.pose')
                blind = [axis.name for axis in command.axes if axis.feedback is None]
                if blind:
                    raise Mismatch(f'{key}.pose', f'feedback of {blind[0]}, which says when it is there', 'none')


class RobotContract(Model):
    """A validated contract. Make it with `load_contract` or `RobotContract.from_text`."""

    name: Name = Key(description='of the robot')
    rate: float = Key(ge=0.01, le=1000, description='actions per second')
    max_age: Positive = Key(description='s from measurement to action after which a message counts as missing')
    stamps: Literal['header', 'receive'] = Key('header', description='when a message counts as measured')
    image_size: Annotated[tuple[Count, Count] | None, Expected('[height, width] in pixels')] = Key(
        None, description="height and width in pixels of every camera's image as the policy sees it"
    )
    cameras: dict[str, Camera] = Key({}, description='where images come from, by name')
    vector: tuple[Input, ...] = Key((), description='the numbers that the policy reads')
    command: Command = Key(description='how the robot is moved')
    reward: _Reward | None = Key(None, description='of every step, or what a person says at the end; labelled later')
    terminal: _TermOrFormula | None = Key(None, description='ends the episode for good where it is not 0; never')
    episode_length: Count | None = Key(None, description='actions per episode; until somebody ends it')
    reset: Reset | None = Key(None, description='what sets the robot up between two episodes; nothing')
    limits: dict[Name, Limit] = Key({}, description='what the state of the robot must not exceed, by name; nothing')
    estop: TopicName = Key('estop', description='std_msgs/Bool topic that stops the robot while true')
    joystick: Joystick | None = Key(None, description='how a person takes over; nobody does')
    public_key: PublicKey | None = Key(
        None, description='policies must be signed for this ed25519 key, 64 hexadecimal digits; no signatures'
    )
    _text: str = PrivateAttr('')
    _source: str = PrivateAttr('')

    @classmethod
    def from_text(cls, text: str, source: str) -> RobotContract:
        """Read a contract; `source` names its file in every error.

        Raises:
            InputError: not YAML, an unknown or missing key, or a value that does not fit; names file and key.
        """
        contract = check(cls, load_yaml(text, source), source)
        contract._text, contract._source = text, source
        return contract

    @model_validator(mode='after')
    def _fits(self):
        if not self.cameras and not self.vector:
            raise ValueError('expected cameras or vector, something to observe, got neither')
        if self.cameras and self.image_size is None:
            raise Fault('image_size', 'expected [height, width] in pixels, but it is missing')
        names = [name for entry in self.vector for name in entry.names]
        if len(set(names)) < len(names):
            raise Mismatch('vector', 'different names', names)
        types: dict[str | None, str | None] = {}
        qualities: dict[str, Qos] = {}
        commands = ((f'command.{part.key}'.strip('.'), part.receiver) for part in self.command.parts)
        for key, user in (*self.readers(), *self._limits(), *commands):
            if user.topic is None:
                continue
            known = types.setdefault(user.topic, user.type)
            if known != user.type:
                raise Mismatch(f'{key}.type', f'{known}, as elsewhere for {user.topic}', user.type)
        for key, reader in (*self.readers(), *self._limits()):
            if reader.qos and qualities.setdefault(reader.topic, reader.qos) != reader.qos:
                raise Mismatch(f'{key}.qos', f'the same as elsewhere for {reader.topic}', reader.qos.model_dump())
        known = types.setdefault(self.estop, ESTOP)
        if known != ESTOP:
            raise Mismatch('estop', f'a topic of {ESTOP}, but {self.estop} is one of {known} elsewhere', self.estop)
        if self.joystick:
            topic = self.joystick.topic
            if types.get(topic, JOY) != JOY:
                raise Mismatch('joystick.topic', f'a topic of {JOY}, but {topic} is one of {types[topic]}', topic)
            self.joystick.check_moves(self.command)
        if self.reset:
            self.reset.check_steps(self.command)
        if isinstance(self.reward, ClassifierReward) and not self.cameras:
            raise Mismatch('reward.classifier', 'a robot with cameras', self.reward.classifier)
        axes = [axis.name for axis in self.command.axes]
        for name, limit in self.limits.items():
            for axis in (axis for signs in limit.moves for axis in signs if axis not in axes):
                raise Mismatch(f'limits.{name}', f'axes of the command ({", ".join(axes)})', axis)
        self.spec  # what a RobotSpec refuses, such as the names of cameras
        return self

    def _limits(self) -> list[tuple[str, Any]]:
        """(key, reader) of whatever is read to keep within the limits."""
        return [(f'limits.{name}', limit) for name, limit in self.limits.items()]

    def readers(self) -> Iterator[tuple[str, Camera | Source]]:
        """(key, reader) of whatever is read to observe the robot."""
        for name, camera in self.cameras.items():
            yield f'cameras.{name}', camera
        for number, entry in enumerate(self.vector):
            yield f'vector[{number}]', entry
        for key, formula in (('reward', self.measured_reward), ('terminal', self.terminal)):
            for name, source in formula.sources.items() if formula else ():
                yield f'{key}.fields.{name}' if isinstance(formula, Formula) else key, source
        for number, axis in enumerate(self.command.axes):
            if axis.feedback:
                yield f'command.axes[{number}].feedback', axis.feedback

    @property
    def measured_reward(self) -> Term | Formula | None:
        """The reward if it is measured at every step."""
        return self.reward if isinstance(self.reward, (Term, Formula)) else None

    @property
    def text(self) -> str:
        """The YAML as it was read."""
        return self._text

    @property
    def source(self) -> str:
        """The name of its file."""
        return self._source

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
            image_size=self.image_size if self.image_size and self.cameras else (0, 0),
            vector=tuple(name for entry in self.vector for name in entry.names),
            action=tuple(choices) or tuple(axis.name for axis in axes),
            action_low=(0.0,) * len(choices) or tuple(axis.limits[0] for axis in axes),
            action_high=(1.0,) * len(choices) or tuple(axis.limits[1] for axis in axes),
            control_period=1 / self.rate,
            action_repeat=1,
            cameras=tuple(self.cameras),
            discrete=bool(choices),
        )

    @functools.cached_property
    def sources(self) -> tuple[Source, ...]:
        """Every number that is read from a topic: of the inputs, reward, end and feedback."""
        return tuple(reader for _, reader in self.readers() if isinstance(reader, Source))

    @functools.cached_property
    def topics(self) -> tuple[Topic, ...]:
        """What is subscribed to observe the robot, each topic once, the first camera's first."""
        found = {reader.topic: reader.type for _, reader in self.readers()}
        return tuple(Topic(name, type_name, SENSOR) for name, type_name in found.items())

    def subscription(self, topic: str) -> QoS:
        """Quality of service with which the agent subscribes a topic."""
        readers = (reader for _, reader in (*self.readers(), *self._limits()))
        found = next((reader.qos for reader in readers if reader.topic == topic and reader.qos), None)
        return found.profile if found else LATEST

    @property
    def command_topics(self) -> tuple[Topic, ...]:
        """What is published to move it, without actions."""
        receivers = (part.receiver for part in self.command.parts)
        return tuple(Topic(each.topic, each.type, each.qos.profile) for each in receivers if each.topic and each.type)

    def age_limit(self, reader: Reader) -> float:
        """Seconds after which a message counts as missing."""
        return reader.max_age or self.max_age

    def age_limits(self, readers: Iterable[Camera | Source]) -> dict[str, float]:
        """The same for each topic of the readers: the strictest counts."""
        limits: dict[str, float] = {}
        for reader in readers:
            limit = self.age_limit(reader)
            limits[reader.topic] = min(limit, limits.get(reader.topic, limit))
        return limits

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
        robot: path of a YAML file, or the name of a robot in `sim/` or `robots/`.

    Raises:
        InputError: no such file, or it is not a valid contract.
    """
    path = Path(robot)
    if path.suffix not in ('.yaml', '.yml'):
        known = {file.parent.name: file for file in share('sim').glob('*/robot.yaml')}
        known |= {file.stem: file for file in share('robots').glob('*.yaml')}
        if str(robot) not in known:
            raise InputError(
                f'robot: expected a contract file (.yaml) or one of {", ".join(sorted(known))}, got {robot}'
            )
        path = known[str(robot)]
    return RobotContract.from_text(read_text(path), str(path))
