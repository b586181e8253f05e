"""Recorder node: writes every episode to one bag, with the messages of its steps as they were sent."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator
from rclpy.node import Node
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image, JointState, Joy

from dreamer_ros import options as shared
from dreamer_ros.episodes.assemble import PATIENCE, StepAligner, Tally
from dreamer_ros.episodes.bag_writer import EpisodeWriter, new_episode
from dreamer_ros.episodes.episode import robot_data
from dreamer_ros.errors import InputError
from dreamer_ros.files import user_path
from dreamer_ros.options import Options
from dreamer_ros.robot.contract import RobotContract, load_contract
from dreamer_ros.ros import diagnostics
from dreamer_ros.ros.diagnostics import Diagnostics
from dreamer_ros.ros.disk_guard import DiskGuard
from dreamer_ros.ros.inbox import Inbox, parse
from dreamer_ros.ros.ownership import Announcements
from dreamer_ros.ros.parameters import read_parameters
from dreamer_ros.ros.runtime import run_node
from dreamer_ros.ros.topic_recorder import TopicRecorder
from dreamer_ros.schema import Mismatch, load_json
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire import codecs, topics
from dreamer_ros.wire.images import COMPRESSED, COMPRESSION, decode_image, fill_compressed

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
            description='Robot contract whose topics are recorded: a YAML file, or the name of a robot of sim/ or '
            'robots/. Default: a simulator that announces itself on the topic `spec`.'
        ),
    ]
    episodes: int = Field(
        0, ge=0, le=10**6, description='Without a contract: keep only so many whole episodes. 0: keep everything.'
    )
    raw: shared.Raw
    disk_reserve: shared.DiskReserve

    @model_validator(mode='after')
    def _check_episodes(self) -> RecorderParameters:
        if self.contract and self.episodes:
            raise Mismatch('episodes', 'none with a contract', self.episodes)
        if self.raw and not self.contract:
            raise Mismatch('raw', 'a contract, which names the topics', 'none')
        return self


class Recorder:
    """Writes one bag per episode: the messages of a simulator and its agent, or of the agent of a robot.

    Args:
        node: fresh; its parameters are declared.
        stop: ends `run`, which then saves the open episode as it is.
        parameters: of the node.
        contract: of the robot; None for a simulator.
        folder: of the bags.
        disk: stops the recording before the disk is full.
    """

    def __init__(
        self,
        node: Node,
        stop: threading.Event,
        parameters: RecorderParameters,
        contract: RobotContract | None,
        folder: Path,
        disk: DiskGuard,
    ):
        self._node, self._stop, self._folder, self._disk = node, stop, folder, disk
        self._wanted, self._contract = parameters.episodes, contract
        self._log = node.get_logger()
        self._inbox = Inbox(node)
        self._robot = parameters.robot
        self._announcements = Announcements(self._inbox)
        self._simulations = self._inbox.subscribe(topics.SIMULATION, topics.SIMULATION.qos)
        self._origins: dict[int, str] = {}  # by stamp of the episode's first step
        self._aligner: StepAligner | None = None
        self._spec: RobotSpec | None = None
        self._packed: dict[str, str] = {}  # topics of images that are recorded as PNG, and their names in the bag
        self._writer: EpisodeWriter | None = None  # of the bag being written, whose steps are in `_tally`
        self._verdict: codecs.Verdict | None = None  # a person's, on the running episode
        self._episodes = self._whole = self._steps = self._lost = self._incomplete = 0
        self._beside: TopicRecorder | None = None
        if contract is not None:
            self._robot = self._robot or node.get_namespace().strip('/') or contract.name
            self._subscribe(contract.spec)
            self._beside = TopicRecorder(node, self._inbox, contract, folder, self._robot, disk, parameters.raw)
        # Raw topics are kept apart: nobody who reads the episodes should find each of them twice.
        self._raw_folder = folder.with_name(f'{folder.name}-raw') if parameters.raw else None

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
            try:
                if self._writer is not None:
                    self._close_episode()
            finally:
                if self._beside is not None:
                    self._beside.close()

    def _turn(self) -> int:
        """Take and write everything that came. Returns how many messages that was."""
        self._take_spec()
        self._take_origins()
        if self._beside is not None:
            self._beside.turn()
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
        self._spec = spec
        if self._contract is None:
            seen = (*topics.images(spec.cameras), *topics.camera_infos(spec.cameras), topics.JOINT_STATES)
        else:
            seen = (*topics.observed_images(spec.cameras), *([topics.OBSERVED_VECTOR] if spec.vector else []))
        # `step` last: a simulator that sees it in the graph may count on the others.
        recorded = (*seen, topics.ACTION, topics.STEP)
        self._subscriptions = [
            self._inbox.subscribe(
                topic,
                topics.RECORDER_ACTION_SUBSCRIBER if topic is topics.ACTION else topics.RECORDER_SUBSCRIBER,
                raw=True,
                single=True,
            )
            for topic in recorded
        ]
        names = [subscription.topic_name for subscription in self._subscriptions]
        *_, self._action, self._step = names
        self._topics = [dataclasses.replace(topic, name=name) for topic, name in zip(recorded, names)]
        if self._contract is not None:
            # What a robot's camera sees has noise, which the chunks of a bag do not compress.
            for number, _ in enumerate(spec.cameras):
                name = names[number] + COMPRESSION
                self._topics[number] = dataclasses.replace(self._topics[number], name=name, type=COMPRESSED)
                self._packed[names[number]] = name
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
            told = parse(messages[self._step], JointState)
            step, verdict = codecs.read_step(told), codecs.read_verdict(told)
            actor = parse(messages[self._action], Joy).header.frame_id if self._action in messages else None
        except InputError as error:
            self._log.warning(f'left out: {error}', throttle_duration_sec=SAY_AGAIN)
            return
        if step.is_first and self._writer is not None:
            self._close_episode()  # its simulator died before is_last
        if self._wanted and (self._whole == self._wanted or not (self._writer or step.is_first)):
            return
        if self._writer is None and self._beside is not None and self._beside.writing:
            return  # somebody records on request, with steps and actions
        if self._writer is None:
            self._open_episode(stamp)
        for name, message in messages.items():
            if name in self._packed:
                self._writer.write(self._packed[name], _packed(message, stamp), stamp)
            else:
                self._writer.write(name, message, stamp)
        self._tally.add(step)
        self._verdict = verdict or self._verdict
        if actor is not None:
            self._tally.add_action(stamp, actor)
        self._gaps += len(messages) < len(self._topics)
        self._steps += 1
        if step.is_last:
            self._close_episode()

    def _open_episode(self, first_stamp: int) -> None:
        data = {**robot_data(self._robot, self._spec, self._contract), **self._origin(first_stamp)}
        self._writer = new_episode(self._folder, self._robot, self._episodes, self._topics, data)
        # The steps of a robot come when they come: their number does not tell whether some are missing.
        self._tally = Tally(None if self._contract else self._spec.control_period, self._contract)
        if self._beside is not None:
            self._beside.refusal = 'an episode is being recorded'
            if self._raw_folder is not None:
                self._beside.begin(self._raw_folder, self._writer.name, first_stamp)
        self._verdict = None
        self._gaps = 0  # steps that lack a message
        self._episodes += 1

    def _close_episode(self) -> None:
        writer, self._writer = self._writer, None
        tally = self._tally
        if self._beside is not None:
            self._beside.refusal = ''
            self._beside.end()
        # A robot leaves a single observation if its learner or agent was refused at the start.
        if len(tally) < 2 or self._wanted and not tally.is_whole:
            writer.abort()
            return
        data = {**self._origin(tally.first.stamp), **tally.data()}
        data |= self._verdict.data() if self._verdict else {}
        if self._contract is not None:
            data['human_steps'] = str(sum(mode is not None and mode.kind == 'human' for mode in tally.modes))
        path = writer.close(data)
        self._whole += tally.is_whole
        self._lost += tally.missing
        self._incomplete += self._gaps
        if tally.missing or self._gaps:
            self._log.warning(f'{path.name}: {tally.missing} steps never came and {self._gaps} lack a message; {tally}')
        else:
            (self._log.debug if self._contract is None else self._log.info)(f'{path.name}: {tally}')

    def _report(self) -> diagnostics.Report:
        values = {
            'episodes': self._episodes,
            'steps': self._steps,
            'steps lost': self._lost,
            'steps incomplete': self._incomplete,
            'repeats': self._aligner.repeats if self._aligner else 0,
            **(self._beside.values() if self._beside else {}),
        }
        if self._spec is None:
            return diagnostics.WARN, f'waiting for a robot on {self._announcements.topic}', values
        if self._beside is not None and (missing := self._beside.missing()):
            return diagnostics.WARN, missing, values
        return diagnostics.OK, f'writing to {self._folder}', values


def _packed(cdr: bytes, stamp: int) -> bytes:
    """A sensor_msgs/Image as a sensor_msgs/CompressedImage without loss; an empty one stays empty."""
    packed = CompressedImage()
    codecs.fill_stamp(packed.header.stamp, stamp)
    with contextlib.suppress(InputError):
        image = parse(cdr, Image)
        fill_compressed(packed, decode_image(image, topics.IMAGE.type), stamp, image.header.frame_id, 'png')
    return serialize_message(packed)


def main() -> int:
    """Entry point of `ros2 run dreamer_ros recorder`."""
    return run_node('recorder', _record, may_freeze=True)


def _record(node: Node, stop: threading.Event) -> None:
    parameters = read_parameters(node, RecorderParameters)
    folder = user_path(parameters.folder)
    disk = DiskGuard(folder, parameters.disk_reserve)
    disk.check()  # before anybody counts on this recorder
    contract = load_contract(parameters.contract) if parameters.contract else None
    Recorder(node, stop, parameters, contract, folder, disk).run()


if __name__ == '__main__':
    sys.exit(main())
