"""Rewards and ends of episodes that a recording does not hold, written down by a person afterwards."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text
from dreamer_ros.sections import Section, parse_yaml

# Smaller numbers are seconds from the beginning of the recording, larger ones since 1970.
EPOCH = 1e8


class Label(NamedTuple):
    """An episode.

    Attributes:
        start, end: of its steps, ns.
        terminal: the world ends there, rather than the recording of it.
        rewards: (time in ns, reward) each, in order.
    """

    start: int
    end: int
    terminal: bool
    rewards: tuple[tuple[int, float], ...]

    def reward(self, before: int, stamp: int, is_last: bool) -> float:
        """Of a step: what is noted from after the step `before` it; of the last one, also what is noted later."""
        return sum(reward for time, reward in self.rewards if before < time and (time <= stamp or is_last))


class Labels:
    """What a labels file says.

        episodes:
          - {bag: monday, start: 12.5, end: 80, terminal: true, reward: 1.0}
          - {bag: tuesday, reward: -1.0}
          - {bag: monday, start: 95, end: 140, rewards: [{time: 110.2, reward: 0.5}, {time: 140, reward: 1.0}]}

    Times are seconds from the first message of the bag, or since 1970. `bag` may be left out for all bags, `start`
    and `end` for all of it; `reward` is added to that of the last step.

    Attributes:
        bags: names that are spoken of.

    Raises:
        InputError: naming file and key.
    """

    def __init__(self, text: str, source: str):
        top = parse_yaml(text, source)
        self.source = source
        self._episodes = [_episode(section) for section in top.items('episodes')]
        top.finish()
        if not self._episodes:
            top.fail('episodes', 'at least one', 'none')
        self.bags = {name for name, *_ in self._episodes if name is not None}

    @classmethod
    def load(cls, path: Path) -> Labels:
        """Read a labels file."""
        return cls(read_text(path), str(path))

    def of(self, bag: str, beginning: int, ending: int) -> list[Label]:
        """The episodes of a bag in order of time.

        Args:
            beginning, ending: stamps of its first and its last message, ns.

        Raises:
            InputError: two of them overlap.
        """

        def absolute(time: float) -> int:
            if time == math.inf:
                return ending
            return round(time * 1e9) + (0 if time >= EPOCH else beginning)

        found = sorted(
            Label(absolute(start), absolute(end), terminal, tuple((absolute(time), value) for time, value in rewards))
            for name, start, end, terminal, rewards in self._episodes
            if name in (None, bag)
        )
        for one, other in zip(found, found[1:]):
            if other.start < one.end:
                raise InputError(
                    f'{self.source}: expected episodes of {bag} one after another, but one begins at '
                    f'{other.start / 1e9:.3f} before another ends at {one.end / 1e9:.3f}'
                )
        return found


def _episode(section: Section) -> tuple[str | None, float, float, bool, list[tuple[float, float]]]:
    """Bag, start, end, terminal and rewards; times in s as they stand in the file."""
    bag, start, end = (
        section.text('bag', default=None),
        section.number('start', default=0.0),
        section.number('end', default=math.inf),
    )
    if end <= start:
        section.fail('end', f'a time after start ({start})', end)
    rewards = [(end, section.number('reward', default=0.0))]
    for item in section.items('rewards'):
        rewards.append((item.number('time'), item.number('reward')))
        item.finish()
    terminal = section.flag('terminal', default=False)
    section.finish()
    return bag, start, end, terminal, sorted(rewards)
