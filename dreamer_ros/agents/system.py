"""What the learner asks of every learning system, and the table of systems."""

from __future__ import annotations

import importlib

from torch import Tensor, nn

from dreamer_ros.agents.batch import Batch
from dreamer_ros.agents.inspection import Inspection
from dreamer_ros.config import Config
from dreamer_ros.errors import InputError
from dreamer_ros.spec import RobotSpec

# system (config.system) -> module in dreamer_ros.agents and class; a new system is one line here and one module
SYSTEMS = {
    'dreamer': ('dreamer', 'Dreamer'),
    'planet': ('planet', 'PlaNet'),
    'world_models': ('ha_schmidhuber', 'WorldModels'),
}


class Agent(nn.Module):
    """A learning system: what it trains, the policy that runs on the robot, and its dreams.

    Everything a checkpoint must hold is a parameter or a buffer.

    Attributes:
        steady: `loss` runs the same operations for every batch, so that a GPU may repeat them by itself.
    """

    steady = True

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar whose gradients reach every trained parameter, and metrics as scalar tensors."""
        raise NotImplementedError

    def parameter_groups(self) -> dict[str, list[Tensor]]:
        """Trained parameters by the name of their learning rate: `model` is `optimizer.model_lr`, and so on."""
        raise NotImplementedError

    def watching(self) -> list[Tensor]:
        """Those of the trained parameters that only show what the others learn."""
        return []

    def after_update(self, batch: Batch) -> dict[str, Tensor]:
        """What follows each optimiser step: slow copies, evolution; metrics as scalar tensors."""
        return {}

    def policy(self) -> nn.Module:
        """The running agent, sharing the trained parameters: the module that is exported to ONNX."""
        raise NotImplementedError

    def inspect(self, batch: Batch, context: int = 5) -> Inspection:
        """Watch `context` steps, then predict the rest from actions alone; and what it made of all of them."""
        raise NotImplementedError


def make_agent(config: Config, spec: RobotSpec) -> Agent:
    """The system that `config.system` names, for a robot.

    Raises:
        InputError: the robot perceives something else than the config expects.
    """
    env, cameras = config.env, len(config.env.cameras or spec.cameras or ('camera',))
    expected = _perception(env.image_size, cameras * (env.inputs != 'vector'), env.inputs != 'image')
    got = _perception(spec.image_size, len(spec.cameras), bool(spec.vector))
    if got != expected:
        raise InputError(
            f'preset {config.preset} with env.inputs {env.inputs} expects {expected}, the robot {spec.name} sends {got}'
        )
    module, name = SYSTEMS[config.system]
    return getattr(importlib.import_module(f'dreamer_ros.agents.{module}'), name)(config, spec)


def _perception(image_size: tuple[int, int], cameras: int, vector: bool) -> str:
    """What a robot perceives, in words; equal words mean that the same networks fit."""
    images = f'images of {image_size[0]}x{image_size[1]}' + (f' of {cameras} cameras' if cameras > 1 else '')
    return ' and '.join([images] * bool(cameras) + ['joint states'] * vector)
