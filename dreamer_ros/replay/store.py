"""A folder of bags as training data: each bag is read once, sequences are sampled from its steps."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import threading
from collections import Counter
from pathlib import Path

import numpy as np

from dreamer_ros.episodes.bag_reader import SUFFIXES, is_partial
from dreamer_ros.episodes.episode import Episode, EpisodeInfo
from dreamer_ros.episodes.episode_reader import read_episodes
from dreamer_ros.episodes.recovery import recover
from dreamer_ros.episodes.report import Problem
from dreamer_ros.errors import InputError
from dreamer_ros.formats.npz import ARRAYS
from dreamer_ros.replay.buffer import ReplayBuffer
from dreamer_ros.replay.cache import CachedBag, EpisodeCache
from dreamer_ros.replay.keep import is_kept
from dreamer_ros.replay.settled import is_settled
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.spec import RobotSpec


class ReplayStore:
    """The newest steps of all bags in a folder.

    `refresh` looks for new bags and may run in another thread than `sample`. A bag is read once, however many
    sessions learn from it (see cache.py), and enters once: by its name, and by what it holds, so that a copy
    under another name is refused, whole or damaged. Bags of dead writers are recovered. Nothing that lies in the
    folder makes the store raise. What leaves the store is still in its bag.

    Attributes:
        problems: what could not be used and why, growing; each bag is judged once.
        held_out: episodes for validation, which `sample` and `peek` never give.
    """

    def __init__(
        self,
        folder: Path,
        spec: RobotSpec,
        capacity: int,
        seed: int = 0,
        validation: float = 0.0,
        contract: RobotContract | None = None,
    ) -> None:
        """Reads nothing yet.

        Args:
            folder: created if missing.
            spec: bags of other robots are refused.
            capacity: steps to sample from; whole oldest episodes leave first, but those of bags that are marked
                to stay (see keep.py).
            seed: of the sampling.
            validation: share of the episodes that is held out. What an episode holds decides, so that it is
                always the same ones, wherever their bags lie.
            contract: of the robot in the bags, for bags that do not hold one.

        Raises:
            InputError: the folder can't be made.
        """
        self.folder = Path(folder)
        self.spec = spec
        self.problems: list[Problem] = []
        self._validation, self._contract = validation, contract
        self._buffer = self._make_buffer(capacity, seed)
        self.held_out = self._make_buffer(capacity, seed)
        contract_hash = '-' + hashlib.sha256(contract.text.encode()).hexdigest()[:16] if contract else ''
        self._cache = EpisodeCache(self.folder, spec, spec.hash + contract_hash, self._read, self.problems)
        self._refreshing = threading.Lock()
        self._looked = self._crowded = False
        self._seen: set[str] = set()  # names of bags loaded or refused
        # By identity and marks of what was loaded: its bag, number there, and steps.
        self._known: dict[str, tuple[str, int, int]] = {}
        self._replaced: set[tuple[str, int]] = set()  # parts of what was found whole later
        self._held: Counter[str] = collections.Counter()  # episodes held of each bag
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f'replay folder {self.folder}: expected a directory ({error.strerror})') from error

    def _make_buffer(self, capacity: int, seed: int) -> ReplayBuffer:
        return ReplayBuffer(
            capacity,
            self.spec.image_shape,
            len(self.spec.vector),
            len(self.spec.action),
            seed,
            keep=lambda episode: is_kept(episode.path),
        )

    @property
    def steps(self) -> int:
        """Steps to sample from."""
        return self._buffer.steps

    @property
    def episodes(self) -> int:
        """Episodes to sample from, counting the parts of a split one."""
        return self._buffer.episodes

    def refresh(self) -> list[EpisodeInfo]:
        """Take bags that appeared since the last call, oldest name first."""
        with self._refreshing:
            if not self._looked:
                self._looked = True
                self._cache.tidy()
            infos: dict[tuple[str, int], EpisodeInfo] = {}
            for path in self._new_bags():
                bag = self._cache.known(path)
                if bag is None:
                    if not is_settled(path):
                        continue
                    bag = self._cache.load(path)
                self._seen.add(path.name)
                self.problems += bag.problems
                for number in range(len(bag.episodes)):
                    info = self._add(path, number, bag)
                    if info is not None:
                        infos[path.name, number] = info
            return [info for place, info in infos.items() if place not in self._replaced]

    def can_sample(self, length: int) -> bool:
        """Whether there are steps for a sequence of this length."""
        return self.steps >= length

    def sample(self, batch: int, length: int) -> dict[str, np.ndarray]:
        """Draw sequences; see `ReplayBuffer.sample`."""
        return self._buffer.sample(batch, length)

    def peek(self, batch: int, length: int) -> dict[str, np.ndarray]:
        """Sequences to look at; see `ReplayBuffer.peek`."""
        return self._buffer.peek(batch, length)

    def cursor(self) -> dict:
        """Where sampling is, JSON-friendly: what makes `state_dict` go back to an earlier sample."""
        return self._buffer.cursor()

    def state_dict(self, cursor: dict | None = None) -> dict:
        """What a resumed store needs to continue with the same samples; JSON-friendly.

        Args:
            cursor: continue from here instead of from the latest sample.
        """
        with self._refreshing:
            return {
                'held': [[episode.path.name, episode.number] for episode in self._buffer.held()],
                'held_out': [[episode.path.name, episode.number] for episode in self.held_out.held()],
                'seen': sorted(self._seen),
                'start': self._buffer.start,
                'cursor': cursor or self._buffer.cursor(),
            }

    def load_state_dict(self, state: dict) -> None:
        """Take the episodes that `state_dict` names, in their order; `refresh` then adds newer bags."""
        with self._refreshing:
            self._buffer.restart(int(state['start']))
            self.held_out.restart(0)
            self._seen = set(state['seen'])
            self._held.clear()
            self._known.clear()
            name, bag = '', CachedBag([], [])
            # Checkpoints from before there was validation do not speak of it.
            for other, number in [*state['held'], *state.get('held_out', [])]:
                if other != name:
                    name, path = other, self.folder / other
                    bag = self._cache.known(path) or self._cache.load(path)
                    self.problems += bag.problems
                if number < len(bag.episodes):
                    self._add(path, number, bag, make_room=False)
            self._buffer.seek(state['cursor'])

    def _add(self, path: Path, number: int, bag: CachedBag, make_room: bool = True) -> EpisodeInfo | None:
        """Take one episode of a bag, unless the same or most of it was taken before under whatever name."""
        episode, info, identity, marks = bag.episodes[number]
        place = path.name, number, len(episode)
        for digest, what in [(identity, 'the same episode as'), *((mark, 'steps of an episode of') for mark in marks)]:
            first = self._known.get(digest, place)
            if first != place:
                if digest != identity and self._replace(
                    {self._known[mark] for mark in marks if mark in self._known}, place
                ):
                    break
                self.problems.append(Problem(path, f'holds {what} {first[0]}', len(episode)))
                self._release(path)
                return None
        self._known.update(dict.fromkeys([identity, *marks], place))
        held_out = int(identity[:8], 16) < self._validation * 16**8
        buffer = self.held_out if held_out else self._buffer
        self._held[path.name] += 1
        for gone in buffer.add(episode, make_room):
            self._held[gone.path.name] -= 1
            self._release(gone.path)
        if make_room and buffer.steps > buffer.capacity and not self._crowded:
            self._crowded = True
            self.problems.append(
                Problem(
                    self.folder, f'bags marked to be kept leave no room: {buffer.steps} steps, of {buffer.capacity}'
                )
            )
        return dataclasses.replace(info, held_out=held_out)

    def _replace(self, parts: set[tuple[str, int, int]], whole: tuple[str, int, int]) -> bool:
        """Leave out parts of an episode for one that has more steps than they; False if it has not.

        Each is given by its bag, number there, and steps.
        """
        if sum(steps for _, _, steps in parts) >= whole[2]:
            return False
        places = {(bag, number) for bag, number, _ in parts}
        for buffer in (self._buffer, self.held_out):
            for part in buffer.held():
                if (part.path.name, part.number) in places:
                    buffer.remove(part)
                    self._held[part.path.name] -= 1
                    self._release(part.path)
                    self.problems.append(Problem(part.path, f'holds steps of an episode of {whole[0]}', len(part)))
        self._replaced |= places
        return True

    def _release(self, path: Path) -> None:
        """Free what the cache holds of a bag that is not sampled from."""
        if not self._held[path.name]:
            del self._held[path.name]
            self._cache.free(path)

    def _new_bags(self) -> list[Path]:
        """Bags not seen yet; leftovers of dead writers are recovered on the way."""
        for path in sorted(self.folder.iterdir()):
            if path.name not in self._seen and path.is_dir() and is_partial(path):
                try:
                    recover(path)
                except InputError as error:
                    self._seen.add(path.name)
                    self.problems.append(Problem(path, str(error)))
        return [
            path
            for path in sorted(self.folder.iterdir())
            if path.name not in self._seen
            and not path.name.startswith('.')
            and (path.is_dir() or path.name.endswith((*SUFFIXES, ARRAYS)))
        ]

    def _read(self, path: Path) -> tuple[list[Episode], list[Problem]]:
        try:
            return read_episodes(path, self.spec, self._contract)
        # Whatever a damaged bag provokes in the readers, it must not end the training.
        except Exception as error:  # noqa: BLE001
            return [], [Problem(path, f'it can not be read ({type(error).__name__}: {error})')]
