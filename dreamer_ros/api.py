"""The public Python API: what `dreamer_ros.make`, `load_policy`, `train`, `read_episodes` and `open_run` are."""

from __future__ import annotations

import dataclasses
import json
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dreamer_ros.config import Config, EnvConfig, load_preset
from dreamer_ros.episodes.bag_reader import bags_in, open_bag
from dreamer_ros.episodes.episode import Episode
from dreamer_ros.episodes.episode_reader import read_episodes as read_bag
from dreamer_ros.errors import InputError, missing_package
from dreamer_ros.files import read_text, user_path
from dreamer_ros.policy.loader import load, policy_path
from dreamer_ros.policy.runner import PolicyRunner
from dreamer_ros.schema import check
from dreamer_ros.spec import RobotSpec
from dreamer_ros.training.metrics import read_metrics
from dreamer_ros.training.run_directory import latest_policy

if TYPE_CHECKING:
    from dreamer_ros.simulation.gym_env import GymEnv

Overrides = Mapping[str, Any]


def make(
    task: str,
    preset: str = 'cpu',
    *,
    seed: int | None = None,
    render_mode: str | None = None,
    robot_spec: RobotSpec | None = None,
    **options: Any,
) -> GymEnv:
    """Make a Gymnasium environment of a simulated task, as the agent of a preset perceives it.

    Args:
        task: a name that `dreamer tasks` lists, or the path of a task file.
        preset: name or file; gives the options below that are not named.
        seed: of the initial states; None for a random one.
        render_mode: None or `rgb_array`.
        robot_spec: of a policy, instead of a preset: the environment is the one that the policy was trained for.
        options: image_size (height, width), action_repeat, inputs (`image`, `vector` or `both`), cameras, render
            (`fast`, `shadows` or `suite`), episode_length; see `dreamer_ros.simulation.make`.

    Raises:
        InputError: an unknown task or preset, a value out of range, a package or OpenGL is missing.
    """
    try:
        from dreamer_ros.simulation import task_name
        from dreamer_ros.simulation.gym_env import GymEnv
    except ModuleNotFoundError as error:
        raise missing_package(error) from error
    if robot_spec is not None:
        defaults = robot_spec.simulator_options()
    else:
        defaults = load_preset(preset).simulator_options(task_name(task))
        if 'image_size' in options:  # no preset learns from another size than these
            check(EnvConfig, {'image_size': options['image_size']}, f'task {task}')
    if options.get('inputs') == 'vector':
        defaults['cameras'] = ()
    return GymEnv(task, seed=seed, render_mode=render_mode, **{**defaults, **options})


class Policy:
    """A trained policy that plays episodes; `load_policy` makes one.

    Attributes:
        robot_spec: of the robot it was trained for.
        version: counts up within a run.
        metadata: of the file: system, preset, step, …
    """

    def __init__(self, runner: PolicyRunner):
        self._runner = runner
        self._is_first = True
        self.robot_spec: RobotSpec = runner.spec
        self.version: int = runner.version
        self.metadata: dict[str, str] = runner.metadata

    def reset(self) -> None:
        """Forget the episode. Call it when another one begins."""
        self._is_first = True

    def act(self, observation: Any, *, explore: bool = False) -> Any:
        """Answer the next observation of the episode.

        Args:
            observation: uint8 [H, W, 3 per camera], float32 [N], or a mapping with `image` and `vector`, as
                the environment that `make` gives shows it.
            explore: draw from the policy instead of taking its mode.

        Returns:
            Action float32 [A] in [-1, 1]; of a discrete robot the number of the choice.

        Raises:
            InputError: the observation is not what the policy was trained for.
        """
        if isinstance(observation, Mapping):
            image, vector = observation.get('image'), observation.get('vector')
        else:
            image, vector = (observation, None) if self.robot_spec.cameras else (None, observation)
        action = self._runner.act(image, vector, self._is_first, explore)
        self._is_first = False
        return int(action.argmax()) if self.robot_spec.discrete else action


def load_policy(path: str | Path, *, seed: int | None = None) -> Policy:
    """Load a policy, and check that it computes the same here as in training.

    Args:
        path: ONNX file, manifest, run directory (its newest policy), or name of a released policy.
        seed: of the exploration noise; None for a random one.

    Raises:
        InputError: there is none, or it is damaged.
    """
    folder = user_path(path)
    file = latest_policy(folder) if folder.is_dir() else policy_path(str(path))
    return Policy(load(file, seed=seed))


def read_episodes(path: str | Path) -> Iterator[Episode]:
    """Read the episodes of a bag, of a folder of bags, or of a run, oldest bag first.

    Bags name their robot. What cannot be used is reported by a warning.

    Args:
        path: a bag directory, an MCAP or sqlite3 file, a folder with bags, or a run directory.

    Returns:
        Episodes of numpy arrays, read one bag at a time; see `dreamer_ros.Episode`.

    Raises:
        InputError: there is no bag.
    """
    return _read_bags(bags_in(user_path(path)))


def _read_bags(bags: Sequence[Path]) -> Iterator[Episode]:
    for bag in bags:
        try:
            opened = open_bag(bag)
            episodes, problems = read_bag(opened, opened.spec())
        except InputError as error:
            warnings.warn(str(error), stacklevel=3)
            continue
        for problem in problems:
            warnings.warn(f'bag {problem}', stacklevel=3)
        yield from episodes


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory, read anew whenever it is asked; `open_run` gives one.

    Attributes:
        path: the directory.
        config: the resolved preset.
        robot_spec: of the robot that learns.
    """

    path: Path
    config: Config
    robot_spec: RobotSpec

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """Rows of metrics.jsonl, oldest first: `step` (env steps), `updates`, `time` (seconds), what was measured."""
        return read_metrics(self.path)

    @property
    def checkpoints(self) -> list[Path]:
        """Folders, oldest first."""
        return sorted(path for path in (self.path / 'checkpoints').glob('*') if path.name.isdecimal())

    @property
    def episodes(self) -> Iterator[Episode]:
        """What the run has collected; empty for a run that learnt from other bags alone."""
        return _read_bags(bags_in(folder)) if any((folder := self.path / 'episodes').glob('[!.]*')) else iter(())

    def load_policy(self, *, seed: int | None = None) -> Policy:
        """The newest policy.

        Raises:
            InputError: there is none yet.
        """
        return load_policy(self.path, seed=seed)


def open_run(path: str | Path) -> Run:
    """Open a run directory to read it.

    Raises:
        InputError: it is none.
    """
    path = user_path(path)
    files = path / 'config.yaml', path / 'spec.json'
    for file in files:
        if not file.exists():
            raise InputError(f'run {path}: expected a run directory with {file.name} in it, found none')
    return Run(path, load_preset(str(files[0])), RobotSpec.from_json(read_text(files[1]), str(files[1])))


def train(
    task: str = '',
    *,
    bags: Sequence[str | Path] = (),
    preset: str = '',
    overrides: Overrides | None = None,
    logdir: str | Path = '',
    steps: int | None = None,
    updates: int | None = None,
    evaluations: int = 20,
    seed: int = 0,
    device: str = 'auto',
    stop: threading.Event | None = None,
) -> Run:
    """Train in this process, without ROS: on a simulated task, or from bags alone.

    Args:
        task: a name that `dreamer tasks` lists, or the path of a task file; '' to learn from bags.
        bags: folders of bags or run directories, each with `:WEIGHT` if others than 1 are wanted.
        preset: name or file; '' for `cpu`, or for what the run in `logdir` was started with when it learns from bags.
        overrides: of the preset: `{'schedule.batch': 8}`.
        logdir: run directory; '' for a new one, runs/<task>-<preset>-<time>.
        steps: budget in env steps, with a task; None for the preset's.
        updates: budget of the whole run, with bags; None for as many as the preset makes with a task.
        evaluations: how often the policy is scored, with a task, by five deterministic episodes.
        seed: of parameters, sampling, initial states and exploration.
        device: `auto`, `cpu`, `cuda`, …
        stop: an event that ends the training early, with everything saved.

    Raises:
        InputError: something does not fit, a package is missing, or the losses are not finite.
    """
    if bool(task) == bool(bags):
        raise InputError('train: expected a task or bags to learn from, got ' + ('both' if task else 'neither'))
    if steps is not None and bags or updates is not None and task:
        raise InputError('train: expected steps with a task, or updates with bags')
    changes = tuple(f'{key}={json.dumps(value)}' for key, value in (overrides or {}).items())
    try:
        if task:
            from dreamer_ros.training.in_process import train_in_process

            config = load_preset(preset or 'cpu', changes)
            folder = train_in_process(
                task, config, logdir, steps=steps, seed=seed, device=device, evaluations=evaluations, stop=stop
            )
        else:
            from dreamer_ros.training.offline import OfflineOptions, plan, train_from_bags

            options = {'preset': preset, 'logdir': str(logdir), 'updates': updates, 'overrides': changes}
            options |= {'bags': tuple(map(str, bags)), 'seed': seed, 'device': device}
            run = plan(check(OfflineOptions, options, 'train'))
            train_from_bags(run, stop or threading.Event())
            folder = run.folder
        return open_run(folder)
    except ModuleNotFoundError as error:
        raise missing_package(error) from error
