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
from dreamer_ros.errors import InputError
from dreamer_ros.policy.export import Exporter
from dreamer_ros.robot.contract import RobotContract
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.checkpoint import find_checkpoint
from dreamer_ros.training.inspection import held_out_errors
from dreamer_ros.training.learner import Learner
from dreamer_ros.training.metrics import Losses, Metrics, check_finite, read_metrics
from dreamer_ros.training.plots import plot_run
from dreamer_ros.training.progress import Progress, Status
from dreamer_ros.training.robots import Robots
from dreamer_ros.training.run_directory import RunDirectory
from dreamer_ros.training.run_replay import BagReplay, MemoryReplay
from dreamer_ros.training.schedule import OfflineSchedule, Schedule
from dreamer_ros.viewing.film import dream_video, episode_video

if TYPE_CHECKING:
    from dreamer_ros.training.parallel import Team

WAIT = 0.01  # seconds between two looks at robots that are waited for
DREAM_PERIOD = 30.0  # seconds between two dreams, while somebody watches
DREAM_BATCH = 3
VALIDATION_BATCH = 16
HEADSTART = 64  # steps ahead that are granted while there is nothing to learn from yet
PATIENCE = 2.0  # seconds without an update before the run is said to wait for new steps


class Trainer:
    """One session of training in a run directory, from resuming to the last checkpoint.

    Training in one process, over ROS and from bags alone differ in `robots`, `replay` and `schedule`.

    Agent steps are transitions: observations that begin an episode do not count. Env steps are agent steps
    times the action repeat.

    Args:
        config, spec: resolved; the run directory was checked against them.
        run: open.
        robots: where steps come from.
        replay: where their episodes go.
        schedule: of the whole run, earlier sessions included; an OfflineSchedule learns from bags alone.
        device, seed: for the learner.
        stop: ends the session early, with everything saved.
        progress: for people.
        free_running: update all the time instead of at the replay ratio, and grant nothing.
        team: processes that share each update with this one.
        contract: of the robot, for bags that do not hold one.
        begin: run or checkpoint whose learner goes on here, unless this run has a checkpoint of its own.

    Attributes:
        status: what the run has come to; other threads read it for diagnostics.
    """

    def __init__(
        self,
        config: Config,
        spec: RobotSpec,
        run: RunDirectory,
        robots: Robots,
        replay: BagReplay | MemoryReplay,
        schedule: Schedule | OfflineSchedule,
        *,
        device: str,
        seed: int,
        stop: threading.Event,
        progress: Progress,
        free_running: bool = False,
        team: Team | None = None,
        contract: RobotContract | None = None,
        begin: Path | None = None,
    ):
        self._config, self._spec, self._run, self._robots = config, spec, run, robots
        self._replay, self._schedule = replay, schedule
        self._stop, self._progress, self._contract, self._parent = stop, progress, contract, begin
        self._free_running, self._offline = free_running, isinstance(schedule, OfflineSchedule)
        self._learner = Learner(config, spec, device, seed, team)
        self._exporter = Exporter(self._learner.policy, spec)
        self._losses = Losses()
        self._checkpoint_requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._problems_told = 0
        self._stored = 0  # agent steps of all episodes that this run has recorded
        self._episodes = 0  # and how many those are
        self._earlier_updates = 0  # updates that were not due to steps of this run
        self._evaluation = ''  # bag of the latest evaluation episode
        self._version = 0  # of the newest policy
        self._elapsed = 0.0  # seconds of earlier sessions
        self._began: float | None = None  # when the robots first moved
        self._saved_updates = 0
        self._saved = self._updated = time.monotonic()  # when the latest checkpoint was saved and update made
        self._dreamt = 0.0  # when a dream was shown
        budget = schedule.updates if isinstance(schedule, OfflineSchedule) else schedule.budget * spec.action_repeat
        self.status = Status(step=0, budget=budget, frames=0, updates=0, offline=self._offline)

    def train(self) -> None:
        """Train until the budget is used up or the stop event is set; then save, plot and film.

        Raises:
            InputError: no checkpoint can be read, the disk is full, or the losses are not finite. What was
                saved before stays as it was.
        """
        with _telling_full_disks(self._run.path):
            self._restore()
            with contextlib.ExitStack() as open_now:
                open_now.callback(self._progress.close)
                self._metrics = Metrics(self._run.path, self._offline)
                open_now.callback(self._close_metrics)
                self._replay.start()
                open_now.callback(self._replay.close)
                self._loop()
            self._film()

    def _loop(self) -> None:
        self._begin()
        while not self._stop.is_set():
            self._take_episodes()
            collected = self._collected()
            if self._robots.evaluation_due():
                self._evaluate(collected)
            self._grant(collected)
            due = self._schedule.updates_due(collected) - self._paid_updates()
            finished = collected >= self._schedule.budget
            learnable = collected >= self._schedule.prefill and self._replay.can_sample()
            if learnable and (due > 0 or (self._free_running and not finished)):
                self._update(collected)
            elif finished and (learnable or due <= 0):
                break
            else:
                self._look(collected, self._reason(collected, learnable))
                self._robots.wait(WAIT)
            self._save_when_due()
        self._end()

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

    # Before and after the loop

    def _restore(self) -> None:
        state = self._run.load_checkpoint(self._learner.load, self._progress.note)
        self._version = self._run.newest_policy_version()
        lines = read_metrics(self._run.path)
        self._elapsed = float(lines[-1]['time']) if lines else 0.0
        if state:
            self._stored, self._episodes = state['stored'], state['episodes']
            self._evaluation = state['evaluation']
            self._earlier_updates = state.get('offline_updates', 0)  # older checkpoints have none
            self.status.last_return, self.status.evaluation_return = state['returns']
            self._replay.load_state_dict(state['store'])
            self._saved_updates = self._learner.updates
            self._progress.note(
                f'resuming at {self._stored * self._spec.action_repeat} env steps, {self._learner.updates} '
                f'updates, {self._replay.steps} steps in the replay'
            )
        elif self._parent:
            folder = find_checkpoint(self._parent)
            self._learner.load(folder)
            self._earlier_updates = self._learner.updates
            self._progress.note(f'beginning with {folder} after {self._learner.updates} updates')

    def _begin(self) -> None:
        if self._learner.updates:
            self._publish()
        # What was recorded since the checkpoint counts before anything is granted or due.
        while not (self._stop.is_set() or self._replay.loaded.wait(0.1)):
            self._look(self._stored, 'the replay to be loaded')
        if self._offline:
            self._take_episodes()
            self._check_bags()

    def _check_bags(self) -> None:
        """Tell how much there is to learn from.

        Raises:
            InputError: not even one sequence.
        """
        found = f'{self._replay.steps} steps in {self._replay.episodes} episodes'
        if not (self._replay.can_sample() or self._stop.is_set()):
            raise InputError(
                f'bags: expected an episode of {self._spec.name} with the {self._config.schedule.length} steps of a '
                f'sequence, got {found}'
            )
        self._progress.note(f'learning from {found}, {self._replay.held_out_episodes} episodes are held out')

    def _end(self) -> None:
        self._await_last_bags()
        updates = self._learner.updates
        if self._offline and updates > self._saved_updates and updates % self._config.schedule.log_every:
            self._log_losses(self._stored)  # how well the last policy's model predicts
        if updates:
            # Also after a stop: the last policy and the last checkpoint belong together.
            self._publish()
            self._save()
        self._look(self._collected(), '')

    def _await_last_bags(self) -> None:
        """Give the recorders a moment to close the last episodes, for the curve and the video."""
        deadline = time.monotonic() + self._replay.delay
        self._take_episodes()
        while self._robots.live_steps() and not self._stop.is_set() and time.monotonic() < deadline:
            time.sleep(0.05)
            self._take_episodes()

    def _film(self) -> None:
        """Draw and film the run. A picture that cannot be made is left out, and the reason is told."""
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
        if not (self._learner.updates and self._replay.can_sample()):
            return None
        dream = self._learner.dream(self._replay.peek(DREAM_BATCH))
        return dream_video(dream, self._spec, self._run.path / 'dream.mp4')

    def _close_metrics(self) -> None:
        with contextlib.suppress(OSError):  # a full disk was told already
            self._metrics.close()

    # What goes in

    def _collected(self) -> int:
        """Agent steps of the whole run."""
        return self._stored + self._robots.live_steps()

    def _paid_updates(self) -> int:
        """Updates that count towards the schedule. Those made before the robots' first step do not."""
        return self._learner.updates - (0 if self._offline else self._earlier_updates)

    def _take_episodes(self) -> None:
        for info in self._replay.take():
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
        for problem in self._replay.problems[self._problems_told :]:
            self._problems_told += 1
            self._progress.note(f'replay: {problem}')
        if self._began is None and self._robots.moving():
            self._began = time.monotonic()

    def _grant(self, collected: int) -> None:
        if self._free_running:
            return
        allowed = self._schedule.steps_allowed(self._paid_updates())
        if self._replay.steps + self._robots.ended_steps() < self._config.schedule.length:
            # Nothing can be learnt before a first episode ends, however short the prefill is.
            allowed = max(allowed, collected + HEADSTART)
        # Without the live steps: more of them may have come since `collected` was counted.
        self._robots.grant(min(allowed, self._schedule.budget) - self._stored)

    def _reason(self, collected: int, learnable: bool) -> str:
        """What the run waits for; '' if it does not wait, or not for long."""
        quiet = self._robots.quiet()
        if quiet:
            return f'steps from {", ".join(quiet)}'
        if collected < self._schedule.prefill:
            return f'{self._schedule.prefill - collected} more random steps'
        if not learnable:
            return 'the first recorded episodes'
        return 'new steps' if time.monotonic() - self._updated > PATIENCE else ''

    # What comes out

    def _update(self, collected: int) -> None:
        schedule, learner = self._config.schedule, self._learner
        self._look(collected, '')
        self._losses.add(learner.update(self._replay.next_batch()))
        self._earlier_updates += self._offline
        self._updated = time.monotonic()
        if learner.updates % schedule.publish_every == 0:
            self._publish()
        if learner.updates % schedule.log_every == 0:
            self._log_losses(collected)
        if self._spec.cameras and self._robots.wants_dream() and self._updated - self._dreamt > DREAM_PERIOD:
            self._dreamt = self._updated
            self._robots.show_dream(learner.dream(self._replay.peek(1))[0])

    def _publish(self) -> None:
        self._version += 1
        metadata = self._learner.policy_metadata(self._version, step=self.status.step)
        manifest = self._run.write_policy(self._version, lambda path: self._exporter.write(path, metadata))
        self._robots.publish(manifest)

    def _evaluate(self, collected: int) -> None:
        """Score the present policy. The time this takes does not count as training."""
        began = time.monotonic()
        self._look(collected, 'an evaluation')
        self._publish()
        returns = self._robots.evaluate()
        self._began += time.monotonic() - began
        for value in returns:
            self.status.evaluation_return = value
            self._write(collected, return_evaluate=value)

    def _save_when_due(self) -> None:
        if time.monotonic() - self._saved > self._config.schedule.checkpoint_every:
            self._saved = time.monotonic()
            if self._learner.updates > self._saved_updates:
                self._save()
        while not self._checkpoint_requests.empty():
            request = self._checkpoint_requests.get()
            request.path = self._save()
            request.done.set()

    def _save(self) -> Path:
        with self._replay.still:  # what is in the replay is counted, or a resumed run would never count it
            self._take_episodes()
            state = {
                'stored': self._stored,
                'episodes': self._episodes,
                'evaluation': self._evaluation,
                'returns': [self.status.last_return, self.status.evaluation_return],
                'offline_updates': self._earlier_updates,
                'store': self._replay.state_dict(),
            }
        path = self._run.save_checkpoint(self._learner.updates, self._learner.save, state)
        self._saved_updates = self._learner.updates
        return path

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
            replay_steps=float(self._replay.steps),
        )
        check_finite(
            means, f'update {self._learner.updates}', f'; the checkpoints in {self._run.checkpoints} are from before'
        )

    def _validate(self) -> dict[str, float]:
        samples = self._replay.validation(VALIDATION_BATCH)
        if samples is None:
            return {}
        errors = held_out_errors(self._learner, samples)
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
        """Seconds of training, over all sessions."""
        return self._elapsed + (time.monotonic() - self._began if self._began is not None else 0.0)

    def _look(self, collected: int, waiting: str) -> None:
        """Bring the status up to date and show it."""
        status = self.status
        status.step, status.frames = collected * self._spec.action_repeat, collected
        status.updates, status.seconds = self._learner.updates, self._time()
        status.episodes = self._replay.episodes if self._offline else self._episodes
        status.replay_steps, status.waiting = self._replay.steps, waiting
        self._progress.update(status)

    def rates(self) -> tuple[float, float, float]:
        """Env steps, agent steps and updates per second, for diagnostics."""
        return self._progress.rates()


class _Request:
    """A checkpoint that another thread waits for."""

    def __init__(self):
        self.done = threading.Event()
        self.path: Path | None = None


@contextlib.contextmanager
def _telling_full_disks(path: Path):
    """Raise InputError instead of whatever a library raises when the disk is full."""
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
