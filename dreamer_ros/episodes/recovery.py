"""Finishes the bags that a crash left: what `dreamer bag recover` does."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from dreamer_ros.episodes.assemble import Tally
from dreamer_ros.episodes.bag_reader import DAMAGE, Bag, NoFiles, bags_in, is_partial, read_metadata, unsafe
from dreamer_ros.episodes.bag_writer import McapFile, lock_directory, publish, write_metadata
from dreamer_ros.episodes.episode import embedded_contract
from dreamer_ros.episodes.mcap_scan import LARGEST, RawTopic, Scan
from dreamer_ros.errors import InputError
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.wire.codecs import read_step, stamp_to_ns
from dreamer_ros.wire.definitions import decode
from dreamer_ros.wire.topics import ACTION, STEP

NOTHING = 'nothing to recover, no complete chunk of messages is in it'


def recover(path: Path) -> Path | None:
    """Finish a bag that a crash left: keep its whole chunks, write metadata.yaml, rename it.

    Takes a `.NAME.partial` directory, or any bag directory without metadata.yaml. Stopping it at any moment
    loses nothing: it can be run again.

    Returns:
        The finished bag, or None if a live process is still writing it or has just finished it.

    Raises:
        InputError: nothing in it is whole, or it can't be written.
    """
    try:
        with _locked(path) as free:
            return _recover(Bag(path)) if free else None
    except NoFiles as error:
        raise InputError(f'episode bag {path}: {NOTHING}') from error
    except OSError as error:
        raise InputError(f'episode bag {path}: recovery failed ({error})') from error


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold the lock of a bag; False if a live process has it."""
    lock = lock_directory(path, wait=False)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def _sources(bag: Bag) -> list[Path]:
    """The files that a recovery replaces."""
    return [file for file in bag.scans if file.parent == bag.path]


def _recover(bag: Bag) -> Path:
    path = bag.path
    sources = _sources(bag)
    scans = [bag.scans[source] for source in sources]
    if not any(scan.messages for scan in scans):
        raise InputError(f'episode bag {path}: {NOTHING}')
    if any(scan.has_oversize for scan in scans):  # deleting its file would lose what was left out
        raise InputError(f'episode bag {path}: not recovered, it holds a record of more than {LARGEST} bytes')
    name = path.name[1 : -len('.partial')] if is_partial(path) else path.name
    target = path.parent / name
    if target != path and target.exists():
        raise InputError(f'episode bag {path}: {target.name} exists already')
    custom_data = scans[0].custom_data
    contract = None
    with contextlib.suppress(InputError):  # reading the bag tells of a damaged one
        contract = embedded_contract(custom_data)
    damage = [custom_data[DAMAGE]] if DAMAGE in custom_data else []
    damage += [sentence for scan in scans for sentence in scan.damage]
    with contextlib.suppress(InputError, FileNotFoundError):
        expected = read_metadata(path).get('message_count')
        found = sum(len(scan.messages) for scan in scans)
        if expected != found:
            damage.append(f'{found} of {expected} messages are whole')
    attachments = []
    for stored in (stored for scan in scans for stored in scan.attachments):
        try:
            attachments.append(stored.read())
        except ValueError as error:
            damage.append(str(error))
    custom_data = {**custom_data, **_tally(scans, contract), 'recovered': 'true'}
    if damage:
        custom_data[DAMAGE] = '; '.join(damage)
    topics: dict[str, RawTopic] = {}
    for scan in scans:
        topics.update(scan.topics)
    file = McapFile(path / '.recovering', topics.values(), custom_data)
    try:
        file.add_foreign([record for scan in scans for record in scan.metadata], attachments)
        for scan in scans:
            for message in scan.messages:
                file.write(message.topic, message.data, message.time, message.published)
        file.finish()
    finally:
        file.discard()
    # After a stop between these two, the next recovery finds some messages twice. Readers drop repeated stamps.
    file.path = file.path.replace(path / f'{name}_0.mcap')
    for source in sources:
        if source != file.path:
            source.unlink()
    write_metadata(path, [file], custom_data)
    if target != path:
        publish(path, target)
    return target


def _tally(scans: Iterable[Scan], contract: RobotContract | None) -> dict[str, str]:
    """Length, return and actor, from the step messages and actions that were recovered."""
    tally = Tally(contract=contract)
    for scan in scans:
        for message in scan.messages:
            kind = message.topic.rsplit('/', 1)[-1], scan.topics[message.topic].type
            with contextlib.suppress(InputError):
                if kind == (STEP.name, STEP.type):
                    tally.add(read_step(decode(message.data, STEP.type)))
                elif kind == (ACTION.name, ACTION.type):
                    header = decode(message.data, ACTION.type).header
                    tally.add_action(stamp_to_ns(header.stamp), header.frame_id)
    return tally.data() if len(tally) else {}


def recover_all(path: Path) -> Iterator[tuple[Path, str, bool]]:
    """Finish a bag, or every bag of a folder.

    Yields:
        Bag, what became of it, and whether it can be used now.

    Raises:
        InputError: there is no bag.
    """
    bags = [bag for bag in bags_in(path, _is_empty) if bag.is_dir() and not unsafe(bag, path)]
    if not bags:
        raise InputError(f'{path}: expected a bag or a folder of bags, found none')
    for bag in bags:
        yield (bag, *_recovered(bag))


def _is_empty(path: Path) -> bool:
    """Whether a folder is one that a recorder made and did not come to fill."""
    return path.is_dir() and not path.name.startswith('.') and not any(path.iterdir())


def _recovered(path: Path) -> tuple[str, bool]:
    try:
        with _locked(path) as free:
            if not free:
                return 'is being written', True
            bag = Bag(path)
            messages = len(bag.messages) + len(bag.others)
            if not is_partial(path) and not bag.damage:
                return f'is whole, {messages} messages', True
            if not _sources(bag):
                return (
                    f'holds {messages} messages, but only MCAP files can be recovered; `dreamer bag import` '
                    'reads them as they are'
                ), False
            found = _recover(bag)
    except InputError as error:
        return str(error), False
    except OSError as error:
        return f'can not be read ({error.strerror or error})', False
    reasons = '; '.join(problem.reason for problem in bag.damage)
    name = '' if found == path else f' as {found.name}'
    return f'{messages} messages recovered{name}' + (f' ({reasons})' if reasons else ''), True
