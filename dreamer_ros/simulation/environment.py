"""A robot in MuJoCo as an agent meets it: actions in, camera images, joint states and rewards out."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import Field, model_validator

from dreamer_ros.errors import InputError, hint
from dreamer_ros.options import Inputs, Options, Render
from dreamer_ros.paths import share
from dreamer_ros.schema import Expected, Mismatch, Whole, check
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
        spec: of the robot.
        renderer: of the world's model; None for a robot without cameras.
        episode_length: control steps per episode.

    Attributes:
        spec: RobotSpec.
        episode: number of the running episode, from 0; -1 before the first `reset`.
    """

    def __init__(self, world: World, spec: RobotSpec, renderer: Renderer | None, episode_length: int):
        self._world, self.spec, self._renderer = world, spec, renderer
        self._picture_renderer: Renderer | None = None
        self._repeat, self._length = spec.action_repeat, episode_length
        self._joint_names, self._qpos, self._qvel = _scalar_joints(world)
        self._choices = list(world.choices.values())
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
        from dreamer_ros.simulation.rendering import Renderer, find_cameras

        if self._picture_renderer is None:
            model = self._world.model
            cameras = find_cameras(model, image_size, self._world.default_cameras[:1])
            self._picture_renderer = Renderer(model, cameras, 'fast')
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


def task_files(task: str) -> list[Path]:
    """The files that a task given as a path is made of: itself first, its model, and the files that this includes.

    Empty for a task with a name.
    """
    import mujoco

    _, file = _find(task)
    if file is None or file.path != Path(task):
        return []
    model = file.path.parent / file.model
    return [file.path.absolute(), *(Path(name).absolute() for name in mujoco.mju_getXMLDependencies(str(model)))]


Side = Annotated[Whole, Field(ge=16, le=1024)]


class Settings(Options):
    """How a task is simulated, and what an agent perceives of it."""

    inputs: Inputs
    image_size: tuple[Side, Side] = Field((64, 64), description='Height and width of the camera images, in pixels.')
    cameras: Annotated[tuple[Whole | str, ...], Expected('a list of names or numbers')] = Field(
        (), description="Cameras of the model, by name or number. Default: the task's own."
    )
    action_repeat: Whole = Field(1, ge=1, le=10**6, description='Control steps per action.')
    episode_length: Whole | None = Field(
        None, ge=1, le=10**9, description="Control steps per episode. Default: the task's own, 1000 in the suite."
    )
    seed: Whole = Field(
        0, ge=0, le=2**32 - 1, description='Of the initial states. Equal seeds and actions give equal episodes.'
    )
    render: Render

    @model_validator(mode='after')
    def _fits(self):
        if self.inputs == 'vector' and self.cameras:
            raise Mismatch('cameras', 'none with inputs vector', self.cameras)
        return self


def make(task: str, **settings: Any) -> Environment:
    """Make the environment of a task.

    Args:
        task: a name from `task_names()`, or the path of a task file (.yaml, see sim/README.md).
        settings: fields of `Settings`.

    Raises:
        InputError: an unknown task, a value out of range, or OpenGL is not available.
    """
    world, spec, cameras, checked = _open(task, settings)
    from dreamer_ros.simulation.rendering import Renderer

    renderer = Renderer(world.model, cameras, checked.render) if cameras else None
    return Environment(world, spec, renderer, checked.episode_length or world.default_length)


def robot_spec(task: str, **settings: Any) -> RobotSpec:
    """The robot of the environment that `make` would give, without OpenGL.

    Raises:
        InputError: an unknown task or camera, or a value out of range.
    """
    world, spec, *_ = _open(task, settings)
    world.close()
    return spec


def _open(task: str, given: dict[str, Any]) -> tuple[World, RobotSpec, tuple[CameraModel, ...], Settings]:
    """The simulated task, its robot, the robot's cameras, and the checked settings."""
    settings: Settings = check(Settings, given, f'task {task}')
    gl.prepare()
    from dreamer_ros.simulation import robot_world, suite
    from dreamer_ros.simulation.rendering import find_cameras

    name, file = _find(task)
    world: World = robot_world.RobotWorld(file, settings.seed) if file else suite.SuiteWorld(name, settings.seed)
    numbers = () if settings.inputs == 'vector' else settings.cameras or world.default_cameras
    cameras = find_cameras(world.model, settings.image_size, numbers)
    joints, *_ = _scalar_joints(world)
    if settings.inputs != 'image' and not joints:
        raise InputError(f'inputs: expected hinge or slide joints in {world.name}, it has none')
    quantities = () if settings.inputs == 'image' else ('position', 'velocity')
    count, discrete = len(world.choices), bool(world.choices)
    low, high = ((0.0,) * count, (1.0,) * count) if discrete else map(tuple, world.action_limits())
    spec = RobotSpec(
        name=world.name,
        image_size=settings.image_size if cameras else (0, 0),
        vector=tuple(f'{joint}/{what}' for what in quantities for joint in joints),
        action=tuple(world.choices) if discrete else _actuator_names(world),
        action_low=low,
        action_high=high,
        control_period=world.control_step * settings.action_repeat,
        action_repeat=settings.action_repeat,
        cameras=_camera_names(world, cameras),
        discrete=discrete,
    )
    return world, spec, cameras, settings


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
    raise InputError(f'task: {task!r} is unknown; {hint(task, [*task_names(), *suite.aliases()])}')


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
