"""What a crash left of the bags of a folder: what `dreamer bag recover` does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dreamer_ros.episodes.bag import bag_files, is_bag, is_partial, mcap_files, recover
from dreamer_ros.episodes.episode import Problem
from dreamer_ros.episodes.left_out import left_out
from dreamer_ros.episodes.recording import NOT_CDR, RECOVERED, load_recording
from dreamer_ros.errors import InputError


def recover_all(path: Path) -> Iterator[tuple[Path, str, bool]]:
    """Finish every bag at a path that is not whole.

    Yields:
        Bag, what became of it, and whether it can be used now.

    Raises:
        InputError: there is no bag.
    """
    if not path.is_dir():
        raise InputError(f'{path}: expected a bag or a folder of bags, but there is no such directory')
    bags = [path] if _is_bag(path) else [entry for entry in sorted(path.iterdir()) if _is_bag(entry)]
    if not bags:
        raise InputError(f'{path}: expected a bag or a folder of bags, found none')
    for bag in bags:
        yield (bag, *_recovered(bag))


def _is_bag(path: Path) -> bool:
    return path.is_dir() and (
        is_partial(path) or is_bag(path) or not path.name.startswith('.') and not any(path.iterdir())
    )


def _recovered(bag: Path) -> tuple[str, bool]:
    damage: list[Problem] = []
    try:
        recording = load_recording(bag, damage)
        messages = len(recording.messages) + len(recording.others)
        sound = left_out(recording.others, NOT_CDR)
        damage = [problem for problem in damage if problem.reason != sound and not problem.reason.startswith(RECOVERED)]
        if not is_partial(bag) and not damage:
            return f'is whole, {messages} messages', True
        if not mcap_files(bag) and bag_files(bag):
            return (
                f'holds {messages} messages in files that only MCAP bags are recovered from; `dreamer bag import` '
                'reads them as they are'
            ), False
        found = recover(bag)
    except InputError as error:
        return str(error), False
    except OSError as error:
        return f'can not be read ({error.strerror or error})', False
    if found is None:
        return 'is being written', True
    reasons = '; '.join(problem.reason for problem in damage)
    name = '' if found == bag else f' as {found.name}'
    return f'{messages} messages recovered{name}' + (f' ({reasons})' if reasons else ''), True
