"""Several folders of bags as one source of training sequences, each with its weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from dreamer_ros.config import ReplayConfig
from dreamer_ros.episodes.episode import EpisodeInfo
from dreamer_ros.episodes.report import Problem
from dreamer_ros.errors import InputError
from dreamer_ros.replay.buffer import row_type
from dreamer_ros.replay.store import ReplayStore
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.spec import RobotSpec

Batch = dict[str, np.ndarray]
_Source = TypeVar('_Source')


def bag_folder(text: str) -> tuple[Path, float]:
    """Folder and weight of `DIR` or `DIR:WEIGHT`, 1 if none is given; of a run directory its episodes.

    Raises:
        InputError: there is no such folder, or the weight is not positive.
    """
    name, colon, number = text.rpartition(':')
    try:
        path, weight = (Path(name), float(number)) if colon else (Path(text), 1.0)
    except ValueError:
        path, weight = Path(text), 1.0
    if not 0.0 < weight < math.inf:
        raise InputError(f'bags {text}: expected a positive weight, got {number}')
    path = path.expanduser().absolute()
    if not path.is_dir():
        raise InputError(f'bags {text}: expected a folder of bags, found none')
    if (path / 'metadata.yaml').exists():
        raise InputError(f'bags {text}: expected a folder of bags, but it is a bag; give the folder it is in')
    return (path / 'episodes' if (path / 'episodes').is_dir() else path), weight


def check_distinct(folders: Sequence[Path]) -> None:
    """Refuse what would load episodes twice.

    Raises:
        InputError: two of the folders are the same.
    """
    places = [path.resolve() for path in folders]
    for path, place in zip(folders, places):
        if places.count(place) > 1:
            raise InputError(f'replay.bags: expected every folder once, and not that of the run, got {path} twice')


def open_replay(
    own: Path, config: ReplayConfig, spec: RobotSpec, length: int, seed: int, contract: RobotContract | None = None
) -> ReplayMix:
    """The replay of a run: its own episodes, and those of the folders in its config.

    Args:
        own: folder of the episodes that the run records, with a weight of 1.
        length: of the sequences that will be sampled.
        contract: of the robot in the other folders, for bags that do not hold one.

    Raises:
        InputError: a folder is missing, or named twice, or the limits leave less than one sequence.
    """
    folders = [bag_folder(text) for text in config.bags]
    check_distinct([own.absolute(), *(path for path, _ in folders)])
    capacity = config.capacity
    if config.disk_gb:
        size = math.prod(spec.image_shape) + row_type(len(spec.vector), len(spec.action)).itemsize
        capacity = min(capacity, int(config.disk_gb * 1e9) // size)
    if capacity < length:
        raise InputError(
            f'replay: expected limits that hold a sequence of {length} steps, but replay.capacity and '
            f'replay.disk_gb allow {capacity}'
        )
    stores = [ReplayStore(own, spec, capacity, seed)]
    stores += [
        ReplayStore(path, spec, capacity, seed + number, config.validation, contract)
        for number, (path, _) in enumerate(folders, start=1)
    ]
    return ReplayMix(stores, [1.0, *(weight for _, weight in folders)], seed)


class ReplayMix:
    """Stores to sample from: each sequence comes from store i with a probability proportional to its weight.

    Stores that do not hold enough steps for a sequence are passed over. The methods are those of `ReplayStore`.

    Args:
        stores: of different folders.
        weights: one per store.
        seed: of the choice among them.

    Attributes:
        problems: of all stores, growing with `refresh`.
    """

    def __init__(self, stores: Sequence[ReplayStore], weights: Sequence[float], seed: int = 0) -> None:
        self._stores = list(stores)
        self._weights = np.array(weights, np.float64)
        self._rng = np.random.default_rng(seed)
        self._told = [0] * len(self._stores)
        self.problems: list[Problem] = []

    @property
    def steps(self) -> int:
        """Steps to sample from."""
        return sum(store.steps for store in self._stores)

    @property
    def episodes(self) -> int:
        """Episodes to sample from, counting the parts of a split one."""
        return sum(store.episodes for store in self._stores)

    @property
    def held_out_episodes(self) -> int:
        """Episodes for validation."""
        return sum(store.held_out.episodes for store in self._stores)

    def refresh(self) -> list[EpisodeInfo]:
        """Take bags that appeared since the last call."""
        infos = []
        for number, store in enumerate(self._stores):
            infos += store.refresh()
            new = store.problems[self._told[number] :]
            self._told[number] += len(new)
            self.problems += new
        return infos

    def can_sample(self, length: int) -> bool:
        """Whether there are steps for a sequence of this length."""
        return any(store.can_sample(length) for store in self._stores)

    def sample(self, batch: int, length: int) -> Batch:
        """Draw sequences; see `ReplayBuffer.sample`. The index counts in the folder a sequence comes from."""
        return self._share(
            self._stores,
            lambda store: store.can_sample(length),
            batch,
            self._rng,
            lambda store, count: store.sample(count, length),
        )

    def peek(self, batch: int, length: int) -> Batch:
        """Sequences to look at; see `ReplayBuffer.peek`."""
        return self._share(
            self._stores,
            lambda store: store.can_sample(length),
            batch,
            np.random.default_rng(),
            lambda store, count: store.peek(count, length),
        )

    def can_validate(self, length: int) -> bool:
        """Whether there are held-out steps for a sequence of this length."""
        return any(store.held_out.steps >= length for store in self._stores)

    def validation(self, batch: int, length: int) -> Batch:
        """Sequences of held-out episodes, the same ones as long as there are no new ones."""
        return self._share(
            [store.held_out for store in self._stores],
            lambda buffer: buffer.steps >= length,
            batch,
            np.random.default_rng(0),
            lambda buffer, count: buffer.peek(count, length, seed=0),
        )

    def cursor(self) -> dict:
        """Where sampling is, JSON-friendly: what makes `state_dict` go back to an earlier sample."""
        return {'rng': self._rng.bit_generator.state, 'stores': [store.cursor() for store in self._stores]}

    def state_dict(self, cursor: dict | None = None) -> dict:
        """See `ReplayStore.state_dict`."""
        cursor = cursor or self.cursor()
        states = [store.state_dict(at) for store, at in zip(self._stores, cursor['stores'])]
        return {'rng': cursor['rng'], 'folders': dict(zip(self._names(), states))}

    def load_state_dict(self, state: dict) -> None:
        """See `ReplayStore.load_state_dict`; folders that the state does not know begin anew."""
        if 'folders' not in state:  # a checkpoint from before there were several
            self._stores[0].load_state_dict(state)
            return
        self._rng.bit_generator.state = state['rng']
        for name, store in zip(self._names(), self._stores):
            if name in state['folders']:
                store.load_state_dict(state['folders'][name])

    def _names(self) -> list[str]:
        """The first store moves with its run."""
        return ['', *(str(store.folder) for store in self._stores[1:])]

    def _share(
        self,
        sources: Sequence[_Source],
        ready: Callable[[_Source], bool],
        batch: int,
        rng: np.random.Generator,
        take: Callable[[_Source, int], Batch],
    ) -> Batch:
        """A batch from the sources that are ready: from each as many as its weight brings."""
        chosen = [number for number, source in enumerate(sources) if ready(source)]
        if len(chosen) < 2:  # of none, the first one says what is missing
            return take(sources[chosen[0] if chosen else 0], batch)
        weights = self._weights[chosen]
        counts = rng.multinomial(batch, weights / weights.sum())
        parts = [take(sources[number], count) for number, count in zip(chosen, counts.tolist()) if count]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
