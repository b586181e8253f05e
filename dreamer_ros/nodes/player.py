"""Player node: publishes a bag's messages again at their pace, and runs a policy on them."""

from __future__ import annotations

import dataclasses
import itertools
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field
from rclpy.node import Node
from rclpy.publisher import Publisher
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Joy

from dreamer_ros import options as shared
from dreamer_ros.episodes.bag_reader import open_bag
from dreamer_ros.episodes.episode_reader import require_episodes
from dreamer_ros.episodes.mcap_scan import RawMessage
from dreamer_ros.errors import InputError
from dreamer_ros.files import user_path
from dreamer_ros.options import Options
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.ros import qos
from dreamer_ros.ros.ownership import announcement
from dreamer_ros.ros.parameters import read_parameters
from dreamer_ros.ros.runtime import run_node
from dreamer_ros.viewing.shadow import Shadow
from dreamer_ros.wire import codecs, topics
from dreamer_ros.wire.codecs import Mode
from dreamer_ros.wire.topics import Topic

DISCOVERY_TIME = 1.0  # seconds for existing subscribers to find the publishers
CHECK_PERIOD = 1.0  # seconds between two looks for somebody else's /clock
CLOCK_PERIOD = 0.02  # seconds between two messages of /clock while nothing else is due
DRAIN_TIME = 0.5  # seconds for the last messages to arrive before the publishers are gone
SAY_AGAIN = 5.0  # seconds between two lines about the same problem
UNPLAYED = ('/clock', '/rosout', '/parameter_events')  # they belong to the nodes of the recording
# Types of commands, which move robots. Joint states are mostly measurements.
MOVING = {
    'ackermann_msgs/msg/AckermannDrive',
    'ackermann_msgs/msg/AckermannDriveStamped',
    'control_msgs/msg/JointJog',
    'geometry_msgs/msg/Twist',
    'geometry_msgs/msg/TwistStamped',
    'sensor_msgs/msg/Joy',
    'std_msgs/msg/Float64MultiArray',
    'trajectory_msgs/msg/JointTrajectory',
}
# Commands are published below this name, beside their own topic, where they move nothing.
RECORDED = 'recorded'
SHADOW = 'shadow'


class PlayerParameters(Options):
    """What can be set of the player."""

    bag: shared.EpisodeBag
    rate: shared.Rate
    policy: str = Field('', description='ONNX file of a policy to run in shadow. Default: none.')
    output: str = Field('', description='Folder for shadow.json and shadow.png.')
    wait_for_subscribers: Annotated[
        shared.WaitForSubscribers,
        Field(description='Subscribers that one of the topics must have before the first message is played.'),
    ]


def place_of(topic: Topic, contract: RobotContract | None) -> str:
    """Where a recorded topic is played, relative to the player's namespace."""
    name = topic.name.strip('/')
    if contract is None:
        commands = topic.type in MOVING
    else:
        commands = any(
            topic.type == command.type and f'/{name}'.endswith(f'/{command.name.strip("/")}')
            for command in (topics.ACTION, *contract.command_topics)
        )
    path, _, leaf = name.rpartition('/')
    return '/'.join(part for part in (path, RECORDED, leaf) if part) if commands else name


class Player:
    """Publishes the messages of a bag as they were recorded, byte for byte, below the node's namespace.

    `/sim0/step` of the bag becomes `/replay/sim0/step` for a node in the namespace `/replay`. Actions and commands
    never go to their own topics, where a robot might listen, but below `recorded` beside them. The actions of a
    policy in shadow go to `shadow/action` of the robot. /clock follows the times of recording.

    Args:
        node: a fresh node; its parameters are declared here.
        stop: ends `run`.

    Raises:
        InputError: a bad parameter, bag or policy.
    """

    def __init__(self, node: Node, stop: threading.Event):
        self._node, self._stop = node, stop
        self._log = node.get_logger()
        parameters = read_parameters(node, PlayerParameters)
        self._rate = parameters.rate
        self._output = Path(parameters.output)
        self._wait_for_subscribers = parameters.wait_for_subscribers
        self._bag = open_bag(user_path(parameters.bag))
        for problem in self._bag.report:
            self._log.warning(str(problem))
        self._shadow = self._open_shadow(parameters.policy) if parameters.policy else None
        self._publishers = self._advertise()
        self._specs = self._announce()
        self._clocks = qos.publisher(node, topics.CLOCK)
        self._time = 0
        self._next_check = 0.0

    def run(self) -> None:
        """Play the bag once.

        Raises:
            InputError: the bag is damaged, or somebody else publishes /clock.
        """
        if self._await_subscribers():
            self._play()
        self._stop.wait(DRAIN_TIME)
        if self._shadow is not None:
            self._report()

    # Before the first message

    def _open_shadow(self, policy: str) -> Shadow:
        contract, spec = self._bag.contract, self._bag.spec()
        runner = PolicyRunner(policy, None if contract else spec)
        if contract is not None:
            contract.check(runner.spec)
        episodes, problems = require_episodes(self._bag, spec)
        for problem in problems[len(self._bag.report) :]:
            self._log.warning(str(problem))
        robots = self._bag.robots()
        if len(robots) > 1:
            raise InputError(f'bag {self._bag.path}: expected one robot to run a policy for, got {", ".join(robots)}')
        self._policy, self._runner = policy, runner
        place = f'{robots[0].strip("/")}/{SHADOW}' if robots and robots[0] != '/' else SHADOW
        self._shadow_actions = qos.publisher(
            self._node, dataclasses.replace(topics.ACTION, name=f'{place}/{topics.ACTION.name}')
        )
        return Shadow(runner, episodes)

    def _advertise(self) -> dict[str, Publisher]:
        """Publishers by the topics' recorded names."""
        publishers = {}
        for name, topic in self._bag.topics.items():
            if name in UNPLAYED:
                continue
            try:
                place = dataclasses.replace(topic, name=place_of(topic, self._bag.contract))
                publishers[name] = qos.publisher(self._node, place)
            except (ImportError, AttributeError):
                self._log.warning(f'{name}: not played, its type {topic.type} is not installed')
        return publishers

    def _announce(self) -> list[Publisher]:
        """Publish the robots' specs, which agents wait for and bags keep in custom_data."""
        publishers = []
        for robot in self._bag.robots():
            name = f'{robot}{topics.SPEC.name}'
            if 'spec' in self._bag.custom_data and self._bag.contract is None and name not in self._bag.topics:
                publishers.append(qos.publisher(self._node, dataclasses.replace(topics.SPEC, name=name.strip('/'))))
                publishers[-1].publish(announcement(self._bag.spec()))
        return publishers

    def _await_subscribers(self) -> bool:
        """Wait for the wanted subscribers. False on stop."""
        began = time.monotonic()
        while not self._stop.wait(0.05):
            self._refuse_other_clocks()
            watched = [*self._publishers.values(), *([self._shadow_actions] if self._shadow is not None else [])]
            matched = max((publisher.get_subscription_count() for publisher in watched), default=0)
            if time.monotonic() - began >= DISCOVERY_TIME:
                if matched >= self._wait_for_subscribers:
                    return True
                self._log.info(
                    f'waiting for {self._wait_for_subscribers} subscribers of a topic, {matched} there',
                    throttle_duration_sec=SAY_AGAIN,
                )
        return False

    def _refuse_other_clocks(self) -> None:
        others = self._node.count_publishers(topics.CLOCK.name) - 1
        if others > 0:
            raise InputError(
                f'topic {topics.CLOCK.name}: expected no other publisher while a bag is played, got '
                f'{others}; time would run backwards for whoever listens'
            )

    # Playing

    def _play(self) -> None:
        start, seconds = self._bag.start, (self._bag.end - self._bag.start) / 1e9
        self._log.info(f'{self._bag.path.name}: {seconds:.1f} s at {self._rate:g} times their pace')
        began = time.monotonic()
        for stamp, messages in itertools.groupby(self._bag.by_time(self._publishers), key=lambda message: message.time):
            due = began + (stamp - start) / 1e9 / self._rate
            while (left := due - time.monotonic()) > 0:
                if self._stop.wait(min(left, CLOCK_PERIOD)):
                    return
                if left > CLOCK_PERIOD:
                    self._tell_time(start + int((time.monotonic() - began) * self._rate * 1e9))
            if self._stop.is_set():
                return
            self._tell_time(stamp)
            self._publish(messages)
            self._step_shadow(stamp)
        self._step_shadow(None)

    def _publish(self, messages: Iterable[RawMessage]) -> None:
        for message in messages:
            self._publishers[message.topic].publish(bytes(message.data))

    def _tell_time(self, nanoseconds: int) -> None:
        """Publish /clock, which is never 0 and never goes back, even if the bag's times do."""
        if time.monotonic() > self._next_check:  # discovery may be slow
            self._next_check = time.monotonic() + CHECK_PERIOD
            self._refuse_other_clocks()
        if nanoseconds > self._time:
            self._time = nanoseconds
            message = Clock()
            codecs.fill_stamp(message.clock, nanoseconds)
            self._clocks.publish(message)

    def _step_shadow(self, now: int | None) -> None:
        """Let the policy act at every step up to a time, or at all remaining steps."""
        shadow = self._shadow
        while shadow is not None and (stamp := shadow.next_stamp) <= (float('inf') if now is None else now):
            if stamp == float('inf'):
                return
            message = Joy()
            codecs.fill_action(message, shadow.step(), int(stamp), Mode('evaluate', self._runner.version))
            self._shadow_actions.publish(message)

    def _report(self) -> None:
        comparison = self._shadow.comparison()
        folder = self._output
        facts = {
            'bag': str(self._bag.path),
            'policy': self._policy,
            'version': self._runner.version,
            'robot': self._runner.spec.name,
            'rate': self._rate,
        }
        written = [comparison.write(folder, facts)]
        try:
            title = f'{self._bag.path.name}: policy {self._runner.version} in shadow, deterministic'
            written.append(comparison.plot(folder / 'shadow.png', title))
        except ModuleNotFoundError as error:
            self._log.warning(f"no plot, {error.name} is not installed: pip install 'dreamer_ros[view]'")
        print(f'policy {self._runner.version} in shadow, {len(comparison.stamps)} steps: its action minus the recorded')
        print(comparison.table())
        print('\n'.join(str(path) for path in written), flush=True)


def main() -> int:
    """Entry point of `ros2 run dreamer_ros player`."""
    return run_node('player', lambda node, stop: Player(node, stop).run())


if __name__ == '__main__':
    sys.exit(main())
