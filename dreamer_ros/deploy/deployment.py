"""A policy on a robot: makes, starts and halts everything between the robot's topics and its command."""

from __future__ import annotations

import contextlib
import functools
import gc
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from std_msgs.msg import Header

from dreamer_ros.deploy import outlets
from dreamer_ros.deploy.camera_reward import CameraReward
from dreamer_ros.deploy.clocks import SimulatedClock, SystemClock
from dreamer_ros.deploy.command_topic import Receivers
from dreamer_ros.deploy.control import LATE, Behaviour, Control, StepPublisher
from dreamer_ros.deploy.guard import Guard
from dreamer_ros.deploy.limit_watch import LimitWatch
from dreamer_ros.deploy.policies import Policies
from dreamer_ros.deploy.realtime import has_priority
from dreamer_ros.deploy.resetting import Resetting
from dreamer_ros.deploy.stops import Deadline, EmergencyStop
from dreamer_ros.deploy.subscriptions import Inputs
from dreamer_ros.deploy.takeover import Person
from dreamer_ros.deploy.watchdog import Check, Gate, Watchdog
from dreamer_ros.errors import InputError
from dreamer_ros.policy.manifest import Manifest
from dreamer_ros.robot.contract import ClassifierReward, RobotContract
from dreamer_ros.ros import diagnostics, qos
from dreamer_ros.ros.diagnostics import Diagnostics, Timings
from dreamer_ros.ros.ownership import TopicLock, announcement
from dreamer_ros.ros.runtime import terminating
from dreamer_ros.wire import topics
from dreamer_ros.wire.codecs import Verdict
from dreamer_ros.wire.topics import QoS, Topic

ROUNDS = 8  # of the watchdog per control period
LONGEST_ROUND = 0.01  # seconds between two of them
FROZEN = 0.6  # of a period without a beat: the process counts as frozen
CLOCK_PATIENCE = 0.5  # of a period in which ROS time must advance
FINAL_STOPS = 5  # before the agent falls silent: a single message may be lost
STOP_GAP = 0.02  # seconds between them
POSE_TIME = 10.0  # seconds at most to reach a stop that is a pose
HEARTBEAT = 0.1  # seconds
HEARTBEATS = Topic('~/heartbeat', 'std_msgs/msg/Header', QoS(depth=10))


class Deployment:
    """Ready to command after construction; commands between `start` and `halt`.

    It holds the topics and actions of the command: no other process of this computer can deploy on them meanwhile.

    Args:
        node: publishes and subscribes.
        contract: of the robot.
        behaviour: how the policy is played.
        policy: the first policy, see `Policies.load`; None to begin without one.
        complain: gets a sentence about a recurring problem, from any thread.
        keep: see `Policies`.
        stop: ends the loading of the first policy.

    Raises:
        TopicTaken: another agent of this computer commands the robot.
        InputError: the policy or the contract cannot be used here.

    Attributes:
        policies: the policies of the robot.
        command: watches those who are commanded.
        executor_deadline: set by whoever runs the node's callbacks while this is active.
    """

    def __init__(
        self,
        node: Node,
        contract: RobotContract,
        behaviour: Behaviour,
        policy: None | str | Manifest,
        complain: Callable[[str], None],
        keep: Path | None,
        stop: threading.Event,
    ):
        self._node, self.contract = node, contract
        self._receivers = outlets.full_names(node, contract)
        with contextlib.ExitStack() as closing:  # gives back what was made if something fails in the middle

            def kept(resource: Any) -> Any:
                closing.callback(resource.close)
                return resource

            def publisher(topic: Topic) -> Publisher:
                made = qos.publisher(node, topic)
                closing.callback(node.destroy_publisher, made)
                return made

            for name in self._receivers:
                refusal = (
                    f'topic {name}: expected no other agent, but one of this computer commands the robot there; '
                    'end or clean up that one first'
                )
                kept(TopicLock(node, name, refusal))
            simulated = node.get_parameter('use_sim_time').value
            patience = CLOCK_PATIENCE * self.period
            self._clock = kept(SimulatedClock(node, patience)) if simulated else SystemClock()
            # It listens while the rest is prepared.
            self._estop = kept(EmergencyStop(node, contract.estop))
            self.policies = kept(Policies(contract, behaviour.seed, keep, complain))
            # It starts while the policy is loaded.
            agent = node.get_fully_qualified_name()
            self._guard = kept(Guard(contract, agent, self._receivers, FROZEN * self.period, enclave_of(node)))
            if policy:
                self.policies.load(policy, stop)
            if not self._guard.wait():
                raise InputError('expected the guard process to start; its error is above')
            self._outlets = [
                kept(outlets.outlet(node, part, name, complain=complain))
                for part, name in zip(contract.command.parts, self._receivers)
            ]
            self.command = Receivers(node, contract, self._receivers, self._outlets, self._guard.name)
            send, stop_ = (functools.partial(each, self._outlets) for each in (outlets.send, outlets.stop))
            self._gate = Gate(contract, send, stop_, self._clock.time_ns)
            self._inputs = kept(Inputs(node, contract, self._clock))
            self._limits = kept(LimitWatch(node, contract, self._gate.block, self._clock)) if contract.limits else None
            self._person = kept(Person(node, contract)) if contract.joystick else None
            self._reset = kept(Resetting(node, contract, self._gate))
            says = contract.reward
            camera_reward = CameraReward(contract, says) if isinstance(says, ClassifierReward) else None
            self._overdue = Deadline(
                f'no command within {LATE:.0%} of a control period after its tick: inference takes too long'
            )
            self.executor_deadline = Deadline('the executor is stuck in a callback')
            self._control = Control(
                contract,
                self._inputs,
                self.policies,
                self._gate,
                kept(StepPublisher(node, contract)),
                behaviour,
                self._clock,
                self._overdue,
                self._person,
                self._reset,
                camera_reward,
                complain,
            )
            publisher(topics.SPEC).publish(announcement(contract.spec))
            self._heartbeats = publisher(HEARTBEATS)
            self._diagnostics = kept(Diagnostics(node, 'robot', contract.name, self._report))
            self._closing = closing.pop_all()
        self._watchdog: Watchdog | None = None
        self._armed = False
        self._guarded = False  # the guard's stop would reach the robot
        self._enabled = True
        self._ending = ''  # name of the signal that came
        self._next_heartbeat = 0.0
        # These objects live as long as the deployment: the collector need not visit them in the middle of a tick.
        gc.collect()
        gc.freeze()

    @property
    def period(self) -> float:
        """Seconds between two commands."""
        return 1.0 / self.contract.rate

    @property
    def active(self) -> bool:
        """Between `start` and `halt`."""
        return self._watchdog is not None

    @property
    def version(self) -> str:
        """Version of the running policy, for people."""
        runner = self.policies.current
        return 'none' if runner is None else f'version {runner.version}'

    def start(self) -> None:
        """Permit commands; they begin once somebody obeys them.

        Raises:
            InputError: the last control loop still hangs in a step.
        """
        self._control.check_ended()
        self._armed, self._guarded = True, False
        # Its first round is over before the gate opens: a pressed emergency stop is known before any command.
        self._watchdog = Watchdog(self._gate, min(self.period / ROUNDS, LONGEST_ROUND), self._checks(), self._beat)
        self._set_enabled(self._enabled)
        self._gate.open()
        self._control.start()

    def halt(self) -> str:
        """Stop the robot and fall silent; returns a summary in one sentence."""
        self._gate.hold('inactive', 'deactivated')
        self._control.close()
        for _ in range(FINAL_STOPS):
            self._gate.stop()
            time.sleep(STOP_GAP)
        reached = time.monotonic() + POSE_TIME
        while not self._gate.stopped and time.monotonic() < reached:
            time.sleep(STOP_GAP)  # the watchdog repeats the stop
        self._gate.close()
        self._armed = False
        self._watchdog.close()
        self._watchdog = None
        self._beat()
        for name in self._gate.reasons:
            self._gate.release(name)
        control = self._control
        stops = ', '.join(f'{name} {count}' for name, count in self._gate.stops.items())
        return (
            f'stopped the robot and fell silent after {control.played} steps in {control.episodes} episodes; '
            f'{control.overruns} overruns; stops: {stops}; policy {self.version}'
        )

    def close(self) -> None:
        """Release everything; after `halt`."""
        self._closing.close()

    def enable(self, enabled: bool) -> str:
        """Let the policy command, or stop the robot and keep it stopped; returns which.

        Raises:
            InputError: the emergency stop is pressed.
        """
        if enabled and self._estop.pressed():
            raise InputError(f'expected the emergency stop on {self._estop.topic} to be released first')
        if self._person:
            self._person.dismiss()
        self._set_enabled(enabled)
        self._gate.release('pause')
        if enabled:
            self._reset.again()
        return 'enabled' if enabled else 'stopped'

    def end_episode(self, success: bool | None = None) -> str:
        """End the running episode, as a success or failure if a person says so; returns that.

        Raises:
            InputError: none is running.
        """
        if not self._control.playing:
            raise InputError('expected a running episode')
        self._control.end_episode(None if success is None else Verdict(success, 'person'))
        return 'the episode ends' + ('' if success is None else f' as a {"success" if success else "failure"}')

    def ready(self) -> str:
        """A person has set the robot up again; returns that.

        Raises:
            InputError: nobody was asked to.
        """
        return self._reset.ready()

    def events(self) -> list[str]:
        """What stopped or limited the robot since the last call."""
        return [self._gate.events.popleft() for _ in range(len(self._gate.events))]

    def waiting(self) -> str:
        """What commands wait for, if anything."""
        if not self.active:
            return ''
        reasons = dict(self._gate.reasons)
        # Both the watchdog and the control loop report a silent topic.
        if f'{reasons.get("stale", "").split(":")[0]}: ' in reasons.get('observation', ''):
            reasons.pop('stale', None)
        return '; '.join(reasons.values()) or self._reset.doing

    def timings(self) -> Timings:
        """Durations from now on, whose summary `describe` takes."""
        return self._control.timings.reader()

    def describe(self, timings: Mapping[str, str]) -> str:
        """One line for people; `timings` is a summary of what `self.timings()` returned."""
        control, runner = self._control, self.policies.current
        parts = [f'{timings["rate [Hz]"]} Hz']
        waiting = self.waiting()
        if waiting or not self.active:
            parts.insert(0, f'waiting: {waiting}' if self.active else 'inactive')
        elif self._gate.limited:
            parts.insert(0, self._gate.limited)
        if 'latency p50 [ms]' in timings:
            median, high, age = (float(timings[f'{name} [ms]']) for name in ('latency p50', 'latency p99', 'age p50'))
            parts += [f'latency {median:.1f} ms (p99 {high:.1f})', f'input {age:.1f} ms old']
        parts.append('no policy' if runner is None else f'policy {runner.version}')
        if control.returned is not None:
            parts.append(f'return {control.returned:.1f}')
        parts.append(f'step {control.length} of episode {control.episodes}')  # last: a narrow terminal cuts it off
        return ', '.join(parts)

    def tick_diagnostics(self) -> None:
        """Call often; publishes at 1 Hz."""
        self._diagnostics.tick()

    # On the watchdog's thread

    def _checks(self) -> dict[str, Check]:
        checks = {
            'estop': self._check_estop,
            'listening': self._estop.listening,
            'signal': self._check_signal,
            'overdue': self._overdue,
            'stale': self._inputs.overdue,
            'executor': self.executor_deadline,
            'guard': self._check_guard,
            'subscriber': self.command.check,
        }
        if self._limits:
            checks['limit'] = self._limits
        if self._person:
            checks['joystick'] = self._person.lost
        if isinstance(self._clock, SimulatedClock):
            checks['clock'] = self._clock
        return checks

    def _check_estop(self, now: float) -> str:
        if not self._estop.pressed():
            return ''
        # ISO 13850: resetting an emergency stop must not start anything.
        reason = f'emergency stop on {self._estop.topic}'
        self._gate.hold('estop', reason)
        self._set_enabled(False)
        return reason

    def _check_signal(self, now: float) -> str:
        self._ending = self._ending or terminating()
        return self._ending

    def _check_guard(self, now: float) -> str:
        if not self._guard.alive:
            return 'the guard process ended: restart the agent'
        if not self._guard.reads(now):
            return 'the guard process does not answer'
        # A later subscriber may find the agent a moment before the guard, which is no reason to stop.
        self._guarded = self._guarded or all(
            theirs >= ours.matched for theirs, ours in zip(self._guard.matched, self._outlets)
        )
        return '' if self._guarded else 'the guard process has not found the robot yet'

    def _beat(self) -> None:
        self._guard.beat(self._armed, self._clock.time_ns() - time.time_ns(), self._gate.values)
        now = time.monotonic()
        if now >= self._next_heartbeat:
            self._next_heartbeat = now + HEARTBEAT
            state = 'inactive' if not self._armed else 'stopped' if self._gate.reasons else 'commanding'
            self._heartbeats.publish(Header(stamp=self._node.get_clock().now().to_msg(), frame_id=state))

    # The rest

    def _set_enabled(self, enabled: bool) -> None:
        self._enabled = enabled
        if enabled:
            self._gate.release('enable')
        else:
            self._gate.hold('enable', 'not enabled; call ~/enable')

    def _report(self) -> diagnostics.Report:
        control, gate = self._control, self._gate
        level, message = diagnostics.OK, 'commanding' if self.active else 'inactive'
        if waiting := self.waiting():
            level = diagnostics.WARN if set(gate.reasons) == {'subscriber'} else diagnostics.ERROR
            level = diagnostics.OK if waiting == self._reset.doing else level
            message = waiting
        elif problem := gate.limited or self.policies.problem or (self._person and self._person.problem):
            level, message = diagnostics.WARN, problem
        elif self.command.others:
            level = diagnostics.WARN
            message = f'{", ".join(self._receivers)} is published by {", ".join(self.command.others)} too'
        values = {
            **control.timings.summary(),
            'policy version': self.version,
            'steps': control.played,
            'episodes': control.episodes,
            'overruns': control.overruns,
            'observations dropped': self._inputs.dropped,
            'observations repeated': self._inputs.repeated,
            'commands limited': control.limited,
            'stops': sum(gate.stops.values()),
            'real-time priority': 'yes' if has_priority() else 'no',
        }
        if self._person:
            values['in control'] = 'a person' if self._person.steering else 'the policy'
        return level, message, values


def enclave_of(node: Node) -> str:
    """The security enclave of a node (SROS 2), '/' unless it has another."""
    name = node.get_fully_qualified_name()
    found = node.get_node_names_and_namespaces_with_enclaves()
    return next((enclave for leaf, place, enclave in found if f'{place.rstrip("/")}/{leaf}' == name), '/')
