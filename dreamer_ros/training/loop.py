"""The training loop: episodes in, updates at the replay ratio, policies out. Knows no ROS."""

from __future__ import annotations

import contextlib
import errno
import queue
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dreamer_ros.config import Config
from dreamer_ros.episodes.assemble import known_return
from dreamer_ros.episodes.episode import EpisodeInfo
from dreamer_ros.errors import InputError
from dreamer_ros.policy.export import Exporter
from dreamer_ros.replay.dataset import ReplayDataset, open_replay
from dreamer_ros.replay.prefetch import Prefetcher
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.checkpoint import find_checkpoint
from dreamer_ros.training.learner import Learner
from dreamer_ros.training.metrics import Losses, Metrics, check_finite, read_metrics
from dreamer_ros.training.plots import plot_run
from dreamer_ros.training.progress import Progress, Status
from dreamer_ros.training.robots import Robots
from dreamer_ros.training.run_directory import RunDirectory
from dreamer_ros.training.schedule import OfflineSchedule, Schedule
from dreamer_ros.training.validation import held_out_errors
from dreamer_ros.viewing.run_video import dream_video, episode_video

if TYPE_CHECKING:
    from dreamer_ros.training.parallel import Team

REFRESH_PERIOD = 0.5  # seconds between two looks for new bags
DREAM_PERIOD = 30.0  # seconds between two dreams, while somebody watches
DREAM_BATCH = 3
VALIDATION_BATCH = 16
HEADSTART = 64  # steps ahead that are granted while there is nothing to learn from yet
LAST_BAGS = 3.0  # seconds
PATIENCE = 2.0  # seconds without new steps before it is called waiting
LEARNING = 'learning'


class Trainer:
    """One session of training in a run directory, from resuming to the last checkpoint.

    Agent steps are transitions: observations that begin an episode don't count. Env steps are agent steps
    times the action repeat.

    Args:
        config, spec: resolved; the run directory was checked against them.
        run: open.
        robots: where steps come from.
        env_steps: budget of the whole run, earlier sessions included; None learns from bags alone.
        free_running: update all the time instead of at the replay ratio, and grant nothing.
        device, seed: for the learner.
        stop: ends the session early, with everything saved.
        progress: for people.
        team: processes that share each update with this one.
        updates: budget of the whole run instead, when it learns from bags alone.
        contract: of the robot in the folders that the config names, for bags that do not hold one.
        begin: run or checkpoint whose learner goes on here, unless this run has a checkpoint of its own.

    Attributes:
        status: what it does; read by other threads for diagnostics.
    """

    def __init__(
        self,
        config: Config,
        spec: RobotSpec,
        run: RunDirectory,
        robots: Robots,
        env_steps: int | None,
        free_running: bool,
        device: str,
        seed: int,
        stop: threading.Event,
        progress: Progress,
        team: Team | None = None,
        updates: int = 0,
        contract: RobotContract | None = None,
        begin: Path | None = None,
    ):
        self._config, self._spec, self._run, self._robots = config, spec, run, robots
        self._free_running, self._stop, self._progress, self._begin = free_running, stop, progress, begin
        self._offline = env_steps is None
        self._schedule = (
            OfflineSchedule(updates) if self._offline else Schedule.make(config.schedule, env_steps, spec.action_repeat)
        )
        self._contract = contract
        self._learner = Learner(config, spec, device, seed, team)
        self._store = open_replay(run.episodes, config.replay, spec, config.schedule.length, seed, contract)
        self._exporter = Exporter(self._learner.policy, spec)
        self._prefetcher: Prefetcher | None = None
        self._losses = Losses()
        self._checkpoint_requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._problems_told = 0
        self._stored = 0  # agent steps of all bags that this run has recorded
        self._episodes = 0  # and how many those are
        self._earlier_updates = 0  # updates that nothing this run has recorded asked for
        self._evaluation = ''  # bag of the latest evaluation episode
        self._elapsed = 0.0  # seconds of earlier sessions
        self._began: float | None = None
        self._saved_updates = 0
        budget = updates if self._offline else self._schedule.budget * spec.action_repeat
        self.status = Status(step=0, budget=budget, frames=0, updates=0, offline=self._offline)

    def train(self) -> None:
        """Train until the budget is used up or the stop event is set; then save, plot and film.

        Raises:
            InputError: no checkpoint can be read, the disk is full, or the losses are not finite. What was
                saved before stays as it was.
        """
        with _telling_full_disks(self._run.path):
            self._restore()
            self._metrics = Metrics(self._run.path, self._offline)
            self._watcher = _Watcher(self._store)
            try:
                self._loop()
            finally:
                self._watcher.close()
                if self._prefetcher:
                    self._prefetcher.close()
                with contextlib.suppress(OSError):  # a full disk was told already
                    self._metrics.close()
                self._progress.close()
            self._film()

    def request_checkpoint(self, timeout: float = 60.0) -> Path:
        """Save a checkpoint after the running update and wait for it; for other threads.

        Raises:
            InputError: it took longer than `timeout` seconds.
        """
        request = _Request()
        self._checkpoint_requests.put(request)
        if not request.done.wait(timeout):
            raise InputError(f'checkpoint: expected the running update to end within {timeout:.0f} s')
        return request.path

    # Before and after

    def _restore(self) -> None:
        state = self._run.load_checkpoint(self._learner.load, self._progress.note)
        for line in reversed(read_metrics(self._run.path)):
            self._elapsed = float(line['time'])
            break
        if state:
            self._stored, self._episodes = state['stored'], state['episodes']
            self._evaluation = state['evaluation']
            self._earlier_updates = state.get('offline_updates', 0)  # older checkpoints have none
            self.status.last_return, self.status.evaluation_return = state['returns']
            self._store.load_state_dict(state['store'])
            self._saved_updates = self._learner.updates
            self._progress.note(
                f'resuming at {self._stored * self._spec.action_repeat} env steps, {self._learner.updates} '
                f'updates, {self._store.steps} steps in the replay'
            )
        elif self._begin:
            folder = find_checkpoint(self._begin)
            self._learner.load(folder)
            self._earlier_updates = self._learner.updates
            self._progress.note(f'beginning with {folder} after {self._learner.updates} updates')

    def _film(self) -> None:
        """The pictures of the run; what can not be made is told and left out."""
        made = []
        for make in (self._plot, self._film_evaluation, self._film_dream):
            try:
                path = make()
            except InputError as error:
                self._progress.note(str(error))
            else:
                made += [str(path)] if path else []
        if made:
            self._progress.note('wrote ' + ', '.join(made))

    def _plot(self) -> Path | None:
        return plot_run(self._run.path) if self._episodes or self.status.validation_error is not None else None

    def _film_evaluation(self) -> Path | None:
        if not self._evaluation:
            return None
        bag = self._run.episodes / self._evaluation
        return episode_video(bag, self._spec, self._run.path / 'evaluation.mp4')

    def _film_dream(self) -> Path | None:
        if not (self._learner.updates and self._can_sample()):
            return None
        samples = self._store.peek(DREAM_BATCH, self._config.schedule.length)
        return dream_video(self._learner.dream(samples), self._spec, self._run.path / 'dream.mp4')

    # The loop

    def _loop(self) -> None:
        schedule, learner = self._config.schedule, self._learner
        version = self._run.newest_policy_version()
        if learner.updates:
            version = self._publish(version + 1)
        # What was recorded since the checkpoint counts before anything is granted or due.
        while not (self._stop.is_set() or self._watcher.looked.wait(0.1)):
            self._look(self._stored, 'the replay to be loaded')
        if self._offline:
            self._take_episodes()
            self._tell_replay()
            self._began = time.monotonic()
        last_checkpoint, last_dream, idle_since = time.monotonic(), 0.0, time.monotonic()
        while not self._stop.is_set():
            self._take_episodes()
            collected = self._stored + self._robots.live_steps()
            if collected > 0 and self._began is None and (self._free_running or self._robots.live_steps()):
                self._began = time.monotonic()
            learnable = collected >= self._schedule.prefill and self._can_sample()
            finished = collected >= self._schedule.budget
            self._grant(collected)
            due = self._schedule.updates_due(collected)
            made = self._paid_updates()
            if learnable and (made < due or (self._free_running and not finished)):
                idle_since = time.monotonic()
                self._look(collected, LEARNING)
                self._update()
                if learner.updates % schedule.publish_every == 0:
                    version = self._publish(version + 1)
                if learner.updates % schedule.log_every == 0:
                    self._log_losses(collected)
                if self._spec.cameras and self._robots.wants_dream() and time.monotonic() - last_dream > DREAM_PERIOD:
                    last_dream = time.monotonic()
                    samples = self._store.peek(1, schedule.length)
                    self._robots.show_dream(learner.dream(samples)[0])
            elif finished and (learnable or made >= due):
                break
            else:
                self._look(collected, self._reason(collected, learnable, time.monotonic() - idle_since))
                self._stop.wait(0.01)
            if time.monotonic() - last_checkpoint > schedule.checkpoint_every:
                last_checkpoint = time.monotonic()
                if learner.updates > self._saved_updates:
                    self._save()
            self._answer_requests()
        self._await_last_bags()
        if self._offline and learner.updates > self._saved_updates and learner.updates % schedule.log_every:
            self._log_losses(self._stored)  # how well the last policy's model predicts
        if learner.updates:
            # Also when stopped: the last policy and the last checkpoint belong together.
            self._publish(version + 1)
            self._save()
        self._look(self._stored + self._robots.live_steps(), '')

    def _await_last_bags(self) -> None:
        """Give the recorders a moment to close the last episodes, for the curve and the video."""
        deadline = time.monotonic() + LAST_BAGS
        self._take_episodes()
        while self._robots.live_steps() and not self._stop.is_set() and time.monotonic() < deadline:
            self._stop.wait(0.05)
            self._take_episodes()

    def _can_sample(self) -> bool:
        return self._store.can_sample(self._config.schedule.length)

    def _tell_replay(self) -> None:
        """What bags alone have brought."""
        found = f'{self._store.steps} steps in {self._store.episodes} episodes'
        if not (self._can_sample() or self._stop.is_set()):
            raise InputError(
                f'bags: expected an episode of {self._spec.name} with the {self._config.schedule.length} steps of a '
                f'sequence, got {found}'
            )
        self._progress.note(f'learning from {found}, {self._store.held_out_episodes} episodes are held out')

    def _paid_updates(self) -> int:
        """Updates that the schedule asked for: those of robots' steps do not count what was learnt before."""
        return self._learner.updates - (0 if self._offline else self._earlier_updates)

    def _grant(self, collected: int) -> None:
        if self._free_running:
            return
        steps = self._schedule.steps_allowed(self._paid_updates()) - collected
        if self._store.steps + self._robots.ended_steps() < self._config.schedule.length:
            # Nothing can be learnt before a first episode ends, however short the prefill is.
            steps = max(steps, HEADSTART)
        self._robots.grant(max(0, min(steps, self._schedule.budget - collected)))

    def _update(self) -> None:
        if self._prefetcher is None:
            schedule = self._config.schedule
            self._prefetcher = Prefetcher(self._store, schedule.batch, schedule.length)
        self._losses.add(self._learner.update(self._prefetcher.next()))
        self._earlier_updates += self._offline

    def _take_episodes(self) -> None:
        for info in self._watcher.take():
            if info.path.parent != self._run.episodes:
                continue  # not of this run
            steps = max(0, info.steps - 1)
            self._robots.stored(info)
            self._stored += steps
            self._episodes += 1
            mode = info.meta.get('mode', 'explore')
            if mode == 'evaluate':
                self._evaluation = info.name
            if info.complete:
                known = known_return(info.total_reward, self._contract)
                if mode == 'evaluate':
                    self.status.evaluation_return = known
                self.status.last_return = known
                values = {} if known is None else {f'return_{mode}': known}
                self._write(self._stored, episode=info.name, length=steps, **values)
        for problem in self._store.problems[self._problems_told :]:
            self._problems_told += 1
            self._progress.note(f'replay: {problem}')

    def _reason(self, collected: int, learnable: bool, idle: float) -> str:
        quiet = self._robots.quiet()
        if quiet:
            return f'steps from {", ".join(quiet)}'
        if collected < self._schedule.prefill:
            return f'{self._schedule.prefill - collected} more random steps'
        if not learnable:
            return 'the first recorded episodes'
        return 'new steps' if idle > PATIENCE else ''

    # What comes out

    def _publish(self, version: int) -> int:
        metadata = self._learner.policy_metadata(version, step=self.status.step)
        manifest = self._run.write_policy(version, lambda path: self._exporter.write(path, metadata))
        self._robots.publish(manifest)
        return version

    def _save(self) -> Path:
        # Before the first batch there is no prefetcher, and nothing was sampled either.
        sampler = self._prefetcher or self._store
        with self._watcher.still:  # what is in the store is counted, or a resumed run would never count it
            self._take_episodes()
            state = {
                'stored': self._stored,
                'episodes': self._episodes,
                'evaluation': self._evaluation,
                'returns': [self.status.last_return, self.status.evaluation_return],
                'offline_updates': self._earlier_updates,
                'store': sampler.state_dict(),
            }
        path = self._run.save_checkpoint(self._learner.updates, self._learner.save, state)
        self._saved_updates = self._learner.updates
        return path

    def _answer_requests(self) -> None:
        while not self._checkpoint_requests.empty():
            request = self._checkpoint_requests.get()
            request.path = self._save()
            request.done.set()

    def _log_losses(self, collected: int) -> None:
        means = self._losses.take_means()
        means.update(self._validate())
        steps, frames, updates = self._progress.rates()
        self._write(
            collected,
            **means,
            env_steps_per_second=steps,
            frames_per_second=frames,
            updates_per_second=updates,
            replay_steps=float(self._store.steps),
        )
        check_finite(
            means, f'update {self._learner.updates}', f'; the checkpoints in {self._run.checkpoints} are from before'
        )

    def _validate(self) -> dict[str, float]:
        length = self._config.schedule.length
        if not self._store.can_validate(length):
            return {}
        errors = held_out_errors(self._learner, self._store.validation(VALIDATION_BATCH, length))
        self.status.validation_error = errors.get('validation_prediction_error')
        return errors

    def _write(self, agent_steps: int, **values) -> None:
        self._metrics.write(
            step=agent_steps * self._spec.action_repeat,
            agent_steps=agent_steps,
            updates=self._learner.updates,
            time=self._time(),
            **values,
        )

    def _time(self) -> float:
        return self._elapsed + (time.monotonic() - self._began if self._began is not None else 0.0)

    def _look(self, collected: int, activity: str) -> None:
        status = self.status
        status.step, status.frames = collected * self._spec.action_repeat, collected
        status.updates = self._learner.updates
        status.episodes = self._store.episodes if self._offline else self._episodes
        status.waiting = '' if activity == LEARNING else activity
        self._progress.update(status)

    def rates(self) -> tuple[float, float, float]:
        """Env steps, agent steps and updates per second, for diagnostics."""
        return self._progress.rates()

    @property
    def replay_steps(self) -> int:
        """Steps in memory, for diagnostics."""
        return self._store.steps


class _Request:
    """A checkpoint that another thread waits for."""

    def __init__(self):
        self.done = threading.Event()
        self.path: Path | None = None


class _Watcher:
    """Loads new bags on a thread of its own, so that decoding them does not hold up the learner.

    Attributes:
        looked: set when the folder was gone through once.
        still: while held, no episode enters the store, and all that have can be taken.
    """

    def __init__(self, store: ReplayDataset):
        self._store = store
        self.looked = threading.Event()
        self.still = threading.Lock()
        self._found: queue.SimpleQueue[EpisodeInfo] = queue.SimpleQueue()
        self._error: BaseException | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name='bag watcher', daemon=True)
        self._thread.start()

    def take(self) -> list[EpisodeInfo]:
        """Episodes that entered the store since the last call.

        Raises:
            Exception: what the store raised.
        """
        if self._error:
            raise self._error
        infos = []
        while not self._found.empty():
            infos.append(self._found.get())
        return infos

    def close(self) -> None:
        """Stop; a bag being read is finished first."""
        self._closed.set()
        self._thread.join()

    def _work(self) -> None:
        try:
            while True:
                with self.still:
                    for info in self._store.refresh():
                        self._found.put(info)
                self.looked.set()
                if self._closed.wait(REFRESH_PERIOD):
                    return
        except Exception as error:  # noqa: BLE001 - handed to the caller of take()
            self._error = error
            self.looked.set()


@contextlib.contextmanager
def _telling_full_disks(path: Path):
    """One sentence instead of a traceback, whichever library ran into the full disk."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        full = getattr(error, 'errno', None) in (errno.ENOSPC, errno.EDQUOT) or 'No space left' in str(error)
        if not full:
            raise
        raise InputError(
            f'run {path}: expected space to write, but the disk is full; nothing saved before '
            'is lost: free some space and start again with the same log directory'
        ) from error
