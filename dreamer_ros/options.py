"""Options that people set: arguments of a launch file, parameters of a node, words of a command.

Every option is one field of a model. Those that appear in several places are declared here once, with their type,
bounds, default and help text.
"""

from __future__ import annotations

import shlex
import typing
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from dreamer_ros.errors import InputError
from dreamer_ros.files import DISK_RESERVE as MEGABYTES
from dreamer_ros.schema import Expected, Model, check, describe

if TYPE_CHECKING:
    from typing import Self

# Options of several places

Task = Annotated[
    str,
    Field(
        default='',
        description='What to learn: a dm_control task, a world of sim/ (see `dreamer tasks`) or the path of a task '
        'file. Default: that of an existing logdir, else cartpole_swingup.',
    ),
]
Preset = Annotated[
    str,
    Field(
        default='',
        description='How to learn: a preset of models/ (see `dreamer presets`) or the path of a YAML file. '
        'Default: what an existing logdir began with, else cpu.',
    ),
]
Overrides = Annotated[
    tuple[str, ...], Field(default=(), description='Changes to the preset, such as "schedule.batch=8 rssm.deter=64".')
]
Logdir = Annotated[
    str,
    Field(
        default='',
        description='Run directory. An existing one is continued. Default: a new runs/<task>-<preset>-<time>.',
    ),
]
Steps = Annotated[
    int | None,
    Field(default=None, ge=1, le=10**12, description='Env steps of the whole run. Default: what the preset says.'),
]
Simulators = Annotated[
    int,
    Field(
        default=1, ge=1, le=1000, description='How many simulators feed the learner, each in its own namespace /sim<n>.'
    ),
]
Device = Annotated[
    str,
    Field(
        default='auto',
        pattern=r'^(auto|cpu|cuda(:\d+)?)$',
        description='Where the learner computes: auto, cpu, cuda or cuda:<number>. auto takes a GPU if there is one.',
    ),
    Expected('auto, cpu, cuda or cuda:<number>'),
]
Learners = Annotated[
    int,
    Field(
        default=1,
        ge=1,
        le=64,
        description='Processes that share every update, each with a GPU of its own or a part of the cores. '
        'torchrun starts as many as it is told.',
    ),
]
Seed = Annotated[
    int,
    Field(
        default=0,
        ge=0,
        le=2**31 - 1,
        description='Random seed of parameters, sampling, exploration and initial states.',
    ),
]
EvaluateEvery = Annotated[
    int,
    Field(
        default=10,
        ge=0,
        le=10**6,
        description='Every n-th episode is played deterministically and gives the learning curve. 0: none is.',
    ),
]
Render = Annotated[
    Literal['fast', 'shadows', 'suite'],
    Field(
        default='fast',
        description='How cameras draw. fast: no shadows. shadows: small shadow maps. suite: as dm_control does.',
    ),
]
Bags = Annotated[
    tuple[str, ...],
    Field(
        default=(),
        description='Folders of bags or run directories to learn from, each DIR or DIR:WEIGHT, where the weight says '
        'how often to sample from it (default 1). Default: those of an existing logdir.',
    ),
]
Updates = Annotated[
    int | None,
    Field(
        default=None,
        ge=1,
        le=10**12,
        description='Updates of the whole run. Default: as many as the preset makes online.',
    ),
]
Validation = Annotated[
    float | None,
    Field(
        default=None,
        ge=0.0,
        le=0.9,
        description='Share of the episodes that is held out to measure predictions. Default: that of the preset, 0.1.',
    ),
]
BagContract = Annotated[
    str, Field(default='', description='Contract of the robot, for bags that do not say which robot it was.')
]
Contract = Annotated[
    str, Field(default='', description='Robot contract: a YAML file, or the name of a robot of sim/ or robots/.')
]
RequiredContract = Annotated[
    str,
    Field(min_length=1, description='Robot contract: a YAML file, or the name of a robot of sim/ or robots/.'),
    Expected('a robot contract'),
]
Policy = Annotated[
    str,
    Field(
        default='', description='Policy: an ONNX file, its manifest, or the name of a released one in models/policies/.'
    ),
]
Namespace = Annotated[str, Field(default='', description="Namespace of the robot's topics. Default: the robot's name.")]
Begin = Annotated[
    str,
    Field(
        default='',
        description='Run directory or checkpoint whose learner goes on here, unless logdir has a checkpoint.',
    ),
]
SigningKey = Annotated[
    str,
    Field(default='', description='File of the private key that signs the policies, for contracts with a public_key.'),
]
RunKeyFile = Annotated[
    str,
    Field(
        default='',
        description='File of the key that a trainer shares with its robots. Default: $DREAMER_ROS_KEY, else the file '
        '`key` of the run directory, which is made if it is missing.',
    ),
]
Trust = Annotated[
    Literal['key', 'lan'],
    Field(
        default='key',
        description='key: a robot plays the policies of a trainer with its key, and files are served to who has it. '
        'lan: policies of anybody in the ROS domain are played, and files are served to anybody.',
    ),
]
Discovery = Annotated[
    Literal['auto', 'localhost', 'subnet'],
    Field(
        default='auto',
        description='How far ROS nodes see each other. localhost: on this computer. subnet: on the network, as for '
        'training on several computers. auto: localhost for simulations of up to 9 robots, unless the environment '
        'says something else, such as ROS_AUTOMATIC_DISCOVERY_RANGE or ROS_STATIC_PEERS.',
    ),
]
Pause = Annotated[
    bool,
    Field(
        default=False,
        description='Hold the robot after every episode until ~/enable is called, so that somebody can set it up.',
    ),
]
Autostart = Annotated[
    bool, Field(default=True, description='Configure and activate at once. false: wait for `ros2 lifecycle`.')
]
Address = Annotated[
    str,
    Field(
        default='127.0.0.1',
        description='Address of this computer at which bags and policies can be read. 127.0.0.1: by this computer '
        'alone, without a key. 0.0.0.0: at any of its addresses.',
    ),
]
RequiredFolder = Annotated[
    str,
    Field(min_length=1, description='Folder that the bags go to. It is created if it is missing.'),
    Expected('a folder'),
]
EpisodeBag = Annotated[str, Field(min_length=1, description='Directory of the bag of an episode.'), Expected('a bag')]
ResultFolder = Annotated[str, Field(default='', description='Folder for the results.')]
Rate = Annotated[
    float,
    Field(default=1.0, ge=0.001, le=1000.0, description='Pace of the messages, as a multiple of the recorded one.'),
]
Context = Annotated[
    int, Field(default=5, ge=1, le=10**6, description='Steps that are seen before the prediction goes on without them.')
]
Inputs = Annotated[
    Literal['image', 'vector', 'both'],
    Field(default='image', description='What the agent perceives: camera images, joint states (vector), or both.'),
]
WaitForSubscribers = Annotated[
    int, Field(default=0, ge=0, le=100, description='Subscribers of `step` that must be there before the first step.')
]
Raw = Annotated[
    bool,
    Field(
        default=False,
        description="Record the robot's own topics beside its episodes, as they are sent: a bag for each in "
        '<folder>-raw. Every raw 640x480 camera at 30 Hz takes up to 100 GB an hour.',
    ),
]
DiskReserve = Annotated[
    int,
    Field(
        default=MEGABYTES,
        ge=0,
        le=10**9,
        description='MB that must stay free on the disk. With less, the open bag is finished and recording ends.',
    ),
]


class Options(Model):
    """Options of a scenario, a node or a command.

    Attributes:
        renamed: earlier names that still work, and the current ones.
    """

    renamed: ClassVar[Mapping[str, str]] = {}

    def pick(self, *names: str) -> dict[str, Any]:
        """Some of the options by name, for parameters of the same names."""
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_texts(cls, texts: Mapping[str, str | Sequence[str]], where: str) -> Self:
        """Parse options as people type them. A list is one text of words between blanks, or several texts.

        Args:
            texts: by name; an empty text stands for the default.
            where: command or scenario, for errors.

        Raises:
            InputError: an unknown name, or a value that does not fit.
        """
        kinds = {row.key: row.kind for row in describe(cls)}
        values = {}
        for given, text in texts.items():
            name = cls.renamed.get(given, given)
            kind = kinds.get(name, str)
            if text != '' or kind is str:
                values[name] = _value(kind, text, f'{where}: {name}')
        return check(cls, values, where)


def _value(kind: Any, text: str | Sequence[str], where: str) -> Any:
    """Convert a text to a value of a type. A text that does not fit stays as it is: the model refuses it."""
    while typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)
        try:
            words = shlex.split(text) if isinstance(text, str) else text
        except ValueError as error:
            raise InputError(f'{where}: expected words separated by blanks, got {text!r} ({error})') from None
        if inner[-1] is not Ellipsis and len(words) == 1:
            words = words[0].split('x')  # 64x48
        return [_value(inner[0], word, where) for word in words]
    if kind is bool:
        return {'true': True, 'false': False}.get(str(text).lower(), text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            return text
    return text


class Word(NamedTuple):
    """Annotates an option that is not written --name VALUE on the command line.

    Attributes:
        metavar: placeholder of the value in help texts.
        positional: whether it is written without a flag.
        flags: replace the flag that is made of the name.
    """

    metavar: str = ''
    positional: bool = False
    flags: tuple[str, ...] = ()


class Argument(NamedTuple):
    """An option as launch files declare it: everything is text."""

    name: str
    default: str
    help: str
    choices: tuple[str, ...]


def as_arguments(options: type[Options]) -> tuple[Argument, ...]:
    """The options in order of declaration."""
    return tuple(
        Argument(row.key, as_text(row.default), row.help, ('true', 'false') if row.kind is bool else row.choices)
        for row in describe(options)
    )


def as_text(value: Any) -> str:
    """The text that stands for a value."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return shlex.join(map(as_text, value))
    return '' if value is None else str(value)
