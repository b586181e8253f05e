"""Records the topics of a robot with a contract, one bag per episode or request."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import json
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState, Joy
from std_srvs.srv import Trigger

from dreamer_ros.episodes.assemble import Tally
from dreamer_ros.episodes.bag_writer import EpisodeWriter, new_episode
from dreamer_ros.episodes.episode import robot_data
from dreamer_ros.episodes.report import Regularity
from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import IMAGE_TYPES, RobotContract
from dreamer_ros.ros import diagnostics
from dreamer_ros.ros.diagnostics import Diagnostics
from dreamer_ros.ros.disk_guard import DiskGuard
from dreamer_ros.ros.inbox import Inbox, PolledSubscription
from dreamer_ros.wire import codecs, topics
from dreamer_ros.wire.fields import has_header
from dreamer_ros.wire.topics import QoS, Topic

BUFFER = 64 * 2**20  # bytes on their way to the disk
BEFORE = 0.5  # seconds that a bag begins before its first step, because the agent saw older messages
BEFORE_BYTES = 8 * 2**20  # of one topic
AFTER = 0.25  # seconds that a bag goes on after its last step, for late messages
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
    """The bag being written, and its statistics."""

    def __init__(self, writer: EpisodeWriter, contract: RobotContract, sources: list[_Source], requested: bool):
        self.writer = writer
        self.requested = requested
        self.regularity = {source.name: Regularity(source.late_after) for source in sources}
        self.closes_at = math.inf  # monotonic seconds
        self.begun = time.monotonic()
        self.tally = Tally(contract=contract)
        self.verdict: codecs.Verdict | None = None

    def custom_data(self) -> dict[str, str]:
        """The statistics, for custom_data."""
        data = {'report': json.dumps({name: entry.to_dict() for name, entry in self.regularity.items()})}
        if len(self.tally):
            human = sum(mode is not None and mode.kind == 'human' for mode in self.tally.modes)
            data.update(self.tally.data(), human_steps=str(human))
        return data | (self.verdict.data() if self.verdict else {})

    def __str__(self) -> str:
        """For the log."""
        messages = sum(entry.messages for entry in self.regularity.values())
        steps = f'{self.tally}, ' if len(self.tally) else ''
        return f'{steps}{messages} messages in {time.monotonic() - self.begun:.1f} s'


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


class RobotRecorder:
    """Writes the messages of a robot and its agent.

    With an agent, a bag is an episode, from is_first to is_last of `step`. Otherwise `~/start` begins a bag and
    `~/stop` ends it. Images are never parsed. A thread writes, so that a slow disk makes no message late, and
    the memory of what waits for it is bounded.

    Args:
        node: fresh; its parameters are declared.
        stop: ends `run`, which then saves the open bag.
        contract: of the robot.
        folder: of the bags.
        robot: part of their names; '' for the namespace or the contract's name.
        disk: stops the recording before the disk is full.
    """

    def __init__(
        self, node: Node, stop: threading.Event, contract: RobotContract, folder: Path, robot: str, disk: DiskGuard
    ):
        self._node, self._stop, self._contract, self._folder, self._disk = node, stop, contract, folder, disk
        self._log = node.get_logger()
        namespace = node.get_namespace()
        self._robot = robot or namespace.strip('/') or contract.name
        self._inbox = Inbox(node)
        observed = dict.fromkeys((*contract.topics, contract.command_topic))
        limits = contract.age_limits([*contract.cameras.values(), *contract.sources])
        self._sources = [
            _Source(
                topic,
                namespace,
                limits.get(topic.name, math.inf),
                contract.stamps == 'header' and topic != contract.command_topic and has_header(topic.type),
            )
            for topic in observed
        ]
        # Steps before actions: an action waits for the step it answers.
        self._steps, self._actions = (
            _Source(topic, namespace, math.inf, True) for topic in (topics.STEP, topics.ACTION)
        )
        self._all = [*self._sources, self._steps, self._actions]
        for source in (self._steps, self._actions):
            source.subscription = self._inbox.subscribe(source.topic, topics.RECORDER_SUBSCRIBER, raw=True)
        self._unanswered: deque[_Message] = deque(maxlen=DEPTH)
        self._last_step = 0
        self._bag: _Bag | None = None
        self._bags = self._messages = self._lost = 0
        self._background = _Background()
        self._next_look = 0.0
        node.create_service(Trigger, '~/start', self._on_start)
        node.create_service(Trigger, '~/stop', self._on_stop)

    def run(self) -> None:
        """Record until the stop event is set.

        Raises:
            InputError: the disk refuses or is nearly full.
        """
        self._diagnostics = Diagnostics(self._node, 'recording', self._robot, self._report)
        self._log.info(
            f'waiting for a step with is_first on {self._steps.name}, or for a call of '
            f'{self._node.get_fully_qualified_name()}/start'
        )
        try:
            while not self._stop.is_set():
                self._look_for_publishers()
                self._inbox.wait(0.1)
                self._turn()
                self._background.check()
                self._disk.check()
                self._diagnostics.tick()
        finally:
            try:
                if self._bag is not None:
                    self._close()
            finally:
                self._background.close()

    def _look_for_publishers(self) -> None:
        """Subscribe with the reliability of the publishers, because a reliable subscription misses best-effort ones."""
        now = time.monotonic()
        if now < self._next_look:
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

    # Messages

    def _turn(self) -> None:
        """Take everything that came."""
        for source in (self._steps, *self._sources, self._actions):
            if source.subscription is None:
                continue
            while (taken := source.subscription.take_with_info()) is not None:
                self._take(source, *taken)
        self._write_answers()
        if self._bag is not None and time.monotonic() >= self._bag.closes_at:
            self._close()

    def _take(self, source: _Source, cdr: bytes, info: dict[str, Any]) -> None:
        published = info['source_timestamp'] or time.time_ns()
        try:
            stamp = codecs.header_stamp(cdr) if source.by_header else published
        except InputError as error:
            self._log.warning(f'{source.name}: left out: {error}', throttle_duration_sec=SAY_AGAIN)
            return
        message = _Message(cdr, stamp, published, self._node.get_clock().now().nanoseconds, source.lost(info))
        self._messages += 1
        self._lost += message.lost
        if source is self._steps:
            self._take_step(message)
        elif source is self._actions:
            self._unanswered.append(message)
        else:
            source.remember(message)
            if self._bag is not None:
                self._write(source, message)

    def _take_step(self, message: _Message) -> None:
        try:
            told = deserialize_message(message.cdr, JointState)
            step, verdict = codecs.read_step(told), codecs.read_verdict(told)
        except InputError as error:
            self._log.warning(f'{self._steps.name}: left out: {error}', throttle_duration_sec=SAY_AGAIN)
            return
        self._last_step = message.stamp
        if self._bag is None or not self._bag.requested:
            if step.is_first:
                if self._bag is not None:
                    self._close()
                self._open(requested=False)
            elif self._bag is None or self._bag.closes_at < math.inf:
                return  # began before this recorder did, or after the end
        self._bag.tally.add(step)
        self._bag.verdict = verdict or self._bag.verdict
        self._write(self._steps, message)
        if step.is_last and not self._bag.requested:
            self._bag.closes_at = time.monotonic() + AFTER

    def _write_answers(self) -> None:
        """Write the actions whose steps are written."""
        while self._unanswered and self._unanswered[0].stamp <= self._last_step:
            message = self._unanswered.popleft()
            bag = self._bag
            if bag is not None and len(bag.tally) and message.stamp >= bag.tally.first.stamp:
                self._write(self._actions, message)
                bag.tally.add_action(message.stamp, deserialize_message(message.cdr, Joy).header.frame_id)

    def _write(self, source: _Source, message: _Message) -> None:
        self._bag.regularity[source.name].add(message.stamp, message.arrived, message.lost)
        job = functools.partial(self._bag.writer.write, source.name, message.cdr, message.published)
        self._background.submit(job, len(message.cdr))

    # Bags

    def _open(self, requested: bool) -> None:
        self._disk.check(at_once=True)
        recorded = [dataclasses.replace(source.topic, name=source.name) for source in self._all]
        data = robot_data(self._robot, self._contract.spec, self._contract)
        writer = new_episode(self._folder, self._robot, self._bags, recorded, data)
        self._bags += 1
        self._bag = _Bag(writer, self._contract, self._all, requested)
        for source in self._sources:
            for message in source.recent:
                self._write(source, message)

    def _close(self) -> None:
        self._write_answers()
        bag, self._bag = self._bag, None
        data = bag.custom_data()
        self._background.submit(lambda: self._tell(bag, bag.writer.close(data)))

    def _tell(self, bag: _Bag, path: Path) -> None:
        """Log the statistics of a finished bag."""
        self._log.info(f'{path.name}: {bag}')
        for name, entry in bag.regularity.items():
            if entry.messages:
                self._log.info(f'  {name}: {entry}')
        silent = [source.name for source in self._sources if not bag.regularity[source.name].messages]
        if silent:
            self._log.warning(f'{path.name}: nothing came on {", ".join(silent)}')

    # Services

    def _on_start(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._bag is not None:
            return _answer(response, False, 'a bag is being written already; ~/stop ends it')
        try:
            self._open(requested=True)
        except InputError as error:
            return _answer(response, False, str(error))
        missing = self._missing()
        return _answer(response, True, f'recording to {self._folder}' + (f'; {missing}' if missing else ''))

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self._bag is None:
            return _answer(response, False, 'no bag is being written')
        summary = str(self._bag)
        self._close()
        return _answer(response, True, summary)

    def _missing(self) -> str:
        """The topics without a publisher, as a sentence."""
        missing = [source.name for source in self._sources if source.subscription is None]
        return f'nobody publishes {", ".join(missing)}' if missing else ''

    def _report(self) -> diagnostics.Report:
        values = {
            'bags': self._bags,
            'messages': self._messages,
            'messages lost': self._lost,
            'bytes waiting for the disk': self._background.held,
        }
        if missing := self._missing():
            return diagnostics.WARN, missing, values
        state = 'waiting for an episode' if self._bag is None else f'writing to {self._folder}'
        return diagnostics.OK, state, values


def _answer(response: Trigger.Response, success: bool, message: str) -> Trigger.Response:
    response.success, response.message = success, message
    return response
