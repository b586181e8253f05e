"""Recorder node: every episode of a robot becomes one bag, its messages as they were sent."""

from __future__ import annotations

import dataclasses
import datetime
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState, Joy

from dreamer_ros import options as shared
from dreamer_ros.episodes.assemble import PATIENCE, Actors, AlignedStep, StepAligner
from dreamer_ros.episodes.bag_writer import EpisodeWriter, new_episode
from dreamer_ros.errors import InputError
from dreamer_ros.options import Options
from dreamer_ros.robot.contract import load_contract
from dreamer_ros.ros import diagnostics
from dreamer_ros.ros.diagnostics import Diagnostics
from dreamer_ros.ros.disk_guard import DiskGuard
from dreamer_ros.ros.inbox import Inbox
from dreamer_ros.ros.ownership import Announcements
from dreamer_ros.ros.parameters import read_parameters
from dreamer_ros.ros.robot_recorder import RobotRecorder
from dreamer_ros.ros.runtime import run_node
from dreamer_ros.schema import Mismatch, load_json
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire import codecs, topics
from dreamer_ros.wire.codecs import Mode, Step

# Places among the recorded topics.
ACTION, STEP = -2, -1
BATCHING = 0.004  # seconds of messages taken in one go: fewer wake-ups beside a busy simulator
DRAIN_TIME = 0.5  # seconds at most, at the end, for messages still on their way
SAY_AGAIN = 5.0  # seconds between two lines about the same trouble
ORIGINS_KEPT = 100  # episodes whose steps may still be on their way


class RecorderParameters(Options):
    """What can be set of the recorder."""

    folder: shared.RequiredFolder
    robot: str = Field('', description="Part of the bags' names. Default: the namespace, or the robot's name.")
    contract: Annotated[
        shared.Contract,
        Field(
            description='Robot contract whose topics are recorded: a YAML file, or the name of a robot of sim/. '
            'Default: a simulator that announces itself on the topic `spec`.'
        ),
    ]
    episodes: int = Field(
        0,
        ge=0,
        le=10**6,
        description='Without a contract: keep so many whole episodes and nothing else. 0: everything that is played.',
    )
    disk_reserve: shared.DiskReserve

    @model_validator(mode='after')
    def _check_episodes(self) -> RecorderParameters:
        if self.contract and self.episodes:
            raise Mismatch('episodes', 'none with a contract', self.episodes)
        return self


class Episode:
    """The bag being written, and what its custom_data will say."""

    def __init__(self, writer: EpisodeWriter, period: int):
        self._writer = writer
        self._period = period
        self._names = ()
        self.first_stamp: int | None = None
        self._last_stamp: int | None = None
        self._return = 0.0
        self._actors = Actors()
        self._begun = self._ended = False
        self.length = 0
        self.lost_steps = 0
        self.incomplete_steps = 0

    def add(self, aligned: AlignedStep, names, step: Step, mode: Mode | None) -> None:
        """Write one step; `names` are the topics of its messages."""
        for name, message in zip(names, aligned.messages):
            if message is not None:
                self._writer.write(name, message, aligned.stamp)
        if self._last_stamp is not None:
            self.lost_steps += max(0, round((aligned.stamp - self._last_stamp) / self._period) - 1)
        else:
            self.first_stamp = aligned.stamp
        self._last_stamp = aligned.stamp
        self.incomplete_steps += None in aligned.messages
        self._begun |= step.is_first
        self._ended |= step.is_last
        self.length += 1
        self._return += step.reward
        if mode is not None:
            self._actors.add(mode)

    def close(self, custom_data: Mapping[str, str]) -> Path:
        """Finish the bag; `custom_data` is what came to be known of it meanwhile."""
        return self._writer.close(
            {**custom_data, 'return': repr(self._return), 'length': str(self.length), **self._actors.data()}
        )

    def abort(self) -> None:
        """Leave no bag."""
        self._writer.abort()

    @property
    def whole(self) -> bool:
        """Whether every step from the first to the last of the episode is in it."""
        return self._begun and self._ended and not self.lost_steps

    def summary(self) -> str:
        """For the log."""
        version = self._actors.version
        policy = '' if version is None else f', policy {version}'
        return f'{self.length} steps, return {self._return:.1f}, {self._actors.mode}{policy}'


class Recorder:
    """Writes what a simulator and its agent say, one bag per episode.

    Args:
        node: fresh; its parameters are declared.
        stop: ends `run`, which then saves the open episode as it is.
        folder: of the bags.
        robot: part of their names; '' for the namespace or task.
        episodes: keep so many whole ones and nothing else; 0 for everything that is played.
        disk: stops the recording before the disk is full.
    """

    def __init__(self, node: Node, stop: threading.Event, folder: Path, robot: str, episodes: int, disk: DiskGuard):
        self._node, self._stop, self._folder, self._disk = node, stop, folder, disk
        self._robot, self._wanted = robot, episodes
        self._log = node.get_logger()
        self._inbox = Inbox(node)
        self._announcements = Announcements(self._inbox)
        self._simulations = self._inbox.subscribe(topics.SIMULATION, topics.SIMULATION.qos)
        self._origins: dict[int, str] = {}  # by stamp of the episode's first step
        self._aligner: StepAligner | None = None
        self._spec: RobotSpec | None = None
        self._episode: Episode | None = None
        self._episodes = self._whole = self._steps = self._lost = self._incomplete = 0

    def run(self) -> None:
        """Record until the stop event is set.

        Raises:
            InputError: the disk refuses or is nearly full; or another robot came to these topics.
        """
        self._diagnostics = Diagnostics(self._node, 'recording', self._robot, self._report)
        try:
            while not self._stop.is_set():
                self._inbox.wait(0.1)
                self._turn()
                self._disk.check()
                self._diagnostics.tick()
                self._stop.wait(BATCHING)
            self._drain()
        finally:
            if self._episode is not None:
                self._close_episode()

    def _turn(self) -> int:
        """Take and write everything that came; returns how many messages that was."""
        self._take_spec()
        self._take_origins()
        if self._spec is None:
            return 0
        now = time.monotonic()
        count = 0
        for number, subscription in enumerate(self._subscriptions):
            while (message := subscription.take()) is not None:
                self._aligner.add(number, codecs.header_stamp(message), message, now)
                count += 1
        for aligned in self._aligner.take(now):
            self._record(aligned)
        return count

    def _subscribe(self, spec: RobotSpec) -> None:
        # `step` last: a simulator that sees it in the graph may count on the others.
        recorded = (
            *topics.images(spec.cameras),
            *topics.camera_infos(spec.cameras),
            topics.JOINT_STATES,
            topics.ACTION,
            topics.STEP,
        )
        self._subscriptions = [
            self._inbox.subscribe(
                topic,
                topics.RECORDER_ACTION_SUBSCRIBER if topic is topics.ACTION else topics.RECORDER_SUBSCRIBER,
                raw=True,
            )
            for topic in recorded
        ]
        self._names = tuple(subscription.topic_name for subscription in self._subscriptions)
        self._topics = [dataclasses.replace(topic, name=name) for topic, name in zip(recorded, self._names)]
        self._aligner = StepAligner(len(recorded), leader=len(recorded) + STEP)

    def _drain(self) -> None:
        """Give messages that were under way when the stop came the time to arrive; then write what there is."""
        began = time.monotonic()
        while self._turn() or self._aligner and self._aligner.waiting:
            # The newest observation has no answer, as a rule. One that waits before it will get what it lacks.
            limit = PATIENCE if self._aligner and self._aligner.waiting > 1 else DRAIN_TIME
            if time.monotonic() - began > limit:
                break
            time.sleep(0.02)
        for aligned in self._aligner.take_rest() if self._aligner else ():
            self._record(aligned)

    def _take_spec(self) -> None:
        spec = self._announcements.take()
        if spec is None:
            return
        if self._spec is not None and spec.hash != self._spec.hash:
            raise InputError(
                f'topic {self._announcements.topic}: expected the robot {self._spec.name} that is being '
                f'recorded, got {spec.name}: {self._spec.difference(spec)}'
            )
        if self._spec is None:
            self._subscribe(spec)
        self._spec = spec
        self._robot = self._robot or self._node.get_namespace().strip('/') or spec.name

    def _take_origins(self) -> None:
        """What simulators say at a reset, so that the episode can be simulated once more."""
        while (message := self._simulations.take()) is not None:
            try:
                self._origins[int(load_json(message.data, self._simulations.topic_name)['stamp'])] = message.data
            except (ValueError, KeyError, TypeError):
                self._log.warning(
                    f'{self._simulations.topic_name}: expected JSON with a stamp, got {message.data[:60]!r}',
                    throttle_duration_sec=SAY_AGAIN,
                )
            while len(self._origins) > ORIGINS_KEPT:
                del self._origins[next(iter(self._origins))]

    def _origin(self, first_stamp: int) -> dict[str, str]:
        origin = self._origins.get(first_stamp)
        return {'simulation': origin} if origin else {}

    def _record(self, aligned: AlignedStep) -> None:
        try:
            step = codecs.read_step(deserialize_message(aligned.messages[STEP], JointState))
        except InputError as error:
            self._log.warning(f'left out: {error}', throttle_duration_sec=SAY_AGAIN)
            return
        if step.is_first and self._episode is not None:
            self._close_episode()  # its simulator died before is_last
        if self._wanted and (self._whole == self._wanted or not (self._episode or step.is_first)):
            return
        episode = self._episode or self._open_episode(aligned.stamp)
        self._episode = None  # a bag that the disk refused is closed already, whole up to its last chunk
        episode.add(aligned, self._names, step, self._mode(aligned.messages[ACTION]))
        self._episode = episode
        self._steps += 1
        if step.is_last:
            self._close_episode()

    def _mode(self, action: bytes | None) -> Mode | None:
        if action is None:
            return None
        try:
            return codecs.parse_mode(deserialize_message(action, Joy).header.frame_id)
        except InputError as error:
            self._log.warning(str(error), throttle_duration_sec=SAY_AGAIN)
            return None

    def _open_episode(self, first_stamp: int) -> Episode:
        spec = self._spec
        now = datetime.datetime.now(datetime.timezone.utc)
        writer = new_episode(
            self._folder,
            self._robot,
            self._episodes,
            now,
            self._topics,
            {
                'task': spec.name,
                'robot': self._robot,
                'spec': spec.to_json(),
                'spec_hash': spec.hash,
                **self._origin(first_stamp),
            },
        )
        self._episodes += 1
        return Episode(writer, round(spec.control_period * 1e9))

    def _close_episode(self) -> None:
        episode, self._episode = self._episode, None
        # A single observation is what a robot leaves whose learner or agent was refused at the start.
        if episode.length < 2 or self._wanted and not episode.whole:
            episode.abort()
            return
        path = episode.close(self._origin(episode.first_stamp))
        self._whole += episode.whole
        self._lost += episode.lost_steps
        self._incomplete += episode.incomplete_steps
        if episode.lost_steps or episode.incomplete_steps:
            self._log.warning(
                f'{path.name}: {episode.lost_steps} steps never came and '
                f'{episode.incomplete_steps} lack a message; {episode.summary()}'
            )
        else:
            self._log.debug(f'{path.name}: {episode.summary()}')

    def _report(self) -> diagnostics.Report:
        values = {
            'episodes': self._episodes,
            'steps': self._steps,
            'steps lost': self._lost,
            'steps incomplete': self._incomplete,
            'repeats': self._aligner.repeats if self._aligner else 0,
        }
        if self._spec is None:
            return diagnostics.WARN, f'waiting for a robot on {self._announcements.topic}', values
        return diagnostics.OK, f'writing to {self._folder}', values


def main() -> int:
    """Entry point of `ros2 run dreamer_ros recorder`."""
    return run_node('recorder', _record)


def _record(node: Node, stop: threading.Event) -> None:
    parameters = read_parameters(node, RecorderParameters)
    folder = Path(parameters.folder).expanduser()
    disk = DiskGuard(folder, parameters.disk_reserve)
    disk.check()  # before anybody counts on this recorder
    if parameters.contract:
        RobotRecorder(node, stop, load_contract(parameters.contract), folder, parameters.robot, disk).run()
    else:
        Recorder(node, stop, folder, parameters.robot, parameters.episodes, disk).run()


if __name__ == '__main__':
    sys.exit(main())
