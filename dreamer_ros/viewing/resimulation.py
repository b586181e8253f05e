"""Simulates a recorded episode again: the same world, seed and actions must give the same observations."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_ros.episodes.bag_reader import Bag, open_bag
from dreamer_ros.episodes.episode_reader import own_rows
from dreamer_ros.episodes.report import Report
from dreamer_ros.errors import InputError
from dreamer_ros.files import write_result
from dreamer_ros.simulation.environment import Environment, Observation
from dreamer_ros.simulation.origin import Origin, mujoco_version
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.run_directory import saved_task
from dreamer_ros.wire.codecs import APPLIED, STEP_NAMES, Step
from dreamer_ros.wire.definitions import decode
from dreamer_ros.wire.topics import ACTION, JOINT_STATES, STEP


@dataclasses.dataclass
class Departure:
    """A quantity whose simulated values differ from the recorded ones.

    Attributes:
        quantity: `image`, `position of <joint>`, `velocity of <joint>`, `reward`, `is_last`, …
        step: the first one that differs, from 0.
        recorded, simulated: its value there; for an image the mean of its values.
        difference: the largest one over all steps; for an image that of a single value (0 to 255).
        steps: how many differ.
    """

    quantity: str
    step: int
    recorded: float
    simulated: float
    difference: float = 0.0
    steps: int = 0

    def __str__(self) -> str:
        values = '' if self.quantity == 'image' else f'recorded {self.recorded:.17g}, simulated {self.simulated:.17g}; '
        return (
            f'{self.quantity} from step {self.step}: {values}at most {self.difference:.3g} apart, in {self.steps} steps'
        )


@dataclasses.dataclass(frozen=True)
class Resimulation:
    """How the simulated episode compares with the recorded one.

    Attributes:
        bag: its path.
        origin: what the recorder noted of the simulator.
        steps: how many were compared: image, joint states and step scalars of each, the first observation included.
        recorded: how many are in the bag.
        departures: in the order in which they begin; empty if every value of every step is equal, bit by bit.
        remarks: what may explain a difference.
    """

    bag: Path
    origin: Origin
    steps: int
    recorded: int
    departures: tuple[Departure, ...]
    remarks: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether every recorded step was simulated with equal values."""
        return not self.departures and self.steps == self.recorded

    def report(self) -> str:
        """For people."""
        origin = self.origin
        lines = [
            f'{origin.task}, seed {origin.seed}, episode {origin.episode}: {self.steps} of {self.recorded} steps '
            'simulated again'
        ]
        if self.exact:
            lines.append('equal bit by bit: images, positions and velocities of the joints, rewards, flags')
        elif self.departures:
            first = self.departures[0].step
            lines.append(f'equal bit by bit up to step {first - 1}' if first else 'different from the first step')
        lines += [f'  {departure}' for departure in self.departures]
        return '\n'.join([*lines, *self.remarks])

    def write(self, folder: Path) -> Path:
        """Write resimulation.json; returns its path.

        Raises:
            InputError: the folder cannot be written.
        """
        content = {
            **dataclasses.asdict(self),
            'bag': str(self.bag),
            'origin': self.origin.model_dump(exclude={'stamp'}),
            'exact': self.exact,
        }
        return write_result(folder / 'resimulation.json', json.dumps(content, indent=1) + '\n')


def resimulate(bag: Path, task: str | None = None) -> Resimulation:
    """Feed an episode's recorded actions to its simulator and compare every observation.

    Args:
        bag: with one episode of a simulated robot.
        task: instead of the recorded one, a task file that has moved. None takes the copy in the bag's run.

    Raises:
        InputError: the bag does not say where its episode comes from, lacks the beginning or a step, or its world
            cannot be simulated here.
    """
    opened = open_bag(bag)
    if 'simulation' not in opened.custom_data:
        raise InputError(
            f'bag {bag}: expected custom_data with `simulation`, where its episode began, which recorders note '
            f'of our simulators only; got {", ".join(opened.custom_data) or "none"}'
        )
    spec = opened.spec()
    origin = Origin.from_json(opened.custom_data['simulation'], f'bag {bag}')
    steps = _read_steps(opened, spec, origin.stamp)
    if task is None and not Path(origin.task).exists():
        task = saved_task(opened.path)  # a file that has moved; none for a task with a name
    environment = origin.simulate(spec, task)
    try:
        remarks = _remarks(environment, spec, origin)
        compared, departures = _compare(environment, origin, steps, bag)
    finally:
        environment.close()
    return Resimulation(Path(bag), origin, compared, len(steps), departures, tuple(remarks))


@dataclasses.dataclass
class _Recorded:
    """A step of the bag. `applied` is the action that led there, if the simulator told it."""

    step: Step
    image: np.ndarray
    joints: Any
    action: np.ndarray | None
    applied: np.ndarray | None


def _read_steps(bag: Bag, spec: RobotSpec, first_stamp: int) -> list[_Recorded]:
    """All steps of the episode, in order."""
    robots = list(own_rows(bag, spec, report := Report(bag.path)))
    if len(robots) != 1:
        names = ', '.join(robot.namespace for robot, _ in robots)
        raise InputError(f'bag {bag.path}: expected one robot to simulate, got {names or "none"}')
    [(robot, rows)] = robots
    runs = rows.runs(report)
    if not runs or runs[0][0].step.stamp != first_stamp or not runs[0][0].step.is_first:
        begins = f'one from {runs[0][0].step.stamp / 1e9:.3f}' if runs else 'none'
        raise InputError(
            f'bag {bag.path}: expected an episode from its beginning at {first_stamp / 1e9:.3f}, got {begins}'
        )
    if len(runs) > 1:
        reason = report[-1].reason if report else 'another one follows'
        raise InputError(f'bag {bag.path}: expected one whole episode, but {reason}')
    steps: list[_Recorded] = []
    for row in runs[0]:
        messages = robot.steps[row.step.stamp]
        if JOINT_STATES.name not in messages:
            raise InputError(
                f'bag {bag.path}: expected a whole episode, but its step {len(steps)} lacks {JOINT_STATES.name}'
            )
        joints = decode(messages[JOINT_STATES.name].data, JOINT_STATES.type)
        applied = _applied(decode(messages[STEP.name].data, STEP.type), spec)
        action = row.action if ACTION.name in messages else None
        steps.append(_Recorded(row.step, row.image, joints, action, applied))
    return steps


def _applied(scalars: Any, spec: RobotSpec) -> np.ndarray | None:
    values = dict(zip(scalars.name, scalars.position))
    names = [APPLIED + name for name in spec.action]
    return np.array([values[name] for name in names]) if all(name in values for name in names) else None


def _remarks(environment: Environment, spec: RobotSpec, origin: Origin) -> list[str]:
    remarks = []
    if environment.spec.hash != spec.hash:
        raise InputError(
            f'task {origin.task}: expected the recorded robot, got another one: {spec.difference(environment.spec)}'
        )
    if origin.mujoco != mujoco_version():
        remarks.append(f'recorded with mujoco {origin.mujoco}, simulated with {mujoco_version()}')
    elif origin.world != environment.model_digest():
        remarks.append(f'the model of {origin.task} is not the one that was recorded: its files or dm_control changed')
    return remarks


def _compare(
    environment: Environment, origin: Origin, steps: list[_Recorded], bag: Path
) -> tuple[int, tuple[Departure, ...]]:
    departures: dict[str, Departure] = {}
    observation = environment.reset(origin.episode)
    for number, recorded in enumerate(steps):
        if number:
            action = steps[number - 1].action if recorded.applied is None else recorded.applied
            if action is None:
                raise InputError(f'bag {bag}: expected an action for every step, step {number - 1} has none')
            if observation.is_last:
                return number, tuple(departures.values())
            observation = environment.step(action)
        last = number == len(steps) - 1
        for quantity, was, now, difference in _differences(recorded, observation, last):
            departure = departures.setdefault(quantity, Departure(quantity, number, was, now))
            departure.difference = max(departure.difference, difference)
            departure.steps += 1
    return len(steps), tuple(departures.values())


def _differences(
    recorded: _Recorded, observation: Observation, last: bool
) -> Iterator[tuple[str, float, float, float]]:
    """(quantity, recorded, simulated, absolute difference) of all that differs."""
    if not np.array_equal(recorded.image, observation.image):
        apart = np.abs(recorded.image.astype(np.int16) - observation.image)
        yield 'image', float(recorded.image.mean()), float(observation.image.mean()), float(apart.max())
    pairs = []
    for kind in ('position', 'velocity'):
        was = dict(zip(recorded.joints.name, getattr(recorded.joints, kind)))
        for name, now in zip(observation.joint_names, getattr(observation, kind)):
            pairs.append((f'{kind} of {name}', was.get(name, np.nan), now))
    for name in STEP_NAMES:
        was, now = getattr(recorded.step, name), getattr(observation, name)
        if name == 'is_last' and last and was:
            continue  # an episode may be ended on request
        pairs.append((name, was, now))
    for quantity, was, now in pairs:
        if float(was) != float(now):
            yield quantity, float(was), float(now), abs(float(was) - float(now))
