"""Robot agent: a lifecycle node that plays a policy on a robot through its contract, and stops it when in doubt.

configure loads contract and policy, verifies them and warms up. activate permits commands. deactivate stops the robot
and falls silent. README.md lists what stops the robot, how fast, and what no software here can do.
"""

from __future__ import annotations

import functools
import math
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field
from rclpy.executors import ConditionReachedException, ShutdownException, SingleThreadedExecutor, TimeoutException
from rclpy.impl.rcutils_logger import RcutilsLogger
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from dreamer_ros import options as shared
from dreamer_ros.deploy.control import Behaviour
from dreamer_ros.deploy.deployment import Deployment
from dreamer_ros.deploy.policies import authenticate, kept_policy
from dreamer_ros.deploy.realtime import PROCESS, has_priority, take_priority
from dreamer_ros.deploy.status_line import StatusLine
from dreamer_ros.errors import InputError
from dreamer_ros.files import user_path
from dreamer_ros.options import Options
from dreamer_ros.policy.loader import Unreachable
from dreamer_ros.policy.manifest import Manifest
from dreamer_ros.robot.contract import load_contract
from dreamer_ros.ros import qos
from dreamer_ros.ros.diagnostics import Timings
from dreamer_ros.ros.ownership import TopicTaken
from dreamer_ros.ros.parameters import read_parameters
from dreamer_ros.ros.runtime import run_node
from dreamer_ros.run_key import VARIABLE, given_key
from dreamer_ros.wire import topics

SAY_AGAIN = 5.0  # seconds between two lines about the same problem
TURN = 0.01  # seconds between two turns of the executor
STALLED = 0.5  # of a control period: what a callback may take while the robot is commanded
UNCONFIGURED, FINALIZED = 1, 4  # lifecycle_msgs/msg/State

SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class RobotAgentParameters(Options):
    """Parameters of the robot agent."""

    robot: shared.RequiredContract
    policy: Annotated[
        shared.Policy,
        Field(
            description='Policy to play: an ONNX file, or its manifest. Default: what the trainer offers on the topic '
            '`policy`. Mode train: policy to begin with.'
        ),
    ]
    trust: shared.Trust
    keep: str = Field(
        '', description='Mode train: folder that keeps the newest policy, for a restart while the trainer is away.'
    )
    autostart: shared.Autostart
    mode: Literal['evaluate', 'train'] = Field(
        'evaluate',
        description='evaluate: act deterministically. train: explore, and act at random until there is a policy.',
    )
    evaluate_every: shared.EvaluateEvery
    episode_length: int | None = Field(
        None, ge=0, le=10**9, description="Steps of an episode. 0: it has no end. Default: the contract's."
    )
    pause: shared.Pause
    seed: shared.Seed
    show: bool = Field(True, description='Show a status line on standard error.')


class RobotAgent(LifecycleNode):
    """See the module.

    Args:
        name: of the node.

    Raises:
        InputError: a bad parameter.

    Attributes:
        autostart: configure and activate as soon as that is possible.
        deployment: of the policy on the robot; None unless configured.
        refusal: why the last configuration failed.
    """

    def __init__(self, name: str):
        super().__init__(name)
        self._options = parameters = read_parameters(self, RobotAgentParameters)
        self._policy = parameters.policy
        self.autostart = parameters.autostart
        self._training = parameters.mode == 'train'
        self._key = given_key()
        if parameters.trust == 'lan' and (self._training or not self._policy):
            self.get_logger().warning(
                f'trust:=lan: whoever reaches this ROS domain can move the robot with a policy of his own on '
                f'{self.resolve_topic_name(topics.POLICY.name)}'
            )
        self._line = StatusLine() if parameters.show else None
        self._timings: Timings | None = None
        self._keep = user_path(parameters.keep) if parameters.keep and self._training else None
        self.stop = threading.Event()  # set when the process has to end, see `body`
        self.deployment: Deployment | None = None
        self.refusal: InputError | None = None
        self._offered: Manifest | None = None
        self._postponed: Manifest | None = None  # mode train: could not be fetched when the robot began
        self._try_again = 0.0  # monotonic seconds
        self._complaint = ''
        self._said: dict[str, tuple[float, int]] = {}  # by kind of sentence: when logged, and how many since
        self.create_subscription(
            qos.message_type(topics.POLICY), topics.POLICY.name, self._on_manifest, qos.profile(topics.LATCHED)
        )
        self.create_service(SetBool, '~/enable', self._on_enable)
        self.create_service(Trigger, '~/rollback', self._on_rollback)
        for name, act in (
            ('end_episode', Deployment.end_episode),
            ('succeed', functools.partial(Deployment.end_episode, success=True)),
            ('fail', functools.partial(Deployment.end_episode, success=False)),
            ('ready', Deployment.ready),
        ):
            self.create_service(Trigger, f'~/{name}', functools.partial(self._on_word, act))

    @property
    def _log(self) -> RcutilsLogger:
        """The logger, after erasing the status line."""
        self._clear_line()
        return self.get_logger()

    def _clear_line(self) -> None:
        if self._line:
            self._line.clear()

    @property
    def state(self) -> int:
        """State of the lifecycle."""
        return self._state_machine.current_state[0]

    # Transitions

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load contract and policy, verify and warm up."""
        self.refusal = None
        parameters = self._options
        try:
            contract = load_contract(parameters.robot)
            length = contract.episode_length if parameters.episode_length is None else parameters.episode_length
            policy = self._first_policy()
            if not policy and not self._training:
                raise InputError(f'expected a policy {self._lacking()}')
            self.deployment = Deployment(
                self,
                contract,
                Behaviour(self._training, parameters.evaluate_every, length or 0, parameters.pause, parameters.seed),
                policy,
                self._complain,
                self._keep,
                self.stop,
            )
        except InputError as error:
            self.refusal = error
            if not self.autostart:  # otherwise `try_start` logs it
                self._log.error(str(error))
            return FAILURE
        except Exception:
            self._log.error(traceback.format_exc())  # rclpy does not
            raise
        if self._line:
            self._timings = self.deployment.timings()
        self._log.info(
            f'{contract.name} at {contract.rate:g} Hz; policy {self.deployment.version}; '
            f'{"real-time priority" if has_priority() else "no real-time priority"}'
        )
        return SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Permit commands."""
        try:
            self.deployment.start()
        except InputError as error:
            self._log.error(str(error))
            return FAILURE
        self._log.info('active: the robot may move')
        return SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the robot, then command nothing."""
        self.halt()
        return SUCCESS

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Forget contract and policy."""
        self.halt()
        if self.deployment is not None:
            self.deployment.close()
            self.deployment = None
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the robot and end."""
        return self.on_cleanup(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """A transition failed: stop the robot and clean up."""
        self._log.error(f'a transition from the state {state.label} failed')
        return self.on_cleanup(state)

    def halt(self) -> None:
        """Stop the robot, if it was commanded."""
        self._clear_line()
        if self.deployment is not None and self.deployment.active:
            self._log.info(self.deployment.halt())

    # For the main loop

    def try_start(self) -> None:
        """Configure and activate, or log what is missing.

        Raises:
            InputError: waiting will not help.
        """
        if self._lacking():
            if not (self._key or self._options.trust == 'lan' or self._public_key()):
                raise InputError(
                    f'expected a policy, the key of a trainer in {VARIABLE}, or trust:=lan for the policies of anybody'
                )
            self._log.info(f'waiting for a policy {self._lacking()}', throttle_duration_sec=SAY_AGAIN)
            return
        if time.monotonic() < self._try_again:
            return
        if self.trigger_configure() is SUCCESS:
            self.autostart = False
            self.trigger_activate()
            if self._postponed:
                self.deployment.policies.offer(self._postponed)
        elif self.stop.is_set():
            return
        elif self._offered is None or (self._policy and not self._training) or isinstance(self.refusal, TopicTaken):
            raise self.refusal or InputError('expected to be configured; the reason is above')
        else:
            if self.refusal is not None:
                self._log.error(str(self.refusal))
            unreachable = isinstance(self.refusal, Unreachable)
            if unreachable and not self._training:
                self._try_again = time.monotonic() + SAY_AGAIN
                return
            self._postponed = self._offered if unreachable else None
            self._offered = None  # the trainer may offer a better one; until then the robot acts without

    def housekeeping(self) -> None:
        """Log what happened, take over policies that are ready, report."""
        complaint, self._complaint = self._complaint, ''
        if complaint and self._unsaid(complaint) is not None:
            self._log.error(complaint)
        deployment = self.deployment
        if deployment is None:
            return
        for event in deployment.events():
            self._say_event(event)
        waiting = '' if self._line and self._line.on_terminal else deployment.waiting()
        if waiting:
            self._log.info(f'waiting: {waiting}', throttle_duration_sec=SAY_AGAIN, skip_first=True)
        if deployment.policies.poll():
            if deployment.policies.problem:
                self._refuse(deployment.policies.problem)
            else:
                self._log.info(f'policy {deployment.version}')
        for warning in deployment.command.look():
            self._log.warning(warning)
        deployment.tick_diagnostics()
        if self._line and self._line.due():
            self._line.show(deployment.describe(self._timings.summary()))

    def _say_event(self, event: str) -> None:
        """Log a stop or limit, each kind at most once per `SAY_AGAIN`: on a busy computer there may be many."""
        unsaid = self._unsaid(event)
        if unsaid is not None:
            self._log.warning(event + (f' ({unsaid} more such stops before)' if unsaid else ''))

    def _unsaid(self, sentence: str) -> int | None:
        """How many sentences of this kind were left out since the last one; None if it is too early for another."""
        kind, now = re.sub(r'[\d.]+', '', sentence), time.monotonic()
        said, unsaid = self._said.get(kind, (-math.inf, 0))
        early = now - said < SAY_AGAIN
        self._said[kind] = (said, unsaid + 1) if early else (now, 0)
        return None if early else unsaid

    def _lacking(self) -> str:
        """Where a missing policy has to come from; '' if there is one, or none is needed."""
        if self._policy or self._training or self._offered:
            return ''
        return f'on {self.resolve_topic_name(topics.POLICY.name)}: is the trainer running?'

    def _first_policy(self) -> str | Manifest | None:
        """The policy to begin with; None to begin without one."""
        if not self._training:
            return self._policy or self._offered
        return self._offered or (self._keep and kept_policy(self._keep, self._log.warning)) or self._policy or None

    def _complain(self, sentence: str) -> None:
        """Note a sentence for `housekeeping`: the control loop must not wait for a terminal."""
        self._complaint = sentence

    def _refuse(self, problem: str) -> None:
        playing = self.deployment is not None and self.deployment.policies.current is not None
        self._log.error(f'{problem}; keeping {self.deployment.version}' if playing else problem)

    # Topics and services

    def _on_manifest(self, message: String) -> None:
        if self._policy and not self._training:
            return
        topic = self.resolve_topic_name(topics.POLICY.name)
        try:
            manifest = Manifest.from_json(message.data, f'topic {topic}')
            self._authenticate(manifest, topic)
        except InputError as error:
            self._log.error(str(error), throttle_duration_sec=SAY_AGAIN)
            return
        try:
            self._offered, self._postponed, self._try_again = manifest, None, 0.0
            if self.deployment is not None:
                self.deployment.policies.offer(self._offered)
        except InputError as error:
            self._refuse(str(error))

    def _authenticate(self, manifest: Manifest, topic: str) -> None:
        """Refuse the policy of a stranger.

        Raises:
            InputError: nothing proves that it comes from a trainer that this robot was told of.
        """
        public_key = self._public_key()
        if public_key or self._options.trust == 'lan':
            authenticate(manifest, public_key)
        elif self._key is None or not manifest.proven(self._key):
            expected = f'the key {self._key.path}' if self._key else f'a key, of which none is given in {VARIABLE}'
            raise InputError(
                f'topic {topic}: expected policies of a trainer with {expected}, but version {manifest.version} came '
                'from another one; trust:=lan would play it'
            )

    def _public_key(self) -> str | None:
        """By which policies must be signed.

        Raises:
            InputError: the contract is not valid.
        """
        return (self.deployment.contract if self.deployment else load_contract(self._options.robot)).public_key

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        return self._answer(response, lambda deployment: deployment.enable(request.data))

    def _on_rollback(self, _, response: Trigger.Response) -> Trigger.Response:
        def rollback(deployment: Deployment) -> str:
            sentence = f'policy version {deployment.policies.rollback().version}'
            self._log.info(f'rolled back to {sentence}')
            return sentence

        return self._answer(response, rollback)

    def _on_word(self, act: Callable[[Deployment], str], _, response: Trigger.Response) -> Trigger.Response:
        return self._answer(response, act)

    def _answer(self, response, act):
        """Fill a service's response with what `act` returns, or with the InputError that it raises."""
        try:
            if self.deployment is None:
                raise InputError('expected the agent to be configured')
            response.success, response.message = True, act(self.deployment)
        except InputError as error:
            response.success, response.message = False, str(error)
        return response


class WatchedExecutor(SingleThreadedExecutor):
    """Runs the agent's callbacks, and sets a deadline for each that the watchdog checks."""

    def __init__(self, agent: RobotAgent):
        super().__init__()
        self._agent = agent
        self.add_node(agent)

    def turn(self, timeout: float) -> None:
        """Run one callback that is due, or sleep for `timeout` seconds."""
        try:
            # No waiting in rclpy: it wakes up for entities that it may not run, again and again, and that loop
            # would keep the interpreter from the policy.
            handler, _, _ = self.wait_for_ready_callbacks(0.0)
        except TimeoutException:
            time.sleep(timeout)
            return
        except (ShutdownException, ConditionReachedException):
            return
        deployment = self._agent.deployment
        if deployment is not None and deployment.active:
            deployment.executor_deadline.set(time.monotonic() + STALLED * deployment.period)
        handler()
        if deployment is not None:
            deployment.executor_deadline.set(math.inf)
        handler.result()  # raises what the callback raised


def body(agent: RobotAgent, stop: threading.Event) -> None:
    """Serve until the event is set, or the lifecycle ends."""
    agent.stop = stop
    executor = WatchedExecutor(agent)
    try:
        while not stop.is_set() and agent.state != FINALIZED:
            executor.turn(TURN)
            agent.housekeeping()
            if agent.autostart and agent.state == UNCONFIGURED:
                agent.try_start()
    finally:
        agent.halt()
        if agent.deployment is not None:
            agent.deployment.close()
        executor.shutdown()


def main(make: Callable[[str], RobotAgent] = RobotAgent) -> int:
    """Entry point of `ros2 run dreamer_ros robot_agent`."""
    take_priority(PROCESS)  # before the middleware's threads start
    return run_node('agent', body, make)


if __name__ == '__main__':
    sys.exit(main())
