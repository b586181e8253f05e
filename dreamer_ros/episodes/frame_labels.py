"""Labels of single images: which steps of an episode show success."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from pydantic import Field

from dreamer_ros.episodes.episode import Episode
from dreamer_ros.files import read_text, write_file
from dreamer_ros.schema import Model, Name, check, load_yaml

UNKNOWN = -1
WORDS = {1: 'success', 0: 'no success', UNKNOWN: 'no label'}


class Mark(Model):
    """From this step to the next mark."""

    step: int = Field(ge=0, description='of the episode')
    success: bool | None = Field(description='whether the images show success; null: nobody has looked')


class LabelledEpisode(Model):
    """The marks of an episode, in any order; without a label before the first."""

    bag: Name = Field(description='name of the bag')
    episode: int = Field(0, ge=0, description='its number in the bag')
    marks: tuple[Mark, ...] = Field((), description='where labels begin')


class FrameLabelsFile(Model):
    """A file of `dreamer reward label`."""

    frames: tuple[LabelledEpisode, ...] = Field((), description='labelled episodes')


class FrameLabels:
    """The labels in a file, which is written at every change.

    Args:
        path: of the file, which need not exist yet.

    Raises:
        InputError: naming file and key.
    """

    def __init__(self, path: Path):
        self._path = path
        self._marks: dict[tuple[str, int], dict[int, bool | None]] = {}
        if path.exists():
            for entry in check(FrameLabelsFile, load_yaml(read_text(path), str(path)), str(path)).frames:
                marks = self._marks.setdefault((entry.bag, entry.episode), {})
                marks.update((mark.step, mark.success) for mark in entry.marks)

    def of(self, episode: Episode) -> np.ndarray:
        """int8[T]: 1 for success, 0 for none, `UNKNOWN` without a label."""
        labels = np.full(len(episode), UNKNOWN, np.int8)
        for step, success in sorted(self._marks.get(_key(episode), {}).items()):
            labels[step:] = UNKNOWN if success is None else success
        return labels

    def mark(self, episode: Episode, step: int, success: bool | None) -> None:
        """Label an episode from a step to the next mark, and write the file."""
        marks = self._marks.setdefault(_key(episode), {})
        marks[step] = success
        frames = [
            {
                'bag': bag,
                'episode': number,
                'marks': [{'step': at, 'success': said} for at, said in sorted(own.items())],
            }
            for (bag, number), own in sorted(self._marks.items())
        ]
        write_file(self._path, yaml.safe_dump({'frames': frames}, sort_keys=False, default_flow_style=None))


def _key(episode: Episode) -> tuple[str, int]:
    return episode.name, episode.number
