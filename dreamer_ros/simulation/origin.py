"""Where a simulated episode comes from: all that it takes to simulate it once more."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version

from dreamer_ros.schema import Record, check, load_json
from dreamer_ros.simulation.environment import Environment, make
from dreamer_ros.spec import RobotSpec


class Origin(Record):
    """What `make` was called with, less what the episode's RobotSpec says, and the number of the episode.

    Attributes:
        task, seed, render, episode_length: as for `make`.
        world: `Environment.model_digest`.
        mujoco: version of the physics.
        episode: number since the simulator started; with the seed it gives the initial state.
        stamp: of the episode's first observation, nanoseconds.
    """

    task: str
    seed: int
    render: str
    episode_length: int
    world: str
    mujoco: str
    episode: int = 0
    stamp: int = 0

    @classmethod
    def of(cls, environment: Environment, task: str, seed: int, render: str) -> Origin:
        """Of a fresh environment, before its first reset."""
        return cls(
            task=task,
            seed=seed,
            render=render,
            episode_length=environment.episode_length,
            world=environment.model_digest(),
            mujoco=mujoco_version(),
        )

    def to_json(self) -> str:
        """As on the topic `simulation`."""
        return json.dumps(self.model_dump(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, source: str) -> Origin:
        """Parse what `to_json` wrote; `source` names the bag in the error.

        Raises:
            InputError: another text.
        """
        where = f'{source}: simulation'
        return check(cls, load_json(text, where), where)

    def simulate(self, spec: RobotSpec, task: str | None = None) -> Environment:
        """The environment that the episode was recorded in; `reset(self.episode)` starts it.

        Args:
            spec: of the recorded robot.
            task: instead of the recorded one, a task file that has moved.

        Raises:
            InputError: there is no such task (any more).
        """
        settings = {'seed': self.seed, 'render': self.render, 'episode_length': self.episode_length}
        return make(task or self.task, **settings, **spec.simulator_options())


def mujoco_version() -> str:
    """Of the installed package, '' if there is none."""
    try:
        return version('mujoco')
    except PackageNotFoundError:
        return ''
