"""Makes observations from a robot's own topics, live and from bags."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import Camera, Formula, Number, RobotContract, Source, Term
from dreamer_ros.wire.codecs import FLOAT32_MAX, join_images, stamp_to_ns
from dreamer_ros.wire.fields import has_header
from dreamer_ros.wire.images import decode_image
from dreamer_ros.wire.topics import Topic


class Problem(NamedTuple):
    """Why a topic cannot be used at a tick.

    Attributes:
        kind: `missing` (nothing came), `old`, `ahead` (stamped in the future: clocks differ) or `bad` (unusable
            content).
        detail: for people.
    """

    topic: str
    kind: str
    detail: str

    def __str__(self) -> str:
        return f'{self.topic}: {self.detail}'


class Sensed(NamedTuple):
    """An observation.

    Attributes:
        image: u8[H, W, 3 per camera]; None with problems.
        vector: f32[N]; None with problems.
        feedback: f64[A], measured positions of the commanded axes, NaN for axes without; None with problems.
        ages: nanoseconds from the newest message's stamp to the tick, by topic.
        problems: of the observation; empty if it can be acted upon.
        reward: as measured, 0 if it is not; None with reward problems.
        is_terminal: whether the contract's end is reached; False with reward problems.
        reward_problems: why reward or end are unknown. The robot may act nevertheless.
    """

    image: np.ndarray | None
    vector: np.ndarray | None
    feedback: np.ndarray | None
    ages: dict[str, int]
    problems: tuple[Problem, ...]
    reward: float | None
    is_terminal: bool
    reward_problems: tuple[Problem, ...]


class Sensing:
    """Holds the newest message of every topic of a contract. Not thread-safe.

    Messages may come from rclpy or a bag. To repeat an agent's observation, receive the messages that the agent
    used at the tick, in any order, and observe.
    """

    def __init__(self, contract: RobotContract):
        self._contract = contract
        sources: dict[str, list[Source]] = {topic.name: [] for topic in contract.topics}
        for source in contract.sources:
            sources[source.topic].append(source)
        header = contract.stamps == 'header'
        self._slots = {
            topic.name: _Slot(sources[topic.name], header and has_header(topic.type)) for topic in contract.topics
        }

    @property
    def topics(self) -> tuple[Topic, ...]:
        """The topics to subscribe."""
        return self._contract.topics

    def receive(self, topic: str, message: Any, received_ns: int) -> int:
        """Receive a message. It is ignored if it lacks a field or a joint that has no default, or all of them.

        Args:
            topic: its name in the contract.
            received_ns: the middleware's `source_timestamp`, which is the same for every subscriber, or the
                publish time in a bag. It is the stamp where the contract's stamps are `receive`, and of
                messages without a header.

        Returns:
            The message's stamp in nanoseconds.
        """
        return self._slots[topic].receive(message, received_ns)

    def observe(self, tick_ns: int) -> Sensed:
        """The observation at a tick, from the newest message of each topic."""
        contract = self._contract
        problems: dict[str, Problem] = {}  # by topic: one says enough
        frames = [self._frame(name, camera, tick_ns, problems) for name, camera in contract.cameras.items()]
        inputs = [self._values(entry, tick_ns, problems) for entry in contract.vector]
        feedback = np.array(
            [
                self._values(axis.feedback, tick_ns, problems)[0] if axis.feedback else np.nan
                for axis in contract.command.axes
            ]
        )
        doubts: dict[str, Problem] = {}
        measured = contract.measured_reward
        reward = self._formula(measured, tick_ns, doubts) if measured else 0.0
        terminal = self._formula(contract.terminal, tick_ns, doubts) if contract.terminal else 0.0
        return Sensed(
            image=None if problems else join_images(frames),
            vector=None if problems else self._scaled(inputs),
            feedback=None if problems else feedback,
            ages={topic: tick_ns - slot.stamp for topic, slot in self._slots.items() if slot.message is not None},
            problems=tuple(problems.values()),
            reward=None if doubts else reward,
            is_terminal=not doubts and terminal != 0.0,
            reward_problems=tuple(doubts.values()),
        )

    def _scaled(self, inputs: list[tuple[float, ...]]) -> np.ndarray:
        scaled: list[float] = []
        for entry, values in zip(self._contract.vector, inputs):
            numbers = [value * entry.scale + entry.offset for value in values]
            low, high = entry.clip or (-np.inf, np.inf)
            scaled += [min(max(number, low), high) for number in numbers]
        return np.array(scaled, np.float32)

    def _frame(self, name: str, camera: Camera, tick_ns: int, problems: dict[str, Problem]) -> np.ndarray | None:
        slot = self._fresh(camera, tick_ns, problems)
        if slot is None:
            return None
        if name not in slot.frames:
            try:
                slot.frames[name] = decode_image(slot.message, camera.type, camera, self._contract.image_size)
            except InputError as error:
                slot.frames[name] = str(error)
        frame = slot.frames[name]
        if isinstance(frame, str):
            problems[camera.topic] = Problem(camera.topic, 'bad', frame)
            return None
        return frame

    def _values(self, source: Source, tick_ns: int, problems: dict[str, Problem]) -> tuple[float, ...]:
        """A source's values, or its default, or NaN with a problem."""
        found: dict[str, Problem] = {}
        slot = self._fresh(source, tick_ns, found)
        values = slot.values.get(source.key, ()) if slot else ()
        for value in values:
            if not abs(value) <= FLOAT32_MAX:
                detail = f'{source.field.text}: expected a finite value, got {value}'
                found[source.topic] = Problem(source.topic, 'bad', detail)
                break
        else:
            if values:
                return values
        if isinstance(source, Number) and source.default is not None:
            return (source.default,) * source.size
        problems.update(found)
        return (np.nan,) * source.size

    def _formula(self, formula: Term | Formula, tick_ns: int, problems: dict[str, Problem]) -> float:
        values = {name: self._values(source, tick_ns, problems)[0] for name, source in formula.sources.items()}
        if problems:
            return np.nan
        try:
            return formula.expression(values)
        except InputError as error:
            problems['expression'] = Problem('expression', 'bad', str(error))
            return np.nan

    def _fresh(self, reader: Camera | Source, tick_ns: int, problems: dict[str, Problem]) -> _Slot | None:
        """The topic's slot if its message is neither too old nor from the future."""
        topic, max_age = reader.topic, self._contract.age_limit(reader)
        slot = self._slots[topic]
        reason = f' ({slot.refused})' if slot.refused else ''
        if slot.message is None:
            problems[topic] = Problem(topic, 'missing', f'nothing came yet{reason}')
            return None
        age = (tick_ns - slot.stamp) / 1e9
        if age > max_age:
            detail = f'{age:.3f} s old, expected at most {max_age:g} s{reason}'
            if slot.stamp == 0:
                detail = 'its header holds no stamp; with `stamps: receive` the contract needs none'
            problems[topic] = Problem(topic, 'old', detail)
            return None
        if age < -max_age:
            problems[topic] = Problem(
                topic, 'ahead', f'stamped {-age:.3f} s in the future; the clocks of robot and agent differ'
            )
            return None
        return slot


class _Slot:
    """The newest usable message of a topic, and what was read from it."""

    def __init__(self, sources: list[Source], header: bool):
        self._sources = sources
        self._header = header
        self.message: Any = None
        self.stamp = 0
        self.values: dict[tuple[str, int], tuple[float, ...]] = {}  # by key of their source
        self.frames: dict[str, Any] = {}  # camera name -> u8[H, W, 3], or why there is none
        self.refused = ''  # why the newest message was ignored

    def receive(self, message: Any, received_ns: int) -> int:
        stamp = received_ns
        try:
            stamp = stamp_to_ns(message.header.stamp) if self._header else received_ns
            values = self._read(message)
        except InputError as error:
            self.refused = str(error)
            return stamp
        self.message, self.stamp, self.values, self.frames, self.refused = message, stamp, values, {}, ''
        return stamp

    def _read(self, message: Any) -> dict[tuple[str, int], tuple[float, ...]]:
        """What the sources find in a message. Robots often publish the states of some joints here, of others there."""
        values: dict[tuple[str, int], tuple[float, ...]] = {}
        lacking = None
        for source in self._sources:
            try:
                if source.key not in values:
                    values[source.key] = source.read(message)
            except InputError as error:
                lacking = error
                if not source.optional:
                    raise
        if lacking and not values:
            raise lacking
        return values
