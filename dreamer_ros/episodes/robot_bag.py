"""Reads the steps of a robot with a contract from a bag of its own topics.

An agent writes on `step` the age of the message that it used of each topic (`age/<topic>`, ns), so its observations
are restored exactly where none of these messages was lost. A bag without an agent (teleoperated, or recorded by
somebody else) gets steps at the contract's rate: each observes the newest message of every topic, and its action is
the one closest to the command in force until the next step.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from dreamer_ros.episodes.assemble import Assembler, Row, Unusable, recorded_action, recorded_stamp, stamped
from dreamer_ros.episodes.bag_reader import Bag, bag_name
from dreamer_ros.episodes.labels import Label, Labels
from dreamer_ros.episodes.mcap_scan import RawMessage
from dreamer_ros.episodes.report import Report, when
from dreamer_ros.errors import InputError
from dreamer_ros.robot.commands import Commands
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.robot.sensing import Sensed, Sensing
from dreamer_ros.wire.codecs import AGE_PREFIX, Step, read_step
from dreamer_ros.wire.definitions import decode
from dreamer_ros.wire.fields import has_header
from dreamer_ros.wire.topics import ACTION, STEP, Topic

SILENCE = 10_000_000_000  # ns without a message of any topic, whose steps are dropped at once
CLOCKS_DIFFER = 1_000_000_000  # ns of delay; no network is that slow
STRAY = 60_000_000_000  # ns between the delay of a message and those of its neighbours; its stamp is wrong
IMAGES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')


@dataclasses.dataclass
class Track:
    """The messages of one topic by stamp.

    Attributes:
        name: of the topic in the bag.
        stamps: in order, when each message counts as measured, ns.
        messages: as many.
    """

    name: str
    type: str
    stamps: list[int]
    messages: list[RawMessage]

    def at(self, stamp: int) -> list[RawMessage]:
        """The messages of exactly that stamp. Only several publishers give more than one."""
        return self.messages[self.before(stamp) : self.before(stamp + 1)]

    def before(self, stamp: int) -> int:
        """How many messages are older."""
        return bisect.bisect_left(self.stamps, stamp)


@dataclasses.dataclass
class RobotTracks:
    """One robot's messages.

    Attributes:
        namespace: of the robot, `/` at its end; '' for none.
        observed: by topic of the contract, without those that have no messages.
        commands: by topic of the contract, without those that have no messages.
        step, action: None without messages.
    """

    namespace: str
    observed: dict[str, Track]
    commands: dict[str, Track]
    step: Track | None
    action: Track | None

    @property
    def span(self) -> tuple[int, int]:
        """Stamps of the first and the last observed message."""
        observed = self.observed.values()
        return min(track.stamps[0] for track in observed), max(track.stamps[-1] for track in observed)


def robot_rows(
    bag: Bag, contract: RobotContract, labels: Labels | None, report: Report
) -> Iterator[tuple[RobotTracks, Assembler]]:
    """Messages and steps of every robot in a bag.

    Args:
        labels: with them, only labelled times become episodes.
        report: gets what could not be used.

    Raises:
        InputError: nothing in the bag can be used.
    """
    useless: list[tuple[str, InputError]] = []
    robots = _robot_tracks(bag, contract, report)
    for tracks in robots:
        try:
            rows = (_lay if tracks.step is None else _recorded)(tracks, contract, labels, report)
        except InputError as error:  # another robot in the bag may be usable
            useless.append((tracks.namespace, error))
            continue
        yield tracks, rows
    if len(useless) == len(robots):
        raise useless[0][1]
    for namespace, cause in useless:
        report.add(f'robot {namespace}: {cause}')


def _robot_tracks(bag: Bag, contract: RobotContract, report: Report) -> list[RobotTracks]:
    """Sort the messages of a bag by robot (namespace), topic and stamp.

    Raises:
        InputError: a topic has another type, or none of the observed topics is there.
    """
    wanted = {topic.name: topic for topic in (*contract.topics, *contract.command_topics, STEP, ACTION)}
    place: dict[str, tuple[str, Topic]] = {}
    for name, type_name in bag.types.items():
        for topic in wanted.values():
            if name == topic.name or not topic.name.startswith('/') and name.endswith(f'/{topic.name}'):
                if type_name != topic.type:
                    raise InputError(f'topic {name}: expected {topic.type}, as {contract.source} says, got {type_name}')
                place[name] = (name[: -len(topic.name)], topic)
    by_header = {STEP.name, ACTION.name}
    if contract.stamps == 'header':
        by_header |= {topic.name for topic in contract.topics if has_header(topic.type)}
    by_header -= {topic.name for topic in contract.command_topics}  # many leave it empty

    def stamp_of(message: RawMessage) -> int:
        by_its_header = place[message.topic][1].name in by_header
        stamp = recorded_stamp(message) if by_its_header else message.published
        if stamp == 0:
            raise Unusable('hold no stamp; with `stamps: receive` the contract needs none')
        return stamp

    found: dict[str, dict[str, list[tuple[int, RawMessage]]]] = defaultdict(lambda: defaultdict(list))
    for stamp, message in stamped((m for m in bag.messages if m.topic in place), stamp_of, report):
        namespace, topic = place[message.topic]
        found[namespace][topic.name].append((stamp, message))
    for topics in found.values():
        for name, messages in topics.items():
            topics[name] = _with_sound_stamps(messages, report)
    shared = found.pop('', {}) if len(found) > 1 else {}  # topics with absolute names in the contract
    robots: list[RobotTracks] = []
    blind: set[str] = set()  # topics of namespaces without anything to observe
    for namespace, topics in found.items():
        tracks = {
            name: _track(wanted[name].type, messages, report)
            for name, messages in {**shared, **topics}.items()
            if messages
        }
        observed = {topic.name: tracks[topic.name] for topic in contract.topics if topic.name in tracks}
        if observed:
            commands = {topic.name: tracks[topic.name] for topic in contract.command_topics if topic.name in tracks}
            robots.append(RobotTracks(namespace, observed, commands, tracks.get(STEP.name), tracks.get(ACTION.name)))
        else:
            blind.update(track.name for track in tracks.values())
    if not robots:
        recorded = ', '.join(sorted({message.topic for message in bag.messages})) or 'no messages'
        expected = ', '.join(topic.name for topic in contract.topics)
        raise InputError(f'none of the topics {expected} of {contract.source} are in it, but {recorded}')
    others = bag.types.keys() - place.keys()
    report.left_out((m for m in bag.messages if m.topic in blind), 'of robots without anything to observe')
    report.left_out((m for m in bag.messages if m.topic in others), 'not of this robot')
    return robots


def _with_sound_stamps(messages: list[tuple[int, RawMessage]], report: Report) -> list[tuple[int, RawMessage]]:
    """The messages of a topic whose delay from stamp to publication is like that of their neighbours."""
    if len(messages) < 3:
        return messages
    delays = np.array([message.published - stamp for stamp, message in messages], np.float64)
    neighbours = np.lib.stride_tricks.sliding_window_view(np.pad(delays, 2, mode='reflect'), 5)
    sound = np.abs(delays - np.median(neighbours, axis=1)) < STRAY
    if not sound.all():
        report.add(
            f'{(~sound).sum()} of {len(messages)} messages on {messages[0][1].topic} have stamps that are more than '
            f'{STRAY // 10**9} s off'
        )
    return [entry for entry, is_sound in zip(messages, sound) if is_sound]


def _track(type_name: str, messages: list[tuple[int, RawMessage]], report: Report) -> Track:
    """The messages of a topic in order of stamps, without repeats."""
    name = messages[-1][1].topic
    ordered: list[tuple[int, RawMessage]] = []
    doubtful = 0
    for stamp, message in sorted(messages, key=lambda item: (item[0], item[1].time)):
        if not ordered or ordered[-1][0] != stamp:
            ordered.append((stamp, message))
        elif ordered[-1][1].data != message.data:
            ordered.append((stamp, message))
            doubtful += 1
    if doubtful:
        report.add(f'{doubtful} of {len(messages)} messages on {name} have the stamp of another one')
    return Track(name, type_name, [stamp for stamp, _ in ordered], [message for _, message in ordered])


class _Observer:
    """Feeds the messages of a bag to the contract's Sensing."""

    def __init__(self, tracks: RobotTracks, contract: RobotContract):
        self._tracks = tracks.observed
        self._sensing = Sensing(contract)
        self._stamps = sorted(stamp for track in self._tracks.values() for stamp in track.stamps)
        self._fed: dict[str, int] = dict.fromkeys(self._tracks, 0)
        self._used: dict[str, RawMessage] = {}
        self._bad: dict[str, str] = {}  # topics whose newest message can not be decoded

    def exactly(self, stamp: int, ages: Mapping[str, int]) -> Sensed:
        """What a recorded agent saw, from the ages of the messages that it used.

        Raises:
            Unusable: a message that it used is missing or damaged.
        """
        for topic, age in ages.items():
            track = self._tracks.get(topic)
            messages = track.at(stamp - age) if track else []
            if not messages:
                raise Unusable(f'without the message on {topic} that the agent used')
            # Joints may come from several publishers at once. Messages of one length are from one publisher.
            if len({len(message.data) for message in messages}) < len(messages):
                raise Unusable(f'with different messages of one stamp on {topic}')
            if self._used.get(topic) is messages[-1]:
                continue
            try:
                for message in messages:
                    self._sensing.receive(topic, decode(message.data, track.type), message.published)
            except InputError as error:
                raise Unusable(f'with a damaged message on {topic}') from error
            self._used[topic] = messages[-1]
        for topic in self._used:
            if topic not in ages:
                raise Unusable(f'without the age of what came on {topic}')
        sensed = self._observe(stamp)
        for topic, age in ages.items():
            if sensed.ages.get(topic) != age:  # Sensing ignored it, and an older one still counts
                raise Unusable(f'with a message on {topic} that lacks what the contract reads')
        return sensed

    def silent_until(self, stamp: int) -> int:
        """The stamp itself, or that of the next message if the last one came long before."""
        place = bisect.bisect_right(self._stamps, stamp)
        if place == len(self._stamps) or place and stamp - self._stamps[place - 1] < SILENCE:
            return stamp
        return self._stamps[place]

    def newest(self, stamp: int) -> Sensed:
        """What the newest messages up to a stamp say."""
        for topic, track in self._tracks.items():
            end = track.before(stamp + 1)
            start = self._fed[topic]
            # Joints may come in several messages. Of images only the newest is worth decoding.
            for place in range(max(start, end - 1) if track.type in IMAGES else start, end):
                message = track.messages[place]
                try:
                    self._sensing.receive(topic, decode(message.data, track.type), message.published)
                    self._bad.pop(topic, None)
                except InputError:
                    self._bad[topic] = f'with a damaged message on {topic}'
            self._fed[topic] = end
        if self._bad:
            raise Unusable(next(iter(self._bad.values())))
        return self._observe(stamp)

    def _observe(self, stamp: int) -> Sensed:
        sensed = self._sensing.observe(stamp)
        if sensed.problems:
            problem = sensed.problems[0]
            what = {
                'missing': 'without a message on',
                'old': 'with too old a message on',
                'ahead': 'with a message from the future on',
            }.get(problem.kind, 'with a bad message on')
            raise Unusable(f'{what} {problem.topic}')
        return sensed


def _recorded(tracks: RobotTracks, contract: RobotContract, labels: Labels | None, report: Report) -> Assembler:
    """The steps of a recorded agent. Labels select steps and replace their rewards and ends."""
    stray = len(set(tracks.action.stamps if tracks.action else ()) - set(tracks.step.stamps))
    if stray:
        report.add(f'{stray} actions answer no step in the bag')
    rows = Assembler(contract.spec.control_period)
    observer = _Observer(tracks, contract)
    size = len(contract.spec.action)
    labelled = labelled_steps(labels, tracks.span, tracks.step.stamps, report) if labels else {}
    for stamp, message in zip(tracks.step.stamps, tracks.step.messages):
        try:
            if len(tracks.step.at(stamp)) > 1:
                raise Unusable('with different step scalars of one stamp')
            recorded, ages = _scalars_and_ages(message)
            scalars = labelled.get(stamp) if labels else recorded
            if scalars is None:
                continue
            sensed = observer.exactly(recorded.stamp, ages) if ages else observer.newest(stamp)
            actions = tracks.action.at(stamp) if tracks.action else []
            if len(actions) > 1 or not actions and not scalars.is_last:
                raise Unusable('with different actions of one stamp' if actions else 'without an action')
            action, frame_id = recorded_action(actions[0] if actions else None, size)
            rows.add(Row(sensed.image, sensed.vector, action, scalars, frame_id, sensed.ages))
        except Unusable as reason:
            rows.drop(stamp, reason)
    return rows


def labels_of(labels: Labels, span: tuple[int, int], report: Report) -> list[Label]:
    """The labelled episodes of a bag with messages in a span of stamps.

    Raises:
        InputError: there are none.
    """
    found = labels.of(bag_name(report.path), *span)
    if not found:
        raise InputError(f'{labels.source} has no episode of it')
    return found


def labelled_steps(labels: Labels, span: tuple[int, int], steps: Sequence[int], report: Report) -> dict[int, Step]:
    """Scalars of the labelled steps, by stamp. A label's first step begins an episode, its last one ends it.

    Args:
        span: of the bag, see `labels_of`.
        steps: stamps in order.
    """
    found = {}
    for label in labels_of(labels, span, report):
        stamps = [stamp for stamp in steps if label.start <= stamp <= label.end]
        if not stamps:
            report.add(f'no step is in the labelled episode {when(label.start, label.end)}')
        for before, stamp in zip([0, *stamps], stamps):
            is_first, is_last = stamp == stamps[0], stamp == stamps[-1]
            reward = 0.0 if is_first else label.reward(before, stamp, is_last)
            found[stamp] = Step(stamp, reward, is_first, is_last, is_last and label.terminal)
    return found


def _scalars_and_ages(message: RawMessage) -> tuple[Step, dict[str, int]]:
    """A recorded step, and the ages of the messages that its agent used, ns by topic."""
    try:
        decoded = decode(message.data, STEP.type)
        scalars = read_step(decoded)
    except InputError as error:
        raise Unusable('with bad step scalars') from error
    ages = {
        name[len(AGE_PREFIX) :]: int(value)
        for name, value in zip(decoded.name, decoded.position)
        if name.startswith(AGE_PREFIX) and np.isfinite(value)
    }
    return scalars, ages


def _lay(tracks: RobotTracks, contract: RobotContract, labels: Labels | None, report: Report) -> Assembler:
    """Steps at the contract's rate, from the first message to the last, or within labels."""
    for receiver in (part.receiver for part in contract.command.parts):
        if receiver.action:
            raise InputError(f'goals of {receiver.name} are in no bag: expected one of an agent, with its actions')
        if receiver.name not in tracks.commands:
            raise InputError(f'no messages on {receiver.name} are in it, which the actions come from')
    if labels is None and contract.measured_reward is None:
        report.add(f'all rewards are 0: {contract.source} has none that is measured, and there are no labels')
    rows = Assembler(contract.spec.control_period)
    observer = _Observer(tracks, contract)
    commanded = _Commanded(tracks, contract)
    begin, end = tracks.span
    for label in labels_of(labels, tracks.span, report) if labels else [Label(begin, end + 1, False, ())]:
        _lay_span(rows, label, labels is not None, observer, commanded, contract)
    if commanded.beyond:
        report.add(
            f'{commanded.beyond} actions are at the limits of {contract.source}, because the commands that they come '
            'from are beyond'
        )
    return rows


def _lay_span(
    rows: Assembler,
    label: Label,
    is_labelled: bool,
    observer: _Observer,
    commanded: _Commanded,
    contract: RobotContract,
) -> None:
    """The steps of a span of time: one episode if it is labelled, else as many as the contract's rules say."""
    period = contract.period_ns
    count = 0  # steps of the episode before this one
    is_first = True
    stamp = label.start - period
    while (stamp := stamp + period) <= label.end:
        silent = (observer.silent_until(stamp) - stamp) // period
        if silent > 0:
            last = stamp + (min(silent, (label.end - stamp) // period + 1) - 1) * period
            rows.drop(stamp, Unusable('without any message'), last, (last - stamp) // period + 1)
            stamp = last
            continue
        ends = is_labelled and stamp + period > label.end
        try:
            sensed = observer.newest(stamp)
            if is_labelled:
                is_terminal = ends and label.terminal
                reward = label.reward(stamp - period, stamp, ends)
            elif sensed.reward is None:
                raise Unusable('without a reward')
            else:
                is_terminal, reward = sensed.is_terminal, sensed.reward
                ends = is_terminal or count == contract.episode_length
            action = np.zeros(len(contract.spec.action), np.float32) if ends else commanded.until(stamp + period)
        except Unusable as reason:
            rows.drop(stamp, reason)
            count += not is_first
            continue
        scalars = Step(stamp, 0.0 if is_first else float(reward), is_first, ends, is_terminal)
        rows.add(Row(sensed.image, sensed.vector, action, scalars, 'human', sensed.ages))
        count = 0 if ends else count + 1
        is_first = ends


class _Commanded:
    """The actions of a robot whose commands were recorded.

    Attributes:
        beyond: how many come from a command beyond the limits of the actions.
    """

    def __init__(self, tracks: RobotTracks, contract: RobotContract):
        self._stop = contract.command.stop
        self._commands = Commands(contract)
        self.beyond = 0
        # A simulated robot stamps its sensors with its own time, which commands have to be moved to.
        delay = np.median(
            [
                message.published - stamp
                for track in tracks.observed.values()
                for stamp, message in zip(track.stamps, track.messages)
            ]
        )
        offset = int(delay) if abs(delay) > CLOCKS_DIFFER else 0
        self._tracks = [
            (part, [stamp - offset for stamp in track.stamps], track.messages)
            for part, track in ((part, tracks.commands[part.receiver.name]) for part in self._commands.parts)
        ]

    def until(self, stamp: int) -> np.ndarray:
        """The action closest to the command in force just before that time.

        Raises:
            Unusable: there is none.
        """
        values = self._stop.copy()
        for part, stamps, messages in self._tracks:
            place = bisect.bisect_left(stamps, stamp) - 1
            if place < 0:
                raise Unusable('before the first command')
            timeout = part.receiver.controller_timeout
            if timeout is not None and stamp - stamps[place] > timeout * 1e9:
                if np.isnan(values[part.axes]).any():
                    raise Unusable('without a command')
                continue
            try:
                values[part.axes] = part.decode(decode(messages[place].data, part.receiver.message))
            except InputError as error:
                raise Unusable('with a bad command') from error
        self.beyond += not self._commands.within_limits(values)
        return self._commands.action(values)
