"""Writes recordings of any origin as episode bags, one per episode: `dreamer bag import`."""

from __future__ import annotations

import array
import contextlib
import dataclasses
import datetime
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from dreamer_ros.episodes.assemble import Row, Tally, tally_of
from dreamer_ros.episodes.bag_reader import Bag, bags_in, named_spec, read_metadata
from dreamer_ros.episodes.bag_writer import BagExists, EpisodeWriter, episode_name
from dreamer_ros.episodes.episode import Episode, contract_data
from dreamer_ros.episodes.episode_reader import RecordedRobot, own_rows
from dreamer_ros.episodes.labels import Labels
from dreamer_ros.episodes.mcap_scan import RawMessage
from dreamer_ros.episodes.report import Problem, Report
from dreamer_ros.episodes.robot_bag import RobotTracks, Track, robot_rows
from dreamer_ros.errors import InputError
from dreamer_ros.formats.lerobot_metadata import is_lerobot
from dreamer_ros.formats.npz import ARRAYS, read_arrays
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire.codecs import AGE_PREFIX, Step, fill_action, fill_image, fill_joint_state, fill_step, header_stamp
from dreamer_ros.wire.definitions import blank_message, encode
from dreamer_ros.wire.topics import ACTION, JOINT_STATES, SENSOR, SPEC, STEP, Topic, camera_infos, images

# A message for a bag: topic, CDR bytes or their place in a file, log time (ns).
Message = tuple[Topic, bytes | RawMessage, int]
QUANTITIES = ('position', 'velocity')


@dataclasses.dataclass
class Imported:
    """The result of importing one source.

    Attributes:
        folder: of the new bags.
        problems: what could not be used.
        bags: those written.
        steps: of these bags.
    """

    source: Path
    folder: Path
    problems: Report
    bags: list[Path] = dataclasses.field(default_factory=list)
    steps: int = 0


def find_sources(path: Path) -> list[Path]:
    """The bags, arrays and datasets at a path; see `bags_in`.

    Raises:
        InputError: there is none.
    """
    return bags_in(
        path,
        lambda entry: is_lerobot(entry) or entry.suffix == ARRAYS,
        f'a bag, an {ARRAYS} file, a LeRobot dataset or a folder of them',
    )


def import_source(
    source: Path,
    folder: Path,
    contract: RobotContract | None = None,
    labels: Labels | None = None,
    period: float | None = None,
    image_size: tuple[int, int] | None = None,
) -> Imported:
    """Write the episodes of a source as bags of their own. A bag that is there already is left alone.

    A bag of our own topics is cut into episodes. A bag of a robot's own topics keeps them as they were sent;
    `step` and `action` are added where no agent was recorded. Arrays and LeRobot datasets become our own topics.

    Args:
        folder: of the new bags.
        contract: of the robot in the bag or the dataset, unless the bag holds one.
        labels: see `robot_rows`.
        period: s between two steps, for arrays without it.
        image_size: (height, width) of images from a dataset; None for the dataset's or the contract's.

    Returns:
        What was written, and what could not be used, also of a source that can't be read at all.

    Raises:
        InputError: the folder can't be written.
    """
    result = Imported(source, folder, Report(source))
    try:
        if source.suffix == ARRAYS:
            _import_episode(result, source.stem, *read_arrays(source, period, result.problems))
            return result
        if is_lerobot(source):
            from dreamer_ros.formats.lerobot_reader import read_lerobot  # its libraries are an extra

            robot = source.resolve().name
            for spec, episode, rewarded in read_lerobot(source, contract, labels, image_size, result.problems):
                _import_episode(result, robot, spec, episode, rewarded)
            return result
        bag = Bag(source, result.problems)
        if (reading := bag.contract_to_read_by(contract)) is not None:
            _import_robot(result, bag, reading, labels)
        else:
            _import_own(result, bag, bag.contract or contract if bag.has_observations else None, labels)
    except InputError as error:
        result.problems.append(Problem(source, str(error)))
    except OSError as error:
        result.problems.append(Problem(source, f'it can not be read ({error.strerror or error})'))
    return result


# A robot's own topics


def _import_robot(result: Imported, bag: Bag, contract: RobotContract, labels: Labels | None) -> None:
    for tracks, rows in robot_rows(bag, contract, labels, result.problems):
        robot = tracks.namespace.strip('/') or contract.name
        for number, run in enumerate(rows.runs(result.problems)):
            data = {**_summary(run, None if labels else contract), **contract_data(contract)}
            _write(result, robot, number, contract.spec, data, _robot_messages(tracks, run, contract))


def _robot_messages(tracks: RobotTracks, run: list[Row], contract: RobotContract) -> Iterator[Message]:
    """The robot's messages from the first one that was used to the last step, and the steps."""
    for topic in contract.topics:
        track = tracks.observed.get(topic.name)
        used = [row.step.stamp - row.ages[topic.name] for row in run if topic.name in row.ages]
        if track and used:
            yield from _between(track, min(used), max(used), topic)
    end = run[-1].step.stamp + contract.period_ns
    for topic in contract.command_topics:
        if topic.name in tracks.commands:
            yield from _between(tracks.commands[topic.name], run[0].step.stamp, end, topic)
    for row in run:
        yield _step(row.step, tracks.namespace, row.ages)
        yield _action(row.step.stamp, row.action, row.frame_id, tracks.namespace)


def _between(track: Track, first: int, last: int, topic: Topic) -> Iterator[Message]:
    topic = dataclasses.replace(topic, name=track.name)
    for message in track.messages[track.before(first) : track.before(last + 1)]:
        # A message without a stamp counts from its publication.
        yield topic, message, message.published


# Our own topics


def _import_own(result: Imported, bag: Bag, contract: RobotContract | None, labels: Labels | None) -> None:
    spec = contract.spec if contract else recorded_spec(bag, result.folder)
    bag.check_spec(spec)
    for robot, rows in own_rows(bag, spec, result.problems, labels):
        infos = _by_stamp(bag, robot, camera_infos(spec.cameras))
        kept: dict[str, str] = {key: bag.custom_data[key] for key in ('task', 'seed') if key in bag.custom_data}
        kept |= contract_data(contract) if contract else {}
        for number, run in enumerate(rows.runs(result.problems)):
            summary = _summary(run, None if labels else contract)
            name, data = robot.namespace.strip('/') or spec.name, {**summary, **kept}
            _write(result, name, number, spec, data, _own_messages(robot, run, bag, infos, bool(labels)))


def _own_messages(
    robot: RecordedRobot, run: list[Row], bag: Bag, infos: Mapping[int, list[RawMessage]], labelled: bool
) -> Iterator[Message]:
    for row in run:
        stamp = row.step.stamp
        messages = dict(robot.steps[stamp])
        if labelled:
            del messages[STEP.name]
            yield _step(row.step, robot.namespace)
        for message in [*messages.values(), *infos.get(stamp, ())]:
            yield Topic(message.topic, bag.types[message.topic], SENSOR), message, stamp


def _by_stamp(bag: Bag, robot: RecordedRobot, topics: tuple[Topic, ...]) -> dict[int, list[RawMessage]]:
    """Messages of these topics by the stamp of their step. Steps are whole without them."""
    types = {robot.namespace + topic.name: topic.type for topic in topics}
    found: dict[int, dict[str, RawMessage]] = {}
    for message in bag.messages:
        name = message.topic
        if name in types and bag.types[name] == types[name]:
            with contextlib.suppress(InputError):  # told when the episodes were read
                found.setdefault(header_stamp(message.data), {}).setdefault(name, message)
    return {stamp: list(messages.values()) for stamp, messages in found.items()}


def recorded_spec(bag: Bag, folder: Path) -> RobotSpec:
    """The robot of a bag, from the bag itself, else from the bags that are in a folder already.

    Raises:
        InputError: none of them names it.
    """
    spec = bag.find_spec()
    if spec is not None:
        return spec
    if (spec := named_spec(folder)) is not None:
        return spec
    raise InputError(
        f'it does not name its robot: expected a robot contract, a topic {SPEC.name} in the bag, or a bag of the '
        f'robot in {folder}'
    )


# Episodes that were not recorded as messages


def _import_episode(result: Imported, robot: str, spec: RobotSpec, episode: Episode, rewarded: bool = True) -> None:
    data = {key: value for key, value in episode.meta.items() if key not in ('mode', 'policy_version')}
    data |= tally_of(episode, actor=episode.actor).data()
    if not rewarded:
        del data['return']
    _write(result, robot, episode.number, spec, data, _episode_messages(episode, spec))


def _episode_messages(episode: Episode, spec: RobotSpec) -> Iterator[Message]:
    """An episode as messages of our own topics, in order of time."""
    joints = list(dict.fromkeys(map(_joint, spec.vector)))
    for k, stamp in enumerate(episode.stamp.tolist()):
        for number, topic in enumerate(images(spec.cameras)):
            message = blank_message(topic.type)
            fill_image(message, episode.image[k, :, :, 3 * number : 3 * number + 3], stamp)
            yield _encoded(topic.within(''), message, stamp)
        if spec.vector:
            message, values = blank_message(JOINT_STATES.type), dict(zip(spec.vector, episode.vector[k].tolist()))
            position, velocity = (
                np.array([values.get(f'{joint}/{quantity}', values.get(joint, 0.0)) for joint in joints])
                for quantity in QUANTITIES
            )
            fill_joint_state(message, joints, position, velocity, stamp)
            yield _encoded(JOINT_STATES.within(''), message, stamp)
        flags = episode.is_first[k], episode.is_last[k], episode.is_terminal[k]
        yield _step(Step(stamp, float(episode.reward[k]), *flags))
        yield _action(stamp, episode.action[k], episode.actor)


def _joint(name: str) -> str:
    """The joint in the name of a scalar input, such as `joint/position`. Other names stay as they are."""
    joint, _, quantity = name.rpartition('/')
    return joint if joint and quantity in QUANTITIES else name


# Writing


def _step(step: Step, namespace: str = '', ages: Mapping[str, int] = MappingProxyType({})) -> Message:
    message = blank_message(STEP.type)
    fill_step(message, step)
    message.name += [AGE_PREFIX + name for name in ages]
    message.position.extend(ages.values())
    return _encoded(STEP.within(namespace), message, step.stamp)


def _action(stamp: int, action: np.ndarray, actor: str, namespace: str = '') -> Message:
    message = blank_message(ACTION.type)
    fill_action(message, action, stamp, actor)
    return _encoded(ACTION.within(namespace), message, stamp)


def _encoded(topic: Topic, message: Any, stamp: int) -> Message:
    for name, value in vars(message).items():
        if isinstance(value, array.array):  # as rclpy wants it
            setattr(message, name, np.asarray(value))
    return topic, encode(message, topic.type), stamp


def _summary(run: list[Row], contract: RobotContract | None = None) -> dict[str, str]:
    """custom_data of steps; the contract is that of their rewards, if it has given them."""
    tally = Tally(contract=contract)
    for row in run:
        tally.add(row.step, row.frame_id)
    return {'policy_version': '', **tally.data()}


def _write(
    result: Imported, robot: str, number: int, spec: RobotSpec, data: Mapping[str, str], messages: Iterator[Message]
) -> None:
    """Write a bag, its messages in order of time; `data` is for custom_data."""
    rows = sorted(messages, key=lambda row: row[2])
    topics = {topic.name: topic for topic, _, _ in rows}
    begins = next(stamp for topic, _, stamp in rows if topic.name.rpartition('/')[2] == STEP.name)
    now = datetime.datetime.fromtimestamp(begins / 1e9, datetime.timezone.utc)
    content = hashlib.blake2b(digest_size=16)
    for _, message, _ in rows:
        content.update(_bytes(message))
    known = {
        'task': spec.name,
        **data,
        'robot': robot,
        'spec': spec.to_json(),
        'spec_hash': spec.hash,
        'source': result.source.name,
        'source_content': content.hexdigest(),
    }
    while True:
        name = episode_name(robot, number, now)
        try:
            writer = EpisodeWriter(result.folder, name, topics.values(), known)
            break
        except BagExists:
            if _content(result.folder / name) == content.hexdigest():
                result.problems.append(Problem(result.source, f'{name} is there already and stays as it is'))
                return
            number += 1  # another episode began at the same time
    try:
        for topic, message, stamp in rows:
            writer.write(topic.name, _bytes(message), stamp)
    except BaseException:
        writer.abort()
        raise
    result.bags.append(writer.close({}))
    result.steps += int(data['length'])


def _bytes(message: bytes | RawMessage) -> bytes | memoryview:
    return message.data if isinstance(message, RawMessage) else message


def _content(path: Path) -> str:
    """The `source_content` of a bag, '' if it has none."""
    try:
        return str((read_metadata(path).get('custom_data') or {}).get('source_content', ''))
    except InputError:
        return ''
