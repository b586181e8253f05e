"""Bags to episodes: messages aligned by header stamp, and a reason for every step that can't be used."""
from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np
import yaml
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.rosbag2 import ReaderError

from dreamer_ros.bridge.codecs import (
    Step, header_stamp, image_to_array, join_images, parse_mode, read_action, read_step, read_vector,
)
from dreamer_ros.bridge.definitions import decode
from dreamer_ros.bridge.topics import ACTION, IMAGE, JOINT_STATES, STEP, images
from dreamer_ros.errors import InputError
from dreamer_ros.replay.bag import CUSTOM_DATA, mcap_files
from dreamer_ros.replay.episode import Episode, Problem
from dreamer_ros.replay.scan import RawMessage, scan_mcap
from dreamer_ros.spec import RobotSpec

# Two steps further apart than so many control periods are not neighbours: something between them is missing.
GAP_PERIODS = 1.5

_YamlLoader = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)


def read_metadata(path: Path) -> Dict[str, Any]:
    """`rosbag2_bagfile_information` of a bag directory.

    Raises:
        InputError: metadata.yaml is missing or not what rosbag2 writes.
    """
    file = path / 'metadata.yaml'
    try:
        content = yaml.load(file.read_text(encoding='utf-8'), Loader=_YamlLoader)
    except FileNotFoundError as error:
        raise InputError(f'{path.name}: metadata.yaml is missing') from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f'{path.name}: metadata.yaml is damaged ({" ".join(str(error).split())})') from error
    information = content.get('rosbag2_bagfile_information') if isinstance(content, dict) else None
    if not isinstance(information, dict) or not isinstance(information.get('custom_data') or {}, dict):
        raise InputError(f'{path.name}: metadata.yaml does not describe a bag')
    return information


def read_episodes(path: Path, spec: RobotSpec) -> Tuple[List[Episode], List[Problem]]:
    """Read a bag directory or a single MCAP file.

    Messages belong to the step of their header stamp; the first of several with one stamp counts. A step
    needs an image of every camera, step scalars, an action (but the last step of an episode does not) and, if
    the spec names vector inputs, joint states. Episodes are split where one begins or ends, and wherever a step
    is missing, so that neighbours in an episode were neighbours in the world.

    Returns:
        Episodes in order of time, and what could not be used and why. Nothing is raised for a bad bag.
    """
    path = Path(path)
    problems: List[Problem] = []
    try:
        recording = _load(path, problems)
        _check_spec(recording.custom_data, spec)
        episodes = []
        for robot in _robots(path, recording, spec, problems):
            episodes += _align(path, robot, recording.custom_data, spec, problems)
    except InputError as error:
        return [], [*problems, Problem(path, str(error))]
    except OSError as error:
        return [], [*problems, Problem(path, f'it can not be read ({error.strerror})')]
    return sorted(episodes, key=lambda episode: int(episode.stamp[0])), problems


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


@dataclasses.dataclass
class _Recording:
    """A bag's messages and the types of their topics."""

    messages: List[RawMessage]
    types: Dict[str, str]
    custom_data: Dict[str, str]


def _load(path: Path, problems: List[Problem]) -> _Recording:
    """Read all messages that are whole, of whatever storage."""
    information: Dict[str, Any] = {}
    if path.is_dir():
        try:
            information = read_metadata(path)
        except InputError as error:
            problems.append(Problem(path, str(error).split(': ', 1)[1]))
        if information.get('storage_identifier') == 'sqlite3' or information.get('compression_format'):
            return _load_foreign(path, information)
        files = mcap_files(path)
        if not files:
            raise InputError('no MCAP file is in it')
    else:
        files = [path]
    recording = _Recording([], {}, {})
    for file in files:
        scan = scan_mcap(file, CUSTOM_DATA)
        problems += [Problem(path, f'{file.name}: {damage}') for damage in scan.damage]
        recording.messages += scan.messages
        recording.types.update((topic.name, topic.type) for topic in scan.topics.values())
        recording.custom_data.update(scan.custom_data)
    recording.custom_data.update(_texts(information))
    expected = information.get('message_count')
    if expected is not None and expected != len(recording.messages):
        problems.append(Problem(path, f'{len(recording.messages)} of {expected} messages are whole'))
    return recording


def _texts(information: Dict[str, Any]) -> Dict[str, str]:
    """custom_data of metadata.yaml, where hands may have written numbers."""
    return {str(key): str(value) for key, value in (information.get('custom_data') or {}).items()}


def _load_foreign(path: Path, information: Dict[str, Any]) -> _Recording:
    """Read sqlite3 and rosbag2-compressed bags through `rosbags`."""
    try:
        with AnyReader([path]) as reader:
            types = {connection.topic: connection.msgtype for connection in reader.connections}
            messages = [
                RawMessage(connection.topic, time, memoryview(data))
                for connection, time, data in reader.messages()
            ]
    except (AnyReaderError, ReaderError, ValueError, KeyError) as error:
        raise InputError(f'it can not be read ({error})') from error
    return _Recording(messages, types, _texts(information))


def _check_spec(custom_data: Dict[str, str], spec: RobotSpec) -> None:
    """Refuse a bag that says it is of another robot."""
    found = custom_data.get('spec_hash')
    if found is None or found == spec.hash:
        return
    try:
        difference = spec.difference(RobotSpec.from_json(custom_data['spec'], 'custom_data'))
    except (InputError, KeyError, TypeError, ValueError):
        difference = ''
    raise InputError(f'recorded from another robot: expected spec {spec.hash}, got {found}' + (
        f' ({difference})' if difference else ''))


# Messages of one robot: {topic of the table: {header stamp: CDR bytes}}.
_Robot = Dict[str, Dict[int, memoryview]]


def _robots(path: Path, recording: _Recording, spec: RobotSpec, problems: List[Problem]) -> List[_Robot]:
    """Sort messages by robot (namespace), topic and stamp."""
    place: Dict[str, Tuple[str, str]] = {}
    for name, type_name in recording.types.items():
        for topic in (*images(spec.cameras), JOINT_STATES, STEP, ACTION):
            if name == topic.name or name.endswith(f'/{topic.name}'):
                if type_name != topic.type:
                    raise InputError(f'topic {name}: expected {topic.type}, got {type_name}')
                place[name] = (name[:-len(topic.name)], topic.name)
    robots: Dict[str, _Robot] = defaultdict(lambda: defaultdict(dict))
    short: Counter = Counter()
    for message in recording.messages:
        if message.topic in place:
            namespace, topic = place[message.topic]
            try:
                robots[namespace][topic].setdefault(header_stamp(message.data), message.data)
            except InputError:
                short[message.topic] += 1
    for name, count in short.items():
        problems.append(Problem(path, f'{count} messages on {name} are too short to hold a stamp'))
    robots = {namespace: robot for namespace, robot in robots.items() if STEP.name in robot}
    if not robots:
        topics = ', '.join(sorted({message.topic for message in recording.messages})) or 'no messages'
        raise InputError(f'no messages on a topic named {STEP.name} are in it, but {topics}')
    return list(robots.values())


class _Row:
    """One usable step."""

    __slots__ = ('image', 'vector', 'action', 'step', 'frame_id')

    def __init__(self, image: np.ndarray, vector: np.ndarray, action: np.ndarray, step: Step, frame_id: str):
        self.image, self.vector, self.action, self.step, self.frame_id = image, vector, action, step, frame_id


class _Unusable(Exception):
    """A step can't be used; the message is the reason, the same for all steps with the same trouble."""


def _align(
    path: Path, robot: _Robot, custom_data: Dict[str, str], spec: RobotSpec, problems: List[Problem]
) -> List[Episode]:
    """Join one robot's messages into episodes."""
    stamps = sorted(set().union(robot[STEP.name], *(robot[topic.name] for topic in images(spec.cameras))))
    gap_ns = GAP_PERIODS * spec.control_period * 1e9
    dropped: Counter = Counter()
    gaps = 0
    runs: List[List[_Row]] = [[]]
    for stamp in stamps:
        try:
            row = _read_row(robot, stamp, spec)
        except _Unusable as reason:
            dropped[str(reason)] += 1
            runs.append([])
            continue
        last = runs[-1][-1].step if runs[-1] else None
        if last is not None and not (row.step.is_first or last.is_last) and stamp - last.stamp > gap_ns:
            gaps += 1
            runs.append([])
        elif row.step.is_first or (last is not None and last.is_last):
            runs.append([])
        runs[-1].append(row)
    if dropped:
        count = sum(dropped.values())
        reasons = ', '.join(f'{n} {reason}' for reason, n in dropped.most_common())
        problems.append(Problem(path, f'{count} of {len(stamps)} steps dropped: {reasons}', count))
    if gaps:
        problems.append(Problem(path, f'split at {gaps} gaps longer than {GAP_PERIODS} control periods'))
    stray = len(robot[ACTION.name].keys() - set(stamps))
    if stray:
        problems.append(Problem(path, f'{stray} actions answer no observation in the bag'))
    return [_stack(path, run, custom_data) for run in runs if run]


def _read_row(robot: _Robot, stamp: int, spec: RobotSpec) -> _Row:
    """Decode the messages of one stamp.

    Raises:
        _Unusable: something is missing or bad.
        InputError: it comes from another robot, so the whole bag is useless.
    """
    seen = [robot[topic.name].get(stamp) for topic in images(spec.cameras)]
    for camera, message in zip(spec.cameras, seen):
        if message is None:
            raise _Unusable('without an image' + (f' of {camera}' if len(seen) > 1 else ''))
    if stamp not in robot[STEP.name]:
        raise _Unusable('without step scalars')
    try:
        step = read_step(decode(robot[STEP.name][stamp], STEP.type))
    except InputError as error:
        raise _Unusable('with bad step scalars') from error
    try:
        frames = [image_to_array(decode(message, IMAGE.type)) for message in seen]
    except InputError as error:
        raise _Unusable('with a bad image') from error
    for frame in frames:
        if frame.shape[:2] != spec.image_size:
            raise InputError(f'image: expected {_size(spec.image_size)}, got {_size(frame.shape)}')
    image = join_images(frames)
    frame_id = ''
    if stamp in robot[ACTION.name]:
        try:
            message = decode(robot[ACTION.name][stamp], ACTION.type)
            action = read_action(message, len(message.axes))
        except InputError as error:
            raise _Unusable('with a bad action') from error
        if len(action) != len(spec.action):
            raise InputError(f'action: expected {len(spec.action)} axes, got {len(action)}')
        frame_id = message.header.frame_id
    elif step.is_last:
        action = np.zeros(len(spec.action), np.float32)
    else:
        raise _Unusable('without an action')
    vector = np.zeros(0, np.float32)
    if spec.vector:
        if stamp not in robot[JOINT_STATES.name]:
            raise _Unusable('without joint states')
        try:
            vector = read_vector(decode(robot[JOINT_STATES.name][stamp], JOINT_STATES.type), spec.vector)
        except InputError as error:
            raise _Unusable('with bad joint states') from error
    return _Row(image, vector, action, step, frame_id)


def _stack(path: Path, rows: List[_Row], custom_data: Dict[str, str]) -> Episode:
    """Rows to arrays. What the bag does not say of policy and mode, the first action does."""
    meta = dict(custom_data)
    try:
        mode = parse_mode(rows[0].frame_id)
        meta.setdefault('mode', mode.kind)
        if mode.version is not None:
            meta.setdefault('policy_version', str(mode.version))
    except InputError:
        pass  # a bag of another origin, whose actions say nothing of who chose them
    steps = [row.step for row in rows]
    return Episode(
        image=np.stack([row.image for row in rows]),
        vector=np.stack([row.vector for row in rows]),
        action=np.stack([row.action for row in rows]),
        reward=np.array([step.reward for step in steps], np.float32),
        is_first=np.array([step.is_first for step in steps]),
        is_last=np.array([step.is_last for step in steps]),
        is_terminal=np.array([step.is_terminal for step in steps]),
        stamp=np.array([step.stamp for step in steps], np.int64),
        meta=meta,
        path=path,
    )


def _size(shape: Tuple[int, ...]) -> str:
    return f'{shape[1]}x{shape[0]}'
