"""A world described by files alone: an MJCF model and a task YAML (see sim/README.md)."""

from __future__ import annotations

import math
from collections.abc import Callable

import mujoco
import numpy as np

from dreamer_ros.errors import InputError
from dreamer_ros.simulation.task_file import (
    Closeness,
    Distance,
    Effort,
    Placement,
    Posture,
    Randomise,
    Reward,
    TaskFile,
)
from dreamer_ros.simulation.world import Diverged, World

Measure = Callable[[], float]

_PLACING_TRIES = 1000
_UNSTABLE = (mujoco.mjtWarning.mjWARN_BADQPOS, mujoco.mjtWarning.mjWARN_BADQVEL, mujoco.mjtWarning.mjWARN_BADQACC)
_OBJECTS = {
    'body': mujoco.mjtObj.mjOBJ_BODY,
    'camera': mujoco.mjtObj.mjOBJ_CAMERA,
    'joint': mujoco.mjtObj.mjOBJ_JOINT,
    'site': mujoco.mjtObj.mjOBJ_SITE,
}


class RobotWorld(World):
    """Runs a task file.

    Args:
        task: the validated file.
        seed: of initial states and randomisation.

    Raises:
        InputError: the model cannot be loaded, or lacks something that the task file names.
    """

    def __init__(self, task: TaskFile, seed: int):
        self._task = task
        self._seed = seed
        self.name = task.path.stem
        self.model = self._load()
        self.data = mujoco.MjData(self.model)
        self._substeps = self._count_substeps()
        self.control_step = task.control_period
        self.default_cameras = tuple(self._number('camera', name) for name in task.camera) or (0,)
        self.choices = {name: self._choice(name, values) for name, values in task.actions.discrete.items()}
        self.default_length = task.episode_length
        self._rewards = [(term.weight, self._measure(term)) for term in task.reward]
        self._ends = [(end, self._measure(end)) for end in task.end]
        self._placers = [self._placer(placement) for placement in task.reset.bodies]
        self._joints = [self._joint_range(name, limits) for name, limits in task.reset.joints.items()]
        self._randomiser = _Randomiser(self.model, task.randomise)
        self.reset(0)  # a place that cannot be found is refused now, not in the middle of a run

    def reset(self, episode: int) -> None:
        self._random = np.random.default_rng([self._seed, episode])
        self._randomiser.apply(self._random)
        mujoco.mj_resetData(self.model, self.data)
        for address, low, high in self._joints:
            self.data.qpos[address] = self._random.uniform(low, high)
        for place in self._placers:
            place()
        mujoco.mj_forward(self.model, self.data)
        for _, measure in self._rewards:
            measure()  # progress counts from here

    def step(self, control: np.ndarray) -> tuple[float, bool]:
        self.data.ctrl[:] = control
        mujoco.mj_step(self.model, self.data, self._substeps)
        if any(self.data.warning[kind].number for kind in _UNSTABLE):
            raise Diverged(f'{self.name}: the physics became unstable')
        mujoco.mj_forward(self.model, self.data)  # mj_step leaves positions one substep behind the state
        reward = sum(weight * measure() for weight, measure in self._rewards)
        ended = [end for end, measure in self._ends if end.reached(measure())]
        return reward + sum(end.reward for end in ended), bool(ended)

    # Loading

    def _fail(self, sentence: str) -> InputError:
        return InputError(f'task file {self._task.path}: {sentence}')

    def _load(self) -> mujoco.MjModel:
        path = self._task.path.parent / self._task.model
        if not path.is_file():
            raise self._fail(f'model: expected an MJCF file, got {path}, which does not exist')
        try:
            model = mujoco.MjModel.from_xml_path(str(path))
        except ValueError as error:
            raise self._fail(f'model: {path} does not compile ({" ".join(str(error).split())})') from error
        for number, what in ((model.ncam, 'camera'), (model.nu, 'actuator')):
            if number == 0:
                raise self._fail(f'model: expected at least one {what} in {path}, got none')
        if self._task.physics_timestep is not None:
            model.opt.timestep = self._task.physics_timestep
        return model

    def _count_substeps(self) -> int:
        period, timestep = self._task.control_period, self.model.opt.timestep
        substeps = round(period / timestep)
        if substeps < 1 or abs(substeps * timestep - period) > 1e-6 * period:
            raise self._fail(f'control_period: expected a multiple of the physics timestep {timestep}, got {period}')
        return substeps

    def _number(self, kind: str, name: str) -> int:
        number = mujoco.mj_name2id(self.model, _OBJECTS[kind], name)
        if number < 0:
            raise self._fail(f'expected the name of a {kind} ({self._names(kind)}), got {name!r}')
        return number

    def _names(self, kind: str) -> str:
        counts = {
            'body': self.model.nbody,
            'camera': self.model.ncam,
            'joint': self.model.njnt,
            'site': self.model.nsite,
        }
        names = (mujoco.mj_id2name(self.model, _OBJECTS[kind], number) for number in range(counts[kind]))
        return ', '.join(name for name in names if name) or 'the model has none'

    def _choice(self, name: str, values: tuple[float, ...]) -> np.ndarray:
        """Controls of a discrete action, checked against the actuators."""
        low, high = self.action_limits()
        if len(values) != len(low) or not all(a <= value <= b for a, value, b in zip(low, values, high)):
            limits = ', '.join(f'{a:g} to {b:g}' for a, b in zip(low, high))
            raise self._fail(
                f'actions.discrete.{name}: expected a control of each actuator ({limits}), got {list(values)}'
            )
        return np.array(values)

    # Rewards and ends

    def _frame(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Live views of a site's or body's world position f64[3] and rotation f64[9], row by row."""
        number = mujoco.mj_name2id(self.model, _OBJECTS['site'], name)
        if number >= 0:
            return self.data.site_xpos[number], self.data.site_xmat[number]
        number = mujoco.mj_name2id(self.model, _OBJECTS['body'], name)
        if number >= 0:
            return self.data.xpos[number], self.data.xmat[number]
        raise self._fail(f'expected a site ({self._names("site")}) or a body ({self._names("body")}), got {name!r}')

    def _measure(self, term: Reward | Distance | Posture) -> Measure:
        """The quantity that a reward term or end condition speaks of, as a function of the current state."""
        if isinstance(term, Effort):
            low, high = self.action_limits()
            middle, half = (high + low) / 2, (high - low) / 2
            return lambda: float(np.mean(((self.data.ctrl - middle) / half) ** 2))
        if isinstance(term, Posture):
            position, rotation = self._frame(term.of)
            if term.type == 'height':
                return lambda: float(position[2])
            return lambda: math.degrees(math.acos(min(1.0, max(-1.0, rotation[8]))))

        start, rotation = self._frame(term.start)
        goal, _ = self._frame(term.goal)

        def distance() -> float:
            return math.dist(start, goal)

        if isinstance(term, Distance):
            return distance
        if isinstance(term, Closeness):
            near, far = term.near, term.far
            return lambda: 0.1 ** (max(0.0, distance() - near) / (far - near))

        if term.type == 'progress':
            return _Shrinking(distance)

        def facing() -> float:
            cosine = float(rotation[0::3] @ (goal - start)) / max(distance(), 1e-9)
            return max(0.0, cosine)

        return facing

    # Reset

    def _joint_range(self, name: str, limits: tuple[float, float]) -> tuple[int, float, float]:
        number = self._number('joint', name)
        kind = mujoco.mjtJoint(self.model.jnt_type[number])
        if kind not in (mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE):
            raise self._fail(f'reset.joints: expected a hinge or slide joint, got {name!r}')
        scale = math.radians(1) if kind == mujoco.mjtJoint.mjJNT_HINGE else 1.0
        return self.model.jnt_qposadr[number], limits[0] * scale, limits[1] * scale

    def _pose(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Live views of where a movable body's position f64[3] and quaternion f64[4] are set."""
        number = self._number('body', name)
        mocap = self.model.body_mocapid[number]
        if mocap >= 0:
            return self.data.mocap_pos[mocap], self.data.mocap_quat[mocap]
        joint = self.model.body_jntadr[number]
        if joint < 0 or self.model.jnt_type[joint] != mujoco.mjtJoint.mjJNT_FREE:
            raise self._fail(f'reset.bodies: expected a body with a freejoint or mocap="true", got {name!r}')
        address = self.model.jnt_qposadr[joint]
        return self.data.qpos[address : address + 3], self.data.qpos[address + 3 : address + 7]

    def _placer(self, placement: Placement) -> Callable[[], None]:
        position, quaternion = self._pose(placement.body)
        others = [(self._pose(body)[0], distance) for body, distance in placement.apart.items()]
        ranges = enumerate((placement.x, placement.y, placement.z))
        axes = [(axis, limits) for axis, limits in ranges if limits]

        def place() -> None:
            for _ in range(_PLACING_TRIES):
                for axis, limits in axes:
                    position[axis] = self._random.uniform(*limits)
                if all(math.dist(position[:2], other[:2]) >= distance for other, distance in others):
                    break
            else:
                raise self._fail(f'reset.bodies: no place for {placement.body!r} found as far apart as asked')
            if placement.yaw:
                half = math.radians(self._random.uniform(*placement.yaw)) / 2
                turn = np.array([math.cos(half), 0, 0, math.sin(half)])
                mujoco.mju_mulQuat(quaternion, turn, quaternion.copy())

        return place


class _Shrinking:
    """By how much a distance shrank since the last call."""

    def __init__(self, distance: Measure):
        self._distance = distance
        self._last = 0.0

    def __call__(self) -> float:
        distance = self._distance()
        shrunk = self._last - distance
        self._last = distance
        return shrunk


class _Randomiser:
    """Multiplies properties of a model by random factors, always starting from the original values."""

    def __init__(self, model: mujoco.MjModel, factors: Randomise):
        self._model = model
        self._factors = {key: value for key, value in factors if value is not None}
        head = model.vis.headlight
        fields = {
            'light': (model.light_diffuse, model.light_ambient, head.diffuse, head.ambient),
            'colour': (model.mat_rgba, model.geom_rgba),
            'friction': (model.geom_friction,),
            'mass': (model.body_mass, model.body_inertia),
        }
        self._originals = {key: [(field, field.copy()) for field in fields[key]] for key in self._factors}

    def apply(self, random: np.random.Generator) -> None:
        """Draw new factors. The data must be reset afterwards."""
        for key, (low, high) in self._factors.items():
            factor = random.uniform(low, high)
            for field, original in self._originals[key]:
                if key == 'friction':
                    field[:, 0] = original[:, 0] * factor
                elif key == 'colour':
                    each = random.uniform(low, high, (len(field), 3))
                    field[:, :3] = np.clip(original[:, :3] * each, 0, 1)
                else:
                    field[:] = original * factor
        if 'mass' in self._factors:
            mujoco.mj_setConst(self._model, mujoco.MjData(self._model))
