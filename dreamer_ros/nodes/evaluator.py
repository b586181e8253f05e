"""Evaluator node: adds up the rewards of whole episodes, prints the mean return and films the last episode."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path

import numpy as np
from pydantic import Field, model_validator
from rclpy.node import Node

from dreamer_ros.episodes.assemble import Tally
from dreamer_ros.errors import InputError
from dreamer_ros.files import user_path, write_file
from dreamer_ros.options import Options
from dreamer_ros.ros.inbox import Inbox
from dreamer_ros.ros.ownership import Announcements
from dreamer_ros.ros.parameters import read_parameters
from dreamer_ros.ros.runtime import run_node
from dreamer_ros.schema import Mismatch
from dreamer_ros.spec import RobotSpec
from dreamer_ros.wire import codecs, topics
from dreamer_ros.wire.codecs import Step

SAY_AGAIN = 5.0  # seconds between two lines about the same wait
BAG_TIME = 5.0  # seconds within which the recorder closes the last bag


class EvaluatorParameters(Options):
    """Parameters of the evaluator."""

    episodes: int = Field(10, ge=1, le=10**6, description='Whole episodes to count.')
    output: str = Field('', description='Folder that gets result.json. Default: nothing is written.')
    video: str = Field(
        '',
        description='File (mp4) of a film of the last episode, made of the bag that a recorder keeps in `output`. '
        'Default: no film.',
    )
    run: str = Field('', description='Run directory whose learning curve gets the mean return. Default: none does.')
    step: int | None = Field(
        None, ge=0, le=10**12, description='Env steps after which the policy was made. Default: it is not noted.'
    )

    @model_validator(mode='after')
    def _check_video(self) -> EvaluatorParameters:
        if self.video and not self.output:
            raise Mismatch('video', 'output with it, the folder of the bags', self.video)
        return self


class EpisodeCounter:
    """Finds whole episodes in a stream of steps: from is_first to is_last, with nothing missing between.

    Args:
        period: s between two observations.

    Attributes:
        broken: episodes with gaps so far.
    """

    def __init__(self, period: float):
        self._period = period
        self._tally: Tally | None = None
        self.broken = 0

    def add(self, step: Step) -> Tally | None:
        """Take a step, and return the episode if this step ends it and it is whole. Repeated stamps change nothing."""
        if step.is_first and (self._tally is None or step.stamp not in self._tally):
            self.broken += self._tally is not None
            self._tally = Tally(self._period)
        if self._tally is None:
            return None
        self._tally.add(step)
        if not step.is_last:
            return None
        ended, self._tally = self._tally, None
        self.broken += not ended.is_whole
        return ended if ended.is_whole else None


class Evaluator:
    """Counts episodes of a running robot until there are enough.

    Args:
        node: a fresh node; its parameters are declared here.
        stop: ends `run` early.

    Raises:
        InputError: a bad parameter.
    """

    def __init__(self, node: Node, stop: threading.Event):
        self._stop = stop
        self._log = node.get_logger()
        parameters = read_parameters(node, EvaluatorParameters)
        self._episodes, self._output, self._video = parameters.episodes, parameters.output, parameters.video
        self._run, self._step = parameters.run, parameters.step
        self._inbox = Inbox(node)
        self._announcements = Announcements(self._inbox)
        self._actions = self._inbox.subscribe(topics.ACTION, topics.TRAINER_SUBSCRIBER)
        self._step_messages = self._inbox.subscribe(topics.STEP, topics.TRAINER_SUBSCRIBER)
        self._spec: RobotSpec | None = None
        self._actor = 'unknown'
        self._results: list[dict] = []

    def run(self) -> int:
        """Count, print and write; returns the exit code: 0, or 1 if stopped before enough episodes."""
        counter: EpisodeCounter | None = None
        while not self._stop.is_set() and len(self._results) < self._episodes:
            self._inbox.wait(0.1)
            self._stop.wait(0.01)  # messages are taken in batches; the queue holds a thousand
            spec = self._announcements.take()
            if spec is not None:
                self._spec = spec
                counter = EpisodeCounter(self._spec.control_period)
            if counter is None:
                self._log.info(f'waiting for a robot on {self._announcements.topic}', throttle_duration_sec=SAY_AGAIN)
                continue
            self._take_steps(counter)
        if counter is not None and counter.broken:
            self._log.warning(f'{counter.broken} episodes had gaps and were not counted')
        return self._finish()

    def _take_steps(self, counter: EpisodeCounter) -> None:
        while (message := self._step_messages.take()) is not None:
            ended = counter.add(codecs.read_step(message))
            # Actions trail their observation, so the newest by now is this episode's or, at worst, one of the
            # same policy's next.
            action = self._actions.take_latest()
            self._actor = action.header.frame_id if action is not None else self._actor
            if ended is not None and len(self._results) < self._episodes:
                self._note(ended.total_reward, len(ended))

    def _note(self, total: float, length: int) -> None:
        self._results.append({'return': total, 'length': length, 'actor': self._actor})
        mean = np.mean([result['return'] for result in self._results])
        print(
            f'episode {len(self._results)}/{self._episodes}: return {total:.1f} in {length} steps by {self._actor}, '
            f'mean {mean:.1f}',
            flush=True,
        )

    def _finish(self) -> int:
        if self._results:
            returns = [result['return'] for result in self._results]
            mean, deviation = float(np.mean(returns)), float(np.std(returns))
            print(
                f'mean return {mean:.1f} ± {deviation:.1f} over {len(returns)} episode{"s" * (len(returns) != 1)}',
                flush=True,
            )
            if self._output:
                self._write_result(
                    {
                        'task': self._spec.name,
                        'spec_hash': self._spec.hash,
                        'step': self._step,
                        'mean_return': mean,
                        'standard_deviation': deviation,
                        'episodes': self._results,
                    }
                )
        if len(self._results) < self._episodes:
            print(f'stopped after {len(self._results)} of {self._episodes} episodes', file=sys.stderr, flush=True)
            return 1
        for path, draw in ((self._run, self._plot), (self._video, self._film)):
            if path:
                try:
                    draw(user_path(path))
                except (InputError, OSError, ModuleNotFoundError) as error:  # the result counts even so
                    self._log.warning(f'no picture: {error}')
        return 0

    def _plot(self, run: Path) -> None:
        from dreamer_ros.training.plots import plot_run

        plot_run(run)

    def _film(self, video: Path) -> None:
        """Film the last episode, once its bag is whole."""
        from dreamer_ros.viewing.film import episode_video

        bags = user_path(self._output)
        deadline = time.monotonic() + BAG_TIME
        while len(found := _bags(bags)) < self._episodes and time.monotonic() < deadline:
            time.sleep(0.05)
        if not found:
            raise InputError(f'{bags}: expected a bag to film, got none')
        episode_video(found[-1], self._spec, video)

    def _write_result(self, result: dict) -> None:
        path = user_path(self._output) / 'result.json'
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, json.dumps(result, indent=2) + '\n')
        except OSError as error:
            raise InputError(f'{path}: expected a place to write the result ({error.strerror})') from error


def _bags(folder: Path) -> list[Path]:
    """Finished bags, oldest first."""
    return sorted(path for path in folder.glob('[!.]*') if path.is_dir())


def main() -> int:
    """Entry point of `ros2 run dreamer_ros evaluator`."""
    return run_node('evaluator', lambda node, stop: Evaluator(node, stop).run())


if __name__ == '__main__':
    sys.exit(main())
