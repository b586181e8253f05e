"""Agent node: answers each observation with one action of the exported policy (onnxruntime, never torch)."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from pydantic import Field
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState, Joy

from dreamer_ros import launcher
from dreamer_ros import options as shared
from dreamer_ros.episodes.assemble import Joined
from dreamer_ros.errors import InputError
from dreamer_ros.options import Options
from dreamer_ros.policy.actions import random_action
from dreamer_ros.policy.loader import PolicyLoader, load
from dreamer_ros.policy.manifest import Manifest
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.ros import diagnostics, qos
from dreamer_ros.ros.diagnostics import Diagnostics, Timings
from dreamer_ros.ros.inbox import Inbox, PolledSubscription, parse
from dreamer_ros.ros.message_template import MessageTemplate
from dreamer_ros.ros.ownership import Announcements
from dreamer_ros.ros.parameters import read_parameters
from dreamer_ros.ros.runtime import run_node
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire import codecs, topics
from dreamer_ros.wire.codecs import Mode, Step
from dreamer_ros.wire.images import decode_image

SAY_AGAIN = 5.0  # seconds between two lines about the same problem
SAY_VERSION = 60.0  # seconds between two lines about new policies: training brings one every few seconds
SPEC_PATIENCE = 2.0  # seconds without a robot until the log says so
DISCOVERY_TIME = 1.0  # seconds from this agent's publisher to its first action
TEMPLATES_LEARNT = 100  # message layouts, among them two for each restart of the simulator
UNPAIRED_KEPT = 100  # incomplete observations kept
STEP = topics.STEP.name


class AgentParameters(Options):
    """Parameters of the agent."""

    mode: Literal['train', 'evaluate'] = Field(
        'train', description='train: explore, except in every n-th episode. evaluate: act deterministically.'
    )
    policy: Annotated[
        shared.Policy, Field(description='ONNX file to begin with. Later policies come on the topic `policy`.')
    ]
    evaluate_every: shared.EvaluateEvery
    seed: shared.Seed


class Agent:
    """Pairs images, step and joint states by stamp and answers each observation once.

    A repeated stamp gets the cached answer: the recurrent state advances once per observation. If several
    observations wait (in real time), only the newest is answered.

    Args:
        node: a fresh node; its parameters are declared here.
        stop: ends `run`.

    Raises:
        InputError: a bad parameter.
    """

    def __init__(self, node: Node, stop: threading.Event):
        self._node, self._stop = node, stop
        self._log = node.get_logger()
        parameters = read_parameters(node, AgentParameters)
        self._evaluating = parameters.mode == 'evaluate'
        self._policy_file = parameters.policy
        self._evaluate_every = parameters.evaluate_every
        self._seed = parameters.seed
        self._inbox = Inbox(node)
        self._announcements = Announcements(self._inbox)
        self._manifests = self._inbox.subscribe(topics.POLICY, topics.LATCHED, single=True)
        self._publisher = qos.publisher(node, topics.ACTION)
        self._discovered_at = time.monotonic() + DISCOVERY_TIME
        self._rng = np.random.default_rng(self._seed)
        self._answer = b''
        self._answer_mode: Mode | None = None
        self._step_template: MessageTemplate | None = None
        self._image_templates: dict[int, MessageTemplate] = {}  # by number of the camera
        self._learnt = 0
        self._answered: int | None = None
        self._runner: PolicyRunner | None = None
        self._waiting = Joined()  # parts of incomplete observations, without their last input
        self._newest: bytes | None = None
        self._newest_stamp = 0
        self._newest_came = 0.0
        self._restart_state = True
        self._ended = True
        self._episodes = 0
        self._deterministic = self._evaluating
        self._dropped = 0
        self._problem = ''
        self._timings = Timings('latency', 'inference')

    def run(self) -> None:
        """Answer observations until the stop event is set.

        Raises:
            InputError: the first policy is not one for this robot, or the robot changed.
        """
        spec = self._await_spec()
        if spec is None:
            return
        self._spec = spec
        self._loader = PolicyLoader(spec, self._seed)
        try:
            if self._policy_file:
                self._runner = load(self._policy_file, spec, self._seed)
                self._log.info(f'policy version {self._runner.version} from {self._policy_file}')
            elif not self._await_policy():
                return
            self._diagnostics = Diagnostics(self._node, 'policy', spec.name, self._report)
            joints = [topics.JOINT_STATES] if spec.vector else []
            inputs = [
                self._inbox.subscribe(topic, topics.LOCKSTEP_SUBSCRIBER, raw=True)
                for topic in (*joints, *topics.images(spec.cameras))
            ]
            # Simulators publish in this order, so the last message usually completes an observation.
            *others, self._last_input = inputs
            self._others = {subscription.topic_name: subscription for subscription in others}
            # A recorder must know this agent before the simulator does, or it misses the first actions.
            while not self._stop.is_set() and time.monotonic() < self._discovered_at:
                self._inbox.wait(0.05)
            # Subscribed last: whoever sees this subscription in the graph can rely on the others.
            self._step_messages = self._inbox.subscribe(topics.STEP, topics.LOCKSTEP_SUBSCRIBER, raw=True, single=True)
            while not self._stop.is_set():
                self._turn()
        finally:
            self._loader.close()

    def _await_spec(self) -> RobotSpec | None:
        """The robot's spec, or None on stop.

        A bag that is played by `ros2 bag play` announces no robot. An agent that was started by hand with a policy
        file then assumes the robot that its policy was made for.
        """
        began = time.monotonic()
        names_robot = self._policy_file and not launcher.launch()
        while not self._stop.is_set():
            spec = self._announcements.take()
            if spec is not None:
                self._log.info(
                    f'robot {spec.name}: {len(spec.action)} {"choices" if spec.discrete else "actions"}, '
                    f'{len(spec.cameras)} images of {spec.image_size[1]}x{spec.image_size[0]}, '
                    f'{len(spec.vector)} joint values'
                )
                return spec
            if time.monotonic() - began > SPEC_PATIENCE:
                if names_robot:
                    spec = load(self._policy_file).spec
                    self._log.info(
                        f'nobody is on {self._announcements.topic}: expecting the robot of '
                        f'{self._policy_file}, {spec.name}'
                    )
                    return spec
                self._log.info(
                    f'waiting for a simulator or robot on {self._announcements.topic}', throttle_duration_sec=SAY_AGAIN
                )
            self._inbox.wait(0.1)
        return None

    def _await_policy(self) -> bool:
        """In mode evaluate, wait for a policy; False on stop."""
        while self._evaluating and self._runner is None and not self._stop.is_set():
            self._poll_policy()
            self._log.info(f'waiting for a policy on {self._manifests.topic_name}', throttle_duration_sec=SAY_AGAIN)
            self._inbox.wait(0.1)
        return not self._stop.is_set()

    def _turn(self) -> None:
        """Take what came, answer if an observation is complete, wait for more."""
        if self._take_newest():
            self._take_rest()
            self._reply()
        # Here nobody waits for this agent. One version plays a whole evaluation episode, so that the return is its own.
        if self._ended or not self._deterministic or self._runner is None:
            self._poll_policy()
        self._take_specs()
        self._diagnostics.tick()
        self._inbox.wait(0.1, *([self._last_input] if self._newest is None else []))

    def _take_newest(self) -> bool:
        """Keep the newest message of the last input, and count older unanswered ones; True if there is one."""
        for stamp, message in self._taken(self._last_input):
            came = time.perf_counter()
            if self._newest is not None and self._newest_stamp != stamp:
                self._dropped += 1
            self._newest, self._newest_stamp, self._newest_came = message, stamp, came
        return self._newest is not None

    def _take_rest(self) -> None:
        for stamp, message in self._taken(self._step_messages):
            try:
                self._keep(STEP, stamp, self._read_step(stamp, message))
            except InputError as error:
                self._log.warning(f'ignored: {error}', throttle_duration_sec=SAY_AGAIN)
        for name, subscription in self._others.items():
            for stamp, message in self._taken(subscription):
                self._keep(name, stamp, message)

    def _taken(self, subscription: PolledSubscription) -> Iterator[tuple[int, bytes]]:
        """Waiting messages with their stamps."""
        while (message := subscription.take()) is not None:
            try:
                yield codecs.header_stamp(message), message
            except InputError as error:
                self._log.warning(f'{subscription.topic_name}: ignored: {error}', throttle_duration_sec=SAY_AGAIN)

    def _read_step(self, stamp: int, cdr: bytes) -> Step:
        values = self._step_template.read(cdr) if self._step_template else None
        if values is not None:
            reward, *flags = values[0].tolist()
            return Step(stamp, reward, *(flag == 1.0 for flag in flags))
        message = parse(cdr, JointState)
        step = codecs.read_step(message)
        plain = tuple(message.name) == codecs.STEP_NAMES and not (message.velocity or message.effort)
        if plain and self._may_learn():
            self._step_template = MessageTemplate.of(cdr, message, ['position'], tail=8)
        return step

    def _read_inputs(self, messages: list[bytes]) -> tuple[np.ndarray, np.ndarray | None]:
        """Image and vector from the messages of one observation, in the order of their subscriptions."""
        vector = None
        if self._spec.vector:
            vector = codecs.read_vector(parse(messages[0], JointState), self._spec.vector)
            messages = messages[1:]
        return codecs.join_images([self._read_image(*each) for each in enumerate(messages)]), vector

    def _read_image(self, camera: int, cdr: bytes) -> np.ndarray:
        template = self._image_templates.get(camera)
        values = template.read(cdr) if template else None
        if values is not None:
            return values[0].reshape(*self._spec.image_size, 3)
        message = parse(cdr, Image)
        image = decode_image(message, topics.IMAGE.type)
        plain = message.encoding == 'rgb8' and message.step == 3 * message.width
        if plain and image.shape[:2] == self._spec.image_size and self._may_learn():
            self._image_templates[camera] = MessageTemplate.of(cdr, message, ['data'])
        return image

    def _may_learn(self) -> bool:
        """Whether to learn another layout: a publisher that keeps changing it is read the ordinary way."""
        self._learnt += 1
        return self._learnt <= TEMPLATES_LEARNT

    def _keep(self, topic: str, stamp: int, value: bytes | Step) -> None:
        if stamp != self._answered:  # a repeat would begin the episode again
            self._waiting.add(topic, stamp, value)
            if len(self._waiting.steps) > UNPAIRED_KEPT:
                self._waiting.steps.popitem(last=False)

    def _reply(self) -> None:
        """Answer the newest observation if it is complete."""
        stamp = self._newest_stamp
        if stamp == self._answered:
            self._newest = None
            self._publisher.publish(self._answer)
            return
        if len(self._waiting.steps.get(stamp, ())) <= len(self._others):
            return
        begins = False  # an episode may have begun with an observation that was dropped
        for parts in self._waiting.pop_through(stamp):
            begins |= STEP in parts and parts[STEP].is_first
        step = parts[STEP]
        messages = [*(parts[name] for name in self._others), self._newest]
        self._newest = None
        try:
            action, mode = self._act(*self._read_inputs(messages), begins, step.is_last)
        except InputError as error:
            self._log.error(str(error), throttle_duration_sec=SAY_AGAIN)
            return
        if mode != self._answer_mode:
            joy = Joy()
            codecs.fill_action(joy, action, stamp, mode)
            self._answer_template, self._answer_mode = MessageTemplate(joy, ['axes'], tail=4), mode
        self._answer = self._answer_template.write(stamp, action)
        self._answered, self._ended = stamp, step.is_last
        # Measured before publishing, which wakes the simulator: it may take this core at once.
        self._timings.add('latency', time.perf_counter() - self._newest_came)
        self._publisher.publish(self._answer)

    def _act(self, image: np.ndarray, vector: np.ndarray | None, begins: bool, is_last: bool):
        """The action f32[A] for an observation, and its mode."""
        if begins:
            self._episodes += 1
            self._deterministic = self._evaluating or (
                self._evaluate_every > 0 and self._episodes % self._evaluate_every == 0
            )
        if self._runner is None:
            return random_action(self._spec, self._rng), Mode('random')
        mode = Mode('evaluate' if self._deterministic else 'explore', self._runner.version)
        if is_last:
            # Nobody executes this action. It keeps one action per observation.
            return np.zeros(len(self._spec.action), np.float32), mode
        began = time.perf_counter()
        action = self._runner.act(image, vector, begins or self._restart_state, explore=not self._deterministic)
        self._timings.add('inference', time.perf_counter() - began)
        self._restart_state = False
        return action, mode

    def _poll_policy(self) -> None:
        """Submit a new manifest, and take over a policy that is ready."""
        message = self._manifests.take_latest()
        if message is not None:
            try:
                self._loader.submit(Manifest.from_json(message.data, f'topic {self._manifests.topic_name}'))
            except InputError as error:
                self._complain(str(error))
        runner = self._loader.poll()
        if isinstance(runner, str):
            self._complain(runner)
        if not isinstance(runner, PolicyRunner):
            return
        if self._runner is not None:
            runner.carry_over(self._runner)
        self._log.info(f'policy version {runner.version}', throttle_duration_sec=SAY_VERSION)
        self._runner, self._problem = runner, ''

    def _complain(self, problem: str) -> None:
        keeps = f'keeping version {self._runner.version}' if self._runner else 'there is no other yet'
        self._problem = f'{problem}; {keeps}'
        self._log.error(self._problem)

    def _take_specs(self) -> None:
        """A restarted simulator repeats its spec; another robot ends this agent."""
        spec = self._announcements.take()
        if spec is not None and spec.hash != self._spec.hash:
            raise InputError(
                f'topic {self._announcements.topic}: expected the robot {self._spec.name} this agent was '
                f'started with, got {spec.name}: {self._spec.difference(spec)}'
            )

    def _report(self) -> diagnostics.Report:
        version = 'none' if self._runner is None else self._runner.version
        values = {
            **self._timings.summary(),
            'observations dropped': self._dropped,
            'policy version': version,
            'episodes': self._episodes,
        }
        if self._problem:
            return diagnostics.WARN, self._problem, values
        return diagnostics.OK, 'random actions' if self._runner is None else f'policy {version}', values


def main() -> int:
    """Entry point of `ros2 run dreamer_ros agent`."""
    return run_node('agent', lambda node, stop: Agent(node, stop).run(), may_freeze=True)


if __name__ == '__main__':
    sys.exit(main())
