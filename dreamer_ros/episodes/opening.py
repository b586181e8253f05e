"""A bag as it lies on disk, to be played or looked at: topics, serialised messages by time, and whose they are."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from dreamer_ros.episodes.bag import read_metadata
from dreamer_ros.episodes.custom_data import embedded_contract
from dreamer_ros.episodes.episode import Problem
from dreamer_ros.episodes.recording import load_recording
from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire.topics import SENSOR, STEP, QoS, Topic

# Enums of rmw: numbers up to metadata version 8, words from 9 on.
_BEST_EFFORT, _TRANSIENT_LOCAL = (2, 'best_effort'), (1, 'transient_local')


class Stored(NamedTuple):
    """A message: topic, time of recording in nanoseconds, CDR bytes."""

    topic: str
    time: int
    data: bytes


class OpenBag:
    """What is whole in a bag of any storage. Large MCAP files stay on the disk.

    Args:
        path: a bag directory, or one of its files.

    Attributes:
        topics: by name, as they were offered.
        custom_data: what the recorder noted.
        contract: of the robot, where the bag holds one.
        start, end: time of the first and the last message, nanoseconds.
        problems: what is damaged or missing.

    Raises:
        InputError: nothing in it can be read.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self.problems: list[Problem] = []
        try:
            recording = load_recording(self.path, self.problems)
            self.custom_data = recording.custom_data
            self.contract: RobotContract | None = embedded_contract(self.custom_data)
        except InputError as error:
            raise InputError(f'bag {self.path}: {error}') from error
        except OSError as error:
            raise InputError(f'bag {self.path}: expected a bag that can be read ({error})') from error
        if not recording.messages:
            reason = f' ({self.problems[0].reason})' if self.problems else ''
            raise InputError(f'bag {self.path}: expected messages in it, found none{reason}')
        self._messages = sorted(recording.messages, key=operator.attrgetter('time'))
        self.start, self.end = self._messages[0].time, self._messages[-1].time
        offered = self._offered()
        self.topics = {name: Topic(name, kind, offered.get(name, SENSOR)) for name, kind in recording.types.items()}

    def messages(self, topics: Collection[str] | None = None) -> Iterator[Stored]:
        """All messages by time, or those of some topics."""
        for message in self._messages:
            if topics is None or message.topic in topics:
                yield Stored(message.topic, message.time, bytes(message.data))

    def times(self) -> dict[str, list[int]]:
        """When the messages of each topic were recorded, nanoseconds, increasing."""
        times: dict[str, list[int]] = {name: [] for name in self.topics}
        for message in self._messages:
            times[message.topic].append(message.time)
        return times

    def robots(self) -> tuple[str, ...]:
        """Namespaces with a topic `step`, as '/sim0/'; '/' of a robot without one."""
        return tuple(
            sorted(
                topic.name[: -len(STEP.name)]
                for topic in self.topics.values()
                if topic.name.endswith(f'/{STEP.name}') and topic.type == STEP.type
            )
        )

    def spec(self) -> RobotSpec:
        """Of the robot.

        Raises:
            InputError: the bag does not say.
        """
        if self.contract is not None:
            return self.contract.spec
        if 'spec' not in self.custom_data:
            raise InputError(
                f'bag {self.path}: expected custom_data with the spec or the contract of its robot, got '
                f'{", ".join(self.custom_data) or "none"}; `dreamer bag import` adds them'
            )
        return RobotSpec.from_json(self.custom_data['spec'], f'bag {self.path.name}')

    def _offered(self) -> dict[str, QoS]:
        """Quality of service by topic, as far as metadata.yaml tells; nothing is worth an error."""
        try:
            entries = [entry['topic_metadata'] for entry in read_metadata(self.path)['topics_with_message_count']]
            return {entry['name']: _quality(entry['offered_qos_profiles']) for entry in entries}
        except (InputError, KeyError, TypeError, ValueError, AttributeError, IndexError, yaml.YAMLError):
            return {}


def _quality(profiles: Any) -> QoS:
    """What the first publisher of a topic offered."""
    profiles = yaml.safe_load(profiles) if isinstance(profiles, str) else profiles
    if not profiles:
        return SENSOR
    return QoS(
        depth=max(int(profiles[0]['depth']), 1),
        reliable=profiles[0]['reliability'] not in _BEST_EFFORT,
        transient_local=profiles[0]['durability'] in _TRANSIENT_LOCAL,
    )
