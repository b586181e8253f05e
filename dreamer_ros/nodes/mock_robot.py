"""Mock robot: simulates a task in real time on the topics of a robot contract."""

from __future__ import annotations

import collections
import dataclasses
import sys
import threading
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from dreamer_ros import options as shared
from dreamer_ros.errors import InputError
from dreamer_ros.options import Options
from dreamer_ros.robot.commands import Commands
from dreamer_ros.robot.contract import RobotContract, load_contract
from dreamer_ros.ros import qos
from dreamer_ros.ros.inbox import Inbox
from dreamer_ros.ros.parameters import read_parameters
from dreamer_ros.ros.runtime import run_node
from dreamer_ros.schema import Expected
from dreamer_ros.simulation import environment
from dreamer_ros.wire import codecs, topics
from dreamer_ros.wire.images import COMPRESSED, fill_compressed
from dreamer_ros.wire.topics import QoS, Topic, optical_frame

SENSOR = QoS(depth=10)
COMMANDS = QoS(depth=1, reliable=False)
FOREVER = 10**9  # control steps: a robot knows no episodes
LYING = 1.0  # seconds for which the robot stays where its task ended
SAY_AGAIN = 5.0  # seconds between two lines about the same problem


class MockRobotParameters(Options):
    """Parameters of the mock robot."""

    task: Annotated[
        str, Field(min_length=1, description='Task to simulate: of dm_control, or a world of sim/.'), Expected('a task')
    ]
    robot: shared.RequiredContract
    image_size: tuple[Annotated[int, Field(ge=1, le=1024)], Annotated[int, Field(ge=1, le=1024)]] | None = Field(
        None, description="Height and width of the published images, in pixels. Default: the contract's."
    )
    camera_rate: int | None = Field(
        None, ge=1, le=1000, description='Images per second. Default: one per control step.'
    )
    seed: shared.Seed
    render: shared.Render


class MockRobot:
    """A simulated robot that knows nothing of agents, steps or episodes.

    At every control step of the task it obeys the newest command, in physical units, and publishes the topics of the
    contract with system time: images, joint states, the reward of the agent's last period as std_msgs/Float64, and
    the end of the task as std_msgs/Bool. A second after the end it is set up again; `~/reset` does so at once.

    Like a robot's controller, it stops when no command came for the contract's `controller_timeout`.

    Args:
        node: a fresh node; its parameters are declared here.
        stop: ends `run`.

    Raises:
        InputError: a bad parameter, or the contract does not fit the simulated robot.
    """

    def __init__(self, node: Node, stop: threading.Event):
        self._stop = stop
        self._log, self._namespace = node.get_logger(), node.get_namespace()
        parameters = read_parameters(node, MockRobotParameters)
        self._contract = contract = load_contract(parameters.robot)
        size = parameters.image_size or contract.spec.image_size
        self._environment = _simulate(parameters.task, contract, size, parameters.seed, parameters.render)
        self._period = self._environment.spec.control_period
        self._camera_period = 1 / parameters.camera_rate if parameters.camera_rate else 0.0
        self._commands = Commands(contract)
        self._timeouts = np.full(len(contract.command.axes), np.inf)
        for part in self._commands.parts:
            self._timeouts[part.axes] = part.receiver.controller_timeout or np.inf
        try:
            for receiver in (part.receiver for part in self._commands.parts):
                if receiver.action:
                    raise InputError(f'{contract.source}: {receiver.action}: expected no action of a simulated robot')
            self._inbox = Inbox(node)
            self._received = [
                (part, self._inbox.subscribe(topic, COMMANDS))
                for part, topic in zip(self._commands.parts, contract.command_topics)
            ]
            self._publishers = [
                (qos.publisher(node, dataclasses.replace(topic, qos=SENSOR)), *self._filler(topic))
                for topic in contract.topics
            ]
            # Its time is real, also if others are to take it for simulated.
            simulated = node.get_parameter('use_sim_time').value
            self._clocks = qos.publisher(node, topics.CLOCK) if simulated else None
            node.create_service(Trigger, '~/reset', self._on_reset)
        except BaseException:
            self._environment.close()
            raise

    def run(self) -> None:
        """Simulate until the stop event is set."""
        self._log.info(
            f'{self._contract.name}: {self._environment.spec.name} on '
            f'{", ".join(subscription.topic_name for _, subscription in self._received)}, '
            f'{1 / self._period:g} control steps per second'
        )
        try:
            self._set_up()
            tick = time.monotonic()
            while not self._stop.is_set():
                self._publish()
                tick += self._period
                if (late := time.monotonic() - tick) > self._period:
                    tick += late
                    self._log.warning(f'{late:.3f} s too slow for real time', throttle_duration_sec=SAY_AGAIN)
                self._wait(tick)
                self._advance()
        finally:
            self._environment.close()

    def _set_up(self) -> None:
        """Begin at a new start."""
        self._observation = self._environment.reset()
        self._rewards: collections.deque[float] = collections.deque(
            maxlen=max(1, round(1 / self._contract.rate / self._period))
        )
        self._values = self._standstill(None)
        self._commanded = np.full(len(self._values), -np.inf)  # monotonic seconds
        self._over_since: float | None = None
        self._reset_requested = False
        self._next_image = 0.0

    def _wait(self, tick: float) -> None:
        """Take commands and answer services until a monotonic time."""
        while True:
            self._inbox.wait(max(0.0, tick - time.monotonic()))
            self._take_command()
            if time.monotonic() >= tick or self._stop.is_set():
                return

    def _take_command(self) -> None:
        for part, subscription in self._received:
            message = subscription.take_latest()
            if message is None:
                continue
            try:
                self._values[part.axes] = part.decode(message)
                self._commanded[part.axes] = time.monotonic()
            except InputError as error:
                self._log.warning(f'ignored a command: {error}', throttle_duration_sec=SAY_AGAIN)

    def _advance(self) -> None:
        """One control step."""
        now = time.monotonic()
        if self._reset_requested or (self._over_since is not None and now - self._over_since > LYING):
            self._set_up()
            return
        if self._over_since is not None:
            return
        self._values = np.where(now - self._commanded > self._timeouts, self._standstill(self._values), self._values)
        self._observation = self._environment.step(self._commands.action(self._values))
        self._rewards.append(self._observation.reward)
        if self._observation.is_last:
            self._over_since = now
            self._log.info('the task is over')

    def _standstill(self, values: np.ndarray | None) -> np.ndarray:
        """f64[A] that stops the robot; `hold` is the last command, or else the present position."""
        stop = self._contract.command.stop
        if values is None:
            joints, values = self._joint_state(0), np.zeros_like(stop)
            for number in np.flatnonzero(np.isnan(stop)):
                values[number] = self._contract.command.axes[number].feedback.field.read(joints)
        return np.where(np.isnan(stop), values, stop)

    # Publication

    def _filler(self, topic: Topic) -> tuple[Callable[[int], Any], bool]:
        """A function that makes a topic's message for a stamp, and whether it is an image.

        Raises:
            InputError: simulated robots cannot publish that.
        """
        contract = self._contract
        for number, (name, camera) in enumerate(contract.cameras.items()):
            if camera.topic == topic.name:
                frame = optical_frame(name, self._namespace)
                return (lambda stamp: self._image(number, camera.type, stamp, frame)), True
        if topic.type == 'sensor_msgs/msg/JointState':
            return self._joint_state, False
        make = qos.message_type(topic)
        if _reads(contract.measured_reward, topic) and topic.type == 'std_msgs/msg/Float64':
            return (lambda stamp: make(data=float(sum(self._rewards)))), False
        if _reads(contract.terminal, topic) and topic.type == 'std_msgs/msg/Bool':
            return (lambda stamp: make(data=self._observation.is_terminal)), False
        raise InputError(
            f'{contract.source}: {topic.name}: expected images, joint states, a std_msgs/msg/Float64 as '
            f'reward or a std_msgs/msg/Bool as end of a simulated robot, got {topic.type}'
        )

    def _publish(self) -> None:
        stamp, now = time.time_ns(), time.monotonic()
        if self._clocks is not None:
            clock = Clock()
            codecs.fill_stamp(clock.clock, stamp)
            self._clocks.publish(clock)
        look = now >= self._next_image
        if look:
            self._next_image = max(self._next_image + self._camera_period, now)
        for publisher, fill, is_image in self._publishers:
            if look or not is_image:
                publisher.publish(fill(stamp))

    def _image(self, number: int, type_name: str, stamp: int, frame: str) -> Any:
        pixels = self._observation.image[:, :, 3 * number : 3 * number + 3]
        message = qos.message_type(Topic('', type_name, SENSOR))()
        if type_name == COMPRESSED:
            fill_compressed(message, pixels, stamp, frame)
        else:
            codecs.fill_image(message, pixels, stamp, frame)
        return message

    def _joint_state(self, stamp: int) -> JointState:
        message = JointState()
        seen = self._observation
        codecs.fill_joint_state(message, seen.joint_names, seen.position, seen.velocity, stamp)
        return message

    def _on_reset(self, request, response):
        self._reset_requested = response.success = True
        response.message = 'set up again'
        return response


def _simulate(
    task: str, contract: RobotContract, size: tuple[int, int], seed: int, render: str
) -> environment.Environment:
    """The task's simulation, checked against the contract."""
    seen = {**contract.spec.simulator_options(), 'action_repeat': 1}
    if contract.spec.cameras:
        seen['image_size'] = size
    simulated = environment.make(task, seed=seed, render=render, episode_length=FOREVER, **seen)
    try:
        # The images are resized, and the agent acts at a rate of its own.
        contract.check(
            dataclasses.replace(simulated.spec, image_size=contract.spec.image_size, control_period=1 / contract.rate)
        )
    except InputError:
        simulated.close()
        raise
    return simulated


def _reads(formula, topic: Topic) -> bool:
    return formula is not None and any(source.topic == topic.name for source in formula.sources.values())


def main() -> int:
    """Entry point of `ros2 run dreamer_ros mock_robot`."""
    return run_node('mock_robot', lambda node, stop: MockRobot(node, stop).run())


if __name__ == '__main__':
    sys.exit(main())
