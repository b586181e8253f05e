"""A folder of bags as training data: each bag is loaded once, sequences are sampled from memory."""
from __future__ import annotations

import collections
import hashlib
import threading
import time
from pathlib import Path
from typing import Deque, Dict, List, Optional, Set, Tuple

import numpy as np
from mcap.writer import MCAP0_MAGIC

from dreamer_ros.errors import InputError
from dreamer_ros.replay.bag import is_partial, mcap_files, recover
from dreamer_ros.replay.episode import Episode, EpisodeInfo, Problem
from dreamer_ros.replay.reading import read_episodes
from dreamer_ros.replay.ring import ReplayBuffer
from dreamer_ros.spec import RobotSpec

# A bag without its end may still be recorded or copied; after so many quiet seconds it is taken as it is.
QUIET_SECONDS = 60.0


class ReplayStore:
    """The newest steps of all bags in a folder, in memory.

    `refresh` looks for new bags and may run in another thread than `sample`. A bag enters once: by its name,
    and by what it holds, so that a copy under another name is refused. Bags of dead writers are recovered.
    Nothing that lies in the folder makes the store raise.

    Attributes:
        problems: what could not be used and why, growing; each bag is judged once.
    """

    def __init__(self, folder: Path, spec: RobotSpec, capacity: int, seed: int = 0) -> None:
        """Reads nothing yet.

        Args:
            folder: created if missing.
            spec: bags of other robots are refused.
            capacity: steps in memory; whole oldest episodes leave first.
            seed: of the sampling.

        Raises:
            InputError: the folder can't be made, or the memory can't be had.
        """
        self.folder = Path(folder)
        self.spec = spec
        self.problems: List[Problem] = []
        self._buffer = ReplayBuffer(capacity, spec.image_shape, len(spec.vector), len(spec.action), seed)
        self._refreshing = threading.Lock()
        self._seen: Set[str] = set()                       # names of bags loaded or refused
        self._held: Deque[Tuple[str, int]] = collections.deque()  # (bag, number in bag) as in the ring
        self._digests: Dict[bytes, str] = {}               # what was loaded → bag
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f'replay folder {self.folder}: expected a directory ({error.strerror})'
            ) from error

    @property
    def steps(self) -> int:
        """Steps in memory."""
        return self._buffer.steps

    @property
    def episodes(self) -> int:
        """Episodes in memory, counting the parts of a split one."""
        return self._buffer.episodes

    def refresh(self) -> List[EpisodeInfo]:
        """Load bags that appeared since the last call, oldest name first."""
        with self._refreshing:
            infos: List[EpisodeInfo] = []
            for path in self._new_bags():
                self._seen.add(path.name)
                for number, episode in enumerate(self._read(path)):
                    if self._is_new(episode):
                        self._add(path.name, number, episode)
                        infos.append(EpisodeInfo.of(episode))
            return infos

    def sample(self, batch: int, length: int) -> Dict[str, np.ndarray]:
        """Draw sequences; see `ReplayBuffer.sample`."""
        return self._buffer.sample(batch, length)

    def peek(self, batch: int, length: int) -> Dict[str, np.ndarray]:
        """Sequences to look at; see `ReplayBuffer.peek`."""
        return self._buffer.peek(batch, length)

    def cursor(self) -> dict:
        """Where sampling is, JSON-friendly: what makes `state_dict` go back to an earlier sample."""
        return self._buffer.cursor()

    def state_dict(self, cursor: Optional[dict] = None) -> dict:
        """What a resumed store needs to continue with the same samples; JSON-friendly.

        Args:
            cursor: continue from here instead of from the latest sample.
        """
        with self._refreshing:
            return {
                'held': [list(entry) for entry in self._held],
                'seen': sorted(self._seen),
                'start': self._buffer.start,
                'cursor': cursor or self._buffer.cursor(),
            }

    def load_state_dict(self, state: dict) -> None:
        """Load again the episodes that `state_dict` names, in their order; `refresh` then adds newer bags."""
        with self._refreshing:
            self._buffer.restart(int(state['start']))
            self._seen = set(state['seen'])
            self._held.clear()
            self._digests.clear()
            name, episodes = '', []
            for bag, number in state['held']:
                if bag != name:
                    name, episodes = bag, self._read(self.folder / bag)
                if number < len(episodes) and self._is_new(episodes[number]):
                    self._add(bag, number, episodes[number])
            self._buffer.seek(state['cursor'])

    def _add(self, name: str, number: int, episode: Episode) -> None:
        left = self._buffer.add(episode)
        self._held.append((name, number))
        for _ in range(left):
            self._held.popleft()

    def _new_bags(self) -> List[Path]:
        """Bags to load now; leftovers of dead writers are recovered on the way."""
        for path in sorted(self.folder.iterdir()):
            if path.name not in self._seen and path.is_dir() and is_partial(path):
                try:
                    recover(path)
                except InputError as error:
                    self._seen.add(path.name)
                    self.problems.append(Problem(path, str(error)))
        return [
            path for path in sorted(self.folder.iterdir())
            if path.name not in self._seen and not path.name.startswith('.')
            and (path.is_dir() or path.suffix == '.mcap') and _is_settled(path)
        ]

    def _read(self, path: Path) -> List[Episode]:
        try:
            episodes, problems = read_episodes(path, self.spec)
        # Whatever a damaged bag provokes in the readers, it must not end the training.
        except Exception as error:  # noqa: BLE001
            episodes, problems = [], [Problem(path, f'it can not be read ({type(error).__name__}: {error})')]
        self.problems += problems
        return episodes

    def _is_new(self, episode: Episode) -> bool:
        """Whether these steps were never loaded, under whatever name."""
        content = hashlib.sha1()
        for array in (episode.stamp, episode.action, episode.reward, episode.image[0], episode.image[-1]):
            content.update(np.ascontiguousarray(array))
        bag = self._digests.setdefault(content.digest(), episode.path.name)
        if bag == episode.path.name:
            return True
        self.problems.append(Problem(episode.path, f'holds the same episode as {bag}', len(episode)))
        return False


def _is_settled(path: Path) -> bool:
    """Whether a bag is whole, or has not changed for long enough that it never will be."""
    try:
        files = mcap_files(path) if path.is_dir() else [path]
        whole = not path.is_dir() or (path / 'metadata.yaml').exists()
        if whole and all(_has_end(file) for file in files) and (files or any(path.glob('*.db3*'))):
            return True
        newest = max(file.stat().st_mtime for file in ([path, *path.iterdir()] if path.is_dir() else [path]))
    except FileNotFoundError:
        return False  # renamed or deleted this moment
    return time.time() - newest > QUIET_SECONDS


def _has_end(file: Path) -> bool:
    """Whether an MCAP file ends as a finished one does."""
    with file.open('rb') as stream:
        stream.seek(max(0, file.stat().st_size - len(MCAP0_MAGIC)))
        return stream.read() == MCAP0_MAGIC
