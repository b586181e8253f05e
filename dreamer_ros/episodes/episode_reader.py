"""Reads the episodes of any bag: of our own topics, or of a robot with a contract."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_ros.episodes.assemble import Assembler, Joined, Row, Unusable, recorded_action, recorded_stamp, stamped
from dreamer_ros.episodes.bag_reader import Bag
from dreamer_ros.episodes.episode import Episode
from dreamer_ros.episodes.labels import Labels
from dreamer_ros.episodes.mcap_scan import RawMessage
from dreamer_ros.episodes.report import Report
from dreamer_ros.episodes.robot_bag import labelled_steps, robot_rows
from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire.codecs import join_images, read_step, read_vector
from dreamer_ros.wire.definitions import decode
from dreamer_ros.wire.encodings import ENCODINGS
from dreamer_ros.wire.images import COMPRESSED, COMPRESSION, decode_image
from dreamer_ros.wire.topics import (
    ACTION,
    IMAGE,
    JOINT_STATES,
    OBSERVED_VECTOR,
    SPEC,
    STEP,
    camera_infos,
    images,
    observed_images,
)


def read_episodes(
    bag: Bag | Path, spec: RobotSpec, contract: RobotContract | None = None, labels: Labels | None = None
) -> tuple[list[Episode], Report]:
    """Read a bag directory, or a single MCAP or sqlite3 file.

    A bag that was recorded with a robot contract holds it and is read by it. An episode also ends before a missing
    step, so that its neighbouring steps were neighbours in the world.

    Args:
        bag: an open one, or its path.
        spec: of the robot whose episodes are wanted.
        contract: of the robot, for bags that do not hold one.
        labels: rewards and ends of episodes, for bags that do not hold them.

    Returns:
        Episodes in order of time, and what could not be used. Nothing is raised for a bad bag.
    """
    path = bag.path if isinstance(bag, Bag) else Path(bag)
    report = Report(path)
    try:
        if isinstance(bag, Bag):
            report += bag.report
        else:
            bag = Bag(path, report)
        contract = bag.contract_to_read_by(contract)
        if contract is not None:
            contract.check(spec)
            found: Iterator[tuple[Any, Assembler]] = robot_rows(bag, contract, labels, report)
        else:
            bag.check_spec(spec)
            found = own_rows(bag, spec, report, labels)
        episodes = [episode for _, rows in found for episode in rows.episodes(bag.custom_data, report)]
    except InputError as error:
        report.add(str(error))
        return [], report
    except OSError as error:
        report.add(f'it can not be read ({error.strerror or error})')
        return [], report
    return sorted(episodes, key=lambda episode: int(episode.stamp[0])), report


def require_episodes(bag: Bag | Path, spec: RobotSpec) -> tuple[list[Episode], Report]:
    """Like `read_episodes`, for a bag that must hold an episode.

    Raises:
        InputError: it has none from this robot.
    """
    episodes, report = read_episodes(bag, spec)
    if not episodes:
        reason = report[-1].reason if report else 'it is empty'
        raise InputError(f'bag {report.path}: expected an episode of {spec.name}, but {reason}')
    return episodes, report


def read_longest(path: Path, spec: RobotSpec) -> Episode:
    """The longest episode of a bag, see `require_episodes`."""
    return max(require_episodes(path, spec)[0], key=len)


class RecordedRobot(Joined):
    """The messages of one robot on our own topics, by topic of the table and header stamp.

    Args:
        namespace: of the robot, `/` at its end; '' for none.

    Attributes:
        clashing: by topic in the bag, how many messages differ from another one with the same stamp.
    """

    def __init__(self, namespace: str):
        super().__init__()
        self.namespace = namespace
        self.clashing: Counter = Counter()
        self._doubtful: set[tuple[str, int]] = set()
        self._otherwise_timed: set[tuple[str, int]] = set()
        self._count = 0

    def add_recorded(self, topic: str, stamp: int, message: RawMessage) -> None:
        """Take a message in."""
        self._count += 1
        if message.time != stamp:
            self._otherwise_timed.add((topic, stamp))
        known = self.add(topic, stamp, message)
        # Lock-step repeats a message that got lost, byte for byte.
        if known is not message and known.topic == message.topic and known.data != message.data:
            self._doubtful.add((topic, stamp))
            self.clashing[message.topic] += 1

    def check_times(self) -> None:
        """Distrust stamps that differ from the time of recording, if most equal it, as in our own recordings."""
        if len(self._otherwise_timed) < self._count / 2:
            self._doubtful |= self._otherwise_timed

    def get(self, topic: str, stamp: int, missing: str) -> RawMessage:
        """The message of a stamp.

        Raises:
            Unusable: there is none, as `missing` says, or several that differ.
        """
        message = self.steps[stamp].get(topic)
        if message is None:
            raise Unusable(missing)
        if (topic, stamp) in self._doubtful:
            raise Unusable(f'with a doubtful stamp on {topic}')
        return message


def own_rows(
    bag: Bag, spec: RobotSpec, report: Report, labels: Labels | None = None
) -> Iterator[tuple[RecordedRobot, Assembler]]:
    """Messages and steps of every robot in a bag of our own topics: a simulator's, or what the agent of a robot saw.

    The header stamp tells the step of a message. A step needs an image of every camera, step scalars, an action
    (except the last step of an episode) and, if the spec names vector inputs, joint states.

    Args:
        report: gets what could not be used.
        labels: with them, only labelled steps are read, with their rewards and ends.

    Raises:
        InputError: nothing in the bag can be used.
    """
    several = len(spec.cameras) > 1
    cameras = {
        topic.name: 'without an image' + (f' of {camera}' if several else '')
        for camera, topic in zip(spec.cameras, images(spec.cameras))
    }
    for robot in _robots(bag, spec, report):
        rows = Assembler(spec.control_period)
        stray: Counter = Counter()
        stamps, steps = sorted(robot.steps), sorted(robot.stamps(STEP.name))
        labelled = labelled_steps(labels, (stamps[0], stamps[-1]), steps, report) if labels else None
        for stamp in stamps if labelled is None else labelled:
            messages = robot.steps[stamp]
            if STEP.name in messages or cameras.keys() & messages.keys():
                try:
                    row = _read_row(robot, stamp, spec, cameras, bag.types)
                    rows.add(row if labelled is None else row._replace(step=labelled[stamp]))
                except Unusable as reason:
                    rows.drop(stamp, reason)
            else:
                stray.update(messages.keys())
        if robot.clashing:
            counts = ', '.join(f'{count} on {name}' for name, count in robot.clashing.items())
            report.add(f'messages that have the stamp of another one: {counts}')
        for topic, what in ((ACTION, 'actions answer'), (JOINT_STATES, 'joint states belong to')):
            if stray[topic.name]:
                report.add(f'{stray[topic.name]} {what} no observation in the bag')
        yield robot, rows


def _robots(bag: Bag, spec: RobotSpec, report: Report) -> list[RecordedRobot]:
    """Sort messages by robot (namespace)."""
    place: dict[str, tuple[str, str]] = {}
    senses = (*images(spec.cameras), JOINT_STATES)
    recorded = (*observed_images(spec.cameras), OBSERVED_VECTOR) if bag.has_observations else senses
    for name, type_name in bag.types.items():
        is_compressed = name.endswith(COMPRESSION) and type_name == COMPRESSED
        plain = name.removesuffix(COMPRESSION) if is_compressed else name
        for topic, counts_as in zip((*recorded, STEP, ACTION), (*senses, STEP, ACTION)):
            if is_compressed and topic.type != IMAGE.type:
                continue
            if plain == topic.name or plain.endswith(f'/{topic.name}'):
                if not is_compressed and type_name != topic.type:
                    raise InputError(f'topic {name}: expected {topic.type}, got {type_name}')
                place[name] = (plain[: -len(topic.name)], counts_as.name)
    robots: dict[str, RecordedRobot] = {}
    messages = [message for message in bag.messages if message.topic in place]
    # Raw images first: they count if compressed ones have the same stamp.
    messages.sort(key=lambda message: bag.types[message.topic] == COMPRESSED)
    for stamp, message in stamped(messages, recorded_stamp, report):
        namespace, plain = place[message.topic]
        robots.setdefault(namespace, RecordedRobot(namespace)).add_recorded(plain, stamp, message)
    for robot in robots.values():
        robot.check_times()
    found = [robot for robot in robots.values() if robot.stamps(STEP.name)]
    if not found:
        topics = ', '.join(sorted({message.topic for message in bag.messages})) or 'no messages'
        raise InputError(f'no messages on a topic named {STEP.name} are in it, but {topics}')
    # Not reported: the spec was read already, and camera_info says nothing more.
    used = {robot.namespace for robot in found}
    known = {namespace + topic.name for namespace in used for topic in (*camera_infos(spec.cameras), SPEC)}
    stepless = {name for name, (namespace, _) in place.items() if namespace not in used}
    others = bag.types.keys() - place.keys() - known
    report.left_out((m for m in bag.messages if m.topic in stepless), f'of robots without {STEP.name}')
    report.left_out((m for m in bag.messages if m.topic in others), 'not of this robot')
    return found


def _read_row(
    robot: RecordedRobot, stamp: int, spec: RobotSpec, cameras: Mapping[str, str], types: Mapping[str, str]
) -> Row:
    """Decode the messages of one stamp.

    Args:
        cameras: by image topic, how to say that its image is missing.
        types: of the topics in the bag.

    Raises:
        Unusable: something is missing or bad, or comes from another robot.
    """
    seen = [robot.get(topic, stamp, missing) for topic, missing in cameras.items()]
    scalars = robot.get(STEP.name, stamp, 'without step scalars')
    try:
        step = read_step(decode(scalars.data, STEP.type))
    except InputError as error:
        raise Unusable('with bad step scalars') from error
    frames = [_frame(message, types[message.topic]) for message in seen]
    for frame in frames:
        if frame.shape[:2] != spec.image_size:
            raise Unusable(f'image: expected {_size(spec.image_size)}, got {_size(frame.shape)}')
    message = None
    if ACTION.name in robot.steps[stamp] or not step.is_last:
        message = robot.get(ACTION.name, stamp, 'without an action')
    action, frame_id = recorded_action(message, len(spec.action))
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
        Unusable: it is damaged, or its encoding is not supported.
    """
    try:
        decoded = decode(message.data, type_name)
        if type_name != COMPRESSED and decoded.encoding not in ENCODINGS:
            raise Unusable(f'with an image of the encoding {decoded.encoding}')
        return decode_image(decoded, type_name)
    except InputError as error:
        raise Unusable('with a bad image') from error


def _size(shape: tuple[int, ...]) -> str:
    return f'{shape[1]}x{shape[0]}'
