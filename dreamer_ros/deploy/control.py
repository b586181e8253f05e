"""The control loop of a robot: observe, act, command, once per tick, on a thread of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
import traceback
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import JointState, Joy

from dreamer_ros.deploy.camera_reward import CameraReward
from dreamer_ros.deploy.clocks import SystemClock
from dreamer_ros.deploy.policies import Policies
from dreamer_ros.deploy.realtime import CONTROL, raise_thread
from dreamer_ros.deploy.resetting import Resetting
from dreamer_ros.deploy.stops import Deadline, TimeSetBack
from dreamer_ros.deploy.subscriptions import Inputs
from dreamer_ros.deploy.takeover import Person
from dreamer_ros.deploy.watchdog import Gate
from dreamer_ros.errors import InputError
from dreamer_ros.policy.actions import random_action
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.robot.contract import ClassifierReward, RobotContract, VerdictReward
from dreamer_ros.robot.sensing import Sensed
from dreamer_ros.ros import qos
from dreamer_ros.ros.diagnostics import Timings
from dreamer_ros.ros.message_template import MessageTemplate
from dreamer_ros.ros.observation_publisher import image_template, scalar_template
from dreamer_ros.wire import codecs, topics
from dreamer_ros.wire.codecs import Mode, Verdict

LATE = 0.7  # of a period after its tick, a command counts as overdue
# A stop is part of the episode if it lasts at most so many ticks and has no other reasons than these.
PASSING, PASSING_REASONS = 3, {'overdue', 'executor', 'clock'}
NAP, SIMULATED_NAP = (
    0.1,
    0.002,
)  # seconds at most between two looks at the clock; the pace of a simulated one is unknown
STEER = 0.02  # of a period: how much longer or shorter one may be
GAIN = 0.1  # of the phase error, corrected per tick
# All corrections together come to this many periods at most, and to so much more per tick: what clocks may differ by.
REACH, DRIFT = 1.0, 0.0005
# Wanted age of the newest observation at a tick: so many mean deviations of it, within these fractions of a period.
SPREADS, MARGIN = 4.0, (0.1, 0.4)
SLOWNESS = 0.03  # weight of a new sample in the mean deviation, and in the number of images per tick


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """How the policy is played.

    Attributes:
        training: explore, and act at random while there is no policy; otherwise act deterministically.
        evaluate_every: while training, every n-th episode is deterministic; 0 for none.
        episode_length: steps; 0 for no limit.
        pause: hold the robot after every episode.
        seed: seed of random actions.
    """

    training: bool
    evaluate_every: int
    episode_length: int
    pause: bool
    seed: int


class Metronome:
    """Ticks once per period, and drifts towards the phase of the observations.

    A free-running clock would meet images of any age up to a whole period. So each period is made a little
    longer or shorter until the ticks come shortly after the images, by a margin that grows with their jitter.
    The sum of these corrections is bounded, so that the mean rate is right beside a camera of any rate.

    Args:
        period: seconds.
        now: seconds of the first tick.
        clock: of these seconds.
    """

    def __init__(self, period: float, now: float, clock: SystemClock | None = None):
        self.period = period
        self.next = now
        self._clock = clock or SystemClock()
        self._spread = 0.1  # mean deviation from the wished phase, in periods
        self._images = 1.0  # mean number per tick
        self._sent = 0
        self._moved = 0.0  # sum of the corrections beyond `DRIFT`, in periods

    def wait(self, stopping: threading.Event | None = None) -> float:
        """Sleep until the next tick, or until the event is set; returns its time in monotonic seconds.

        Missed ticks are skipped.
        """
        while (left := self.next - self._clock.seconds()) > 0 and not (stopping and stopping.is_set()):
            if left > 2 * self.period:  # the clock was set back
                self.next -= left
            time.sleep(min(left, SIMULATED_NAP if self._clock.simulated else NAP))
        late = max(0.0, self._clock.seconds() - self.next)
        if late >= self.period:  # suspended or overrun: start over, or a burst of ticks would follow
            self.next += late
            late = 0.0
        self.next += self.period
        return time.monotonic() - late

    @property
    def deadline(self) -> float:
        """When the command of the next tick is overdue, in monotonic seconds; unknown in simulated time."""
        return float('inf') if self._clock.simulated else self.next + LATE * self.period

    def steer(self, age: float | None, sent: int) -> None:
        """Correct the next tick.

        Args:
            age: of the newest observation at this one, in seconds.
            sent: observations until now, those that never came included.
        """
        if age is None or self._clock.simulated:
            return
        if self._sent:
            self._images += SLOWNESS * (sent - self._sent - self._images)
        self._sent = sent
        # Between the phases of the period at which images come: 1/4 beside a camera of four times the rate, 1/3 beside
        # one of 1.5 times.
        spacing = 1.0 / max(1, Fraction(self._images).limit_denominator(2).numerator)
        margin = min(max(SPREADS * self._spread, MARGIN[0]), MARGIN[1] * spacing)
        # At most half the spacing either way: the tick may also have just missed an observation.
        error = (age / self.period - margin + spacing / 2) % spacing - spacing / 2
        self._spread += SLOWNESS * (abs(error) - self._spread)
        forgotten = self._moved - _within(self._moved, DRIFT)
        self._moved = _within(forgotten + _within(GAIN * error, STEER), REACH)
        self.next -= (self._moved - forgotten) * self.period


def _within(value: float, limit: float) -> float:
    """The value, at most the limit away from zero."""
    return min(max(value, -limit), limit)


class StepPublisher:
    """Publishes each step of an episode: what the agent saw, `step` with the age of each input, `action`.

    An observation that could not be used, at the end of an episode, is published as empty messages.
    """

    def __init__(self, node: Node, contract: RobotContract):
        self._node, self._spec = node, contract.spec
        self._topics = [topic.name for topic in contract.topics]
        self._images = [qos.publisher(node, topic) for topic in topics.observed_images(self._spec.cameras)]
        self._image_template = image_template(*self._spec.image_size) if self._images else None
        self._vectors = [qos.publisher(node, topics.OBSERVED_VECTOR)] if self._spec.vector else []
        self._vector_template = scalar_template(self._spec.vector) if self._vectors else None
        self._steps, self._actions = qos.publisher(node, topics.STEP), qos.publisher(node, topics.ACTION)
        self._names = [*codecs.STEP_NAMES, *(codecs.AGE_PREFIX + topic for topic in self._topics)]
        self._step_template = scalar_template(self._names)
        self._action_template: tuple[Mode, MessageTemplate] | None = None

    def publish(
        self,
        stamp: int,
        sensed: Sensed,
        flags: tuple[bool, bool, bool],
        action: np.ndarray,
        mode: Mode,
        verdict: Verdict | None,
    ) -> None:
        """Publish one step: `flags` are is_first, is_last and is_terminal, `action` f32[A] answers the observation."""
        if sensed.image is None:
            self._publish_nothing(stamp)
        else:
            for number, publisher in enumerate(self._images):
                image = sensed.image[:, :, 3 * number : 3 * number + 3]
                publisher.publish(self._image_template.write(stamp, image))
            for publisher in self._vectors:
                publisher.publish(self._vector_template.write(stamp, sensed.vector.astype(np.float64)))
        reward = 0.0 if flags[0] else sensed.reward or 0.0
        ages = (sensed.ages.get(topic, np.nan) for topic in self._topics)
        values = np.array((reward, *flags, *ages), np.float64)
        if verdict is None:
            self._steps.publish(self._step_template.write(stamp, values))
        else:
            message = JointState(name=[*self._names, codecs.VERDICT + verdict.by])
            message.position = [*values.tolist(), float(verdict.success)]
            codecs.fill_stamp(message.header.stamp, stamp)
            self._steps.publish(message)
        if self._action_template is None or self._action_template[0] != mode:
            joy = Joy()
            codecs.fill_action(joy, action, stamp, mode)
            self._action_template = mode, MessageTemplate(joy, ['axes'], tail=4)
        self._actions.publish(self._action_template[1].write(stamp, action))

    def _publish_nothing(self, stamp: int) -> None:
        for publisher in (*self._images, *self._vectors):
            message = publisher.msg_type()
            codecs.fill_stamp(message.header.stamp, stamp)
            publisher.publish(message)

    def close(self) -> None:
        """Publish no more."""
        for publisher in (*self._images, *self._vectors, self._steps, self._actions):
            self._node.destroy_publisher(publisher)


class Control:
    """Ticks at the contract's rate from `start` to `close`.

    An episode begins with the first tick at which nothing holds the gate. It ends at its length, at the contract's
    end, on request, or when the robot is stopped. A stop of a few ticks that lacks only commands, not
    observations, is part of the episode. Before the next one begins, the robot is set up as the contract says.

    Args:
        contract: of the robot.
        inputs, policies, gate: of the robot.
        steps: publishes what happened.
        behaviour: how to play.
        clock: of the robot.
        overdue: the deadline of the next command, set here.
        person: who may take over; None without a joystick.
        reset: sets the robot up again.
        camera_reward: tells success from the camera; None where the contract does not.
        complain: gets one sentence about a recurring problem.

    Attributes:
        timings: latency from image stamp to command, inference, age of the first camera's image at a tick.
        returned: sum of rewards of the running or last episode; None without a reward.
        length: steps of that episode after its first observation.
        played, episodes, overruns, limited: counts of steps, of episodes, of late commands, and of commands that
            were changed for safety.
    """

    def __init__(
        self,
        contract: RobotContract,
        inputs: Inputs,
        policies: Policies,
        gate: Gate,
        steps: StepPublisher,
        behaviour: Behaviour,
        clock: SystemClock,
        overdue: Deadline,
        person: Person | None,
        reset: Resetting,
        camera_reward: CameraReward | None,
        complain: Callable[[str], None],
    ):
        self._contract, self._inputs, self._policies, self._gate = contract, inputs, policies, gate
        self._publisher, self._behaviour, self._clock = steps, behaviour, clock
        self._overdue, self._person, self._reset, self._complain = overdue, person, reset, complain
        self._camera_reward = camera_reward
        self._spec = contract.spec
        self._leading = contract.topics[0].name
        self._set_back = TimeSetBack(clock.time_ns, 1.0 / contract.rate)
        self._rng = np.random.default_rng(behaviour.seed)
        self._runner: PolicyRunner | None = None
        self._stamp = 0
        self._started = False
        self._length = -1  # steps of the running episode; -1 for none
        self._stops = 0  # ticks since the last command
        self._mode = Mode('random')  # of the last action
        self._deterministic = not behaviour.training
        self._end_requested = threading.Event()
        self._verdict: Verdict | None = None  # of the running episode
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self.timings = Timings('latency', 'inference', 'age')
        self.returned: float | None = None
        self.length = 0
        self.played = self.episodes = self.overruns = self.limited = 0

    def start(self) -> None:
        """Begin to tick."""
        self._stopping.clear()
        self._started = False
        self._thread = threading.Thread(target=self._run, name='control', daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread after the tick that has begun; it commands nothing any more."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout=1.0)

    def check_ended(self) -> None:
        """Refuse to start beside a thread that `close` could not end: two loops would command one robot.

        Raises:
            InputError: such a thread still runs.
        """
        if self._thread is not None and self._thread.is_alive():
            raise InputError('expected the last step of the control loop to be over, but it hangs: is inference stuck?')

    def end_episode(self, verdict: Verdict | None = None) -> None:
        """End the running episode with the next tick, as if it had reached its length, or with a verdict."""
        self._verdict = verdict
        self._end_requested.set()

    @property
    def playing(self) -> bool:
        """Whether an episode is running."""
        return self._length >= 0

    def _run(self) -> None:
        raise_thread(CONTROL)
        metronome = Metronome(1.0 / self._contract.rate, self._clock.seconds(), self._clock)
        self._overdue.set(metronome.deadline)
        while True:
            tick = metronome.wait(self._stopping)
            if self._stopping.is_set():
                break
            due = tick + LATE * metronome.period
            self._overdue.set(due)
            try:
                self._tick(tick, due, metronome)
                self._gate.release('control')
            except Exception as error:  # the robot stops, and the loop goes on trying
                self._gate.hold('control', f'{type(error).__name__}: {error}')
                self._complain(traceback.format_exc() if not isinstance(error, InputError) else str(error))
            self._overdue.set(metronome.deadline)
        self._overdue.set(float('inf'))
        self._end_episode_quietly()
        self._reset.interrupt()

    def _tick(self, tick: float, due: float, metronome: Metronome) -> None:
        ticket = self._gate.ticket()
        if seconds := self._set_back.look():
            self._begin_anew(seconds)
        # Stamps identify steps, so they increase whatever the system's clock does.
        self._stamp = max(self._stamp + 1, self._clock.time_ns())
        sensed = self._observe()
        metronome.steer(self._inputs.waited(time.time_ns()), self._inputs.sent)
        self._judge(sensed)
        self._listen()
        if self._reset.pending and not self.playing:
            self._set_up_again(sensed, ticket)
            return
        if self._gate.reasons and not (self.playing and self._passing(sensed)):
            self._end_episode(sensed)
            return
        if not self._started:
            self._gate.start(sensed.feedback)  # InputError: the robot stands outside its limits
            self._started = True
        is_first = self._length < 0
        if is_first:
            self._begin_episode()
        if self._is_last(sensed):
            self._gate.stop()
            self._end_episode(sensed)
            if self._behaviour.pause:
                self._gate.hold('pause', 'the episode has ended; ~/enable true begins the next one')
            return
        action, mode = self._act(sensed, is_first)
        steered = self._steered(sensed)
        if steered is not None:
            action, mode = steered, Mode('human')
        limited = self._gate.command(action, ticket)
        self.overruns += time.monotonic() > due
        self._mode = mode
        if limited is None:  # held back: the recorded action is the stop
            self._stops += 1
            self._gate.stop()  # whoever holds the gate may not have sent it yet
            if self._passing(sensed):
                self._step(sensed, self._gate.action(self._gate.values))
            else:
                self._end_episode(sensed)
            return
        if limited.refused:
            self._gate.hold('action', f'the action of {mode} is not finite: {action.tolist()}')
            self._end_episode(sensed)
            return
        if self._leading in sensed.ages:  # else a default stands for it
            age = sensed.ages[self._leading] / 1e9
            self.timings.add('age', age)
            self.timings.add('latency', age + (self._clock.time_ns() - self._stamp) / 1e9)
        if limited.clamped or limited.slowed or limited.blocked:
            self.limited += 1
            action = self._gate.action(limited.values)  # the recorded action is the one that was sent
        self._stops = 0
        self._step(sensed, action)

    def _observe(self) -> Sensed:
        sensed = self._inputs.observe(self._stamp)
        return self._camera_reward.judge(sensed) if self._camera_reward else sensed

    def _listen(self) -> None:
        """Hear what a person says with the joystick's buttons."""
        said = self._person.said() if self._person else ()
        for word in said:
            if word == 'ready':
                with contextlib.suppress(InputError):  # nobody was asked to
                    self._reset.ready()
            elif self.playing:
                self.end_episode(Verdict(word == 'success', 'joystick'))

    def _steered(self, sensed: Sensed) -> np.ndarray | None:
        return self._person.steer(self._gate.values, sensed.feedback) if self._person else None

    def _set_up_again(self, sensed: Sensed, ticket: int) -> None:
        """One period of the reset. Nothing is recorded; a person may drive the robot."""
        held = bool(self._gate.reasons)
        if not (held or self._started):
            self._gate.start(sensed.feedback)
            self._started = True
        steered = None if held else self._steered(sensed)
        if steered is not None:
            self._gate.command(steered, ticket)
            return
        self._reset.tick(None if sensed.problems else sensed.feedback, ticket)
        self._started = self._reset.pending and self._started  # others may have moved it

    def _begin_anew(self, seconds: float) -> None:
        """Stop, and forget all messages from before the clock was set back: their age is unknown now."""
        self._gate.hold('time', f'the clock was set back by {seconds:.3f} s; waiting for what is measured from now on')
        self._end_episode_quietly()
        self._inputs.forget()
        self._stamp = 0

    def _step(self, sensed: Sensed, action: np.ndarray) -> None:
        """Publish a step of the running episode."""
        if sensed.reward_problems and self._length > 0:  # the first step has no reward
            self._complain(f'reward counted as 0: {self._inputs.told(sensed.reward_problems)}')
        if self._runner is not None:
            self._runner.acted(action)
        self._publish(sensed, (self._length == 0, False, False), action)
        self._length += 1
        self.played += 1

    def _publish(
        self, sensed: Sensed, flags: tuple[bool, bool, bool], action: np.ndarray, verdict: Verdict | None = None
    ) -> None:
        self.length = 0 if flags[0] else self.length + 1
        if self._contract.reward is not None:
            self.returned = 0.0 if flags[0] else self.returned + (sensed.reward or 0.0)
        self._publisher.publish(self._stamp, sensed, flags, action, self._mode, verdict)

    def _passing(self, sensed: Sensed) -> bool:
        """Whether the episode goes on although the robot is held."""
        return self._stops <= PASSING and not sensed.problems and PASSING_REASONS.issuperset(self._gate.reasons)

    def _judge(self, sensed: Sensed) -> None:
        """Hold the robot while the observation cannot be acted upon."""
        if sensed.problems:
            self._gate.hold('observation', self._inputs.told(sensed.problems))
        else:
            self._gate.release('observation')
            self._gate.release('time')
        self._gate.release('action')
        if self._length < 0:
            # An episode cannot begin in its end: somebody has to set the robot up again.
            if sensed.is_terminal and not self._reset.pending:
                self._gate.hold('end', 'the episode has ended; waiting until the robot is set up again')
            else:
                self._gate.release('end')
        if self._policies.current is None and not self._behaviour.training:
            self._gate.hold('policy', 'there is no policy')
        else:
            self._gate.release('policy')

    def _begin_episode(self) -> None:
        self._length = 0
        self.episodes += 1
        self._end_requested.clear()
        self._verdict = None
        every = self._behaviour.evaluate_every
        self._deterministic = not self._behaviour.training or (every > 0 and self.episodes % every == 0)

    def _is_last(self, sensed: Sensed) -> bool:
        limit = self._behaviour.episode_length
        return self._length > 0 and (
            sensed.is_terminal or self._end_requested.is_set() or (limit > 0 and self._length >= limit)
        )

    def _end_episode(self, sensed: Sensed) -> None:
        """Publish the last step of the running episode, if there is one."""
        if self._length > 0:
            still = np.zeros(len(self._spec.action), np.float32)
            verdict, rewards = self._verdict, self._contract.reward
            if not verdict and self._camera_reward and self._camera_reward.success:
                verdict = Verdict(True, 'classifier')
            elif verdict and isinstance(rewards, (VerdictReward, ClassifierReward)):
                sensed = sensed._replace(reward=rewards.of(verdict.success), is_terminal=True)
            self._publish(sensed, (False, True, sensed.is_terminal), still, verdict)
            self._reset.begin()
        self._length = -1

    def _end_episode_quietly(self) -> None:
        """The same between two ticks: when the loop ends, or before the time goes back."""
        if self._length > 0:
            self._stamp = max(self._stamp + 1, self._clock.time_ns())
            self._end_episode(self._observe())
        self._length = -1

    def _act(self, sensed: Sensed, is_first: bool) -> tuple[np.ndarray, Mode]:
        """The action f32[A] and its mode."""
        runner = self._policies.current
        if runner is None:
            return random_action(self._spec, self._rng), Mode('random')
        if runner is not self._runner:
            if self._runner is None:
                is_first = True
            elif not is_first:
                runner.carry_over(self._runner)
            self._runner = runner
        began = time.perf_counter()
        action = runner.act(sensed.image, sensed.vector, is_first, explore=not self._deterministic)
        self.timings.add('inference', time.perf_counter() - began)
        return action, Mode('evaluate' if self._deterministic else 'explore', runner.version)
