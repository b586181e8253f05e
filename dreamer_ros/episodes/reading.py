"""Bags to episodes: the one entrance, whatever the bag was recorded from."""

from __future__ import annotations

from pathlib import Path

from dreamer_ros.episodes.custom_data import embedded_contract
from dreamer_ros.episodes.episode import Episode, Problem
from dreamer_ros.episodes.labels import Labels
from dreamer_ros.episodes.mcap_scan import RawMessage, Store
from dreamer_ros.episodes.recording import Recording, load_recording
from dreamer_ros.episodes.robot_bag import robot_episodes
from dreamer_ros.episodes.wire_rows import wire_episodes
from dreamer_ros.errors import InputError
from dreamer_ros.formats.npz import ARRAYS, read_arrays
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.spec import RobotSpec


def read_episodes(
    path: Path, spec: RobotSpec, contract: RobotContract | None = None, labels: Labels | None = None
) -> tuple[list[Episode], list[Problem]]:
    """Read a bag directory, a single MCAP or sqlite3 file, or an .npz file of arrays.

    A bag that was recorded from a robot contract holds it and is read by it. Episodes are split where one begins
    or ends, and wherever a step is missing, so that neighbours in an episode were neighbours in the world.

    Args:
        spec: the robot that episodes are wanted of.
        contract: of the robot in the bag, for bags that do not hold one.
        labels: rewards and ends of episodes that the bag does not hold.

    Returns:
        Episodes in order of time, and what could not be used and why. Nothing is raised for a bad bag.
    """
    path = Path(path)
    problems: list[Problem] = []
    try:
        if path.suffix == ARRAYS:
            return wire_episodes(path, _arrays(path, spec, problems), spec, problems), problems
        recording = load_recording(path, problems)
        contract = bag_contract(recording.custom_data, contract)
        if contract is not None:
            contract.check(spec)
            episodes = robot_episodes(path, recording, contract, labels, problems)
        else:
            check_spec(recording.custom_data, spec)
            episodes = wire_episodes(path, recording, spec, problems)
    except InputError as error:
        return [], [*problems, Problem(path, str(error))]
    except OSError as error:
        return [], [*problems, Problem(path, f'it can not be read ({error.strerror or error})')]
    return sorted(episodes, key=lambda episode: int(episode.stamp[0])), problems


def _arrays(path: Path, spec: RobotSpec, problems: list[Problem]) -> Recording:
    """An episode in arrays as a bag of our own topics."""
    robot, meta, rows = read_arrays(path, spec.control_period, problems)
    difference = spec.difference(robot)
    if difference:
        raise InputError(f'recorded from another robot: {difference}')
    topics, messages = {}, []
    for topic, (name, cdr, stamp) in rows:
        topics[name] = topic.type
        messages.append(RawMessage(name, stamp, stamp, Store(memoryview(cdr)), 0, len(cdr)))
    return Recording(messages, topics, meta)


def read_longest(path: Path, spec: RobotSpec) -> Episode:
    """The longest episode of a bag, to look at.

    Raises:
        InputError: the bag holds none of this robot.
    """
    episodes, problems = read_episodes(path, spec)
    if not episodes:
        reason = problems[0].reason if problems else 'it is empty'
        raise InputError(f'bag {path}: expected an episode of {spec.name}, but {reason}')
    return max(episodes, key=len)


def bag_contract(custom_data: dict[str, str], given: RobotContract | None) -> RobotContract | None:
    """The contract that a bag is read by: the one given, else its own. None for a bag of our own topics, which says
    whose it is, as `dreamer bag import` makes them of arrays and datasets of a robot that has a contract.

    Raises:
        InputError: its own is damaged.
    """
    if 'spec_hash' in custom_data and 'contract' not in custom_data:
        return None
    return given or embedded_contract(custom_data)


def check_spec(custom_data: dict[str, str], spec: RobotSpec) -> None:
    """Refuse a bag that says it is of another robot."""
    found = custom_data.get('spec_hash')
    if found is None or found == spec.hash:
        return
    try:
        difference = spec.difference(RobotSpec.from_json(custom_data['spec'], 'custom_data'))
    except (InputError, KeyError, TypeError, ValueError):
        difference = ''
    raise InputError(
        f'recorded from another robot: expected spec {spec.hash}, got {found}'
        + (f' ({difference})' if difference else '')
    )
