"""Records the topics of a robot with a contract as they are sent: on request, or beside its episodes."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import json
import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from std_srvs.srv import Trigger

from dreamer_ros.episodes.bag_writer import EpisodeWriter, new_episode
from dreamer_ros.episodes.episode import robot_data
from dreamer_ros.episodes.report import Regularity
from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import IMAGE_TYPES, RobotContract
from dreamer_ros.ros.disk_guard import DiskGuard
from dreamer_ros.ros.inbox import Inbox, PolledSubscription
from dreamer_ros.wire import codecs, topics
from dreamer_ros.wire.fields import has_header
from dreamer_ros.wire.topics import QoS, Topic

BUFFER = 64 * 2**20  # bytes on their way to the disk
BEFORE = 0.5  # seconds that a bag begins before it is asked for, because the agent saw older messages
BEFORE_BYTES = 8 * 2**20  # of one topic
LOOK = 0.5  # seconds between two looks for publishers
SAY_AGAIN = 5.0  # seconds between two lines about the same problem
IMAGE_DEPTH, DEPTH = 15, 1000  # of queues, enough for half a second


class _Message(NamedTuple):
    """A received message.

    Attributes:
        stamp: when it counts as measured, ns.
        published: ns.
        arrived: by the node's clock, ns.
        lost: how many of its publisher's messages just before it never came.
    """

    cdr: bytes
    stamp: int
    published: int
    arrived: int
    lost: int


class _Source:
    """A topic that is recorded.

    Args:
        topic: as the contract names it.
        namespace: of the robot.
    """

    def __init__(self, topic: Topic, namespace: str, late_after: float, by_header: bool):
        self.topic = topic
        # The contract finds it again by this name, whatever it was remapped from.
        self.name = topic.within(namespace).name
        self.late_after = late_after
        self.by_header = by_header
        self.subscription: PolledSubscription | None = None
        self.recent: deque[_Message] = deque()
        self._recent_bytes = 0
        self._sequences: dict[bytes, int] = {}  # of each publisher

    def remember(self, message: _Message) -> None:
        """Keep a message for an episode that is about to begin."""
        self.recent.append(message)
        self._recent_bytes += len(message.cdr)
        while len(self.recent) > 1 and (
            message.published - self.recent[0].published > BEFORE * 1e9 or self._recent_bytes > BEFORE_BYTES
        ):
            self._recent_bytes -= len(self.recent.popleft().cdr)

    def lost(self, info: dict[str, Any]) -> int:
        """How many of the publisher's messages just before the one with this info never came."""
        publisher, number = info.get('publisher_gid'), info.get('publication_sequence_number')
        if publisher is None or number is None:
            return 0
        key = bytes(publisher['data'])
        before = self._sequences.get(key, number - 1)
        self._sequences[key] = number
        return max(0, number - before - 1)


class _Bag:
    """The bag being written, and how regularly its messages came. Steps and actions before `first` are not of it."""

    def __init__(self, writer: EpisodeWriter, sources: list[_Source], first: int):
        self.writer, self.first = writer, first
        self.regularity = {source.name: Regularity(source.late_after) for source in sources}
        self.begun = time.monotonic()

    def custom_data(self) -> dict[str, str]:
        """For people who look into the bag."""
        return {'report': json.dumps({name: entry.to_dict() for name, entry in self.regularity.items()})}

    def __str__(self) -> str:
        """For the log."""
        messages = sum(entry.messages for entry in self.regularity.values())
        return f'{messages} messages in {time.monotonic() - self.begun:.1f} s'


class _Background:
    """A thread that runs jobs one after another, so that a slow disk delays nobody. Not thread-safe itself."""

    def __init__(self):
        self._executor = concurrent.futures.ThreadPoolExecutor(1, 'writing')
        self._jobs: deque[tuple[concurrent.futures.Future, int]] = deque()
        self.held = 0  # bytes of the jobs that wait

    def submit(self, job: Callable[[], None], size: int = 0) -> None:
        """Queue a job that holds `size` bytes, as soon as `BUFFER` has room. Raises what an earlier job raised."""
        while self._jobs and self.held + size > BUFFER:
            self._end_oldest()
        self._jobs.append((self._executor.submit(job), size))
        self.held += size

    def check(self) -> None:
        """Raise what a job raised."""
        while self._jobs and self._jobs[0][0].done():
            self._end_oldest()

    def close(self) -> None:
        """Finish the queue, end the thread, raise what a job raised."""
        self._executor.shutdown()
        self.check()

    def _end_oldest(self) -> None:
        job, size = self._jobs.popleft()
        self.held -= size
        job.result()


class TopicRecorder:
    """Writes the topics of a robot as they are sent, with `step` and `action` of its agent if there is one.

    `~/start` begins a bag and `~/stop` ends it. Images are never parsed. A thread writes, so that a slow disk makes no
    message late, and the memory of what waits for it is bounded.

    Args:
        node: its parameters are declared.
        inbox: of its loop.
        contract: of the robot.
        folder: of the bags.
        robot: part of their names.
        disk: refuses a new bag before the disk is full.
        always: listen also while no bag is written, so that one begins with what came just before.

    Attributes:
        writing: whether a bag is being written.
    """

    def __init__(
        self, node: Node, inbox: Inbox, contract: RobotContract, folder: Path, robot: str, disk: DiskGuard, always: bool
    ):
        self._node, self._inbox, self._contract, self._disk = node, inbox, contract, disk
        self._folder, self._robot, self._listening = folder, robot, always
        self._log = node.get_logger()
        self._simulated = node.get_parameter('use_sim_time').value
        observed = dict.fromkeys((*contract.topics, *contract.command_topics, topics.STEP, topics.ACTION))
        unstamped = contract.topics if contract.stamps == 'receive' else ()
        limits = contract.age_limits([*contract.cameras.values(), *contract.sources])
        self._sources = [
            _Source(
                topic,
                node.get_namespace(),
                limits.get(topic.name, math.inf),
                topic not in (*unstamped, *contract.command_topics) and has_header(topic.type),
            )
            for topic in observed
        ]
        self._bag: _Bag | None = None
        self._messages = self._lost = 0
        self._background = _Background()
        self._next_look = 0.0
        node.create_service(Trigger, '~/start', self._on_start)
        node.create_service(Trigger, '~/stop', self._on_stop)
        self.refusal = ''  # why ~/start must not begin a bag

    @property
    def writing(self) -> bool:
        return self._bag is not None

    def turn(self) -> None:
        """Take everything that came.

        Raises:
            InputError: the disk refuses.
        """
        self._look_for_publishers()
        for source in self._sources:
            if source.subscription is None:
                continue
            while (taken := source.subscription.take_with_info()) is not None:
                self._take(source, *taken)
        self._background.check()

    def begin(self, folder: Path, name: str, first: int) -> None:
        """Begin a bag with a name, for an episode whose first step has the stamp `first`.

        Raises:
            InputError: the disk refuses.
        """
        self._open(functools.partial(EpisodeWriter, folder, name), first)

    def end(self) -> None:
        """End the bag, if one is being written."""
        if self._bag is None:
            return
        bag, self._bag = self._bag, None
        data = bag.custom_data()
        self._background.submit(lambda: self._tell(bag, bag.writer.close(data)))

    def close(self) -> None:
        """End the bag and wait until everything is on the disk.

        Raises:
            InputError: the disk refuses.
        """
        self.end()
        self._background.close()

    def missing(self) -> str:
        """The observed topics without a publisher, as a sentence, while it listens."""
        missing = [source.name for source in self._sources[:-2] if source.subscription is None]
        return f'nobody publishes {", ".join(missing)}' if missing and self._listening else ''

    def values(self) -> dict[str, int]:
        """For diagnostics."""
        return {
            'messages': self._messages,
            'messages lost': self._lost,
            'bytes waiting for the disk': self._background.held,
        }

    def _look_for_publishers(self) -> None:
        """Subscribe with the reliability of the publishers, because a reliable subscription misses best-effort ones."""
        now = time.monotonic()
        if not self._listening or now < self._next_look:
            return
        self._next_look = now + LOOK
        for source in self._sources:
            if source.subscription is not None:
                continue
            name = self._node.resolve_topic_name(source.topic.name)
            publishers = self._node.get_publishers_info_by_topic(name)
            strange = sorted({info.topic_type for info in publishers} - {source.topic.type})
            if strange:
                self._log.warning(
                    f'{name}: expected {source.topic.type}, as {self._contract.source} says, got {", ".join(strange)}',
                    throttle_duration_sec=SAY_AGAIN,
                )
            if len(publishers) > len(strange):
                reliable = all(info.qos_profile.reliability != ReliabilityPolicy.BEST_EFFORT for info in publishers)
                latched = all(info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL for info in publishers)
                quality = QoS(IMAGE_DEPTH if source.topic.type in IMAGE_TYPES else DEPTH, reliable, latched)
                source.topic = dataclasses.replace(source.topic, qos=QoS(source.topic.qos.depth, reliable))
                source.subscription = self._inbox.subscribe(source.topic, quality, raw=True)

    def _take(self, source: _Source, cdr: bytes, info: dict[str, Any]) -> None:
        arrived = self._node.get_clock().now().nanoseconds
        published = arrived if self._simulated else info['source_timestamp'] or time.time_ns()
        try:
            stamp = codecs.header_stamp(cdr) if source.by_header else published
        except InputError as error:
            self._log.warning(f'{source.name}: left out: {error}', throttle_duration_sec=SAY_AGAIN)
            return
        message = _Message(cdr, stamp, published, arrived, source.lost(info))
        self._messages += 1
        self._lost += message.lost
        source.remember(message)
        if self._bag is not None:
            self._write(source, message)

    def _write(self, source: _Source, message: _Message) -> None:
        if source.topic.name in (topics.STEP.name, topics.ACTION.name) and message.stamp < self._bag.first:
            return
        self._bag.regularity[source.name].add(message.stamp, message.arrived, message.lost)
        job = functools.partial(self._bag.writer.write, source.name, message.cdr, message.published)
        self._background.submit(job, len(message.cdr))

    def _open(self, make: Callable[[list[Topic], dict[str, str]], EpisodeWriter], first: int) -> None:
        self._disk.check(at_once=True)
        recorded = [dataclasses.replace(source.topic, name=source.name) for source in self._sources]
        data = robot_data(self._robot, self._contract.spec, self._contract)
        self._bag = _Bag(make(recorded, data), self._sources, first)
        for source in self._sources:
            for message in source.recent:
                self._write(source, message)

    def _tell(self, bag: _Bag, path: Path) -> None:
        """Log the statistics of a finished bag."""
        self._log.info(f'{path.name}: {bag}')
        for name, entry in bag.regularity.items():
            if entry.messages:
                self._log.info(f'  {name}: {entry}')
        silent = [source.name for source in self._sources[:-2] if not bag.regularity[source.name].messages]
        if silent:
            self._log.warning(f'{path.name}: nothing came on {", ".join(silent)}')

    def _on_start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._bag is not None or self.refusal:
            return _answer(response, False, self.refusal or 'a bag is being written already; ~/stop ends it')
        self._listening, self._next_look = True, 0.0
        try:
            self._look_for_publishers()
            self._open(
                functools.partial(new_episode, self._folder, self._robot, 0), self._node.get_clock().now().nanoseconds
            )
        except InputError as error:
            return _answer(response, False, str(error))
        missing = self.missing()
        return _answer(response, True, f'recording to {self._folder}' + (f'; {missing}' if missing else ''))

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._bag is None or self.refusal:
            return _answer(response, False, self.refusal or 'no bag is being written')
        summary = str(self._bag)
        self.end()
        return _answer(response, True, summary)


def _answer(response: Trigger.Response, success: bool, message: str) -> Trigger.Response:
    response.success, response.message = success, message
    return response
