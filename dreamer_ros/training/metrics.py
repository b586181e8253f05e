"""Numbers of a run, for people and programs: metrics.jsonl and TensorBoard."""

from __future__ import annotations

import collections
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.schema import load_json

if TYPE_CHECKING:
    from torch import Tensor

FILE = 'metrics.jsonl'
COUNTERS = ('step', 'agent_steps', 'updates', 'time')  # of every line


class Losses:
    """Collects the metrics of updates."""

    def __init__(self):
        self._values: dict[str, list] = collections.defaultdict(list)

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add the metrics of one update, as scalar tensors."""
        for key, value in metrics.items():
            self._values[key].append(value)

    def take_means(self) -> dict[str, float]:
        """Return their means, and begin anew. Reading the tensors waits for the device."""
        means = {key: float(np.mean([float(value) for value in values])) for key, values in self._values.items()}
        self._values.clear()
        return means


def check_finite(means: Mapping[str, float], where: str, advice: str = '') -> None:
    """Raise InputError, `where` first and `advice` last, if one of the losses is not finite."""
    broken = [key for key, value in means.items() if not math.isfinite(value)]
    if broken:
        raise InputError(f'{where}: expected finite losses, got {", ".join(broken)} = nan or inf{advice}')


class Metrics:
    """Appends to <run>/metrics.jsonl, one JSON object per line, and to <run>/tensorboard.

    Every line has `step` (env steps), `agent_steps`, `updates` and `time` (seconds of wall time since the run's first
    step, over all its sessions). The other keys are those of an episode or of some updates.

    Args:
        offline: no steps are collected, so TensorBoard gets its scalars over updates, as a run `offline`.

    Raises:
        InputError: one of them cannot be written.
    """

    def __init__(self, run: Path, offline: bool = False):
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only needed here

        self._offline = offline
        path, folder = run / FILE, run / 'tensorboard'
        if folder.exists() and not folder.is_dir():
            raise InputError(f'{folder}: expected a folder for TensorBoard, got a file')
        try:
            torn = path.exists() and path.stat().st_size and path.read_bytes()[-1:] != b'\n'
            self._file = open(path, 'a')
        except OSError as error:
            raise InputError(f'{path}: expected a file that can be written ({error.strerror})') from error
        if torn:  # a crash left half a line
            self._file.write('\n')
        self._writer = SummaryWriter(str(folder / 'offline' if offline else folder))

    def write(self, *, step: int, agent_steps: int, updates: int, time: float, **values: float | str) -> None:
        """Write one line; numbers also become TensorBoard scalars."""
        line: dict[str, float | str | None] = {
            'step': step,
            'agent_steps': agent_steps,
            'updates': updates,
            'time': round(time, 3),
        }
        for key, value in values.items():
            if isinstance(value, str):
                line[key] = value
                continue
            # JSON has no NaN
            line[key] = float(f'{value:.6g}') if math.isfinite(value) else None
            self._writer.add_scalar(key, value, updates if self._offline else step)
        self._file.write(json.dumps(line) + '\n')
        self._file.flush()

    def close(self) -> None:
        """Flush and close both."""
        self._file.close()
        self._writer.close()


def read_metrics(run: Path) -> list[dict]:
    """The lines of a run's metrics, oldest first; empty when there are none.

    Damaged lines are left out, and so is what a later session has done again because it went on from an earlier
    checkpoint.

    Raises:
        InputError: the file cannot be read.
    """
    path = run / FILE
    try:
        texts = path.read_bytes().splitlines() if path.exists() else []
    except OSError as error:
        raise InputError(f'{path}: expected a file that can be read ({error.strerror})') from error
    lines, episodes, updates = [], set(), math.inf
    for text in reversed(texts):
        try:
            line = load_json(text, str(path))
        except InputError:
            continue
        if not (isinstance(line, dict) and all(isinstance(line.get(key, 0), (int, float)) for key in COUNTERS)):
            continue
        episode = line.get('episode')
        if not isinstance(episode, str | None):
            continue
        if episode in episodes or (episode is None and line.get('updates', 0) > updates):
            continue
        if episode is not None:
            episodes.add(episode)
        updates = min(updates, line.get('updates', 0))
        lines.append(line)
    return lines[::-1]
