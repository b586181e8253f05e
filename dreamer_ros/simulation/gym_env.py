"""The simulated tasks with Gymnasium's API.

Importing this module registers them: `gymnasium.make('dreamer_ros/<task>-v0')` is `dreamer_ros.make('<task>')`.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_ros.errors import InputError
from dreamer_ros.simulation.environment import Observation, make, task_names
from dreamer_ros.spec import RobotSpec

PICTURE_SIZE = (240, 320)  # height, width of what `render` returns
_SEEDS = 2**32


class GymEnv(gymnasium.Env[Any, Any]):
    """A task as a Gymnasium environment.

    Observations: `Box` uint8 [H, W, 3 per camera] for images, `Box` float32 [N] for the positions and velocities of
    the joints, or a `Dict` of both with the keys `image` and `vector`. Actions: `Box` float32 [A] in [-1, 1], scaled
    to the actuators' limits, or `Discrete`. A step is one action, held for `action_repeat` control steps, whose
    rewards are summed. `terminated` means that nothing can be earned any more. A time limit and unstable physics
    give `truncated`.

    Rendering stays with the thread that made the environment.

    Args:
        task: what `simulation.make` takes: a name, or the path of a task file.
        seed: of the initial states, from 0 to 2**32 - 1; None for a random one. `reset(seed=…)` replaces it.
        render_mode: None or `rgb_array`.
        options: the other arguments of `simulation.make`: image_size, action_repeat, inputs, cameras, render,
            episode_length.

    Attributes:
        robot_spec: what policies are made for.

    Raises:
        InputError: an unknown task, a value out of range, or OpenGL is not available.
    """

    metadata: dict[str, Any] = {'render_modes': ['rgb_array']}

    def __init__(self, task: str, *, seed: int | None = None, render_mode: str | None = None, **options: Any):
        if render_mode not in (None, 'rgb_array'):
            raise InputError(f'render_mode: expected None or rgb_array, got {render_mode!r}')
        self.render_mode = render_mode
        self._task, self._options = task, options
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self._environment = make(task, seed=self._seed, **options)
        self.robot_spec: RobotSpec = self._environment.spec
        self.metadata = {**self.metadata, 'render_fps': max(1, round(1 / self.robot_spec.control_period))}
        self.observation_space = observation_space(self.robot_spec)
        self.action_space = action_space(self.robot_spec)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start the next episode, or the first one of a seed.

        Raises:
            InputError: a seed out of range.
        """
        super().reset(seed=seed)
        if seed is None:
            return self._observed(self._environment.reset()), {}
        if seed != self._seed:
            environment = make(self._task, seed=seed, **self._options)
            self._environment.close()
            self._environment, self._seed = environment, seed
        return self._observed(self._environment.reset(0)), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Apply an action.

        Raises:
            InputError: the action does not fit the action space.
            RuntimeError: the episode is over.
        """
        seen = self._environment.step(normalised(action, self.robot_spec))
        return self._observed(seen), float(seen.reward), seen.is_terminal, seen.is_last and not seen.is_terminal, {}

    def render(self) -> Any:
        """What the task's own camera sees: uint8 [240, 320, 3]; None with render_mode None."""
        return None if self.render_mode is None else self._environment.picture(PICTURE_SIZE)

    def close(self) -> None:
        """Free renderer and physics."""
        self._environment.close()

    def _observed(self, seen: Observation) -> Any:
        if not self.robot_spec.vector:
            return seen.image
        return {'image': seen.image, 'vector': seen.vector} if self.robot_spec.cameras else seen.vector


def normalised(action: Any, robot: RobotSpec) -> np.ndarray:
    """What `Environment.step` takes for an element of the action space.

    Raises:
        InputError: it is another choice than there are.
    """
    if not robot.discrete:
        return np.asarray(action, np.float32)
    if not 0 <= action < len(robot.action):
        raise InputError(f'action of {robot.name}: expected 0 to {len(robot.action) - 1}, got {action}')
    return np.eye(len(robot.action), dtype=np.float32)[int(action)]


def observation_space(robot: RobotSpec) -> spaces.Space[Any]:
    """Of a robot: `Box`, or `Dict` where it has both images and numbers."""
    image = spaces.Box(0, 255, robot.image_shape, np.uint8)
    vector = spaces.Box(-np.inf, np.inf, (len(robot.vector),), np.float32)
    if not robot.vector:
        return image
    return spaces.Dict({'image': image, 'vector': vector}) if robot.cameras else vector


def action_space(robot: RobotSpec) -> spaces.Space[Any]:
    """Of a robot: `Box` in [-1, 1], or `Discrete`."""
    if robot.discrete:
        return spaces.Discrete(len(robot.action))
    return spaces.Box(-1.0, 1.0, (len(robot.action),), np.float32)


for _name in task_names():
    gymnasium.register(f'dreamer_ros/{_name}-v0', 'dreamer_ros.api:make', kwargs={'task': _name})
