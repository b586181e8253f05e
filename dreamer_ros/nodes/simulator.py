"""Simulator node: a MuJoCo robot on the topics of a real one, in lock-step with its agent or in real time."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator
from rclpy.node import Node
from sensor_msgs.msg import Joy
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from dreamer_ros import options as shared
from dreamer_ros.errors import InputError
from dreamer_ros.ros import diagnostics, qos
from dreamer_ros.ros.diagnostics import Diagnostics, Timings
from dreamer_ros.ros.inbox import Inbox, parse
from dreamer_ros.ros.message_template import MessageTemplate
from dreamer_ros.ros.observation_publisher import ObservationPublisher
from dreamer_ros.ros.ownership import OnlyPublisher, announcement
from dreamer_ros.ros.parameters import read_parameters
from dreamer_ros.ros.runtime import run_node
from dreamer_ros.schema import Mismatch
from dreamer_ros.simulation import environment
from dreamer_ros.simulation.origin import Origin
from dreamer_ros.wire import codecs, topics

ASK_AGAIN = 1.0  # seconds without an action or a pace until the observation is published once more
SAY_AGAIN = 5.0  # seconds between two lines about the same trouble
TRAINER_PATIENCE = 5.0  # seconds at the start to discover the trainer that publishes `pace`
PACE_PATIENCE = 4.0  # seconds from then on for a pace to arrive; a lost one is sent again after 3
PACE_HEADSTART = 1_000_000_000  # nanoseconds that a restarted simulator's stamps begin after the last pace
STAMPS_KEPT = 1000  # observations whose late or repeated actions are ignored without a warning


class SimulatorParameters(environment.Settings):
    """Parameters of the simulator."""

    task: Annotated[
        shared.Task,
        Field(default='cartpole_swingup', description='Task to simulate: of dm_control, or a world of sim/.'),
    ]
    cameras: tuple[str, ...] = Field(
        (), description="Cameras of the model, by name or number. Default: the task's own."
    )
    mode: Literal['lockstep', 'realtime'] = Field(
        'lockstep', description='lockstep: wait for each action. realtime: step on the wall clock.'
    )
    wait_for_learner: bool = Field(
        False, description='Mode lockstep: advance no further than the trainer allows on the topic `pace`.'
    )
    wait_for_subscribers: shared.WaitForSubscribers

    @model_validator(mode='after')
    def _check_pace(self) -> SimulatorParameters:
        if self.wait_for_learner and self.mode == 'realtime':
            raise Mismatch('wait_for_learner', 'false in mode realtime', True)
        return self


class Simulator:
    """Plays episode after episode of one environment.

    Lock-step: publishes observation k, waits for the action stamped t_k (and for the learner's pace), applies
    it, publishes observation k+1. Real time: applies the newest action on a wall timer.

    Args:
        node: a fresh node; its parameters are declared here.
        stop: ends `run`.

    Raises:
        InputError: a bad parameter, or another simulator in this namespace.
    """

    def __init__(self, node: Node, stop: threading.Event):
        self._node, self._stop = node, stop
        self._log = node.get_logger()
        self._read_parameters(node)
        try:
            self._connect(node)
        except BaseException:
            self._environment.close()
            raise

        self._paused = False
        self._reset_requested = False
        self._waits_for = ''
        self._refused = self._asked_again = self._overruns = 0
        self._timings = Timings('period', 'waiting', 'simulation', 'publication')
        self._sent: deque[int] = deque(maxlen=STAMPS_KEPT)
        self._observation: environment.Observation | None = None
        self._pace: int | None = None
        self._action_template: MessageTemplate | None = None

    def _read_parameters(self, node: Node) -> None:
        parameters = read_parameters(node, SimulatorParameters)
        self._realtime = parameters.mode == 'realtime'
        self._wait_for_learner = parameters.wait_for_learner
        self._wait_for_subscribers = parameters.wait_for_subscribers
        self._environment = environment.make(parameters.task, **parameters.pick(*environment.Settings.model_fields))
        self._origin = Origin.of(self._environment, parameters.task, parameters.seed, parameters.render)

    def _connect(self, node: Node) -> None:
        spec = self._environment.spec
        self._period = round(spec.control_period * 1e9)
        self._size = len(spec.action)
        self._inbox = Inbox(node)
        self._actions = self._inbox.subscribe(topics.ACTION, topics.LOCKSTEP_SUBSCRIBER, raw=True, single=True)
        self._paces = self._inbox.subscribe(topics.PACE, topics.LATCHED, single=True)
        self._spec_publisher = OnlyPublisher(node, self._inbox, topics.SPEC, announcement(spec))
        self._origins = qos.publisher(node, topics.SIMULATION)
        self._publisher = ObservationPublisher(node, self._environment.cameras, spec, tells_actions=self._realtime)
        node.create_service(Trigger, '~/reset', self._on_reset)
        node.create_service(SetBool, '~/pause', self._on_pause)
        self._diagnostics = Diagnostics(node, 'simulation', spec.name, self._report)

    def run(self) -> None:
        """Simulate until the stop event is set."""
        self._log.info(
            f'{self._environment.spec.name}: {"real time" if self._realtime else "lock-step"}, '
            f'{self._environment.spec.control_period:.3f} s per step'
        )
        try:
            if self._await_subscribers():
                self._run_realtime() if self._realtime else self._run_lockstep()
        finally:
            self._environment.close()

    # Lock-step

    def _run_lockstep(self) -> None:
        stamp = self._first_stamp()
        self._publish(self._begin_episode(stamp), stamp)
        while not self._stop.is_set():
            published = time.perf_counter()
            action = self._await_action(stamp)
            if action is None or not self._await_learner(stamp + self._period):
                return
            self._timings.add('waiting', time.perf_counter() - published)
            stamp += self._period
            self._step(action, stamp)
            self._timings.add('period', time.perf_counter() - published)

    def _begin_episode(self, stamp: int) -> environment.Observation:
        """Publish where the episode comes from, and return its first observation."""
        observation = self._environment.reset()
        origin = self._origin.model_copy(update={'episode': self._environment.episode, 'stamp': stamp})
        self._origins.publish(String(data=origin.to_json()))
        return observation

    def _advance(self, action: np.ndarray, stamp: int) -> environment.Observation:
        """The next observation. After a requested reset it is the last one of its episode."""
        if self._observation.is_last:
            self._reset_requested = False
            return self._begin_episode(stamp)
        observation = self._environment.step(action)
        if self._reset_requested:
            self._reset_requested = False
            observation = dataclasses.replace(observation, is_last=True)
        return observation

    def _await_subscribers(self) -> bool:
        """True once all subscribers of `step` are there, False on stop."""
        began = time.monotonic()
        while self._publisher.subscribers() < self._wait_for_subscribers:
            if self._stop.is_set():
                return False
            self._say_waiting(
                began,
                f'{self._wait_for_subscribers} subscribers of {self._publisher.topic}, '
                f'{self._publisher.subscribers()} there',
            )
            self._idle(0.02)
        return not self._stop.is_set()

    def _await_action(self, stamp: int) -> np.ndarray | None:
        """The action for the observation of this stamp, or None on stop. Publishes the observation again meanwhile."""
        began = asked = time.monotonic()
        # Services are answered here, at every step: a fast agent's answer may be here already, and then nothing waits.
        self._idle(0.0)
        while not self._stop.is_set():
            for answered, message in self._answers():
                if answered != stamp:
                    self._check_stamp(answered)
                elif not self._paused and (action := self._valid(message)) is not None:
                    self._waits_for = ''
                    return action
            now = time.monotonic()
            if self._paused:
                asked = now - ASK_AGAIN  # at the end of the pause, ask at once: the answer may be gone
                self._waits_for = 'the end of the pause'
            elif now - asked >= ASK_AGAIN:
                asked = now
                self._asked_again += 1
                self._publisher.publish_again()
                self._say_waiting(
                    began,
                    f'the action of observation {stamp / 1e9:.3f} on '
                    f'{self._actions.topic_name} ({self._publishers_of_actions()})',
                )
            self._idle(0.1)
        return None

    def _await_learner(self, stamp: int) -> bool:
        """True once the trainer's pace allows the observation of this stamp, or if no pace is kept; False on stop.

        While it waits, it publishes the last observation again: a trainer that missed it would wait too.
        """
        if not self._wait_for_learner:
            return True
        began = asked = time.monotonic()
        while not self._stop.is_set():
            self._read_pace()
            if self._pace is not None and self._pace >= stamp:
                self._waits_for = ''
                return True
            behind = 'nothing came yet' if self._pace is None else f'{(stamp - self._pace) / 1e9:.2f} s behind'
            self._say_waiting(began, f'the learner on {self._paces.topic_name} ({behind})')
            if time.monotonic() - asked >= ASK_AGAIN:
                asked = time.monotonic()
                self._publisher.publish_again()
            self._idle(0.1)
        return False

    def _first_stamp(self) -> int:
        began = time.monotonic()
        discovered = None
        self._read_pace()
        # A trainer that is already running has said how far its last simulator went.
        while self._wait_for_learner and self._pace is None and not self._stop.is_set():
            now = time.monotonic()
            if discovered is None and self._node.count_publishers(self._paces.topic_name):
                discovered = now
            if now > (began + TRAINER_PATIENCE if discovered is None else discovered + PACE_PATIENCE):
                break
            self._idle(0.05)
            self._read_pace()
        return max(time.time_ns(), 0 if self._pace is None else self._pace + PACE_HEADSTART)

    def _read_pace(self) -> None:
        message = self._paces.take_latest()
        if message is not None:
            try:
                pace = codecs.stamp_to_ns(message)
                codecs.check_ahead(pace)
                self._pace = pace
            except InputError as error:
                self._log.warning(f'{self._paces.topic_name}: ignored: {error}', throttle_duration_sec=SAY_AGAIN)

    # Real time

    def _run_realtime(self) -> None:
        period = self._period / 1e9
        stamp = self._first_stamp()
        held = np.zeros(self._size, np.float32)
        self._publish(self._begin_episode(stamp), stamp)
        stepped = time.monotonic()
        tick = stepped + period
        while not self._stop.is_set():
            self._idle(max(0.0, tick - time.monotonic()))
            for answered, message in self._answers():
                if self._check_stamp(answered):
                    action = self._valid(message)
                    held = held if action is None else action
            now = time.monotonic()
            if now < tick:
                continue
            late = int((now - tick) / period)
            self._overruns += late
            tick += (late + 1) * period
            if self._paused:
                continue
            stamp += self._period
            self._step(held, stamp)
            if self._observation.is_first:
                held = np.zeros(self._size, np.float32)
            self._timings.add('period', time.monotonic() - stepped)
            stepped = time.monotonic()

    # Both

    def _step(self, action: np.ndarray, stamp: int) -> None:
        began = time.perf_counter()
        observation = self._advance(action, stamp)
        simulated = time.perf_counter()
        self._publish(observation, stamp, action)
        self._timings.add('simulation', simulated - began)
        self._timings.add('publication', time.perf_counter() - simulated)

    def _publish(self, observation: environment.Observation, stamp: int, applied: np.ndarray | None = None) -> None:
        self._observation = observation
        self._sent.append(stamp)
        self._publisher.publish(observation, stamp, applied)

    def _idle(self, seconds: float) -> None:
        """Report, wait for a message, answer services."""
        self._diagnostics.tick()
        self._spec_publisher.tick()
        self._inbox.wait(seconds, self._actions, self._paces)

    def _answers(self) -> Iterator[tuple[int, bytes]]:
        """The actions that have come, with their stamps."""
        while (message := self._actions.take()) is not None:
            try:
                yield codecs.header_stamp(message), message
            except InputError as error:
                self._refused += 1
                self._log.warning(f'{self._actions.topic_name}: ignored: {error}', throttle_duration_sec=SAY_AGAIN)

    def _check_stamp(self, stamp: int) -> bool:
        """Whether an observation of this stamp was sent. Warns if not."""
        if stamp in self._sent:
            return True
        self._refused += 1
        self._log.warning(
            f'{self._actions.topic_name}: ignored an action for stamp {stamp / 1e9:.9f}, no observation had it; '
            f'the last one was {self._sent[-1] / 1e9:.9f}',
            throttle_duration_sec=SAY_AGAIN,
        )
        return False

    def _valid(self, message: bytes) -> np.ndarray | None:
        """The action in a serialised message, float32 [A]; None after a warning if it is not valid."""
        values = self._action_template.read(message) if self._action_template else None
        try:
            if values is not None:
                [axes] = values
            else:
                # The first one, or the actor changed: `random`, another policy version.
                joy = parse(message, Joy)
                usual = len(joy.axes) == self._size and not joy.buttons
                self._action_template = MessageTemplate.of(message, joy, ['axes'], tail=4) if usual else None
                axes = joy.axes
            return codecs.read_action(axes, self._size)
        except InputError as error:
            self._refused += 1
            self._log.warning(f'{self._actions.topic_name}: ignored: {error}', throttle_duration_sec=SAY_AGAIN)
            return None

    def _say_waiting(self, began: float, what: str) -> None:
        self._waits_for = what
        if time.monotonic() - began >= ASK_AGAIN:
            self._log.info(f'waiting for {what}', throttle_duration_sec=SAY_AGAIN)

    def _publishers_of_actions(self) -> str:
        count = self._node.count_publishers(self._actions.topic_name)
        return 'nobody publishes there' if not count else f'{count} publisher{"s" * (count > 1)}'

    def _on_reset(self, request, response):
        self._reset_requested = True
        response.success = True
        response.message = 'the next observation ends the running episode'
        return response

    def _on_pause(self, request, response):
        self._paused = request.data
        response.success = True
        response.message = 'paused' if request.data else 'running'
        return response

    def _report(self) -> diagnostics.Report:
        values = {
            **self._timings.summary(),
            'asked again': self._asked_again,
            'actions refused': self._refused,
            'overruns': self._overruns,
        }
        if self._waits_for:
            return diagnostics.WARN, f'waiting for {self._waits_for}', values
        return diagnostics.OK, 'running', values


def main() -> int:
    """Entry point of `ros2 run dreamer_ros simulator`."""
    return run_node('simulator', lambda node, stop: Simulator(node, stop).run(), may_freeze=True, local=True)


if __name__ == '__main__':
    sys.exit(main())
