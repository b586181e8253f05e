"""Labels files: rewards and ends of episodes that a person writes down after a recording without them."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from pydantic import Field, model_validator

from dreamer_ros.errors import InputError
from dreamer_ros.files import read_text
from dreamer_ros.schema import Mismatch, Model, Name, check, load_yaml

EPOCH = 1e8  # smaller times are seconds from the beginning of the recording, larger ones since 1970


class Label(NamedTuple):
    """An episode.

    Attributes:
        start, end: stamps of its first and last step, ns.
        terminal: the task ends there, not only the recording.
        rewards: (time in ns, reward) each, in order.
    """

    start: int
    end: int
    terminal: bool
    rewards: tuple[tuple[int, float], ...]

    def reward(self, before: int, stamp: int, is_last: bool) -> float:
        """Reward of a step: all since the step `before`. The last step also gets all that is noted later."""
        return sum(reward for time, reward in self.rewards if before < time and (time <= stamp or is_last))


class _Reward(Model):
    time: float = Field(description='s from the first message of the bag, or since 1970')
    reward: float = Field(description='of the step at that time')


class _Episode(Model):
    bag: Name | None = Field(None, description='name of the bag; default: all bags')
    start: float = Field(0.0, description='s from the first message of the bag, or since 1970')
    end: float | None = Field(
        None, description='s from the first message of the bag, or since 1970; default: its last message'
    )
    terminal: bool = Field(False, description='the task ends there, not only the recording')
    reward: float = Field(0.0, description='added to the reward of the last step')
    rewards: tuple[_Reward, ...] = Field((), description='rewards at certain times')

    @model_validator(mode='after')
    def _lasts(self):
        if self.end is not None and self.end <= self.start:
            raise Mismatch('end', f'a time after start ({self.start:g})', self.end)
        return self


class LabelsFile(Model):
    """The keys of a labels file."""

    episodes: tuple[_Episode, ...] = Field(description='at least one')

    @model_validator(mode='after')
    def _has_some(self):
        if not self.episodes:
            raise Mismatch('episodes', 'at least one', 'none')
        return self


class Labels:
    """What a labels file says.

        episodes:
          - {bag: monday, start: 12.5, end: 80, terminal: true, reward: 1.0}
          - {bag: tuesday, reward: -1.0}
          - {bag: monday, start: 95, end: 140, rewards: [{time: 110.2, reward: 0.5}, {time: 140, reward: 1.0}]}

    Times are seconds from the first message of the bag, or since 1970. Without `bag` an entry is for all bags,
    without `start` and `end` for the whole bag. `reward` is added to the reward of the last step.

    Attributes:
        bags: names of bags in it.

    Raises:
        InputError: naming file and key.
    """

    def __init__(self, text: str, source: str):
        self.source = source
        self._episodes = check(LabelsFile, load_yaml(text, source), source).episodes
        self.bags = {episode.bag for episode in self._episodes if episode.bag is not None}

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

        def absolute(time: float | None) -> int:
            if time is None:
                return ending
            return round(time * 1e9) + (0 if time >= EPOCH else beginning)

        def label(episode: _Episode) -> Label:
            end = absolute(episode.end)
            rewards = [(end, episode.reward), *((absolute(each.time), each.reward) for each in episode.rewards)]
            return Label(absolute(episode.start), end, episode.terminal, tuple(sorted(rewards)))

        found = sorted(label(episode) for episode in self._episodes if episode.bag in (None, bag))
        for one, other in zip(found, found[1:]):
            if other.start < one.end:
                raise InputError(
                    f'{self.source}: expected episodes of {bag} one after another, but one begins at '
                    f'{other.start / 1e9:.3f} before another ends at {one.end / 1e9:.3f}'
                )
        return found
