"""Bags to episodes: the one entrance, whatever the bag was recorded from."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, KeysView, Mapping
from pathlib import Path

import numpy as np

from dreamer_ros.episodes.assemble import Row, Rows, Unusable, recorded_action
from dreamer_ros.episodes.bag_reader import Recording, load_recording
from dreamer_ros.episodes.episode import Episode, embedded_contract
from dreamer_ros.episodes.labels import Labels
from dreamer_ros.episodes.mcap_scan import RawMessage
from dreamer_ros.episodes.report import Problem, left_out
from dreamer_ros.episodes.robot_bag import robot_episodes
from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire.codecs import ENCODINGS, header_stamp, join_images, read_step, read_vector
from dreamer_ros.wire.definitions import decode
from dreamer_ros.wire.images import COMPRESSED, decode_image
from dreamer_ros.wire.topics import ACTION, JOINT_STATES, SPEC, STEP, camera_infos, images


def read_episodes(
    path: Path, spec: RobotSpec, contract: RobotContract | None = None, labels: Labels | None = None
) -> tuple[list[Episode], list[Problem]]:
    """Read a bag directory, or a single MCAP or sqlite3 file.

    A bag that was recorded from a robot contract holds it and is read by it. Episodes are split where one begins
    or ends, and wherever a step is missing, so that neighbours in an episode were neighbours in the world.

    Args:
        spec: the robot that episodes are wanted of.
        contract: of the robot in the bag, for bags that do not hold one.
        labels: rewards and ends of episodes that the bag does not hold.

    Returns:
        Episodes in order of time, and what could not be used and why. Nothing is raised for a bad bag.
    """
    path = Path(path)
    problems: list[Problem] = []
    try:
        recording = load_recording(path, problems)
        return recorded_episodes(path, recording, spec, problems, contract, labels), problems
    except InputError as error:
        return [], [*problems, Problem(path, str(error))]
    except OSError as error:
        return [], [*problems, Problem(path, f'it can not be read ({error.strerror or error})')]


def recorded_episodes(
    path: Path,
    recording: Recording,
    spec: RobotSpec,
    problems: list[Problem],
    contract: RobotContract | None = None,
    labels: Labels | None = None,
) -> list[Episode]:
    """The episodes of a bag whose messages are read already; see `read_episodes`.

    Raises:
        InputError: the bag is of no use at all.
    """
    contract = bag_contract(recording.custom_data, contract)
    if contract is not None:
        contract.check(spec)
        episodes = robot_episodes(path, recording, contract, labels, problems)
    else:
        check_spec(recording.custom_data, spec)
        episodes = wire_episodes(path, recording, spec, problems)
    return sorted(episodes, key=lambda episode: int(episode.stamp[0]))


def read_longest(path: Path, spec: RobotSpec) -> Episode:
    """The longest episode of a bag, to look at.

    Raises:
        InputError: the bag holds none of this robot.
    """
    episodes, problems = read_episodes(path, spec)
    if not episodes:
        reason = problems[0].reason if problems else 'it is empty'
        raise InputError(f'bag {path}: expected an episode of {spec.name}, but {reason}')
    return max(episodes, key=len)


def bag_contract(custom_data: dict[str, str], given: RobotContract | None) -> RobotContract | None:
    """The contract that a bag is read by: the one given, else its own. None for a bag of our own topics, which says
    whose it is, as `dreamer bag import` makes them of arrays and datasets of a robot that has a contract.

    Raises:
        InputError: its own is damaged.
    """
    if 'spec_hash' in custom_data and 'contract' not in custom_data:
        return None
    return given or embedded_contract(custom_data)


def check_spec(custom_data: dict[str, str], spec: RobotSpec) -> None:
    """Refuse a bag that says it is of another robot."""
    found = custom_data.get('spec_hash')
    if found is None or found == spec.hash:
        return
    try:
        difference = spec.difference(RobotSpec.from_json(custom_data['spec'], 'custom_data'))
    except (InputError, KeyError, TypeError, ValueError):
        difference = ''
    raise InputError(
        f'recorded from another robot: expected spec {spec.hash}, got {found}'
        + (f' ({difference})' if difference else '')
    )


# What image_transport adds to the name of a topic.
COMPRESSION = '/compressed'


class WireRobot:
    """The messages of one robot by topic of the table and header stamp.

    Args:
        namespace: of the robot, `/` at its end; '' for none.

    Attributes:
        clashing: by topic in the bag, messages that have the stamp of another one and differ from it.
    """

    def __init__(self, namespace: str):
        self.namespace = namespace
        self._messages: dict[str, dict[int, RawMessage]] = defaultdict(dict)
        self._doubtful: set[tuple[str, int]] = set()
        self.clashing: Counter = Counter()
        self._otherwise_timed: set[tuple[str, int]] = set()
        self._count = 0

    def add(self, topic: str, message: RawMessage) -> None:
        """Take a message in; raises InputError if it is too short to hold a stamp."""
        stamp = header_stamp(message.data)
        self._count += 1
        if message.time != stamp:
            self._otherwise_timed.add((topic, stamp))
        known = self._messages[topic].setdefault(stamp, message)
        # Lock-step repeats a message that got lost, byte for byte.
        if known is not message and known.topic == message.topic and known.data != message.data:
            self._doubtful.add((topic, stamp))
            self.clashing[message.topic] += 1

    def check_times(self) -> None:
        """In bags of our own recorder a message was recorded at its stamp. The few of which that is not true have
        a wrong one.
        """
        if len(self._otherwise_timed) < self._count / 2:
            self._doubtful |= self._otherwise_timed

    def stamps(self, topic: str) -> KeysView[int]:
        """Stamps of a topic's messages."""
        return self._messages[topic].keys()

    def get(self, topic: str, stamp: int, missing: str) -> RawMessage:
        """The message of a stamp.

        Raises:
            Unusable: there is none, which `missing` says, or there are several that differ.
        """
        message = self._messages[topic].get(stamp)
        if message is None:
            raise Unusable(missing)
        if (topic, stamp) in self._doubtful:
            raise Unusable(f'with a doubtful stamp on {topic}')
        return message

    def at(self, stamp: int) -> list[RawMessage]:
        """All messages of a step."""
        return [messages[stamp] for messages in self._messages.values() if stamp in messages]


def wire_episodes(path: Path, recording: Recording, spec: RobotSpec, problems: list[Problem]) -> list[Episode]:
    """Join the messages of every robot in a bag into episodes.

    Messages belong to the step of their header stamp. A step needs an image of every camera, step scalars, an
    action (but the last step of an episode does not) and, if the spec names vector inputs, joint states.

    Args:
        problems: gets what could not be used.

    Raises:
        InputError: the bag is of no use at all.
    """
    return [
        episode
        for _, rows in wire_rows(path, recording, spec, problems)
        for episode in rows.episodes(recording.custom_data, problems)
    ]


def wire_rows(
    path: Path, recording: Recording, spec: RobotSpec, problems: list[Problem]
) -> Iterator[tuple[WireRobot, Rows]]:
    """Every robot's messages and steps; see `wire_episodes`."""
    for robot in _robots(path, recording, spec, problems):
        rows = Rows(path, spec.control_period)
        cameras = images(spec.cameras)
        stamps = sorted(set().union(robot.stamps(STEP.name), *(robot.stamps(topic.name) for topic in cameras)))
        for stamp in stamps:
            try:
                rows.add(_read_row(robot, stamp, spec, recording.types))
            except Unusable as reason:
                rows.drop(stamp, reason)
        if robot.clashing:
            counts = ', '.join(f'{count} on {name}' for name, count in robot.clashing.items())
            problems.append(Problem(path, f'messages that have the stamp of another one: {counts}'))
        for topic, what in ((ACTION, 'actions answer'), (JOINT_STATES, 'joint states belong to')):
            stray = len(robot.stamps(topic.name) - set(stamps))
            if stray:
                problems.append(Problem(path, f'{stray} {what} no observation in the bag'))
        yield robot, rows


def _robots(path: Path, recording: Recording, spec: RobotSpec, problems: list[Problem]) -> list[WireRobot]:
    """Sort messages by robot (namespace)."""
    place: dict[str, tuple[str, str]] = {}
    cameras = images(spec.cameras)
    for name, type_name in recording.types.items():
        plain = name[: -len(COMPRESSION)] if name.endswith(COMPRESSION) and type_name == COMPRESSED else name
        for topic in cameras if plain != name else (*cameras, JOINT_STATES, STEP, ACTION):
            if plain == topic.name or plain.endswith(f'/{topic.name}'):
                if plain == name and type_name != topic.type:
                    raise InputError(f'topic {name}: expected {topic.type}, got {type_name}')
                place[name] = (plain[: -len(topic.name)], topic.name)
    robots: dict[str, WireRobot] = {}
    short: Counter = Counter()
    # Raw images first: they count where both are there.
    for compressed in (False, True):
        for message in recording.messages:
            if message.topic in place and (recording.types[message.topic] == COMPRESSED) == compressed:
                namespace, topic = place[message.topic]
                try:
                    robots.setdefault(namespace, WireRobot(namespace)).add(topic, message)
                except InputError:
                    short[message.topic] += 1
    for name, count in short.items():
        problems.append(Problem(path, f'{count} messages on {name} are too short to hold a stamp'))
    for robot in robots.values():
        robot.check_times()
    found = [robot for robot in robots.values() if robot.stamps(STEP.name)]
    if not found:
        topics = ', '.join(sorted({message.topic for message in recording.messages})) or 'no messages'
        raise InputError(f'no messages on a topic named {STEP.name} are in it, but {topics}')
    # `spec` was read, and what a camera is like stands in it.
    used = {robot.namespace for robot in found}
    known = {namespace + topic.name for namespace in used for topic in (*camera_infos(spec.cameras), SPEC)}
    stepless = [name for name, (namespace, _) in place.items() if namespace not in used]
    for what, names in (
        (f'of robots without {STEP.name}', stepless),
        ('not of this robot', recording.types.keys() - place.keys() - known),
    ):
        sentence = left_out((message for message in recording.messages if message.topic in names), what)
        problems += [Problem(path, sentence)] if sentence else []
    return found


def _read_row(robot: WireRobot, stamp: int, spec: RobotSpec, types: Mapping[str, str]) -> Row:
    """Decode the messages of one stamp.

    Raises:
        Unusable: something is missing or bad, or comes from another robot.
    """
    several = len(spec.cameras) > 1
    seen = [
        robot.get(topic.name, stamp, 'without an image' + (f' of {camera}' if several else ''))
        for camera, topic in zip(spec.cameras, images(spec.cameras))
    ]
    scalars = robot.get(STEP.name, stamp, 'without step scalars')
    try:
        step = read_step(decode(scalars.data, STEP.type))
    except InputError as error:
        raise Unusable('with bad step scalars') from error
    frames = [_frame(message, types[message.topic]) for message in seen]
    for frame in frames:
        if frame.shape[:2] != spec.image_size:
            raise Unusable(f'image: expected {_size(spec.image_size)}, got {_size(frame.shape)}')
    frame_id = ''
    if step.is_last and stamp not in robot.stamps(ACTION.name):
        action = np.zeros(len(spec.action), np.float32)
    else:
        answer = robot.get(ACTION.name, stamp, 'without an action')
        try:
            action, frame_id = recorded_action(answer)
        except InputError as error:
            raise Unusable('with a bad action') from error
        if len(action) != len(spec.action):
            raise Unusable(f'action: expected {len(spec.action)} axes, got {len(action)}')
    vector = np.zeros(0, np.float32)
    if spec.vector:
        joints = robot.get(JOINT_STATES.name, stamp, 'without joint states')
        try:
            vector = read_vector(decode(joints.data, JOINT_STATES.type), spec.vector)
        except InputError as error:
            raise Unusable('with bad joint states') from error
    return Row(join_images(frames), vector, action, step, frame_id)


def _frame(message: RawMessage, type_name: str) -> np.ndarray:
    """uint8 [H, W, 3] of an image, raw or compressed.

    Raises:
        Unusable: it is damaged, or of an encoding that is not supported.
    """
    try:
        decoded = decode(message.data, type_name)
        if type_name != COMPRESSED and decoded.encoding not in ENCODINGS:
            raise Unusable(f'with an image of the encoding {decoded.encoding}')
        return decode_image(decoded, type_name, None, None)
    except InputError as error:
        raise Unusable('with a bad image') from error


def _size(shape: tuple[int, ...]) -> str:
    return f'{shape[1]}x{shape[0]}'
