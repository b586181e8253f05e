"""Sets a robot up again between two episodes, step by step, as its contract says.

What the robot is commanded passes the gate like a policy's commands. While a service or an action server works, others
may move the robot: this agent sends nothing then, unless something stops the robot.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from rclpy.action import ActionClient
from rclpy.node import Node

from dreamer_ros.deploy.watchdog import Gate
from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import Ask, Call, Drive, Goal, Pose, RobotContract
from dreamer_ros.ros.interfaces import fill, interface

STILL = 3  # periods for which stops are sent before somebody else may move the robot
SUCCEEDED = 4  # action_msgs/msg/GoalStatus


class Work:
    """One step of a reset.

    Attributes:
        shared: others may move the robot meanwhile.
    """

    shared = False

    def begin(self) -> None:
        """Begin anew."""

    def tick(self, feedback: np.ndarray, ticket: int) -> bool:
        """Go on for one period; whether it is done. Raises InputError if it can not be."""
        raise NotImplementedError

    def interrupt(self) -> None:
        """Something stops the robot."""

    def close(self) -> None:
        """Ask nobody for anything any more."""

    def __str__(self) -> str:
        """What is done, for people."""
        raise NotImplementedError


class Resetting:
    """For the control loop. It ticks once per period while `pending`.

    Args:
        node: calls services and actions.
        contract: of the robot.
        gate: of the robot.

    Attributes:
        pending: the robot has to be set up before the next episode.
    """

    def __init__(self, node: Node, contract: RobotContract, gate: Gate):
        self._gate, self._reset = gate, contract.reset
        kinds: dict[type, Callable[..., Work]] = {Drive: _Drive, Pose: _Pose, Call: _Call, Goal: _Goal, Ask: _Ask}
        self._work: list[Work] = [
            kinds[type(step)](node, step, contract, gate) for step in (contract.reset.steps if contract.reset else ())
        ]
        self._limit = contract.reset.timeout * contract.rate if contract.reset else 0
        self._again = threading.Event()
        self._problem = ''
        self._place = self._ticks = self._still = 0
        self.pending = False

    def close(self) -> None:
        """Ask nobody for anything any more."""
        for work in self._work:
            work.close()

    @property
    def doing(self) -> str:
        """What is being done, for people; '' for nothing."""
        return f'set up again: {self._work[self._place]}' if self.pending and not self._problem else ''

    def begin(self) -> None:
        """An episode has ended."""
        if self._work:
            self.pending, self._problem, self._ticks = True, '', 0
            self._again.clear()
            self._enter(0)

    def ready(self) -> str:
        """A person has set the robot up; returns that.

        Raises:
            InputError: nobody was asked to.
        """
        work = self._work[self._place] if self.pending else None
        if not isinstance(work, _Ask) or self._problem:
            raise InputError('expected a reset that waits for a person')
        work.answered.set()
        return 'the next episode begins'

    def again(self) -> None:
        """Try again after a failure."""
        self._again.set()

    def tick(self, feedback: np.ndarray | None, ticket: int) -> None:
        """Go on for one period, unless something else stops the robot.

        Args:
            feedback: f64[A], see `Sensed.feedback`; None while nothing can be observed.
            ticket: of the gate, from the beginning of the tick.
        """
        if self._problem and self._again.is_set():
            self.begin()
        if self._problem:
            self._gate.hold('reset', self._problem)  # also after a deactivation, which released it
            return
        work = self._work[self._place]
        if self._gate.reasons.keys() - {'reset'} or feedback is None:
            self._gate.share(None)
            work.interrupt()
            self._still = 0
            return
        try:
            done = self._allowed(work, feedback) and work.tick(feedback, ticket)
        except InputError as error:
            self._fail(f'{work}: {error}')
            return
        self._ticks += 1
        if done:
            if self._place + 1 < len(self._work):
                self._enter(self._place + 1)
            else:
                self._end()
        elif self._ticks > self._limit:
            self._fail(f'{work}: expected it done within {self._reset.timeout:g} s')

    def interrupt(self) -> None:
        """The agent falls silent: nobody shall move the robot for it."""
        if self.pending:
            self._gate.share(None)
            self._work[self._place].interrupt()

    def _allowed(self, work: Work, feedback: np.ndarray) -> bool:
        """Whether a step may go on. Before others move the robot it has to stand."""
        if not work.shared:
            self._gate.share(None)
            self._gate.release('reset')
            return True
        self._gate.hold('reset', self.doing)
        if self._still < STILL or self._still == STILL and not self._gate.stopped:
            self._still = min(self._still + 1, STILL)
            return False
        self._still = STILL + 1
        self._gate.share('reset')
        self._gate.follow(feedback)
        return True

    def _enter(self, place: int) -> None:
        self._place, self._still = place, 0
        self._work[place].begin()

    def _end(self) -> None:
        self.pending = False
        self._gate.share(None)
        self._gate.release('reset')

    def _fail(self, problem: str) -> None:
        self._again.clear()
        self._problem = f'the robot could not be set up again ({problem}); ~/enable true tries again'
        self.interrupt()
        self._gate.release('reset')  # a new hold is logged; only this thread commands
        self._gate.hold('reset', self._problem)


class _Drive(Work):
    def __init__(self, node: Node, step: Drive, contract: RobotContract, gate: Gate):
        self._gate, self._values = gate, np.array(contract.command.pose(step.command))
        self._ticks = max(1, round(step.seconds * contract.rate))
        self._text = f'commands for {step.seconds:g} s'

    def begin(self) -> None:
        self._left = self._ticks

    def tick(self, feedback: np.ndarray, ticket: int) -> bool:
        self._left -= self._gate.drive(self._values, ticket) is not None
        return self._left == 0

    def __str__(self) -> str:
        return self._text


class _Pose(Work):
    def __init__(self, node: Node, step: Pose, contract: RobotContract, gate: Gate):
        self._gate, self._values, self._tolerance = gate, np.array(contract.command.pose(step.pose)), step.tolerance
        self._names = [axis.name for axis in contract.command.axes]
        self._far = 0

    def tick(self, feedback: np.ndarray, ticket: int) -> bool:
        self._gate.drive(self._values, ticket)
        away = np.abs(feedback - self._values)
        self._far = int(away.argmax())
        return bool((away <= self._tolerance).all())

    def __str__(self) -> str:
        return f'moves {self._names[self._far]} to {self._values[self._far]:g}'


class _Ask(Work):
    def __init__(self, node: Node, step: Ask, contract: RobotContract, gate: Gate):
        self._gate, self._text = gate, step.person
        self.answered = threading.Event()

    def begin(self) -> None:
        self.answered.clear()

    def tick(self, feedback: np.ndarray, ticket: int) -> bool:
        self._gate.stop()
        return self.answered.is_set()

    def __str__(self) -> str:
        return f'waits for a person ({self._text}); ~/ready'


class _Call(Work):
    # An interruption changes nothing: a call that has begun can not be taken back.
    shared = True

    def __init__(self, node: Node, step: Call, contract: RobotContract, gate: Gate):
        self._node, self._name = node, step.service
        kind = interface(step.type, f'{contract.source}: reset: service {step.service}')
        self._request = kind.Request()
        fill(self._request, step.request, f'{contract.source}: reset: request of {step.service}')
        self._client: Any = node.create_client(kind, step.service)
        self._answer: Any = None

    def close(self) -> None:
        self._node.destroy_client(self._client)

    def begin(self) -> None:
        self._answer = None

    def tick(self, feedback: np.ndarray, ticket: int) -> bool:
        if self._answer is None:
            if self._client.service_is_ready():
                self._answer = self._client.call_async(self._request)
            return False
        if not self._answer.done():
            return False
        answer = self._answer.result()
        if not getattr(answer, 'success', True):
            raise InputError(f'it says no: {getattr(answer, "message", "")}')
        return True

    def __str__(self) -> str:
        return f'waits for the service {self._name}'


class _Goal(Work):
    shared = True

    def __init__(self, node: Node, step: Goal, contract: RobotContract, gate: Gate):
        self._name = step.action
        kind = interface(step.type, f'{contract.source}: reset: action {step.action}')
        self._goal = kind.Goal()
        fill(self._goal, step.goal, f'{contract.source}: reset: goal of {step.action}')
        self._client: Any = ActionClient(node, kind, step.action)
        self._sent: Any = None
        self._result: Any = None

    def close(self) -> None:
        self._client.destroy()

    def begin(self) -> None:
        self.interrupt()

    def tick(self, feedback: np.ndarray, ticket: int) -> bool:
        if self._sent is None:
            if self._client.server_is_ready():
                self._sent = self._client.send_goal_async(self._goal)
            return False
        if self._result is None:
            if self._sent.done():
                if not self._sent.result().accepted:
                    raise InputError('the goal was refused')
                self._result = self._sent.result().get_result_async()
            return False
        if not self._result.done():
            return False
        status = self._result.result().status
        if status != SUCCEEDED:
            raise InputError(f'expected the goal to succeed, but it ended with status {status}')
        return True

    def interrupt(self) -> None:
        """Cancel the goal, also one that is accepted only later."""
        sent, result, self._sent, self._result = self._sent, self._result, None, None
        if sent is not None and not (result and result.done()):
            sent.add_done_callback(_cancel)

    def __str__(self) -> str:
        return f'waits for the action {self._name}'


def _cancel(sent: Any) -> None:
    with contextlib.suppress(AttributeError):  # a goal that was never accepted
        if sent.result().accepted:
            sent.result().cancel_goal_async()
