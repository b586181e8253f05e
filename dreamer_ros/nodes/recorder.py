"""Recorder node: writes every episode of a robot to one bag, with its messages as they were sent."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState, Joy

from dreamer_ros import options as shared
from dreamer_ros.episodes.assemble import PATIENCE, StepAligner, Tally
from dreamer_ros.episodes.bag_writer import EpisodeWriter, new_episode
from dreamer_ros.episodes.episode import robot_data
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

BATCHING = 0.004  # seconds of messages taken at once, for fewer wake-ups beside a busy simulator
DRAIN_TIME = 0.5  # seconds at most to wait for the last messages
SAY_AGAIN = 5.0  # seconds between two lines about the same problem
ORIGINS_KEPT = 100  # episodes whose steps may still be on their way


class RecorderParameters(Options):
    """Parameters of the recorder."""

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
        0, ge=0, le=10**6, description='Without a contract: keep only so many whole episodes. 0: keep everything.'
    )
    disk_reserve: shared.DiskReserve

    @model_validator(mode='after')
    def _check_episodes(self) -> RecorderParameters:
        if self.contract and self.episodes:
            raise Mismatch('episodes', 'none with a contract', self.episodes)
        return self


class Recorder:
    """Writes the messages of a simulator and its agent, one bag per episode.

    Args:
        node: fresh; its parameters are declared.
        stop: ends `run`, which then saves the open episode as it is.
        folder: of the bags.
        robot: part of their names; '' for the namespace or task.
        episodes: keep only so many whole ones; 0 for everything.
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
        self._writer: EpisodeWriter | None = None  # of the bag being written, whose steps are in `_tally`
        self._episodes = self._whole = self._steps = self._lost = self._incomplete = 0

    def run(self) -> None:
        """Record until the stop event is set.

        Raises:
            InputError: the disk refuses or is nearly full, or another robot came to these topics.
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
            if self._writer is not None:
                self._close_episode()

    def _turn(self) -> int:
        """Take and write everything that came. Returns how many messages that was."""
        self._take_spec()
        self._take_origins()
        if self._spec is None:
            return 0
        now = time.monotonic()
        count = 0
        for subscription in self._subscriptions:
            while (message := subscription.take()) is not None:
                try:
                    self._aligner.add(subscription.topic_name, codecs.header_stamp(message), message, now)
                except InputError as error:
                    self._log.warning(f'{subscription.topic_name}: left out: {error}', throttle_duration_sec=SAY_AGAIN)
                count += 1
        for stamp, messages in self._aligner.take(now):
            self._record(stamp, messages)
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
        names = [subscription.topic_name for subscription in self._subscriptions]
        *_, self._action, self._step = names
        self._topics = [dataclasses.replace(topic, name=name) for topic, name in zip(recorded, names)]
        self._aligner = StepAligner(names, leader=self._step)

    def _drain(self) -> None:
        """Wait for messages on their way, then write what is left."""
        began = time.monotonic()
        while self._turn() or self._aligner and self._aligner.waiting:
            # The newest observation usually has no answer. One before it will get what it lacks.
            limit = PATIENCE if self._aligner and self._aligner.waiting > 1 else DRAIN_TIME
            if time.monotonic() - began > limit:
                break
            time.sleep(0.02)
        for stamp, messages in self._aligner.take_rest() if self._aligner else ():
            self._record(stamp, messages)

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
        """Take what simulators say at a reset, from which the resimulator can repeat the episode."""
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

    def _record(self, stamp: int, messages: dict[str, bytes]) -> None:
        """Write one step, and open or close its episode."""
        try:
            step = codecs.read_step(deserialize_message(messages[self._step], JointState))
        except InputError as error:
            self._log.warning(f'left out: {error}', throttle_duration_sec=SAY_AGAIN)
            return
        if step.is_first and self._writer is not None:
            self._close_episode()  # its simulator died before is_last
        if self._wanted and (self._whole == self._wanted or not (self._writer or step.is_first)):
            return
        if self._writer is None:
            self._open_episode(stamp)
        for name, message in messages.items():
            self._writer.write(name, message, stamp)
        self._tally.add(step)
        if self._action in messages:
            self._tally.add_action(stamp, deserialize_message(messages[self._action], Joy).header.frame_id)
        self._gaps += len(messages) < len(self._topics)
        self._steps += 1
        if step.is_last:
            self._close_episode()

    def _open_episode(self, first_stamp: int) -> None:
        data = {**robot_data(self._robot, self._spec), **self._origin(first_stamp)}
        self._writer = new_episode(self._folder, self._robot, self._episodes, self._topics, data)
        self._tally = Tally(self._spec.control_period)
        self._gaps = 0  # steps that lack a message
        self._episodes += 1

    def _close_episode(self) -> None:
        writer, self._writer = self._writer, None
        tally = self._tally
        # A robot leaves a single observation if its learner or agent was refused at the start.
        if len(tally) < 2 or self._wanted and not tally.is_whole:
            writer.abort()
            return
        path = writer.close({**self._origin(tally.first.stamp), **tally.data()})
        self._whole += tally.is_whole
        self._lost += tally.missing
        self._incomplete += self._gaps
        if tally.missing or self._gaps:
            self._log.warning(f'{path.name}: {tally.missing} steps never came and {self._gaps} lack a message; {tally}')
        else:
            self._log.debug(f'{path.name}: {tally}')

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
    return run_node('recorder', _record, may_freeze=True)


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
