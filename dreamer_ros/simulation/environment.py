"""A robot in MuJoCo as an agent meets it: actions in, camera images, joint states and rewards out."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from dreamer_ros.errors import InputError
from dreamer_ros.options import Inputs, Render
from dreamer_ros.paths import share
from dreamer_ros.schema import Expected, Mismatch, Model, check
from dreamer_ros.simulation import gl
from dreamer_ros.simulation.world import Diverged, World
from dreamer_ros.spec import RobotSpec

if TYPE_CHECKING:
    from dreamer_ros.simulation.rendering import CameraModel, Renderer
    from dreamer_ros.simulation.task_file import TaskFile

# The 20 visual control tasks of the Dreamer paper (arXiv 1912.01603).
VISUAL_TASKS = (
    'acrobot_swingup',
    'cartpole_balance',
    'cartpole_balance_sparse',
    'cartpole_swingup',
    'cartpole_swingup_sparse',
    'cheetah_run',
    'cup_catch',
    'finger_spin',
    'finger_turn_easy',
    'finger_turn_hard',
    'hopper_hop',
    'hopper_stand',
    'pendulum_swingup',
    'quadruped_run',
    'quadruped_walk',
    'reacher_easy',
    'reacher_hard',
    'walker_run',
    'walker_stand',
    'walker_walk',
)


@dataclasses.dataclass(frozen=True)
class Observation:
    """What the robot perceives at one instant, and how it came there.

    Attributes:
        image: u8[H, W, 3 per camera] RGB; [0, 0, 0] without cameras.
        joint_names: hinge and slide joints, J of them. Free and ball joints are left out: a JointState has
            one number per joint.
        position, velocity: f64[J] in rad and rad/s (hinge) or m and m/s (slide).
        reward: summed over the control steps of the action that led here; 0 at is_first.
        is_first: the episode starts here.
        is_last: the episode ends here: time limit, end of the task, or unstable physics.
        is_terminal: nothing can be earned after this state; never set by a time limit or unstable physics.
    """

    image: np.ndarray
    joint_names: tuple[str, ...]
    position: np.ndarray
    velocity: np.ndarray
    reward: float
    is_first: bool
    is_last: bool
    is_terminal: bool

    @property
    def vector(self) -> np.ndarray:
        """Float32 [2J]: positions, then velocities of the joints, in the order of `spec.vector`."""
        return np.concatenate([self.position, self.velocity]).astype(np.float32)


class Environment:
    """One robot with one task. Use `make` to get one.

    An episode starts with `reset` and takes `step` until is_last. When the physics becomes unstable the
    episode ends there: the observation is is_last, not is_terminal, repeats the last sound image and joint
    state, and carries the reward earned before.

    Args:
        world: the simulated task.
        renderer: of the world's model; None for a robot without cameras.
        vector: whether positions and velocities of the joints are inputs of the agent.
        action_repeat: control steps per action.
        episode_length: control steps per episode.

    Attributes:
        spec: RobotSpec.
        episode: number of the running episode, from 0; -1 before the first `reset`.

    Raises:
        InputError: the robot has no joints to be inputs.
    """

    def __init__(self, world: World, renderer: Renderer | None, vector: bool, action_repeat: int, episode_length: int):
        self._world = world
        self._renderer = renderer
        self._picture_renderer: Renderer | None = None
        self._repeat = action_repeat
        self._length = episode_length
        self._joint_names, self._qpos, self._qvel = _scalar_joints(world)
        if vector and not self._joint_names:
            raise InputError(f'inputs: expected hinge or slide joints in {world.name}, it has none')
        self._choices = list(world.choices.values())
        discrete = bool(self._choices)
        low, high = world.action_limits()
        self.spec = RobotSpec(
            name=world.name,
            image_size=(self.cameras[0].height, self.cameras[0].width) if self.cameras else (0, 0),
            vector=tuple(f'{name}/{what}' for what in ('position', 'velocity') for name in self._joint_names if vector),
            action=tuple(world.choices) if discrete else _actuator_names(world),
            action_low=(0.0,) * len(self._choices) if discrete else tuple(low),
            action_high=(1.0,) * len(self._choices) if discrete else tuple(high),
            control_period=world.control_step * action_repeat,
            action_repeat=action_repeat,
            cameras=_camera_names(world, self.cameras),
            discrete=discrete,
        )
        self.episode = -1
        self._count = 0
        self._reward = 0.0
        self._is_first = self._is_terminal = self._diverged = False
        self._is_last = True  # step() wants a reset() first
        self._seen: Observation | None = None

    @property
    def episode_length(self) -> int:
        """Control steps of an episode that nothing but the time limit ends."""
        return self._length

    @property
    def episode_steps(self) -> int:
        """Actions of an episode that nothing but the time limit ends."""
        return -(-self._length // self._repeat)

    def model_digest(self) -> str:
        """16 hex digits over everything that MuJoCo compiled; other digits mean another world.

        Call it before the first `reset`: episodes may change colours, masses or terrain. It takes about 10 ms.
        """
        import mujoco

        model = np.empty(mujoco.mj_sizeModel(self._world.model), np.uint8)
        mujoco.mj_saveModel(self._world.model, None, model)
        return hashlib.sha256(model).hexdigest()[:16]

    @property
    def cameras(self) -> tuple[CameraModel, ...]:
        """The cameras that the images come from, in their order."""
        return self._renderer.cameras if self._renderer else ()

    def reset(self, episode: int | None = None) -> Observation:
        """Start the next episode, or the one of that number: world, seed and number give its initial state."""
        self.episode = self.episode + 1 if episode is None else episode
        self._world.reset(self.episode)
        for renderer in (self._renderer, self._picture_renderer):
            if renderer:
                renderer.upload_terrain()
        self._count = 0
        self._reward = 0.0
        self._is_first = True
        self._is_last = self._is_terminal = self._diverged = False
        return self._observe()

    def step(self, action: Sequence[float] | np.ndarray) -> Observation:
        """Apply an action for action_repeat control steps, or fewer if the episode ends, and look.

        Args:
            action: A values in [-1, 1] (others are clipped), scaled to the actuators' limits; of a discrete
                robot one value per choice, of which the largest is taken.

        Raises:
            InputError: the action has another length or holds a NaN.
            RuntimeError: the episode is over.
        """
        self.advance(action)
        return self._observe()

    def advance(self, action: Sequence[float] | np.ndarray) -> None:
        """The physics half of `step`."""
        if self._is_last:
            raise RuntimeError('the episode is over: call reset() first')
        control = self._control(action)
        self._is_first = False
        self._reward = 0.0
        for _ in range(self._repeat):
            try:
                reward, self._is_terminal = self._world.step(control)
            except Diverged:
                self._diverged = self._is_last = True
                return
            self._reward += reward
            self._count += 1
            self._is_last = self._is_terminal or self._count >= self._length
            if self._is_last:
                return

    def render(self) -> np.ndarray:
        """The camera half of `step`: u8[H, W, 3 per camera] of the current state."""
        return self._renderer.render(self._world.data) if self._renderer else np.zeros((0, 0, 0), np.uint8)

    def picture(self, image_size: tuple[int, int]) -> np.ndarray:
        """What the task's own camera sees now, for people: u8[H, W, 3]. The size is that of the first call."""
        from dreamer_ros.simulation.rendering import Renderer

        if self._picture_renderer is None:
            world = self._world
            self._picture_renderer = Renderer(world.model, image_size, 'fast', world.default_cameras[:1])
            self._picture_renderer.upload_terrain()
        return self._picture_renderer.render(self._world.data)

    def close(self) -> None:
        """Free the renderers and the physics."""
        for renderer in (self._renderer, self._picture_renderer):
            if renderer:
                renderer.close()
        self._world.close()

    def _control(self, given: Sequence[float] | np.ndarray) -> np.ndarray:
        action = np.asarray(given, np.float64)
        if action.shape != (len(self.spec.action),):
            raise InputError(
                f'action of {self.spec.name}: expected {len(self.spec.action)} values '
                f'({", ".join(self.spec.action)}), got the shape {action.shape}'
            )
        if np.isnan(action).any():
            raise InputError(f'action of {self.spec.name}: expected numbers in [-1, 1], got {action.tolist()}')
        if self._choices:
            return self._choices[action.argmax()]
        return self.spec.limits.to_units(np.clip(action, -1, 1))

    def _observe(self) -> Observation:
        flags: dict[str, Any] = dict(
            reward=self._reward, is_first=self._is_first, is_last=self._is_last, is_terminal=self._is_terminal
        )
        if self._diverged:
            self._seen = dataclasses.replace(self._seen, **flags)
        else:
            self._seen = Observation(
                image=self.render(),
                joint_names=self._joint_names,
                position=self._world.data.qpos[self._qpos],
                velocity=self._world.data.qvel[self._qvel],
                **flags,
            )
        return self._seen


def task_names() -> list[str]:
    """All tasks that `make` knows by name, sorted: the dm_control suite and the worlds in `sim/`.

    Raises:
        InputError: a Python package or the OpenGL library is missing.
    """
    gl.prepare()
    from dreamer_ros.simulation import suite

    return sorted([*suite.tasks(), *_task_files()])


def task_name(task: str) -> str:
    """The name of a task in specs, bags and folders; `task` is whatever `make` takes.

    Raises:
        InputError: an unknown task, or a task file that cannot be used.
    """
    gl.prepare()
    return _find(task)[0]


# NumPy's whole numbers are none to pydantic.
_Whole = Annotated[int, BeforeValidator(lambda value: int(value) if isinstance(value, np.integer) else value)]
_Side = Annotated[_Whole, Field(ge=16, le=1024)]


class _Settings(Model):
    """Arguments of `make`."""

    image_size: tuple[_Side, _Side] = Field(description='height and width in pixels')
    action_repeat: _Whole = Field(ge=1, description='control steps per action')
    seed: _Whole = Field(ge=0, le=2**32 - 1, description='of the random initial states')
    render: Render
    inputs: Inputs
    cameras: Annotated[tuple[_Whole | str, ...], Expected('a list of names or numbers')] = Field(
        description="cameras to look through; none for the task's own"
    )
    episode_length: _Whole | None = Field(ge=1, description="control steps per episode; the task's own")

    @model_validator(mode='after')
    def _fits(self):
        if self.inputs == 'vector' and self.cameras:
            raise Mismatch('cameras', 'none with inputs vector', self.cameras)
        return self


def make(
    task: str,
    *,
    image_size: tuple[int, int] = (64, 64),
    action_repeat: int = 1,
    seed: int = 0,
    render: str = 'fast',
    inputs: str = 'image',
    cameras: Sequence[int | str] = (),
    episode_length: int | None = None,
) -> Environment:
    """Make the environment of a task.

    Args:
        task: a name from `task_names()`, or the path of a task file (.yaml, see sim/README.md).
        image_size: (height, width) in pixels.
        action_repeat: control steps per action.
        seed: of the random initial states; equal seeds and actions give equal episodes.
        render: `fast` (no shadows or reflections), `shadows` (a small shadow map), `suite` (dm_control's).
        inputs: what the agent perceives: `image`, `vector` (positions and velocities of the joints) or `both`.
        cameras: names or numbers of the model's cameras to look through; none for the task's own.
        episode_length: control steps per episode; None for the task's own (1000 in the suite).

    Raises:
        InputError: an unknown task, a value out of range, or OpenGL is not available.
    """
    given = dict(
        image_size=image_size,
        action_repeat=action_repeat,
        seed=seed,
        render=render,
        inputs=inputs,
        cameras=cameras,
        episode_length=episode_length,
    )
    settings: _Settings = check(_Settings, given, f'task {task}')
    gl.prepare()
    from dreamer_ros.simulation import robot_world, suite
    from dreamer_ros.simulation.rendering import Renderer

    name, file = _find(task)
    world: World = robot_world.RobotWorld(file, settings.seed) if file else suite.SuiteWorld(name, settings.seed)
    renderer = None
    if inputs != 'vector':
        renderer = Renderer(world.model, settings.image_size, render, settings.cameras or world.default_cameras)
    length = settings.episode_length or world.default_length
    return Environment(world, renderer, inputs != 'image', settings.action_repeat, length)


def _find(task: str) -> tuple[str, TaskFile | None]:
    """Name of a task, and its file unless it is one of the suite."""
    from dreamer_ros.simulation import suite, task_file

    name = suite.aliases().get(task, task)
    if name in suite.tasks():
        return name, None
    files = _task_files()
    if task in files or task.endswith(('.yaml', '.yml')):
        file = task_file.read(files.get(task, Path(task)))
        return file.path.stem, file
    near = difflib.get_close_matches(task, [*task_names(), *suite.aliases()], n=3, cutoff=0.5)
    hint = f'did you mean {" or ".join(near)}?' if near else f'known tasks: {", ".join(task_names())}'
    raise InputError(f'task: {task!r} is unknown; {hint}')


def _task_files() -> dict[str, Path]:
    """Task name -> file of every task in the folders of `sim/`."""
    files = sorted(share('sim').glob('*/*.yaml'))
    return {path.stem: path for path in files if path.name != 'robot.yaml'}  # that is a robot contract


def _camera_names(world: World, cameras: Sequence[CameraModel]) -> tuple[str, ...]:
    """Names in the spec: those in the model, but `camera` where the robot looks through its usual one."""
    if len(cameras) == 1 and (cameras[0].number,) == tuple(world.default_cameras):
        return ('camera',)
    return tuple(camera.name for camera in cameras)


def _actuator_names(world: World) -> tuple[str, ...]:
    model = world.model
    return tuple(model.actuator(number).name or f'actuator{number}' for number in range(model.nu))


def _scalar_joints(world: World) -> tuple[tuple[str, ...], np.ndarray, np.ndarray]:
    """Names of the hinge and slide joints, and where their numbers lie in qpos and qvel."""
    import mujoco

    model = world.model
    scalar = (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE)
    numbers = np.flatnonzero(np.isin(model.jnt_type, scalar))
    names = tuple(model.joint(number).name or f'joint{number}' for number in numbers)
    return names, model.jnt_qposadr[numbers], model.jnt_dofadr[numbers]
