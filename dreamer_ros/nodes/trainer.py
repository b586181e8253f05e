"""Trainer node: learns from the episodes of all robots while they act, and sends them its policies."""

from __future__ import annotations

import collections
import contextlib
import functools
import math
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from builtin_interfaces.msg import Time
from pydantic import Field, model_validator
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from dreamer_ros import options as shared
from dreamer_ros.config import Config, load_preset
from dreamer_ros.episodes.episode import EpisodeInfo
from dreamer_ros.errors import InputError
from dreamer_ros.launcher import torchrun_rank
from dreamer_ros.options import Options
from dreamer_ros.policy.manifest import Manifest
from dreamer_ros.robot.contract import load_contract
from dreamer_ros.ros import diagnostics, qos
from dreamer_ros.ros.diagnostics import Diagnostics
from dreamer_ros.ros.inbox import Inbox
from dreamer_ros.ros.ownership import Announcements, TopicLock
from dreamer_ros.ros.parameters import read_parameters
from dreamer_ros.ros.runtime import run_node
from dreamer_ros.run_key import RunKey, given_key, key_of
from dreamer_ros.schema import Mismatch
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training import process
from dreamer_ros.training.progress import Progress
from dreamer_ros.training.robots import Robots
from dreamer_ros.training.run_directory import RunDirectory, new_logdir, preset_of
from dreamer_ros.training.schedule import Schedule
from dreamer_ros.wire import codecs, topics

if TYPE_CHECKING:
    from dreamer_ros.training.loop import Trainer
    from dreamer_ros.training.parallel import Team

QUIET = 2.0  # seconds without a step before a robot is called quiet
ASK_AGAIN = 1.0  # seconds without a step until the pace is published once more
SAY_AGAIN = 5.0  # seconds between two lines about what is waited for
BAG_TIME = 10.0  # seconds within which the bag of an ended episode is expected
DREAM_FPS = 10.0
GATHER = 0.005  # seconds that steps are left to gather, so that the learner keeps the interpreter


class TrainerParameters(Options):
    """Parameters of the trainer."""

    logdir: shared.Logdir
    preset: shared.Preset
    overrides: shared.Overrides
    robots: tuple[str, ...] = Field(('sim0',), description='Namespaces of the robots to learn from.')
    contract: Annotated[
        shared.Contract,
        Field(
            description='Robot contract. With it, the trainer learns from the bags that come into the folder episodes '
            'of the run, from wherever, instead of from robots that it listens to.'
        ),
    ]
    policies_url: str = Field(
        '',
        description='Address under which robots find the folder policies of the run, http://<host>:<port>/policies. '
        'Default: they see the same files.',
    )
    begin: shared.Begin
    steps: shared.Steps
    free_running: bool = Field(False, description='Update all the time instead of keeping the replay ratio.')
    seed: shared.Seed
    device: shared.Device
    learners: shared.Learners
    threads: int | None = Field(
        None, ge=1, le=1024, description='Threads of the learner on a CPU. Default: as many as fit the machine.'
    )
    signing_key: shared.SigningKey

    @model_validator(mode='after')
    def _check_robots(self) -> TrainerParameters:
        if self.contract and not self.free_running:
            raise Mismatch('contract', 'free_running with it, since such robots wait for nobody', self.contract)
        if not self.robots or len(set(self.robots)) < len(self.robots):
            raise Mismatch('robots', 'different names', list(self.robots))
        return self


class RosRobot:
    """How far one robot is, as its `step` topic tells.

    Attributes:
        name: its namespace.
        spec: None until it was received.
        live: stamps of agent steps that are not in the replay yet.
        stamp: of the newest observation that was heard, ns; None before the first.
        heard: when it came (monotonic seconds).
    """

    def __init__(self, node: Node, inbox: Inbox, name: str):
        self.name = name
        self.spec: RobotSpec | None = None
        self.live: collections.deque[int] = collections.deque()
        self.stamp: int | None = None
        self.heard = time.monotonic()
        self.announcements = Announcements(inbox, name)
        self.steps = inbox.subscribe(topics.STEP.below(name), topics.TRAINER_SUBSCRIBER, single=True)
        self._paces = qos.publisher(node, topics.PACE.below(name))
        self._reached = 0  # stamp of the newest observation, by `step` or by a bag
        self._granted: int | None = None  # stamp that the robot may reach
        self._asked = 0.0  # when that was published
        self._stored = 0  # stamp of the newest step that is in a bag of the store
        self._ended, self._ended_at = 0, 0.0  # live steps up to the latest end of an episode, and when it came

    def note(self, step: codecs.Step) -> None:
        """Count the step of one message, and those whose messages were lost before it. Repeated stamps do not count."""
        self.heard = time.monotonic()
        if step.is_first and step.stamp < (self._stored if self.stamp is None else self.stamp):
            # A simulator of a new session: its clock begins at the wall's, which an earlier one may have outrun.
            self.live.clear()
            self._stored = self._ended = self._reached = 0
        elif self.stamp is not None and step.stamp <= self.stamp:
            return
        elif self._has_been_granted(step.stamp):
            period = self._period()
            self.live.extend(range(max(self.stamp, self._stored) + period, step.stamp - period // 2, period))
        self.stamp, self._reached = step.stamp, max(self._reached, step.stamp)
        if not step.is_first and step.stamp > self._stored:
            self.live.append(step.stamp)
        if step.is_last:
            self._ended, self._ended_at = len(self.live), self.heard

    @property
    def ended(self) -> int:
        """Live steps whose episode has ended; 0 once its bag is overdue."""
        return self._ended if time.monotonic() - self._ended_at < BAG_TIME else 0

    def _has_been_granted(self, stamp: int) -> bool:
        """Whether a robot that was not heard can have reached this stamp: it goes no further than granted."""
        return self.stamp is not None and self._granted is not None and stamp <= self._granted

    def _period(self) -> int:
        return round(self.spec.control_period * 1e9)

    def forget(self, stamp: int) -> None:
        """Drop the live steps up to this stamp: they are in the replay now."""
        if self.stamp is not None and stamp > self._reached:
            if not self._has_been_granted(stamp):
                return  # recorded under an earlier clock
            self._reached = stamp  # its steps were not heard
        self._stored = max(self._stored, stamp)
        while self.live and self.live[0] <= stamp:
            self.live.popleft()
            self._ended = max(0, self._ended - 1)

    def grant(self, steps: int) -> None:
        """Allow observations up to `steps` periods after the newest one. A grant is never taken back."""
        if self.stamp is None:
            return
        pace = self._reached + steps * self._period()
        if self._granted is None or pace > self._granted:
            self._granted = pace
            self._publish_pace()

    def ask_again(self) -> None:
        """Publish the pace again once a second while the robot is not heard, since the message may have been lost."""
        now = time.monotonic()
        if self._granted is not None and now - max(self.heard, self._asked) > ASK_AGAIN:
            self._publish_pace()

    def _publish_pace(self) -> None:
        self._asked = time.monotonic()
        message = Time()
        codecs.fill_stamp(message, self._granted)
        self._paces.publish(message)


class RosRobots(Robots):
    """The robots of a run, served by one thread beside the learner.

    The thread owns the inbox and takes everything that arrives. The learner's thread calls the methods of `Robots`.
    One lock, held for microseconds, guards what both use.

    Args:
        node: publishes and subscribes.
        names: namespaces of the robots to listen to; empty if the run gets bags alone.
        policies_url: where robots find the folder of the policies; '' if they see the same files.

    Raises:
        InputError: another trainer of this computer publishes policies in this ROS domain.
    """

    def __init__(self, node: Node, names: tuple[str, ...], policies_url: str = ''):
        self._node, self._policies_url = node, policies_url.rstrip('/')
        self._log = node.get_logger()
        self._lock = threading.Lock()
        self._inbox = Inbox(node)
        topic = node.resolve_topic_name(topics.POLICY.name)
        refusal = f'topic {topic}: expected no other trainer, but one of this computer publishes there'
        self._lock_of_policies = TopicLock(node, topic, f'{refusal}; give each run a ROS_DOMAIN_ID')
        self._robots = {name: RosRobot(node, self._inbox, name) for name in names}
        self._policies = qos.publisher(node, topics.POLICY)
        self._dreams = qos.publisher(node, topics.DREAM)
        self._dream: collections.deque[np.ndarray] = collections.deque()
        self._next_frame = 0.0
        self._diagnostics: Diagnostics | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._serve, name='ros', daemon=True)

    def wait_for_spec(self, stop: threading.Event) -> RobotSpec | None:
        """The spec that all robots share, or None on stop. Logs which robots it waits for. Call before `start`.

        Raises:
            InputError: a spec can not be read, or two robots differ.
        """
        said = time.monotonic() - SAY_AGAIN + 1.0
        while not stop.is_set():
            missing = [robot for robot in self._robots.values() if robot.spec is None]
            if not missing:
                return next(iter(self._robots.values())).spec
            self._inbox.wait(0.1, *(robot.announcements.subscription for robot in missing))
            for robot in missing:
                robot.spec = robot.announcements.take()
                if robot.spec is not None:
                    self._check_alike(robot)
            if time.monotonic() - said > SAY_AGAIN:
                said = time.monotonic()
                names = ', '.join(robot.announcements.topic for robot in missing)
                self._log.info(f'waiting for {names}: is the simulator or robot running?')
        return None

    def _check_alike(self, robot: RosRobot) -> None:
        for other in self._robots.values():
            if other.spec and (other.spec.hash, other.spec.name) != (robot.spec.hash, robot.spec.name):
                what = other.spec.difference(robot.spec) or f'name is {robot.spec.name} instead of {other.spec.name}'
                raise InputError(f'{robot.announcements.topic}: expected the same robot as {other.name}, but {what}')

    def start(self, trainer: Trainer, robot: str, key: RunKey) -> None:
        """Begin to count steps, to answer services and to publish diagnostics for this kind of robot.

        Args:
            key: proves to robots that a policy is this trainer's.
        """
        self._key = key
        self._node.create_service(Trigger, '~/checkpoint', lambda _, response: _checkpoint(trainer, response))
        self._diagnostics = Diagnostics(self._node, 'learning', robot, lambda: _report(trainer))
        self._thread.start()

    def close(self) -> None:
        """Stop the thread."""
        self._closed.set()
        self._lock_of_policies.close()
        if self._thread.is_alive():
            self._thread.join()

    def moving(self) -> bool:
        return not self._robots or self.live_steps() > 0

    def live_steps(self) -> int:
        return sum(len(robot.live) for robot in self._robots.values())

    def ended_steps(self) -> int:
        return sum(robot.ended for robot in self._robots.values())

    def stored(self, info: EpisodeInfo) -> None:
        robot = self._robots.get(info.meta.get('robot', ''))
        if robot:
            with self._lock:
                robot.forget(info.last_stamp)

    def grant(self, steps: int) -> None:
        with self._lock:
            # Rounded up, or the last few steps would be nobody's.
            share = max(0, math.ceil((steps - self.live_steps()) / len(self._robots)))
            for robot in self._robots.values():
                robot.grant(share)

    def publish(self, manifest: Manifest) -> None:
        if self._policies_url:
            manifest = manifest.at(f'{self._policies_url}/{Path(manifest.uri).name}')
        self._policies.publish(String(data=manifest.announced(self._key).to_json()))

    def wants_dream(self) -> bool:
        return not self._dream and self._dreams.get_subscription_count() > 0

    def show_dream(self, frames: np.ndarray) -> None:
        self._dream.extend(frames)

    def quiet(self) -> list[str]:
        now = time.monotonic()
        return [robot.name for robot in self._robots.values() if now - robot.heard > QUIET]

    def _serve(self) -> None:
        while not self._closed.is_set():
            self._inbox.wait(0.1, *(robot.steps for robot in self._robots.values()))
            with self._lock:
                for robot in self._robots.values():
                    self._take_steps(robot)
                    robot.ask_again()
                    self._check_spec(robot)
            self._play_dream()
            self._diagnostics.tick()
            time.sleep(GATHER)

    def _take_steps(self, robot: RosRobot) -> None:
        while (message := robot.steps.take()) is not None:
            try:
                step = codecs.read_step(message)
                codecs.check_ahead(step.stamp)
                robot.note(step)
            except InputError as error:
                self._log.warning(f'{robot.steps.topic_name}: ignored: {error}', throttle_duration_sec=SAY_AGAIN)

    def _check_spec(self, robot: RosRobot) -> None:
        """Log an error when a robot comes back as another one: the replay will refuse its bags."""
        try:
            spec = robot.announcements.take()
            difference = '' if spec is None else robot.spec.difference(spec)
        except InputError as error:
            difference = str(error)
        if difference:
            self._log.error(
                f'{robot.announcements.topic}: expected the robot this run was started with, but '
                f'{difference}; its episodes will be refused'
            )

    def _play_dream(self) -> None:
        now = time.monotonic()
        if not self._dream or now < self._next_frame:
            return
        self._next_frame = now + 1.0 / DREAM_FPS
        message = Image()
        codecs.fill_image(message, self._dream.popleft(), self._node.get_clock().now().nanoseconds, 'dream')
        self._dreams.publish(message)


def _checkpoint(trainer: Trainer, response: Trigger.Response) -> Trigger.Response:
    try:
        response.message = str(trainer.request_checkpoint())
        response.success = True
    except InputError as error:
        response.message, response.success = str(error), False
    return response


def _report(trainer: Trainer) -> diagnostics.Report:
    status = trainer.status
    _, frames, updates = trainer.rates()
    values = {
        'env steps': status.step,
        'updates': status.updates,
        'episodes': status.episodes,
        'replay steps': status.replay_steps,
        'updates/s': f'{updates:.2f}',
        'frames/s': f'{frames:.1f}',
        'last return': status.last_return,
        'evaluation return': status.evaluation_return,
    }
    if status.waiting:
        return diagnostics.WARN, f'waiting for {status.waiting}', values
    return diagnostics.OK, 'learning', values


def _signature(key: str) -> Callable[[Manifest], Manifest] | None:
    """What signs the manifests with the private key of a file, if there is one.

    Raises:
        InputError: the key cannot be read.
    """
    if not key:
        return None
    from dreamer_ros.policy.signing import load_key, sign

    return functools.partial(sign, key=load_key(Path(key)))


def body(node: Node, stop: threading.Event) -> None:
    """Train until the budget is used up or the event is set."""
    parameters = read_parameters(node, TrainerParameters)
    config = load_preset(preset_of(parameters.preset, parameters.logdir), parameters.overrides)
    learners = process.learners(parameters.learners)
    process.check_learners(config, learners)
    names = () if parameters.contract else parameters.robots
    robots = RosRobots(node, names, parameters.policies_url)
    # Only now: robots need not wait for the seconds that torch takes to load, nor does a person whose
    # arguments were wrong.
    with process.prepare_learners(config, len(names), learners, parameters.threads) as team:
        _train(node, parameters, config, robots, team, stop)


def _train(
    node: Node,
    parameters: TrainerParameters,
    config: Config,
    robots: RosRobots,
    team: Team | None,
    stop: threading.Event,
) -> None:
    from dreamer_ros.training.loop import Trainer
    from dreamer_ros.training.run_replay import BagReplay

    contract = load_contract(parameters.contract) if parameters.contract else None
    spec = contract.spec if contract else robots.wait_for_spec(stop)
    if spec is None:
        return
    logdir = parameters.logdir or new_logdir(spec.name, config.preset)
    with contextlib.closing(RunDirectory(logdir, config, spec, _signature(parameters.signing_key))) as run:
        trainer = Trainer(
            config,
            spec,
            run,
            robots,
            BagReplay(run.episodes, config, spec, parameters.seed, contract),
            Schedule.make(config.schedule, parameters.steps or config.schedule.steps, spec.action_repeat),
            device=parameters.device,
            seed=parameters.seed,
            stop=stop,
            progress=Progress(),
            free_running=parameters.free_running,
            team=team,
            contract=contract,
            begin=Path(parameters.begin) if parameters.begin else None,
        )
        robots.start(trainer, spec.name, given_key() or RunKey(key_of(run.path)))
        try:
            trainer.train()
        finally:
            robots.close()
        how = 'stopped' if stop.is_set() else 'finished'
        node.get_logger().info(f'{how}; everything is in {run.path}')


def main() -> int:
    """Entry point of `ros2 run dreamer_ros trainer`, and of each rank of `torchrun -m dreamer_ros.nodes.trainer`."""
    if torchrun_rank():
        from dreamer_ros.training import worker

        worker.main()
    return run_node('trainer', body, may_freeze=True)


if __name__ == '__main__':
    sys.exit(main())
