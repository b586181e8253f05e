"""Steps of a bag on their way to episodes: rows that can be used, and what became of the others."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dreamer_ros.episodes.episode import Episode, Problem
from dreamer_ros.episodes.left_out import when
from dreamer_ros.episodes.mcap_scan import RawMessage
from dreamer_ros.errors import InputError
from dreamer_ros.wire.codecs import Step, parse_mode, read_action
from dreamer_ros.wire.definitions import decode
from dreamer_ros.wire.topics import ACTION

# Two steps further apart than so many control periods are not neighbours: something between them is missing.
GAP_PERIODS = 1.5
ROUNDING = 1e-5  # by which an action may be beyond 1


class Unusable(Exception):
    """A step can't be used; the message is the reason, the same for all steps with the same trouble."""


class Row(NamedTuple):
    """One usable step: image u8[H, W, C], vector f32[N], action f32[A], who chose it, and of a robot with a
    contract the ages of the messages that were used, ns by topic.
    """

    image: np.ndarray
    vector: np.ndarray
    action: np.ndarray
    step: Step
    frame_id: str
    ages: Mapping[str, int] = {}


@dataclasses.dataclass
class _Span:
    """How often something happened, and when first and last, ns."""

    first: int
    last: int
    count: int = 0

    def __str__(self) -> str:
        return when(self.first, self.last)


class Rows:
    """Collects the steps of one robot in order of time.

    Runs are split where an episode begins or ends, and wherever a step is missing, so that neighbours in a run
    were neighbours in the world.

    Args:
        path: the bag.
        period: s, the control period.
    """

    def __init__(self, path: Path, period: float):
        self._path = path
        self._gap_ns = GAP_PERIODS * period * 1e9
        self._runs: list[list[Row]] = [[]]
        self._steps = 0
        self._dropped: dict[str, _Span] = {}
        self._gaps: dict[str, _Span] = {}

    def add(self, row: Row) -> None:
        """Append a usable step."""
        if row.step.is_terminal and not row.step.is_last:
            self.drop(row.step.stamp, Unusable('that are terminal but not the last'))
            return
        self._steps += 1
        last = self._runs[-1][-1].step if self._runs[-1] else None
        if last is not None:
            if row.step.is_first or last.is_last:
                self._runs.append([])
            elif row.step.stamp - last.stamp > self._gap_ns:
                _note(self._gaps, 'gap', last.stamp)
                self._runs.append([])
        self._runs[-1].append(row)

    def drop(self, stamp: int, reason: Unusable, last: int | None = None, count: int = 1) -> None:
        """Leave a step out, or `count` steps until `last`."""
        self._steps += count
        _note(self._dropped, str(reason), stamp, last, count)
        if self._runs[-1]:
            self._runs.append([])

    def episodes(self, meta: dict[str, str], problems: list[Problem]) -> list[Episode]:
        """All runs as episodes; `problems` gets what was left out."""
        problems += self.problems()
        return [_stack(self._path, run, meta) for run in self.runs]

    def problems(self) -> list[Problem]:
        """What was left out, and why."""
        problems = []
        if self._dropped:
            count = sum(span.count for span in self._dropped.values())
            ordered = sorted(self._dropped.items(), key=lambda item: -item[1].count)
            reasons = ', '.join(f'{span.count} {reason} {span}' for reason, span in ordered)
            problems.append(Problem(self._path, f'{count} of {self._steps} steps dropped: {reasons}', count))
        for span in self._gaps.values():
            problems.append(
                Problem(self._path, f'split at {span.count} gaps longer than {GAP_PERIODS} control periods, {span}')
            )
        return problems

    @property
    def runs(self) -> list[list[Row]]:
        """Steps in a row, no run empty."""
        return [run for run in self._runs if run]


def recorded_action(message: RawMessage) -> tuple[np.ndarray, str]:
    """f32[A] of a message on `action`, and who chose it.

    Raises:
        InputError: it is damaged, or holds what no agent says.
    """
    decoded = decode(message.data, ACTION.type)
    action = read_action(decoded, len(decoded.axes))
    if len(action) and np.abs(decoded.axes).max() > 1 + ROUNDING:
        raise InputError(f'action: expected axes in [-1, 1], got {list(decoded.axes)}')
    return action, decoded.header.frame_id


def _note(spans: dict[str, _Span], what: str, stamp: int, last: int | None = None, count: int = 1) -> None:
    span = spans.setdefault(what, _Span(stamp, stamp))
    span.last = stamp if last is None else last
    span.count += count


def _stack(path: Path, rows: list[Row], meta: dict[str, str]) -> Episode:
    """Rows to arrays. What the bag does not say of policy and mode, the first action does."""
    meta = dict(meta)
    try:
        mode = parse_mode(rows[0].frame_id)
        meta.setdefault('mode', mode.kind)
        if mode.version is not None:
            meta.setdefault('policy_version', str(mode.version))
    except InputError:
        pass  # a bag of another origin, whose actions say nothing of who chose them
    steps = [row.step for row in rows]
    return Episode(
        image=np.stack([row.image for row in rows]),
        vector=np.stack([row.vector for row in rows]),
        action=np.stack([row.action for row in rows]),
        reward=np.array([step.reward for step in steps], np.float32),
        is_first=np.array([step.is_first for step in steps]),
        is_last=np.array([step.is_last for step in steps]),
        is_terminal=np.array([step.is_terminal for step in steps]),
        stamp=np.array([step.stamp for step in steps], np.int64),
        meta=meta,
        path=path,
    )
