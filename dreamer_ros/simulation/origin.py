"""Where a simulated episode comes from: all that it takes to simulate it once more."""

from __future__ import annotations

import dataclasses
import json
from importlib.metadata import PackageNotFoundError, version

from dreamer_ros.errors import InputError
from dreamer_ros.schema import load_json
from dreamer_ros.simulation.environment import Environment, make
from dreamer_ros.spec import RobotSpec


@dataclasses.dataclass(frozen=True)
class Origin:
    """What `make` was called with, less what the episode's RobotSpec says, and the number of the episode.

    Attributes:
        task, seed, render, episode_length: as for `make`.
        world: `Environment.model_digest`.
        mujoco: version of the physics.
        episode: number since the simulator started; with the seed it gives the initial state.
    """

    task: str
    seed: int
    render: str
    episode_length: int
    world: str
    mujoco: str
    episode: int = 0

    @classmethod
    def of(cls, environment: Environment, task: str, seed: int, render: str) -> Origin:
        """Of a fresh environment, before its first reset."""
        return cls(task, seed, render, environment.episode_length, environment.model_digest(), mujoco_version())

    def to_json(self, stamp: int) -> str:
        """As on the topic `simulation`; `stamp` is that of the episode's first observation, nanoseconds."""
        return json.dumps({**dataclasses.asdict(self), 'stamp': stamp}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str, source: str) -> tuple[Origin, int]:
        """Parse what `to_json` wrote; `source` names the bag in the error.

        Raises:
            InputError: another text.
        """
        data = load_json(text, f'{source}: simulation')
        try:
            stamp = int(data.pop('stamp'))
            for field in dataclasses.fields(cls):
                if type(data[field.name]).__name__ != field.type:
                    raise TypeError(f'{field.name} is {data[field.name]!r}')
            return cls(**data), stamp
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(
                f'{source}: simulation: expected JSON of a simulator, got {text[:80]!r} '
                f'({type(error).__name__}: {error})'
            ) from error

    def simulate(self, spec: RobotSpec, task: str | None = None) -> Environment:
        """The environment that the episode was recorded in; `reset(self.episode)` starts it.

        Args:
            spec: of the recorded robot.
            task: instead of the recorded one, a task file that has moved.

        Raises:
            InputError: there is no such task (any more).
        """
        inputs = 'vector' if not spec.cameras else 'both' if spec.vector else 'image'
        return make(
            task or self.task,
            image_size=spec.image_size if spec.cameras else (64, 64),
            action_repeat=spec.action_repeat,
            seed=self.seed,
            render=self.render,
            inputs=inputs,
            cameras=() if spec.cameras in ((), ('camera',)) else spec.cameras,
            episode_length=self.episode_length,
        )


def mujoco_version() -> str:
    """Of the installed package, '' if there is none."""
    try:
        return version('mujoco')
    except PackageNotFoundError:
        return ''
