"""Folders of bags as training data. The folders may grow during training."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from mcap.writer import MCAP0_MAGIC

from dreamer_ros.config import ReplayConfig
from dreamer_ros.episodes.bag_reader import SUFFIXES, bag_files, is_partial, missing_files, read_metadata, unsafe
from dreamer_ros.episodes.episode import Episode, EpisodeInfo
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.episodes.recovery import recover
from dreamer_ros.episodes.report import Problem
from dreamer_ros.errors import InputError
from dreamer_ros.files import user_path
from dreamer_ros.formats.npz import ARRAYS, read_arrays
from dreamer_ros.replay.buffer import ReplayBuffer, row_type
from dreamer_ros.replay.cache import KEEP, CachedBag, EpisodeCache
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.spec import RobotSpec

# A bag that does not show its end may still be recorded or copied. It is loaded as it is once nothing has touched it
# for this long.
QUIET_SECONDS = 60.0
Batch = dict[str, np.ndarray]


def bag_folder(text: str) -> tuple[Path, float]:
    """Folder and weight of `DIR` or `DIR:WEIGHT`. The weight is 1 if none is given. A run directory means its episodes.

    Raises:
        InputError: there is no such folder, or the weight is not positive.
    """
    name, colon, number = text.rpartition(':')
    try:
        path, weight = (user_path(name), float(number)) if colon else (user_path(text), 1.0)
    except ValueError:
        path, weight = user_path(text), 1.0
    if not 0.0 < weight < math.inf:
        raise InputError(f'bags {text}: expected a positive weight, got {number}')
    path = path.absolute()
    if not path.is_dir():
        raise InputError(f'bags {text}: expected a folder of bags, found none')
    if (path / 'metadata.yaml').exists():
        raise InputError(f'bags {text}: expected a folder of bags, but it is a bag; give the folder around it')
    return (path / 'episodes' if (path / 'episodes').is_dir() else path), weight


def check_distinct(folders: Sequence[Path]) -> None:
    """Refuse folders that would load episodes twice.

    Raises:
        InputError: two of the folders are the same.
    """
    places = [path.resolve() for path in folders]
    for path, place in zip(folders, places):
        if places.count(place) > 1:
            raise InputError(f'replay.bags: expected every folder once, and not that of the run, got {path} twice')


def is_kept(bag: Path) -> bool:
    """Whether a bag is marked to stay in replay when the oldest leave."""
    return _mark(bag).exists()


def keep_bag(bag: Path, kept: bool = True) -> None:
    """Mark a bag to stay in replay, or take its mark away.

    Raises:
        InputError: it is no bag, or the mark can't be written.
    """
    if not (bag.is_file() and bag.name.endswith((*SUFFIXES, ARRAYS)) or (bag / 'metadata.yaml').exists()):
        raise InputError(f'{bag}: expected a bag: a directory with metadata.yaml, or a file of one')
    try:
        if kept:
            _mark(bag).touch()
        else:
            _mark(bag).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f'{bag}: expected a bag that can be marked ({error.strerror})') from error


def _mark(bag: Path) -> Path:
    """An empty file in the directory of a bag, or beside a bag that is a single file."""
    return bag.with_name(f'{bag.name}.{KEEP}') if bag.is_file() else bag / KEEP


def open_replay(
    own: Path, config: ReplayConfig, spec: RobotSpec, length: int, seed: int, contract: RobotContract | None = None
) -> ReplayDataset:
    """The replay of a run: its own episodes, and those of the folders in its config.

    Args:
        own: folder of the episodes that the run records, with a weight of 1.
        length: of the sequences that will be sampled.
        contract: of the robot in the other folders, for bags that do not hold one.

    Raises:
        InputError: a folder is missing, or named twice, or the limits leave less than one sequence.
    """
    others = [bag_folder(text) for text in config.bags]
    check_distinct([own.absolute(), *(path for path, _ in others)])
    capacity = config.capacity
    if config.disk_gb:
        size = math.prod(spec.image_shape) + row_type(len(spec.vector), len(spec.action)).itemsize
        capacity = min(capacity, int(config.disk_gb * 1e9) // size)
    if capacity < length:
        raise InputError(
            f'replay: expected limits that hold a sequence of {length} steps, but replay.capacity and '
            f'replay.disk_gb allow {capacity}'
        )
    dataset = ReplayDataset(spec, capacity, seed, config.demonstrations)
    dataset.add_folder(own)
    for path, weight in others:
        dataset.add_folder(path, weight, config.validation, contract)
    return dataset


class ReplayDataset:
    """The newest steps of all bags in some folders, as sequences of fixed length.

    Each sequence comes from one folder, with a probability proportional to the folder's weight. Folders without enough
    steps for a sequence are passed over. `refresh` looks for new bags and may run in another thread than `sample`.

    A bag is read once and served from a cache later (see cache.py). An episode enters once, so a copy of its bag under
    another name is refused. Bags of dead writers are recovered. No content of a folder makes the dataset raise.
    Episodes that leave the dataset stay in their bags.

    Args:
        spec: bags of other robots are refused.
        capacity: steps to sample from, per folder. Whole oldest episodes leave first, but not those of bags that
            are marked to stay (see `keep_bag`).
        seed: of the sampling.
        demonstrations: share of the sequences around steps by people, of whatever folder, if there are any.

    Attributes:
        problems: what could not be used and why. It grows. Each bag is judged once.
    """

    def __init__(self, spec: RobotSpec, capacity: int, seed: int = 0, demonstrations: float = 0.0) -> None:
        self._spec, self._capacity, self._seed, self._demonstrations = spec, capacity, seed, demonstrations
        self._rng = np.random.default_rng(seed)
        self._folders: list[_Folder] = []
        self._weights: list[float] = []
        self.problems: list[Problem] = []

    def add_folder(
        self, path: Path, weight: float = 1.0, validation: float = 0.0, contract: RobotContract | None = None
    ) -> None:
        """Add a folder, without reading anything yet. The first one is that of the run and may move with it.

        Args:
            path: created if missing.
            validation: share of the episodes that is held out. The content of an episode decides, so the same ones
                are held out wherever their bags lie.
            contract: of the robot in the bags, for bags that do not hold one.

        Raises:
            InputError: the folder can't be made.
        """
        seed = self._seed + len(self._folders)
        folder = _Folder(path, self._spec, self._capacity, seed, validation, contract, self.problems)
        self._folders.append(folder)
        self._weights.append(weight)

    @property
    def steps(self) -> int:
        """Steps to sample from."""
        return sum(folder.buffer.steps for folder in self._folders)

    @property
    def episodes(self) -> int:
        """Episodes to sample from, counting the parts of a split one."""
        return sum(folder.buffer.episodes for folder in self._folders)

    @property
    def held_out_episodes(self) -> int:
        """Episodes for validation."""
        return sum(folder.held_out.episodes for folder in self._folders)

    def refresh(self) -> list[EpisodeInfo]:
        """Load bags that appeared since the last call, in each folder the oldest name first."""
        return [info for folder in self._folders for info in folder.refresh()]

    def can_sample(self, length: int) -> bool:
        """Whether there are steps for a sequence of this length."""
        return any(folder.buffer.steps >= length for folder in self._folders)

    def sample(self, batch: int, length: int) -> Batch:
        """Draw sequences; see `ReplayBuffer.sample`. The index counts in the folder that a sequence comes from."""
        human = [0]
        if self._demonstrations:
            human = [buffer.human_steps * (buffer.steps >= length) for buffer in self._buffers()]
        shown = min(int(self._rng.binomial(batch, self._demonstrations)), batch - 1) if any(human) else 0
        rest = self._mix(self._buffers(), batch - shown, length, self._rng, lambda buffer, n: buffer.sample(n, length))
        if not shown:
            return rest
        counts = self._rng.multinomial(shown, np.array(human) / sum(human)).tolist()
        parts = [buffer.sample_human(n, length) for buffer, n in zip(self._buffers(), counts) if n]
        return {key: np.concatenate([rest[key], *(part[key] for part in parts)]) for key in rest}

    def peek(self, batch: int, length: int) -> Batch:
        """Sequences to look at; see `ReplayBuffer.peek`."""
        rng = np.random.default_rng()
        return self._mix(self._buffers(), batch, length, rng, lambda buffer, n: buffer.peek(n, length))

    def validation(self, batch: int, length: int) -> Batch | None:
        """Sequences of held-out episodes, the same until a new bag comes in; None without steps for one."""
        held_out = [folder.held_out for folder in self._folders]
        if all(buffer.steps < length for buffer in held_out):
            return None
        rng = np.random.default_rng(0)
        return self._mix(held_out, batch, length, rng, lambda buffer, n: buffer.peek(n, length, seed=0))

    def cursor(self) -> dict:
        """The place of sampling in its stream, JSON-ready. `state_dict` takes it to describe an earlier sample."""
        return {'rng': self._rng.bit_generator.state, 'stores': [folder.buffer.cursor() for folder in self._folders]}

    def state_dict(self, cursor: dict | None = None) -> dict:
        """What a resumed dataset needs to continue with the same samples; JSON-ready.

        Args:
            cursor: continue from here instead of from the latest sample.
        """
        cursor = cursor or self.cursor()
        states = [folder.state_dict(at) for folder, at in zip(self._folders, cursor['stores'])]
        return {'rng': cursor['rng'], 'folders': dict(zip(self._names(), states))}

    def load_state_dict(self, state: dict) -> None:
        """Load the episodes that `state_dict` names, in their order. `refresh` then adds newer bags.

        Folders that are not in the state start empty.
        """
        if 'folders' not in state:  # an older checkpoint, of a single folder
            self._folders[0].load_state_dict(state)
            return
        self._rng.bit_generator.state = state['rng']
        for name, folder in zip(self._names(), self._folders):
            if name in state['folders']:
                folder.load_state_dict(state['folders'][name])

    def _buffers(self) -> list[ReplayBuffer]:
        return [folder.buffer for folder in self._folders]

    def _names(self) -> list[str]:
        return ['', *(str(folder.path) for folder in self._folders[1:])]

    def _mix(
        self,
        buffers: Sequence[ReplayBuffer],
        batch: int,
        length: int,
        rng: np.random.Generator,
        draw: Callable[[ReplayBuffer, int], Batch],
    ) -> Batch:
        """A batch from the buffers that hold a sequence, shared at random by their weights."""
        ready = [number for number, buffer in enumerate(buffers) if buffer.steps >= length]
        if len(ready) < 2:  # if none is ready, the first buffer says what is missing
            return draw(buffers[ready[0] if ready else 0], batch)
        weights = np.array(self._weights)[ready]
        counts = rng.multinomial(batch, weights / weights.sum())
        parts = [draw(buffers[number], count) for number, count in zip(ready, counts.tolist()) if count]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


class _Folder:
    """The bags of one folder; see `ReplayDataset.add_folder` for the arguments.

    Attributes:
        buffer: episodes to sample from.
        held_out: episodes for validation.
    """

    def __init__(
        self,
        path: Path,
        spec: RobotSpec,
        capacity: int,
        seed: int,
        validation: float,
        contract: RobotContract | None,
        problems: list[Problem],
    ) -> None:
        self.path = Path(path)
        self._spec, self._validation, self._contract, self._problems = spec, validation, contract, problems
        self.buffer, self.held_out = (
            ReplayBuffer(
                capacity,
                spec.image_shape,
                len(spec.vector),
                len(spec.action),
                seed,
                keep=lambda episode: is_kept(episode.path),
            )
            for _ in range(2)
        )
        contract_hash = '-' + hashlib.sha256(contract.text.encode()).hexdigest()[:16] if contract else ''
        self._cache = EpisodeCache(self.path, spec, spec.hash + contract_hash, self._read, problems)
        self._refreshing = threading.Lock()
        self._looked = self._crowded = self._waited = False
        self._seen: set[str] = set()  # names of bags loaded or refused
        self._known: dict[str, str] = {}  # by the identity of each episode loaded: its bag
        self._held: Counter[str] = Counter()  # episodes held of each bag
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f'replay folder {self.path}: expected a directory ({error.strerror})') from error

    def refresh(self) -> list[EpisodeInfo]:
        """Load bags that appeared since the last call, oldest name first."""
        with self._refreshing:
            if not self._looked:
                self._looked = True
                self._cache.tidy()
            infos: list[EpisodeInfo | None] = []
            for path in self._new_bags():
                bag = self._cache.known(path)
                if bag is None:
                    if not _is_settled(path):
                        if path.suffix in ('.db3', '.zstd') and not self._waited:
                            self._waited = True
                            reason = (
                                'a single file of this kind does not show whether it is whole, so it is loaded once '
                                f'nothing has changed it for {QUIET_SECONDS:g} s'
                            )
                            self._problems.append(Problem(path, reason))
                        continue
                    bag = self._cache.load(path)
                self._seen.add(path.name)
                self._problems += bag.problems
                infos += [self._add(path, number, bag) for number in range(len(bag.episodes))]
            return [info for info in infos if info is not None]

    def state_dict(self, cursor: dict) -> dict:
        """The episodes held, and the place of sampling."""
        with self._refreshing:
            return {
                'held': [[episode.path.name, episode.number] for episode in self.buffer.held()],
                'held_out': [[episode.path.name, episode.number] for episode in self.held_out.held()],
                'seen': sorted(self._seen),
                'start': self.buffer.start,
                'cursor': cursor,
            }

    def load_state_dict(self, state: dict) -> None:
        """Load the episodes that `state_dict` names."""
        with self._refreshing:
            self.buffer.restart(int(state['start']))
            self.held_out.restart(0)
            self._seen = set(state['seen'])
            self._held.clear()
            self._known.clear()
            name, bag = '', CachedBag([], [])
            # Older checkpoints have no validation.
            for other, number in [*state['held'], *state.get('held_out', [])]:
                if other != name:
                    name, path = other, self.path / other
                    bag = self._cache.known(path) or self._cache.load(path)
                    self._problems += bag.problems
                if number < len(bag.episodes):
                    self._add(path, number, bag, make_room=False)
            self.buffer.seek(state['cursor'])

    def _add(self, path: Path, number: int, bag: CachedBag, make_room: bool = True) -> EpisodeInfo | None:
        """Take one episode of a bag, unless the same episode was taken before from any bag."""
        episode, info, identity = bag.episodes[number]
        if identity in self._known:
            reason = f'holds the same episode as {self._known[identity]}'
            self._problems.append(Problem(path, reason, len(episode)))
            self._release(path)
            return None
        self._known[identity] = path.name
        held_out = int(identity[:8], 16) < self._validation * 16**8
        buffer = self.held_out if held_out else self.buffer
        self._held[path.name] += 1
        for gone in buffer.add(episode, make_room):
            self._held[gone.path.name] -= 1
            self._release(gone.path)
        if make_room and buffer.steps > buffer.capacity and not self._crowded:
            self._crowded = True
            reason = f'bags marked to be kept leave no room: {buffer.steps} steps, of {buffer.capacity}'
            self._problems.append(Problem(self.path, reason))
        return dataclasses.replace(info, held_out=held_out)

    def _release(self, bag: Path) -> None:
        """Free what the cache holds of a bag that is not sampled from."""
        if not self._held[bag.name]:
            self._cache.free(bag)

    def _new_bags(self) -> list[Path]:
        """Bags not seen yet. Leftovers of dead writers are recovered on the way."""
        for path in self._unseen():
            if path.is_dir() and is_partial(path):
                try:
                    recover(path)
                except InputError as error:
                    self._seen.add(path.name)
                    self._problems.append(Problem(path, str(error)))
        return [
            path
            for path in self._unseen()
            if not path.name.startswith('.') and (path.is_dir() or path.name.endswith((*SUFFIXES, ARRAYS)))
        ]

    def _unseen(self) -> list[Path]:
        found = []
        for path in sorted(self.path.iterdir()):
            if path.name in self._seen:
                continue
            reason = unsafe(path)
            if reason:
                self._seen.add(path.name)
                self._problems.append(Problem(path, f'can not be opened: {reason}'))
            else:
                found.append(path)
        return found

    def _read(self, path: Path) -> tuple[list[Episode], list[Problem]]:
        try:
            if path.suffix == ARRAYS:
                return _read_arrays(path, self._spec)
            return read_episodes(path, self._spec, self._contract)
        # No error of a reader over a damaged bag may end the training.
        except Exception as error:  # noqa: BLE001
            return [], [Problem(path, f'it can not be read ({type(error).__name__}: {error})')]


def _read_arrays(path: Path, spec: RobotSpec) -> tuple[list[Episode], list[Problem]]:
    problems: list[Problem] = []
    try:
        found, episode = read_arrays(path, spec.control_period, problems)
    except InputError as error:
        return [], [*problems, Problem(path, str(error))]
    difference = spec.difference(found)
    if difference:
        return [], [*problems, Problem(path, f'recorded from another robot: {difference}')]
    return [episode], problems


def _is_settled(bag: Path) -> bool:
    """Whether a bag is whole, or nothing has touched it for QUIET_SECONDS."""
    try:
        if _is_whole(bag):
            return True
        newest = max(path.stat().st_mtime for path in ([bag, *bag.iterdir()] if bag.is_dir() else [bag]))
    except FileNotFoundError:
        return False  # renamed or deleted this moment
    return time.time() - newest > QUIET_SECONDS


def _is_whole(bag: Path) -> bool:
    if not bag.is_dir():
        return _has_end(bag)
    try:
        complete = not missing_files(bag, read_metadata(bag))
    except InputError:
        return False
    # A recorder writes metadata.yaml last, but a copy may write it first.
    written = (bag / 'metadata.yaml').stat().st_mtime_ns
    files = bag_files(bag)
    return complete and bool(files) and all(_has_end(file, file.stat().st_mtime_ns < written) for file in files)


def _has_end(file: Path, otherwise: bool = False) -> bool:
    """Whether a file ends like a finished one; `otherwise` for kinds of file that don't show it."""
    if file.suffix == ARRAYS:
        return zipfile.is_zipfile(file)
    if file.suffix != '.mcap':
        return otherwise
    with file.open('rb') as stream:
        stream.seek(max(0, stream.seek(0, 2) - len(MCAP0_MAGIC)))
        return stream.read() == MCAP0_MAGIC
